"""How far a long step is, for whoever reads a log."""

from __future__ import annotations

import pytest

from bild_dist.evaluation.align import progress
from bild_dist.evaluation.align.progress import Bar

SECOND_NS = 10**9


def told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bar: tuple[int, int, str], *steps: int
) -> list[str]:  # fmt: skip
    """The lines of a step that a minute passes between two reports of."""
    ticks = iter(range(0, 10**15, 60 * SECOND_NS))
    monkeypatch.setattr(progress, "now_ns", lambda: next(ticks))
    total, done, unit = bar
    with Bar("writing", total, done, unit=unit) as shown:
        for step in steps:
            shown.at(step)
    return capsys.readouterr().err.splitlines()


def test_a_line_has_the_rate_and_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reckoned from this start alone: what an earlier one did took it no time."""
    lines = told(monkeypatch, capsys, (300, 100, "texts"), 160, 280, 300)
    assert lines == [
        "writing: 160 of 300, 1 texts/s, 2 min left",
        "writing: 280 of 300, 1.5 texts/s, 13 s left",
        "writing: 300 of 300, 1.1 texts/s",
    ]


def test_hours_are_said_as_hours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody reckons with 151 minutes."""
    (line,) = told(monkeypatch, capsys, (152, 0, "texts"), 1)
    assert line == "writing: 1 of 152, 0.017 texts/s, 2 h 31 min left"


def test_what_was_loaded_first_is_no_part_of_the_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Models that take a minute to load would make hours of a few texts."""
    assert told(monkeypatch, capsys, (200, 100, "texts"), 100, 160) == [
        "writing: 160 of 200, 1 texts/s, 40 s left"
    ]
