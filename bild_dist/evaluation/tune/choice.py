"""Which setting to take: the statistics of `bild tune`.

A floor is a bound on a margin: the figure of a setting over that of the large model (a share), or
their difference (points), less the floor. On some texts the margin is an estimate; on the texts of a
check it will be another one. And the fastest of many settings that seem good enough is one that luck
has favoured. Both are counted:

- A setting passes where margin - c * s * sqrt(1 + n/m) is not below 0: s is the standard deviation
  of the margin over paired resamples of the n texts, and the root adds the scatter of a check on m
  others. What passes is expected to hold on them, not only in the limit.
- c is taken over all settings at once: the quantile, over the resamples, of the largest standardised
  deviation of any of them ("max-t"). Settings that write nearly the same texts move together, so c
  grows far less than one correction for each would ask, and it holds whichever of those that pass is
  picked.
- Stepping down (Romano and Wolf 2005, "Stepwise multiple testing as formalized data snooping",
  Econometrica 73): what has passed is taken out, and c is found anew for the rest, until no more pass.
- Where most texts are the large model's own and a few lose much, a sample may hold none of those few, and
  no resample shows what it does not hold. So every setting is given one text more, which loses what
  any setting that seems to pass lost most on any text, or all of it where nothing was lost. Mode
  `exact` is not: its texts are the large model's by definition.

With several floors each gets its share of what may go wrong (Bonferroni). The bootstrap is right in the
limit of many texts; for few, `tests/spec/test_tune.py` and `benchmarks/tune_splits.py` count how often
what was chosen falls below its floor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any, Final, Self, TypeAlias

import numpy as np

from bild_dist.errors import ConfigError
from bild_dist.evaluation.metrics import registry
from bild_dist.evaluation.metrics.base import Array, Marks, Resamples
from bild_dist.evaluation.sweep.study import Study
from bild_dist.types import Mode, nearest

RESAMPLES: Final = 2000
_FLAT: Final = 1e-9
"""A margin that moves less than this over the resamples does not move."""

Index: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Floor:
    """What a metric must not fall below. `value` above 0: share of the large model's figure; 0 or
    below: points less than it.
    """

    metric: str
    value: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of `rougeL=0.99`, `bleu=-0.5` or `agreement=0.95`.

        Raises:
            ConfigError: an unknown metric (offers the nearest), or no number that can be a floor.
        """
        name, equals, number = (part.strip() for part in text.partition("="))
        known = [metric.name for metric in registry.METRICS if metric.higher_is_better]
        if name not in known:
            raise ConfigError(f"--floor {text}: metric {name!r} is unknown{nearest(name, known)}")
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        # A figure has a hundred points, so a floor that many below the large model's says nothing.
        most = 100 * registry.named(name).point
        if not equals or not -most < value <= 1:
            raise ConfigError(
                f"--floor {text}: write METRIC=SHARE of the large model's figure, at most 1 ({name}=0.99), or "
                f"METRIC=-POINTS below it, less than the {most:g} that there are ({name}={-most / 200:g})"
            )
        return cls(name, value)

    def told(self, amount: float) -> str:
        """A margin in words."""
        return (
            f"{100 * amount:.3g} % of the large model's figure"
            if self.value > 0
            else f"{amount:.3g} points"
        )

    def margin(self, scores: Array, own: Array) -> Array:
        """By how much figures lie above the floor. `own`: the large model's on the same texts."""
        if self.value > 0:
            shares: Array = np.divide(scores, own, out=np.ones_like(scores), where=own != 0)
            return shares - self.value
        difference: Array = scores - own - self.value
        return difference

    def __str__(self) -> str:
        return f"{self.metric}={self.value:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a choice is made from: every setting that was written, a text each. `exact`: which of them
    are mode `exact`. `marks`: by floor, of each setting in the order of `names`; `own`: by floor, of
    the large model; `empty`: by floor, of nothing at all in place of each text. `walls_ns`: [J, N].
    """

    names: tuple[str, ...]
    exact: tuple[bool, ...]
    floors: tuple[Floor, ...]
    marks: Mapping[Floor, tuple[Marks, ...]]
    own: Mapping[Floor, Marks]
    empty: Mapping[Floor, Marks]
    walls_ns: Array
    large_ns: Array

    @classmethod
    def of(cls, study: Study, floors: Sequence[Floor]) -> Self:
        """Of the settings of a sweep that write with both models.

        Raises:
            ConfigError: no setting was written, or an item has no reference.
        """
        both = (Mode.BILD, Mode.EXACT)
        points = [p for p in study.points if p.texts and p.setting.options.mode in both]
        if not points:
            raise ConfigError("the sweep has written no setting of two models: there is no choice")
        metrics = {floor: registry.chosen([floor.metric], study.items)[0] for floor in floors}
        large = study.large.texts
        nothing = [replace(text, text="", tokens=()) for text in large]
        return cls(
            names=tuple(point.setting.name for point in points),
            exact=tuple(point.setting.options.mode is Mode.EXACT for point in points),
            floors=tuple(floors),
            marks={f: tuple(study.marks(m, p.texts) for p in points) for f, m in metrics.items()},
            own={f: study.marks(m, large) for f, m in metrics.items()},
            empty={f: study.marks(m, nothing) for f, m in metrics.items()},
            walls_ns=np.array([point.walls_ns for point in points], dtype=float),
            large_ns=np.array(study.large_walls_ns, dtype=float),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.large_ns)

    def only(self, index: Index) -> Evidence:
        """The same of some of the texts."""
        return Evidence(
            names=self.names, exact=self.exact, floors=self.floors,
            marks={f: tuple(_only(m, index) for m in marks) for f, marks in self.marks.items()},
            own={floor: _only(marks, index) for floor, marks in self.own.items()},
            empty={floor: _only(marks, index) for floor, marks in self.empty.items()},
            walls_ns=self.walls_ns[:, index], large_ns=self.large_ns[index],
        )  # fmt: skip

    def with_the_worst(self, floor: Floor) -> tuple[list[Marks], Marks]:
        """Marks of each setting, and the large model's, with one text more: the one on which any of those
        that seem to pass lost most, for all of them alike; where nothing lost, one of which nothing is
        left. Settings below the floor do not count: they are no danger to it.
        """
        own, marks = self.own[floor], self.marks[floor]
        theirs = own.score(own.rows)
        losses = theirs - np.array([one.score(one.rows) for one in marks])
        losses[self.margins(floor) < 0] = 0.0
        place, text = np.unravel_index(int(losses.argmax()), losses.shape)
        worst = marks[place].rows[text]
        if losses[place, text] <= 0:
            text = theirs.argmax()
            worst = self.empty[floor].rows[text]
        return [_with(one, worst) for one in marks], _with(own, own.rows[text])

    @property
    def latency_ns(self) -> Array:
        """Mean over texts, of each setting."""
        found: Array = self.walls_ns.mean(axis=1)
        return found

    def margins(self, floor: Floor) -> Array:
        """Of each setting, over all texts."""
        return _margins(floor, self.marks[floor], self.own[floor])

    def mute(self, floor: Floor) -> bool:
        """Whether a floor says nothing: a share of the large model's figure where that is 0."""
        return floor.value > 0 and self.own[floor].value == 0

    def met(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which settings lie at or above every floor on these texts."""
        found: np.ndarray[Any, np.dtype[np.bool_]] = np.all(
            [self.margins(floor) >= 0 for floor in self.floors], axis=0
        )
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The fastest setting that passes, or the large model alone where none of them is faster.

    `place`: among the names of the evidence, None for the large model. `speed`: the large model's
    latency over this one's. `lower`: by floor, the bound that was not below 0; `margins`: the
    estimates. `passed`: how many settings do.
    """

    place: int | None
    name: str
    speed: float
    margins: Mapping[Floor, float]
    lower: Mapping[Floor, float]
    passed: int


def chosen(evidence: Evidence, *, check: int, confidence: float, seed: int = 0) -> Choice:
    """The fastest of the settings that are expected above all floors on `check` other texts, and of the
    large model alone, which meets every floor.
    """
    lower = bounds(evidence, check=check, confidence=confidence, seed=seed)
    passing = np.all([bound >= 0 for bound in lower.values()], axis=0)
    latency = np.where(passing, evidence.latency_ns, np.inf)
    place, large_ns = int(latency.argmin()), float(evidence.large_ns.mean())
    if large_ns <= latency[place]:
        own = {f: float(f.margin(np.ones(1), np.ones(1))[0]) for f in evidence.floors}
        return Choice(place=None, name=Mode.LARGE.value, speed=1.0, margins=own, lower=own,
                      passed=int(passing.sum()))  # fmt: skip
    return Choice(
        place=place, name=evidence.names[place], speed=float(large_ns / latency[place]),
        margins={f: float(evidence.margins(f)[place]) for f in evidence.floors},
        lower={f: float(bound[place]) for f, bound in lower.items()},
        passed=int(passing.sum()),
    )  # fmt: skip


def bounds(
    evidence: Evidence, *, check: int, confidence: float, seed: int = 0
) -> dict[Floor, Array]:
    """By floor, of each setting, what its margin on `check` other texts is expected not to fall below; -inf where
    nothing is known.
    """
    resamples = Resamples(len(evidence) + 1, count=RESAMPLES, seed=seed)
    each = 1 - (1 - confidence) / len(evidence.floors)
    wide = sqrt(1 + len(evidence) / check)
    return {f: _lower(evidence, f, resamples, each, wide) for f in evidence.floors}


def _lower(
    evidence: Evidence, floor: Floor, resamples: Resamples, confidence: float, wide: float
) -> Array:
    """A bound below each setting's margin on the check, all of them at once, stepping down."""
    marks, large = evidence.with_the_worst(floor)
    margins, own = _margins(floor, marks, large), resamples.scores(large)
    drawn = np.array([floor.margin(resamples.scores(one), own) for one in marks])
    spread = drawn.std(axis=1)
    exact = np.array(evidence.exact)
    moves = (spread > _FLAT) & ~exact
    # Only mode `exact` is as sure as it looks: that another margin never moves says that nothing is known.
    lower: Array = np.where(exact, evidence.margins(floor), -np.inf)
    left = moves.copy()
    standard = np.zeros_like(drawn)
    standard[moves] = (drawn[moves] - margins[moves, None]) / spread[moves, None]
    while left.any():
        bound = float(np.quantile(standard[left].max(axis=0), confidence))
        lower[left] = margins[left] - max(bound, 0.0) * wide * spread[left]
        still = left & (lower < 0)
        if (still == left).all():
            break
        left = still
    return lower


def _margins(floor: Floor, marks: Sequence[Marks], own: Marks) -> Array:
    base = np.array([own.value])
    return np.array([floor.margin(np.array([one.value]), base)[0] for one in marks])


def _only(marks: Marks, index: Index) -> Marks:
    return Marks(marks.rows[index], marks.score, marks.signature)


def _with(marks: Marks, row: Array) -> Marks:
    """With one text more."""
    return Marks(np.vstack([marks.rows, row]), marks.score, marks.signature)
