"""CALM in `bild report`: timed on another program than the large model alone, and said so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bild_dist.evaluation.report.files import Found
from bild_dist.evaluation.report.report import Section, sections
from bild_dist.evaluation.report.runs import Kind, kind_of, studies
from bild_dist.evaluation.run.record import Part, Record, Setting, TextRecord
from bild_dist.types import Mode, Options


def run(name: str, speed: float, wrote: int = 1) -> Record:
    """Of a setting that wrote two texts of a token each, so many times as fast as the large model alone."""
    parts = [
        Part(
            setting=Setting(said, Options(mode=mode)),
            texts=tuple(
                TextRecord(id=i, text="a", tokens=(token,), sources=(mode.value,), wall_ns=wall)
                for i in "ab"
            ),
            figures={"agreement": {"value": float(token), "low": 0, "high": 1},
                     "speedup": {"value": 6000 / wall, "low": 1, "high": 2}},
        )
        for said, mode, token, wall in (
            (name, Mode.SMALL, wrote, round(6000 / speed)), ("large", Mode.LARGE, 1, 6000),
        )
    ]  # fmt: skip
    return Record(task="mine", split="all", part=parts[0], large=parts[1])


def of(*records: Record) -> Section:
    (part,) = sections(Found(records), {})
    return part


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("calm 1", Kind.WHOLE), ("CALM 1.0", Kind.WHOLE), ("calm 1, never exits", Kind.WHOLE),
        ("calm 0.9", Kind.CALM), ("calm 10", Kind.CALM), ("calm 1.5", Kind.CALM), ("calm", Kind.CALM),
    ],
)  # fmt: skip
def test_a_calm_that_never_exits_is_known_by_its_name(name: str, kind: Kind) -> None:
    """A record does not hold a worker's options."""
    assert kind_of(Setting(name, Options(mode=Mode.SMALL))) is kind


def test_calm_is_compared_with_its_own_program() -> None:
    """Slower than the large model alone on plain operations, and faster than itself through all layers: who
    sees only the first would say that leaving early costs time.
    """
    part = of(run("calm 0.9", 0.75), run("calm 1", 0.5))
    (chart,) = (chart for chart in part.charts if chart.number == 7)
    assert (
        "CALM: calm 0.9 1.000 at 1.33. CALM that never exits: calm 1 1.000 at 2.00." in chart.says
    )
    (note,) = (note for note in part.notes if note.startswith("Figure 7"))
    assert "calm 1: 2 of its 2 texts are the large model's own." in note
    assert note.endswith("calm 0.9 is 1.50 [1.50, 1.50] times as fast as calm 1.")


def test_without_one_that_never_exits_the_report_names_it() -> None:
    """Nobody is left to think that the two times compare."""
    part = of(run("calm 0.9", 0.75))
    (note,) = (note for note in part.notes if note.startswith("Figure 7"))
    assert note.endswith("--name 'calm 1'), which was not measured here.")
    assert not any(note.startswith("Figure 7") for note in of(run("mine", 2)).notes)


def test_calm_is_no_small_model() -> None:
    """One model writes alone: beside it BiLD's settings need not say whose small model they have."""
    named = replace(run("calm 0.9", 0.75), models={"small": {"model": "the large one"}})
    (study,) = studies([run("mine", 2), named])
    assert study.smalls == ["small"]
