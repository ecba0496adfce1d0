"""Telemetry of real processes: pages, one trace across three of them, logs that a machine can read."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

pytestmark = pytest.mark.process

BILD = (sys.executable, "-m", "bild_dist")


@contextmanager
def collector() -> Iterator[tuple[str, list[tuple[str, Span]]]]:
    """Takes spans over HTTP: their services and themselves."""
    spans: list[tuple[str, Span]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                names = {a.key: a.value.string_value for a in group.resource.attributes}
                for scope in group.scope_spans:
                    spans.extend((names["service.name"], span) for span in scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", spans
        finally:
            server.shutdown()
            thread.join()


def written(folder: Path, telemetry: str) -> str:
    path = folder / "bild.toml"
    workers = "".join(
        f'[{role}]\nmodel = "toy:{role}?seed=1&f=0.3&end=0"\nmetrics = "127.0.0.1:0"\n'
        f'listen = "zmq://127.0.0.1:0"\n'
        for role in ("small", "large")
    )
    path.write_text(f"{workers}[telemetry]\n{telemetry}\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("transport", ["zmq", "grpc"])
def test_one_trace_goes_through_three_processes(transport: str, tmp_path: Path) -> None:
    """A request's trace comes in with its line, and both workers' spans come out in it, over either wire."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    line = {"prompt": "Hello", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps(line))
    with collector() as (endpoint, spans):
        done = subprocess.run(
            [*BILD, "generate", "-c", written(tmp_path, f'traces = "{endpoint}"'), "--input", str(source),
             "--transport", transport, "--max-new-tokens", "20"],
            capture_output=True, text=True, timeout=50, check=False,
        )  # fmt: skip
    assert 0 == done.returncode, done.stderr
    assert {f"{span.trace_id.hex()}" for _, span in spans} == {trace}
    (root,) = [span for _, span in spans if span.name.startswith("text_completion")]
    from_workers = [span for service, span in spans if service == "bild-worker"]
    assert {span.name for span in from_workers} == {"bild.worker.draft", "bild.worker.verify"}
    assert {span.parent_span_id for span in from_workers} == {root.span_id}


def test_a_launch_and_its_workers_show_pages_that_top_reads(tmp_path: Path) -> None:
    """Three pages, one picture; the log is JSON line by line, of the workers too, and says what was lost and why."""
    config = written(tmp_path, 'metrics = "127.0.0.1:0"\nlog = "json"')
    process = subprocess.Popen(
        [*BILD, "launch", "-c", config], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        pages: list[str] = []
        pids: dict[str, int] = {}
        while len(pages) < 3:
            said = process.stdout.readline()
            assert said, process.stderr.read() if process.stderr else ""
            pages += re.findall(r"http://\S+", said)
            if found := re.match(r"(small|large) worker ready: pid=(\d+)", said):
                pids[found[1]] = int(found[2])
        top = subprocess.run(
            [*BILD, "top", "--once", *pages], capture_output=True, text=True, timeout=30, check=False
        )  # fmt: skip
        assert 0 == top.returncode, top.stderr
        rows = [line.split() for line in top.stdout.splitlines()]
        for role in ("small", "large"):
            (row,) = [row for row in rows if row[:1] == [role]]
            assert row == [role, "up", "-", "-", "0/8", "0.0", "-", "0%", "0"]
        subprocess.run(["kill", "-9", str(pids["small"])], check=True)
        while "small worker starts again" not in said:
            said = process.stdout.readline()
            assert said
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    lines = [json.loads(line) for line in log.splitlines()]
    (lost,) = [line for line in lines if line["event"].startswith("worker lost")]
    assert (lost["worker"], lost["reason"], lost["level"]) == ("small", "signal", "warning")
    ready = [line for line in lines if line["event"] == "ready"]
    assert {"zmq"} == {line["worker"].partition("://")[0] for line in ready}
    assert all(line["generation"] for line in ready)


@pytest.mark.parametrize("words", [("--help",), ("generate", "--help"), ("top", "--help")])
def test_help_loads_nothing_of_it(words: tuple[str, ...]) -> None:
    """Neither Prometheus's library nor OpenTelemetry's nor structlog: they take a tenth of a second together."""
    program = f"""
import sys
from bild_dist.app import main
try:
    main({list(words)!r})
except SystemExit:
    pass
print("loaded:", [n for n in ("prometheus_client", "opentelemetry", "structlog") if n in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=True
    )
    assert done.stdout.splitlines()[-1] == "loaded: []"


@pytest.mark.parametrize("transport", ["zmq", "inproc"])
def test_a_collector_that_is_away_is_one_line(transport: str, tmp_path: Path) -> None:
    """The text is there and the command succeeds; what a library says of each attempt, with addresses and
    classes in it, is for who asks for it.
    """
    config = written(tmp_path, 'traces = "http://127.0.0.1:9/v1/traces"')
    words = ("generate", "-c", config, "--transport", transport, "--max-new-tokens", "4", "Hello")
    done = subprocess.run([*BILD, *words], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0
    said = [line for line in done.stderr.splitlines() if "4 tokens in" not in line]
    assert len(said) == 1
    assert "spans are lost: http://127.0.0.1:9/v1/traces does not take them" in said[0]
