"""`bild top`: what the pages say in one picture, and what it says where there is no page."""

from __future__ import annotations

import http.server
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rich.console import Console

from bild_dist.errors import ConfigError, WorkerUnavailable
from bild_dist.metrics import Metrics
from bild_dist.orchestrator.top import command
from bild_dist.orchestrator.top.frame import frame
from bild_dist.orchestrator.top.pages import Page, Sample, _parsed, address
from bild_dist.telemetry.page import page

URL = "http://127.0.0.1:8000/metrics"


def sample(metrics: Metrics, at_s: float) -> Sample:
    return Sample(round(at_s * 1e9), _parsed(URL, metrics.render()[0].decode()).values)


def drawn(*pages: Page, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(frame(pages))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def orchestrator(*, seconds: int) -> Metrics:
    """A service after so many seconds: 30 tokens in each, of which 20 by the small model."""
    metrics = Metrics()
    requests, policy, workers = metrics.requests, metrics.policy, metrics.workers
    requests.in_flight.set(3)
    requests.waiting.set(2)
    requests.ended.labels("bild", "eos").inc(12)
    requests.ended.labels("bild", "WorkerFault").inc(1)
    requests.tokens.labels("small").inc(20 * seconds)
    requests.tokens.labels("fallback").inc(10 * seconds)
    policy.drafted.inc(40 * seconds)
    policy.wasted.inc(10 * seconds)
    policy.fallbacks.inc(10 * seconds)
    for _ in range(seconds):
        requests.first_token.labels("bild").observe(0.25)
        requests.per_token.labels("bild").observe(0.02)
    for role in ("small", "large"):
        workers.info.labels(role, "SmolLM2", f"zmq://{role}", f"generation-{role}").set(1)
        workers.up.labels(role).set(role == "small")
        workers.heartbeat_age.labels(role).set(0.1 if role == "small" else 7)
        workers.round_trip.labels(role, "zmq").set(0.0012)
        workers.slots.labels(role).set(8)
        workers.open_slots.labels(role).set(3)
        workers.passes.labels(role).inc(15 * seconds)
    return metrics


def worker(*, seconds: int) -> Metrics:
    metrics = Metrics()
    workers, name = metrics.workers, "zmq://127.0.0.1:5001"
    workers.info.labels(name, "SmolLM2", name, "generation-small").set(1)
    workers.up.labels(name).set(1)
    workers.passes.labels(name).inc(15 * seconds)
    workers.served.labels(name).inc(30 * seconds)
    workers.busy.labels(name).inc(0.5 * seconds)
    workers.kv_tokens.labels(name).set(1234)
    return metrics


def pages() -> list[Page]:
    return [
        Page(URL, now=sample(make(seconds=14), 14), before=sample(make(seconds=4), 4), seen=True)
        for make in (orchestrator, worker)
    ]


def test_one_picture_has_the_rates_since_the_last() -> None:
    """Tokens by source, acceptance, times: what was gained between two readings, a second. Latest values otherwise."""
    text = drawn(*pages())
    assert "3 under way, 2 waiting, 13 ended, 1 failed" in text
    assert "30.0  small 20.0  fallback 10.0" in text
    assert "75% of drafted tokens, fallbacks 10.0/s, rollbacks 0.0/s" in text
    assert "first token 250 ms, then 20 ms a token" in text


def test_a_worker_stands_there_once() -> None:
    """An orchestrator's page knows its role and its heartbeat, its own page its batches: one row has both."""
    rows = [line.split() for line in drawn(*pages()).splitlines()]
    small = next(row for row in rows if row[:1] == ["small"])
    large = next(row for row in rows if row[:1] == ["large"])
    assert small == ["small", "up", "100", "ms", "1.2", "ms", "3/8", "15.0", "2.0", "50%", "1234"]
    assert large == ["large", "down", "7.0", "s", "1.2", "ms", "3/8", "15.0", "-", "-", "-"]
    assert sum(row[:1] == ["SmolLM2"] for row in rows) == 0


def test_a_queue_has_its_line() -> None:
    """Jobs, redeliveries, what was given up, and how long nothing was fetched."""
    metrics = Metrics()
    metrics.queue.jobs.labels("done").inc(7)
    metrics.queue.dead_letters.labels("failed").inc()
    metrics.queue.since_fetch.set(75)
    text = drawn(Page(URL, now=sample(metrics, 1), seen=True))
    assert "7 jobs done, -/s, 0 redelivered, 1 given up, last fetch 75.0 s ago" in " ".join(
        text.split()
    )


def test_it_fits_eighty_columns() -> None:
    """So does every number that grows: the widest terminal is not everybody's."""
    assert max(len(line.rstrip()) for line in drawn(*pages()).splitlines()) <= 80
    assert max(len(line) for line in drawn(*pages(), width=50).splitlines()) <= 50


def test_who_has_gone_is_said_and_the_others_stay() -> None:
    """A server that does not answer any more keeps its line, with the reason; the rest of the picture stays."""
    gone = Page("http://127.0.0.1:9/metrics", error="connection refused", seen=True)
    never = Page("http://127.0.0.1:8/metrics", error="does not answer in time")
    text = drawn(gone, never, *pages())
    assert "http://127.0.0.1:9  gone: connection refused" in text
    assert "http://127.0.0.1:8  not there: does not answer in time" in text
    assert "3 under way" in text


async def test_a_page_that_comes_back_is_taken_up_again() -> None:
    """Rates begin anew with the second reading after a gap: what was before the gap says nothing."""
    metrics = orchestrator(seconds=1)
    async with page(metrics, "127.0.0.1:0") as url:
        read = Page(url)
        await read.read()
        assert read.rate("bild_tokens_total") is None
        metrics.requests.tokens.labels("small").inc(100)
        await read.read()
        assert (read.rate("bild_tokens_total") or 0) > 0
    await read.read()
    assert (read.now, read.seen, read.error) == (None, True, "connection refused")
    port = url.removesuffix("/metrics").rpartition(":")[2]
    async with page(metrics, f"127.0.0.1:{port}"):
        await read.read()
        assert read.error == ""
        assert read.rate("bild_tokens_total") is None


def test_a_counter_that_began_anew_is_no_loss() -> None:
    """A process that was started again counts from 0: its rate is what it counted since."""
    read = Page(URL, sample(orchestrator(seconds=2), 20), sample(orchestrator(seconds=9), 10))
    assert read.rate("bild_tokens_total", source="small") == pytest.approx(4)


@pytest.mark.parametrize(
    ("word", "url"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000/metrics"),
        ("http://host:8000/", "http://host:8000/metrics"),
        ("https://host/inner/metrics", "https://host/inner/metrics"),
    ],
)
def test_an_address_may_be_short(word: str, url: str) -> None:
    """The page is /metrics unless something else is named."""
    assert url == address(word)


@pytest.mark.parametrize("word", ["zmq://127.0.0.1:5000", "http://", ":8000", "http://host:http"])
def test_a_word_that_is_no_address_is_refused(word: str) -> None:
    """Also a worker's own address, which is not its page."""
    with pytest.raises(ConfigError, match="is no page: give an address such as"):
        address(word)


@contextmanager
def stranger(body: bytes, code: int = 200) -> Iterator[str]:
    """A server of somebody else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"up 1\n", b"\xff\xfe{", b""])
def test_a_page_of_somebody_else_is_refused(body: bytes) -> None:
    """It names the address and says what would do."""
    with (
        stranger(body) as url,
        pytest.raises(ConfigError, match="is no page of bild-dist: name the"),
    ):
        command.main([url], 2.0, once=True)


def test_nobody_there_is_an_error_that_says_so() -> None:
    """Every address with its reason; a wrong path too."""
    with stranger(b"no", 404) as url, pytest.raises(WorkerUnavailable) as caught:
        command.main([url, "127.0.0.1:1"], 2.0, once=True)
    assert "answers 404 Not Found" in str(caught.value)
    assert "http://127.0.0.1:1/metrics: connection refused" in str(caught.value)
