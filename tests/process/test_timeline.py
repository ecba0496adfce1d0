"""`bild generate --timeline`: real processes, both files, good and bad use."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.process.signals import heed_ctrl_c
from tests.process.test_cli import PAIR, bild, records

pytestmark = pytest.mark.process


def drawn(page: Path) -> dict[str, Any]:
    """The data of a page."""
    html = page.read_text("utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


@pytest.mark.parametrize("transport", ["inproc", "zmq", "grpc"])
@pytest.mark.parametrize("schedule", ["paper", "overlap"])
def test_a_page_and_a_trace_are_written(tmp_path: Path, transport: str, schedule: str) -> None:
    """Over every transport; they show the tokens that were printed, and the output is the same."""
    page = tmp_path / "out.html"
    words = ("generate", *PAIR, "--json", "Hello", "--schedule", schedule, "--transport", transport)
    (plain,) = records(bild(*words).stdout)
    done = bild(*words, "--timeline", str(page))
    assert 0 == done.returncode, done.stderr
    (record,) = records(done.stdout)
    (request,) = drawn(page)["requests"]
    assert plain["tokens"] == record["tokens"] == [chip["token"] for chip in request["chips"]]
    assert record["sources"] == [chip["source"] for chip in request["chips"]]
    assert record["text"] == "".join(chip["text"] for chip in request["chips"])
    assert record["trace"]["wasted"] == request["totals"]["wasted"]
    assert "Hello" == request["prompt"]
    events = json.loads((tmp_path / "out.json").read_text())["traceEvents"]
    passes = sum(e["args"]["passes"] for e in events if e["ph"] == "X" and e["tid"] == 2)
    assert record["trace"]["large_passes"] == passes


def test_a_file_of_prompts_is_one_page(tmp_path: Path) -> None:
    """Each request that reached a worker is there, those that failed too, on one axis of time."""
    source, page = tmp_path / "in.jsonl", tmp_path / "out.html"
    lines = [{"prompt": f"<b>{n}</b>", "max_new_tokens": 5 + n} for n in range(8)]
    # Five hundred passes of 2 ms are not done within 0.2 s.
    slow = {"prompt": "late", "max_new_tokens": 500, "deadline": 0.2, "mode": "large"}
    source.write_text("\n".join(json.dumps(line) for line in [*lines, slow, {"prompt": ""}]))
    pair = ("--small", "toy:small?end=0", "--large", "toy:large?end=0&ms=2")
    done = bild(
        "generate", *pair, "--input", str(source), "--concurrency", "3", "--timeline", str(page)
    )
    assert 1 == done.returncode, done.stderr
    requests = drawn(page)["requests"]
    assert 9 == len(requests)
    assert [f"<b>{n}</b>" for n in range(8)] == sorted(r["prompt"] for r in requests[:8])
    (failed,) = [r for r in requests if r["failed"]]
    assert "DeadlineExceeded" in failed["end"]
    assert failed["chips"]


def test_an_interrupted_run_leaves_what_it_saw(tmp_path: Path) -> None:
    """Ctrl-C ends the text, not the recording."""
    page = tmp_path / "out.html"
    process = subprocess.Popen(
        [sys.executable, "-m", "bild_dist", "generate", "--small", "toy:small?end=0&ms=5",
         "--large", "toy:large?end=0&ms=5", "Hello", "--max-new-tokens", "2000", "--timeline", str(page)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=heed_ctrl_c,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert 130 == process.returncode
    (request,) = drawn(page)["requests"]
    assert request["chips"]


@pytest.mark.parametrize(
    ("path", "needle"),
    [("out.txt", ".html"), (".", ".html"), ("missing/out.html", "does not exist")],
)
def test_a_bad_place_is_refused_before_anything_starts(
    tmp_path: Path, path: str, needle: str
) -> None:
    """Exit code 2 and one sentence, even where the models do not exist either."""
    words = ("--small", "./nowhere", "--large", "./nowhere", "x")
    done = bild("generate", *words, "--timeline", str(tmp_path / path))
    assert 2 == done.returncode
    assert needle in done.stderr
    assert "--timeline" in done.stderr
    assert 1 == len(done.stderr.splitlines())
