"""What figure 7 must be read with: CALM is timed on another program than the large model alone."""

from __future__ import annotations

from bild_dist.evaluation.report.cells import interval
from bild_dist.evaluation.report.paired import (
    Texts,
    beside_ms,
    far_apart,
    places,
    speed,
    texts_of,
    unlike,
)
from bild_dist.evaluation.report.runs import Kind, Row, Study


def notes(study: Study) -> list[str]:
    """Of a study that has CALM: what its times are of, and how fast each setting is over the same program
    through all layers, where that was measured.
    """
    rows = study.of(Kind.CALM)
    if not rows:
        return []
    said = (
        "Figure 7: CALM runs on transformers' modules whatever the large model alone and BiLD run on, which may "
        "be faster plain operations. So its speed over the large model alone is of two programs as much as of a "
        "method; compare it with a CALM that never exits"
    )
    whole = next(iter(study.of(Kind.WHOLE)), None)
    if whole is None:
        return [f"{said} (calm = 1, calm_decay = 0, --name 'calm 1'), which was not measured here."]
    return [f"{said}, {whole.name}: {_same(whole)}. " + " ".join(_said(row, whole) for row in rows)]


def _said(row: Row, whole: Row) -> str:
    found = speed(row, whole)
    if found is None:
        return f"{row.name} and {whole.name} were not both timed."
    beside = beside_ms(row, whole)
    if far_apart(beside):
        return (
            f"How fast {row.name} is over {whole.name} cannot be told {unlike(places(row, whole))}: the large model "
            f"alone took {beside[0]:.0f} ms a text beside the first and {beside[1]:.0f} ms beside the second."
        )
    return f"{row.name} is {interval(found, 2)} times as fast as {whole.name}."


def _same(whole: Row) -> str:
    """How far it is the large model that it should be."""
    texts: Texts = texts_of(whole)
    same = sum(own.tokens == large.tokens for own, large in texts.values())
    return f"{same} of its {len(texts)} texts are the large model's own"
