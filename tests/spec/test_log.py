"""The log: lines for machines and lines for people, with what is known of the request and the process on each."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from bild_dist import log
from bild_dist.errors import ConfigError


@contextmanager
def alone() -> Iterator[None]:
    """A process of its own, as far as logging goes: no handler, and everything back afterwards.

    Not a fixture: pytest adds its own handlers between the fixtures and the test.
    """
    root, ours = logging.getLogger(), logging.getLogger("bild_dist")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    root.handlers.clear()
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        ours.setLevel(levels[1])


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_says_who_when_and_for_which_request(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON: what is bound around a task and what holds for the process stand beside the event, as do its own fields."""
    with alone():
        log.configure("json", "info", worker="small")
        log.always(generation="g1")
        with log.bound(request_id="7", job_id="j", attempt=2):
            logging.getLogger("bild_dist.x").info("done with %s", "it", extra={"tokens": 5})
        logging.getLogger("bild_dist.x").warning("later")
        first, second = lines(capsys.readouterr().err)
        at = first.pop("timestamp")
        assert at.endswith("Z")
        assert first == {
            "event": "done with it", "level": "info", "logger": "bild_dist.x", "tokens": 5, "worker": "small",
            "generation": "g1", "request_id": "7", "job_id": "j", "attempt": 2,
        }  # fmt: skip
        assert "request_id" not in second
        assert second["worker"] == "small"


async def test_tasks_do_not_share_what_they_bind(capsys: pytest.CaptureFixture[str]) -> None:
    """What a task binds stays its own, and who is further out has the better name."""
    with alone():
        log.configure("json", "info")

        async def work(name: str) -> None:
            log.bind(request_id=name)
            await asyncio.sleep(0)
            logging.getLogger("bild_dist.x").info(name)

        with log.bound(request_id="outer"):
            async with asyncio.TaskGroup() as group:
                group.create_task(work("inner"))
        async with asyncio.TaskGroup() as group:
            for name in "ab":
                group.create_task(work(name))
        assert ["outer", "a", "b"] == [
            line["request_id"] for line in lines(capsys.readouterr().err)
        ]


def test_other_libraries_speak_in_the_same_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Their warnings are ours to show; their information only where everything is wanted."""
    with alone():
        log.configure("json", "info")
        logging.getLogger("other").info("chatter")
        logging.getLogger("other").warning("trouble")
        log.configure("json", "debug")
        logging.getLogger("other").info("more")
        assert ["trouble", "more"] == [line["event"] for line in lines(capsys.readouterr().err)]


def test_the_environment_has_the_last_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """BILD_LOG sets the level whatever a configuration says, and must be one."""
    with alone():
        monkeypatch.setenv("BILD_LOG", "ERROR")
        log.configure("console", "debug")
        logging.getLogger("bild_dist.x").warning("quiet")
        logging.getLogger("bild_dist.x").error("loud")
        said = capsys.readouterr().err
        assert "loud" in said
        assert "quiet" not in said
        monkeypatch.setenv("BILD_LOG", "chatty")
        with pytest.raises(ConfigError, match="BILD_LOG='chatty' must be one of debug"):
            log.configure()


def test_a_program_that_embeds_us_keeps_its_own_log() -> None:
    """Its handlers stay as they are and ours does not come beside them: here pytest's own."""
    before = logging.getLogger().handlers[:]
    log.configure("json", "debug")
    assert before == logging.getLogger().handlers


@pytest.mark.parametrize("style", log.STYLES)
def test_a_traceback_shows_no_values(style: str) -> None:
    """Local variables hold prompts; a traceback names the lines alone."""
    try:
        prompt = "xylophone"
        raise RuntimeError(len(prompt))
    except RuntimeError as error:
        failure = (type(error), error, error.__traceback__)
    record = logging.LogRecord("bild_dist.x", logging.ERROR, "", 0, "a bug", (), failure)
    said = log.Lines(style, io.StringIO()).format(record)
    assert "RuntimeError: 9" in said
    # Once in the source line of the traceback, were it there; never as a value.
    assert "xylophone" not in said


def test_services_speak_json_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets lines for people, a pipe JSON; what is asked for is done anyway."""
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    for stream, service, wanted, style in (
        (terminal, True, "", "console"), (io.StringIO(), True, "", "json"), (io.StringIO(), False, "", "console"),
        (terminal, True, "json", "json"), (io.StringIO(), True, "console", "console"),
    ):  # fmt: skip
        monkeypatch.setattr("sys.stderr", stream)
        assert style == log.style_for(service, wanted)
