"""What a report is about: rows of settings, gathered by task and large model, each with its kind.

A kind says which series of the paper a setting belongs to. It is read off the options where they tell,
and off the setting's name where it names a baseline.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Final, TypeAlias, TypeGuard

from bild_dist.errors import ConfigError
from bild_dist.evaluation.metrics import registry as metrics
from bild_dist.evaluation.metrics.base import Metric
from bild_dist.evaluation.report.groups import (
    apart,
    gathered,
    model_of,
    numbers_of,
    weights_of,
)  # fmt: skip
from bild_dist.evaluation.run.record import Part, Record, Setting
from bild_dist.evaluation.tasks import registry
from bild_dist.types import Mode, Options, Role


class Kind(StrEnum):
    """Series of the paper's figures. The value is what the report calls it."""

    LARGE = "large alone"
    SMALL = "small alone"
    EXACT = "exact"
    BILD = "BiLD"
    NO_ROLLBACK = "no rollback"
    NO_FALLBACK = "no fallback"
    REJECTION = "speculative sampling"
    EARLY_EXIT = "BiLD, early exit"
    CALM = "CALM"
    WHOLE = "CALM that never exits"
    ORACLE = "oracle"


_NAMED: Final = (
    ("rejection", Kind.REJECTION),
    ("speculative", Kind.REJECTION),
    ("no rollback", Kind.NO_ROLLBACK),
    ("no fallback", Kind.NO_FALLBACK),
    ("calm", Kind.CALM),
    ("early exit", Kind.EARLY_EXIT),
    ("oracle", Kind.ORACLE),
)
_NEVER: Final = re.compile(r"\bcalm 1(\.0+)?(?![\d.])")
"""CALM at a cosine that no two layers reach: transformers' modules, through all layers."""
_METRICS: Final = ("bleu", "rougeL", "chrf", "agreement", "perplexity")
"""Of these the first that a run has, where its task is not known here."""
POINT: Final = 1.0
"""What the paper gives away for speed: one point of the metric (`Metric.point`)."""
Key: TypeAlias = tuple[str, str, Options]
"""What tells a row from the others of its study: the small model, the name and all options."""


def known(value: Any) -> TypeGuard[float]:
    """Whether somebody knows a number: what is null, infinite or none at all is shown as a dash."""
    return isinstance(value, int | float) and math.isfinite(value)


def kind_of(setting: Setting, small: str = "") -> Kind:
    """The series of a setting with the small model of that name."""
    name, options = setting.name.lower(), setting.options
    if _NEVER.search(name):
        return Kind.WHOLE
    for word, kind in _NAMED:
        if word in name:
            return kind
    policy = str(getattr(options, "policy", ""))
    if policy == "rejection":
        return Kind.REJECTION
    alone = {Mode.LARGE: Kind.LARGE, Mode.SMALL: Kind.SMALL, Mode.EXACT: Kind.EXACT}
    if options.mode in alone:
        return alone[options.mode]
    if math.isinf(options.alpha_rb):
        return Kind.NO_ROLLBACK
    if options.alpha_fb == 0:
        return Kind.NO_FALLBACK
    # As `hub.title_of` names a small model that is the first layers of another.
    return Kind.EARLY_EXIT if "(first " in small else Kind.BILD


@dataclass(frozen=True, slots=True)
class Row:
    """A setting with its figures. `speedup`: over the large model alone in the same run. `small` is what
    the report calls the small model, and `also` what the name does not say where another row has it too.
    """

    record: Record
    part: Part
    kind: Kind
    small: str
    also: str = ""

    @property
    def name(self) -> str:
        return self.part.setting.name + self.also

    @property
    def options(self) -> Options:
        return self.part.setting.options

    @property
    def key(self) -> Key:
        """What tells it from the other rows of its study."""
        return ("" if self.kind is Kind.LARGE else self.small, self.name, self.options)

    @property
    def speedup(self) -> Mapping[str, Any] | None:
        """value, low and high; None where it was not measured."""
        if self.kind is Kind.LARGE:
            return {"value": 1.0, "low": 1.0, "high": 1.0}
        found = self.part.figures.get("speedup")
        if not isinstance(found, Mapping) or not known(found.get("value")):
            return None
        return found if found["value"] > 0 else None

    @property
    def latency(self) -> float | None:
        """Mean time of a text over that of the large model alone."""
        return 1 / self.speedup["value"] if self.speedup else None

    def quality(self, metric: str) -> float | None:
        found = self.part.figures.get(metric)
        value = found.get("value") if isinstance(found, Mapping) else None
        return float(value) if known(value) else None

    def beside(self, metric: str) -> float | None:
        """The quality of the large model alone in the same run, over the same texts."""
        large = self.part if self.record.large is None else self.record.large
        return Row(self.record, large, Kind.LARGE, "").quality(metric)

    def number(self, name: str) -> float | None:
        """A figure that is a single number, such as `fallback_rate`."""
        found = self.part.figures.get(name)
        return float(found) if known(found) else None


@dataclass(frozen=True, slots=True)
class Study:
    """Runs that may stand in one table: the same texts, large model, and way to draw. `apart` says what
    the title needs beside these, where another study has the same; `across` is what latencies are called.
    """

    task: str
    split: str
    large_model: str
    drawn: str
    metric: str
    rows: tuple[Row, ...]
    apart: str = ""
    across: str = "latency, relative to the large model alone"

    @property
    def title(self) -> str:
        words = [f"{self.task} ({self.split})", self.large_model, self.drawn, self.apart]
        return ", ".join(word for word in words if word)

    @property
    def judge(self) -> Metric:
        return metrics.named(self.metric)

    @property
    def metric_title(self) -> str:
        lower = "" if self.judge.higher_is_better else " (lower is better)"
        return self.judge.title + lower

    @property
    def point_title(self) -> str:
        """One point of the metric, and where it leads."""
        judge = self.judge
        if judge.point == 1:
            return "one point less"
        return f"{judge.point:g} {'less' if judge.higher_is_better else 'more'}"

    def worth(self, quality: float) -> float:
        """A quality such that more is better."""
        return quality if self.judge.higher_is_better else -quality

    def below(self, quality: float, points: float = POINT) -> float:
        """The quality that is so many points worse."""
        lost = points * self.judge.point
        return quality - lost if self.judge.higher_is_better else quality + lost

    def shown(self, quality: float) -> str:
        """A quality with as many decimals as the metric deserves."""
        return f"{quality:.{self.judge.digits}f}"

    @property
    def large(self) -> Row | None:
        """The large model alone."""
        return next(iter(self.of(Kind.LARGE)), None)

    @property
    def smalls(self) -> list[str]:
        """The small models, in the order of the records. With CALM one model writes alone."""
        none = (Kind.LARGE, Kind.CALM, Kind.WHOLE)
        return list(dict.fromkeys(row.small for row in self.rows if row.kind not in none))

    def of(self, *kinds: Kind, small: str | None = None) -> list[Row]:
        """The rows of these kinds, of one small model or of all."""
        return [
            row for row in self.rows if row.kind in kinds and (small is None or row.small == small)
        ]

    def placed(self, *kinds: Kind, small: str | None = None) -> list[tuple[float, float, Row]]:
        """Latency, quality and row of those that have both, fastest first."""
        found = [
            (row.latency, row.quality(self.metric), row) for row in self.of(*kinds, small=small)
        ]
        whole = [(x, y, row) for x, y, row in found if x is not None and y is not None]
        return sorted(whole, key=lambda point: (point[0], -self.worth(point[1]), point[2].name))


def equal(study: Study, lost: float, *, kinds: Sequence[Kind], small: str | None) -> Row | None:
    """The fastest row whose quality is at most so many points worse than the large model's in the same run."""
    rows = study.placed(*kinds, small=small)
    return next((row for _, y, row in rows if within(study, row, y, lost)), None)


def within(study: Study, row: Row, quality: float, lost: float) -> bool:
    """Whether a row's quality is at most so many points worse than that of the large model beside it."""
    base = row.beside(study.metric)
    if base is None:
        return False
    # What rounding makes of 1 - 0.99 is no loss.
    return study.worth(quality) >= study.worth(study.below(base, lost)) - 1e-9


def studies(records: Iterable[Record]) -> list[Study]:
    """The records in tables. The large model's part of a record counts as a row of its own, once."""
    groups = gathered(records)
    return [
        Study(*key.looks, _metric(key.task, group), _rows(group), apart(key, groups))
        for key, group in groups.items()
    ]


def _rows(records: Sequence[Record]) -> tuple[Row, ...]:
    several: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for record in records:
        several[model_of(record, Role.SMALL)].add(_small(record))

    def small(record: Record) -> str:
        title, (weights, numbers) = model_of(record, Role.SMALL), _small(record)
        kinds, words = several[title], [title]
        if len({own for own, _ in kinds}) > 1:
            words.append(f"weights {weights[:6] or 'unknown'}")
        if len({own for _, own in kinds}) > 1:
            words.append(numbers or "dtype unknown")
        return ", ".join(words)

    rows = [Row(r, r.part, kind_of(r.setting, model_of(r, Role.SMALL)), small(r)) for r in records]
    larges = [row for row in rows if row.kind is Kind.LARGE]
    beside = [Row(r, r.large, Kind.LARGE, small(r)) for r in records if r.large is not None]
    rest = [row for row in rows if row.kind is not Kind.LARGE]
    # Any run's large model stands for all of them: the text is the same, and speeds are ratios.
    return (*(larges + beside)[:1], *(_told_apart(row, rest) for row in rest))


def _small(record: Record) -> tuple[str, str]:
    """What two small models of one name may differ in."""
    return weights_of(record, Role.SMALL), numbers_of(record, Role.SMALL)


def _told_apart(row: Row, rows: Sequence[Row]) -> Row:
    """The row, with the options that others of its name have otherwise."""
    alike = [other for other in rows if (other.small, other.name) == (row.small, row.name)]
    words = [
        f" {spec.name} {getattr(row.options, spec.name)}"
        for spec in fields(Options)
        if len({getattr(other.options, spec.name) for other in alike}) > 1
    ]
    return Row(row.record, row.part, row.kind, row.small, ",".join(words)) if words else row


def _metric(task: str, records: Sequence[Record]) -> str:
    """What a task is judged by: as the task says, where the runs have it."""
    try:
        own = registry.find(task).metric
    except ConfigError:
        own = ""
    judged = [{*record.figures} for record in records if record.figures] or [set()]
    common = set.intersection(*judged)
    return next((name for name in (own, *_METRICS) if name in common), "agreement")
