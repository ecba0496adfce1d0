"""What a report is about: rows of settings, gathered by task and large model, each with its kind.

A kind says which series of the paper a setting belongs to. It is read off the options where they tell,
and off the setting's name where it names a baseline.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from bild_dist.errors import ConfigError
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
_METRICS: Final = ("bleu", "rougeL", "chrf", "agreement")
"""Of these the first that a run has, where its task is not known here."""
POINT: Final = 1.0
"""What the paper gives away for speed: one point of the metric."""
TITLES: Final = {"bleu": "BLEU", "rougeL": "ROUGE-L", "chrf": "chrF", "agreement": "agreement"}


def kind_of(setting: Setting, small: str = "") -> Kind:
    """The series of a setting with the small model of that name."""
    name, options = setting.name.lower(), setting.options
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
    """A setting with its figures. `speedup`: over the large model alone in the same run."""

    record: Record
    part: Part
    kind: Kind

    @property
    def name(self) -> str:
        return self.part.setting.name

    @property
    def options(self) -> Options:
        return self.part.setting.options

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from the other rows of its study."""
        return ("" if self.kind is Kind.LARGE else self.small, self.name)

    @property
    def small(self) -> str:
        return model_of(self.record, Role.SMALL)

    @property
    def speedup(self) -> Mapping[str, Any] | None:
        """value, low and high; None where it was not measured."""
        if self.kind is Kind.LARGE:
            return {"value": 1.0, "low": 1.0, "high": 1.0}
        found = self.part.figures.get("speedup")
        return found if isinstance(found, Mapping) and found.get("value") else None

    @property
    def latency(self) -> float | None:
        """Mean time of a text over that of the large model alone."""
        return 1 / self.speedup["value"] if self.speedup else None

    def quality(self, metric: str) -> float | None:
        found = self.part.figures.get(metric)
        return float(found["value"]) if isinstance(found, Mapping) else None

    def number(self, name: str) -> float | None:
        """A figure that is a single number, such as `fallback_rate`."""
        found = self.part.figures.get(name)
        return float(found) if isinstance(found, int | float) else None


@dataclass(frozen=True, slots=True)
class Study:
    """Runs that may stand in one table: the same task, split, large model, and way to draw."""

    task: str
    split: str
    large_model: str
    drawn: str
    metric: str
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        drawn = f", {self.drawn}" if self.drawn else ""
        return f"{self.task} ({self.split}), {self.large_model}{drawn}"

    @property
    def metric_title(self) -> str:
        return TITLES.get(self.metric, self.metric)

    @property
    def large(self) -> Row | None:
        """The large model alone."""
        return next(iter(self.of(Kind.LARGE)), None)

    @property
    def smalls(self) -> list[str]:
        """The small models, in the order of the records."""
        return list(dict.fromkeys(row.small for row in self.rows if row.kind is not Kind.LARGE))

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
        return sorted(whole, key=lambda point: (point[0], -point[1], point[2].name))


def equal(study: Study, lost: float, *, kinds: Sequence[Kind], small: str | None) -> Row | None:
    """The fastest row whose quality is at most so many points below the large model's."""
    large = study.large
    floor = large.quality(study.metric) if large else None
    if floor is None:
        return None
    rows = (row for _, y, row in study.placed(*kinds, small=small) if y >= floor - lost)
    return next(rows, None)


def model_of(record: Record, role: Role) -> str:
    """What a run calls its model of that role."""
    return str(record.models.get(role.value, {}).get("model", role.value))


def read(paths: Sequence[Path]) -> list[Record]:
    """The records of files, and of folders all those that are records.

    Raises:
        ConfigError: a file is no record, or there is none at all.
    """
    found: list[Record] = []
    for path in paths:
        if not path.is_dir():
            found.append(Record.read(path))
            continue
        for file in sorted(path.glob("*.json")):
            try:
                found.append(Record.read(file))
            except ConfigError:
                continue  # something else lies there too
    if not found:
        raise ConfigError(
            f"no records in {', '.join(map(str, paths))}: name files that bild eval wrote (--out FILE.json)"
        )
    return found


def studies(records: Iterable[Record]) -> list[Study]:
    """The records in tables. The large model's part of a record counts as a row of its own, once."""
    groups: dict[tuple[str, str, str, str], list[Record]] = {}
    for record in records:
        options = record.setting.options
        drawn = f"temperature {options.temperature:g}" if options.temperature else ""
        if drawn and options.top_p < 1:
            drawn = f"nucleus p = {options.top_p:g}"
        key = (record.task, record.split, model_of(record, Role.LARGE), drawn)
        groups.setdefault(key, []).append(record)
    return [Study(*key, _metric(key[0], group), _rows(group)) for key, group in groups.items()]


def _rows(records: Sequence[Record]) -> tuple[Row, ...]:
    rows = []
    for record in records:
        kind = kind_of(record.setting, model_of(record, Role.SMALL))
        rows.append(Row(record, record.part, kind))
    larges = [row for row in rows if row.kind is Kind.LARGE]
    beside = [Row(r, r.large, Kind.LARGE) for r in records if r.large is not None]
    rest = [row for row in rows if row.kind is not Kind.LARGE]
    # Any run's large model stands for all of them: the text is the same, and speeds are ratios.
    return (*(larges + beside)[:1], *rest)


def _metric(task: str, records: Sequence[Record]) -> str:
    """What a task is judged by: as the task says, where the runs have it."""
    try:
        own = registry.find(task).metric
    except ConfigError:
        own = ""
    common = set.intersection(*({*record.figures} for record in records))
    return next((name for name in (own, *_METRICS) if name in common), "agreement")
