"""A timeline on the screen: the page and the trace that show what a recording tells."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import pytest

from bild_dist.errors import ConfigError, WorkerUnavailable
from bild_dist.orchestrator.drawing import Drawing, page, trace, word
from bild_dist.orchestrator.recording import Moment, Recording
from bild_dist.orchestrator.text import Text
from bild_dist.orchestrator.timeline import stories
from bild_dist.policy.events import Emit, Finish, FromWorker
from bild_dist.types import Role
from tests.spec.test_timeline import MS, Hand, overlapped, verified, verify

IDS = Text.from_files({})
"""No tokenizer: a token reads as its number."""


def test_any_beginning_of_a_recording_can_be_told() -> None:
    """A recording may be cut anywhere, and a worker may answer what nobody asked."""
    moments = overlapped().moments
    stray = FromWorker(Role.LARGE, verified(77, 3, 5, 0.1))
    for length in range(len(moments) + 1):
        told = stories([*moments[:length], Moment(1, 99 * MS, stray), Moment(2, 99 * MS, stray)])
        assert len(told) == len(embedded(page(told, IDS))["requests"])
        assert json.dumps(trace(told, IDS), allow_nan=False)


def test_a_full_recording_says_what_it_missed() -> None:
    """It never grows beyond its bound, keeps the beginning and counts the rest; the page says so."""
    recording = Recording(limit=5)
    for session, at_ns, what in overlapped().moments:
        recording(session, at_ns, what)
    recording(1, 0, Emit(()))  # nothing given out is no moment
    assert 5 == len(recording.moments)
    assert len(overlapped().moments) - 5 == recording.missed
    assert recording.missed == embedded(page(stories(recording.moments), IDS, recording.missed))["missed"]  # fmt: skip


class Reader(HTMLParser):
    """What a browser sees: tags, their sources, and the content of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and self.scripts:
            self.scripts[-1] += data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    return reader


def embedded(html: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(read(html).scripts[0])
    return found


HOSTILE = (
    "</script><script>alert(1)</script>", "<!--<script>", "&lt;b&gt;\u2028\u2029", "/*DATA*//*HANDS*/",
    "\x00\x1b[31m", '"\\u003c', "]]>",
)  # fmt: skip


@pytest.mark.parametrize("evil", HOSTILE)
def test_hostile_texts_stay_texts(evil: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a prompt, a token or an error says, the page has the same tags, and its data says it
    word for word.
    """
    monkeypatch.setattr(Text, "decode", lambda self, ids: evil * len(ids))
    hand = overlapped()
    hand.moments[-1] = Moment(1, 99 * MS, Finish(None, WorkerUnavailable(evil)))
    html = page([hand.story()], IDS)
    plain = page([overlapped().story()], IDS)
    assert [tag for tag, _ in read(plain).tags] == [tag for tag, _ in read(html).tags]
    data = embedded(html)
    assert data["words"]["11"] == evil
    assert data["requests"][0]["end"].endswith(evil)
    assert data["requests"][0]["prompt"].startswith(evil)


def test_the_page_asks_for_nothing() -> None:
    """It works without a network: no address, no source, no style or script from elsewhere, and a
    policy that would forbid it.
    """
    html = page([overlapped().story()], IDS)
    reader = read(html)
    assert not [a for _, attrs in reader.tags for a in attrs if a in ("src", "href", "srcset")]
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttp|innerHTML|document\.write|eval\(", html)  # fmt: skip
    policy = next(a["content"] for _, a in reader.tags if a.get("http-equiv"))
    assert policy is not None
    assert "default-src 'none'" in policy
    assert not re.search(r"/\*[A-Z]+\*/", html), "a part is missing"


def test_infinite_numbers_do_not_spoil_the_data() -> None:
    """JSON has none, but a distance may be infinite."""
    hand = Hand()
    hand.sent(30, Role.LARGE, verify(2, 2, 3, 11, count=1))
    hand.came(60, Role.LARGE, verified(2, 0, 22, inf))
    check = embedded(page([hand.story()], IDS))["requests"][0]["blocks"][-1]["check"]
    assert check["distances"] == ["inf"]


def test_a_recording_without_requests_is_a_page_too() -> None:
    """A prompt may be refused before any worker hears of it."""
    assert [] == embedded(page([], IDS))["requests"]
    assert {"traceEvents": [], "displayTimeUnit": "ms"} == trace([], IDS)


def test_a_token_without_a_text_shows_its_number() -> None:
    """So does one that is only a part of a character."""
    assert "⟨7⟩" == word(IDS, 7)


def test_the_trace_has_the_format_that_viewers_read() -> None:
    """Every event has a phase, a process, a thread and a time in µs; complete events a length, and
    those of one thread do not overlap; names of processes and threads come as metadata.
    """
    told = trace([overlapped().story()], IDS)
    events = json.loads(json.dumps(told, allow_nan=False))["traceEvents"]
    for event in events:
        assert event["ph"] in ("M", "X", "i")
        assert all(isinstance(event[key], int) for key in ("pid", "tid"))
        assert event["ts"] >= 0
        assert event["name"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert names == {1: "small", 2: "large", 3: "text"}
    assert ["request 1"] == [e["args"]["name"] for e in events if e["name"] == "process_name"]
    complete = [e for e in events if e["ph"] == "X"]
    assert (16_000, 10_000, "draft") == tuple(complete[0][key] for key in ("ts", "dur", "name"))
    for tid in (1, 2):
        lane = sorted((e["ts"], e["ts"] + e["dur"]) for e in complete if e["tid"] == tid)
        assert all(a[1] <= b[0] for a, b in pairwise(lane))
    instants = [e for e in events if e["ph"] == "i"]
    assert {"t", "p"} == {e["s"] for e in instants}
    assert 3 == len(instants), "two tokens of text and one rollback"


@pytest.mark.parametrize(
    ("name", "needle"),
    [
        ("page.txt", ".html"), ("page", ".html"), ("..", ".html"), ("folder.html", "is a folder"),
        ("taken.html", "is a folder"), ("nowhere/page.html", "does not exist"),
        ("in.html", "--input or --output"),
    ],
)  # fmt: skip
def test_a_place_that_cannot_be_written_is_refused_at_once(
    tmp_path: Path, name: str, needle: str
) -> None:
    """Before any worker starts, with the reason, and without leaving a file."""
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "taken.json").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=needle):
        Drawing(str(tmp_path / name), (None, str(tmp_path / "in.json")))
    assert before == sorted(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["", ".", "-", "/dev/null"])
def test_a_place_without_a_name_is_no_page(path: str) -> None:
    """An empty variable in somebody's script gives a sentence, not a traceback."""
    with pytest.raises(ConfigError, match=r"\.html"):
        Drawing(path)
