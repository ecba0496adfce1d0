"""One setting against another on the same texts: how much better it is and how much faster, with intervals.

Every run has the large model alone beside it, in turns. So a speed is one over that model's in the same
run, and what is compared of two runs is the ratio of two ratios, both of the same resample of the texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from bild_dist.errors import ConfigError
from bild_dist.evaluation.metrics.base import Array, Judged, Marks, Resamples, percentiles, ratio
from bild_dist.evaluation.report.runs import Key, Row, Study
from bild_dist.evaluation.run.record import TextRecord
from bild_dist.evaluation.tasks.base import Item

Figure: TypeAlias = Mapping[str, float]
"""value, low and high."""
Texts: TypeAlias = Mapping[str, tuple[TextRecord, TextRecord]]
"""Of each item that has both: the setting's text, and that of the large model alone in the same run."""
_PLACES: Final = ("cpu", "threads_small", "threads_large", "dtype", "torch", "transport")
"""Fields of a record's environment that decide about speed."""
DRIFT: Final = 0.15
"""Share by which the large model alone may take longer in one run than in another. Passes of one token and
passes of many do not slow down alike when a machine does, so a ratio of ratios levels out part of it and the
intervals, which are over texts, know nothing of the rest. On a machine of two cores runs one after the other
differ by 8 % in the median, and by less than this four times of five.
"""
_NEAR: Final = 1e-6
"""Share by which a figure that is taken again may differ from the record's."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One setting against another, over the texts that both runs have.

    `speed`: how many times as fast the first one is; None where nothing was timed. `quality`: its figure
    less the other's; None, and `why` in words, where nobody knows. `same`: texts of which both wrote the
    same tokens. `beside`: texts of which the large model alone wrote other tokens in one run than in the
    other, and `beside_ms` what it took a text in each, 0 where nothing was timed. `places`: what else the two
    runs differ in.
    """

    texts: int = 0
    same: int = 0
    speed: Figure | None = None
    quality: Figure | None = None
    why: str = ""
    beside: int = 0
    places: Sequence[str] = ()
    beside_ms: tuple[float, float] = (0.0, 0.0)

    @property
    def drifted(self) -> bool:
        """Whether the machine was so much slower in one run that nobody can tell who is faster."""
        return far_apart(self.beside_ms)


class Comparison:
    """Compares rows of a study. Owns the marks of their texts: each row is judged once. `items`: those of
    the task by id, with their references; empty where it cannot be read here.
    """

    def __init__(self, study: Study, items: Mapping[str, Item]) -> None:
        self._study = study
        self._items = items
        self._known: dict[Key, Marks | str] = {}

    @property
    def unfair(self) -> str:
        """Why the study's metric says nothing of quality between methods; empty where it does."""
        if self._study.drawn and self._study.metric == "agreement":
            return (
                "BiLD draws with the random numbers of the large model alone and rejection with others, so "
                "agreement with one draw of that model favours BiLD whatever the quality"
            )
        return ""

    def of(self, one: Row, other: Row) -> Compared:
        """The first against the second."""
        ours, theirs = texts_of(one), texts_of(other)
        ids = [name for name in ours if name in theirs]
        if not ids:
            return Compared(why="no text is in both runs")
        draws = Resamples(len(ids))
        same = sum(ours[name][0].tokens == theirs[name][0].tokens for name in ids)
        quality = self._difference(one, other, ids, draws)
        if isinstance(quality, str) and same == len(ids) and not self.unfair:
            quality = {"value": 0.0, "low": 0.0, "high": 0.0}  # of the same texts by any metric
        return Compared(
            texts=len(ids),
            same=same,
            speed=_speed([(*ours[name], *theirs[name]) for name in ids], draws),
            quality=None if isinstance(quality, str) else quality,
            why=quality if isinstance(quality, str) else "",
            beside=sum(ours[name][1].tokens != theirs[name][1].tokens for name in ids),
            places=places(one, other),
            beside_ms=_beside_ms(ours, theirs, ids),
        )

    def _difference(
        self, one: Row, other: Row, ids: Sequence[str], draws: Resamples
    ) -> Figure | str:
        """Of their figures, or why it is not known."""
        if self.unfair:
            return self.unfair
        found = []
        for row in (one, other):
            marks = self._marks(row)
            if isinstance(marks, str):
                return marks
            at = {name: place for place, name in enumerate(texts_of(row))}
            chosen = marks.rows[[at[name] for name in ids]]
            found.append(Marks(chosen, marks.score, marks.signature))
        low, high = draws.difference(*found)
        return {"value": found[0].value - found[1].value, "low": low, "high": high}

    def _marks(self, row: Row) -> Marks | str:
        """The marks of all texts of a row, or why there are none."""
        if row.key not in self._known:
            self._known[row.key] = self._judged(row)
        return self._known[row.key]

    def _judged(self, row: Row) -> Marks | str:
        metric, texts = self._study.judge, texts_of(row)
        if metric.name == "perplexity":
            return "a record does not hold what the large model thinks of each text"
        bare = any(name not in self._items or not self._items[name].references for name in texts)
        if metric.needs_references and bare:
            return f"the references of {self._study.task} cannot be read here"
        try:
            marks = metric.marks(
                [
                    Judged(
                        text=own.text,
                        tokens=own.tokens,
                        references=self._items[name].references if name in self._items else (),
                        own=large.tokens,
                    )
                    for name, (own, large) in texts.items()
                ]
            )
        except ConfigError as error:
            return str(error)
        noted = row.quality(metric.name)
        if noted is None or abs(marks.value - noted) > _NEAR * max(1.0, abs(noted)):
            said = "none" if noted is None else self._study.shown(noted)
            return (
                f"{row.name} has {self._study.shown(marks.value)} by the references that {self._study.task} has "
                f"now, and {said} in its record: the task or the metric has changed"
            )
        return marks


def texts_of(row: Row) -> Texts:
    """What a row and the large model beside it wrote, by item."""
    large = {} if row.record.large is None else {text.id: text for text in row.record.large.texts}
    return {text.id: (text, large[text.id]) for text in row.part.texts if text.id in large}


def far_apart(beside_ms: tuple[float, float]) -> bool:
    """Whether two times of the large model alone differ by more than DRIFT."""
    low, high = sorted(beside_ms)
    return low > 0 and high > low * (1 + DRIFT)


def unlike(places: Sequence[str]) -> str:
    """Why the large model alone took another time in one run than in the other, as far as anybody knows."""
    return f"of runs that differ in {', '.join(places)}" if places else "on this machine's noise"


def remedy(places: Sequence[str]) -> str:
    """What makes two such runs comparable."""
    if places:
        return f"Measure both with the same {', '.join(places)}."
    return "Measure both anew, one after the other and with nothing else running."


def beside_ms(one: Row, other: Row) -> tuple[float, float]:
    """What the large model alone took for a text beside each, mean over the texts that both runs have."""
    ours, theirs = texts_of(one), texts_of(other)
    return _beside_ms(ours, theirs, [name for name in ours if name in theirs])


def _beside_ms(ours: Texts, theirs: Texts, ids: Sequence[str]) -> tuple[float, float]:
    first, second = (
        sum(texts[name][1].wall_ns for name in ids) / max(len(ids), 1) / 1e6
        for texts in (ours, theirs)
    )
    return first, second


def speed(one: Row, other: Row) -> Figure | None:
    """How many times as fast the first is, over the texts that both runs have; None where nothing was timed."""
    ours, theirs = texts_of(one), texts_of(other)
    found = [(*ours[name], *theirs[name]) for name in ours if name in theirs]
    return _speed(found, Resamples(len(found))) if found else None


def _speed(
    texts: Sequence[tuple[TextRecord, TextRecord, TextRecord, TextRecord]], draws: Resamples
) -> Figure | None:
    """`texts`: of each item the first setting's, the large model's beside it, and so of the second."""
    rows = np.array([[text.wall_ns for text in found] for found in texts], dtype=float)
    if not rows.sum(axis=0).all():
        return None
    marks = Marks(rows, _times_as_fast, "")
    low, high = percentiles(draws.scores(marks))
    return {"value": marks.value, "low": low, "high": high}


def _times_as_fast(sums: Array) -> Array:
    """(large / own) of the first run over (large / own) of the second."""
    one, beside_one, other, beside_other = sums.T
    return ratio(np.stack([beside_one * other, one * beside_other], axis=1))


def places(one: Row, other: Row) -> list[str]:
    """What two runs differ in, of all that decides their speed."""
    ours, theirs = one.record.environment, other.record.environment
    both = [name for name in _PLACES if None not in (ours.get(name), theirs.get(name))]
    return [name.replace("_", " ") for name in both if ours[name] != theirs[name]]
