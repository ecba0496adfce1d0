"""A sweep in the report: figures 4 and 10 of its settings, the front as a table, and what its predictions
are worth.

A sweep stands in a section of its own. Its latencies may be predicted, and the records of `bild eval` are
measured, so the two share no table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from bild_dist.errors import ConfigError
from bild_dist.evaluation.metrics.base import Marks, Resamples, ratio
from bild_dist.evaluation.report.cells import Table, interval
from bild_dist.evaluation.report.groups import model_of
from bild_dist.evaluation.report.runs import Kind, Row, Study, known
from bild_dist.evaluation.run.record import Part, Record, TextRecord
from bild_dist.evaluation.sweep import study as sweeps
from bild_dist.evaluation.sweep.grid import front
from bild_dist.evaluation.tasks import registry
from bild_dist.evaluation.tasks.base import HALVES
from bild_dist.types import Mode, Role

_ACROSS: Final = "latency, relative to the large model alone"
SOURCES: Final = {
    "measured": "measured in worker processes",
    "counted": "counted, which needs no clock",
    "own text": "played over the text that was written",
}
"""Where the passes of a setting come from, by `Point.source`."""
_MS: Final = 1e-6
"""Milliseconds a nanosecond."""


def measured(sweep: sweeps.Study) -> bool:
    """Whether its latencies are those of worker processes."""
    return sweeps.measured(point for point in sweep.points if point.texts)


def study_of(sweep: sweeps.Study, texts: int) -> Study:
    """The settings of a sweep as rows, with their first so many texts. Those that were predicted and not
    written have no quality and are left out.
    """
    base = Record(
        task=sweep.task, split=sweep.split, part=_large(sweep), models=sweep.models,
        environment=_environment(sweep),
    )  # fmt: skip
    small = model_of(base, Role.SMALL)
    rows = [Row(base, base.part, Kind.LARGE, small)]
    draws, large_ns = Resamples(len(sweep.items)), sweep.large_walls_ns
    for point in sweep.points:
        judged = known(point.figures.get(sweep.metric, {}).get("value"))
        if point.setting.options.mode is not Mode.LARGE and judged:
            part = _part(sweep, point, large_ns, draws, texts)
            record = Record(
                task=base.task, split=base.split, part=part, large=base.part, models=base.models,
                environment=base.environment,
            )  # fmt: skip
            rows.append(Row(record, part, _kind(point.setting.options.mode, small), small))
    settings = "1 setting" if len(sweep.points) == 1 else f"{len(sweep.points)} settings"
    count = f"{settings} swept over {len(sweep.items)} texts"
    across = _ACROSS if measured(sweep) else f"{_ACROSS} (predicted)"
    large = model_of(base, Role.LARGE)
    return Study(sweep.task, sweep.split, large, "", sweep.metric, tuple(rows), count, across)


def split_of(sweep: sweeps.Study) -> str:
    """The split that the texts are of, as `bild eval` knows it: `bild tune` halves one and gives each half a
    name of its own. Empty where the task would know and is not here.
    """
    if sweep.split not in HALVES:
        return sweep.split
    ids = {item.id for item in sweep.items}
    try:
        task = registry.find(sweep.task, cached=True)
        found = (split for split in task.splits if ids <= {item.id for item in task.items(split)})
        return next(found, "")
    except ConfigError:
        return ""


def _kind(mode: Mode, small: str) -> Kind:
    """Thresholds at their ends are points of a grid here, not baselines."""
    if mode is Mode.BILD:
        return Kind.EARLY_EXIT if "(first " in small else Kind.BILD
    return {Mode.EXACT: Kind.EXACT, Mode.SMALL: Kind.SMALL}.get(mode, Kind.LARGE)


def _large(sweep: sweeps.Study) -> Part:
    own = sweep.large
    figures = {**own.figures, "latency_ms": {"mean": sweep.large_ms}}
    return Part(setting=own.setting, texts=own.texts, figures=figures)


def _part(
    sweep: sweeps.Study, point: sweeps.Point, large_ns: Sequence[int], draws: Resamples, texts: int
) -> Part:
    """A setting as `bild eval` would have it. `large_ns`: times of the large model alone."""
    rows = list(zip(large_ns, point.walls_ns, strict=True))
    marks = Marks(np.array(rows, dtype=float), ratio, "")
    low, high = draws.interval(marks)
    figures = {
        **point.figures, **sweeps.totals(point.ran or point.played),
        "latency_ms": {"mean": point.latency_ms},
        "speedup": {"value": marks.value, "low": low, "high": high, "of": "large"},
    }  # fmt: skip
    shown: tuple[TextRecord, ...] = tuple(point.texts[:texts])
    return Part(setting=point.setting, texts=shown, figures=figures)


def _environment(sweep: sweeps.Study) -> dict[str, Any]:
    """What it ran on, under the names that a record has."""
    found = dict(sweep.environment)
    found.setdefault("cpu", found.get("processor"))
    for role in Role:
        found[f"threads_{role}"] = sweep.models.get(role.value, {}).get("threads")
    found["dtype"] = sweep.models.get(Role.LARGE.value, {}).get("dtype")
    return found


def tables(sweep: sweeps.Study, study: Study) -> list[Table]:
    """The front, and how far what was predicted and what ran differ."""
    return [_front(sweep, study), *_difference(sweep.difference)]


def _front(sweep: sweeps.Study, study: Study) -> Table:
    rows = {row.part.setting.name: row for row in study.rows}
    points = [point for point in sweep.points if point.setting.name in rows]
    best = front(
        points,
        quality=lambda point: float(point.figures[sweep.metric]["value"]),
        latency=lambda point: point.latency_ms,
    )
    lines = [_line(study, rows[point.setting.name], point) for point in best]
    own = study.rows[0]
    quality = interval(own.part.figures.get(sweep.metric), study.judge.digits)
    lines.append(["large alone", quality, "1x", f"{sweep.large_ms:.0f}", "", "1.000", "", ""])
    head = [
        "", study.metric_title, "speedup", "ms a text", "ms predicted",
        "large passes a token", "passes predicted", "off by",
    ]  # fmt: skip
    written = {point.source for point in best if point.ran}
    said = "; ".join(SOURCES[source] for source in SOURCES if source in written)
    predicted = len(sweep.points)
    more = f" ({predicted} were predicted)" if len(points) < predicted else ""
    return Table(
        None,
        f"The front: {len(best)} of {len(points)} settings that no other one beats{more}",
        "Fastest first; no other setting is both at least as fast and better. In brackets 95 % intervals over texts. "
        f"Predicted: from the recorded text, before anything was written. Passes: {said or 'predicted only'}.",
        head,
        lines,
    )


def _line(study: Study, row: Row, point: sweeps.Point) -> list[str]:
    predicted = sum(text.wall_ns for text in point.played) / len(point.played) * _MS
    ran, gap = point.run_passes, point.gap
    return [
        row.name,
        interval(row.part.figures.get(study.metric), study.judge.digits),
        interval(row.speedup, 2, "x"),
        f"{point.latency_ms:.0f}",
        f"{predicted:.0f}",
        "-" if ran is None else f"{ran:.3f}",
        f"{point.predicted_passes:.3f}",
        "-" if gap is None else f"{gap:+.1%}",
    ]


def _difference(found: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """How far the predictions from each recorded text are off, over all settings that ran."""
    if not found:
        return []
    rows: list[Sequence[str]] = [
        [
            f"from the {kind} text", str(said["settings"]), f"{said['within_10_percent']:.0%}",
            f"{said['median']:.1%}", f"{said['most']:.1%}",
        ]
        for kind, said in found.items()
    ]  # fmt: skip
    against = {
        source: n for said in found.values() for source, n in said.get("sources", {}).items()
    }
    # Older files do not say.
    words = ": " * bool(against)
    words += ", ".join(f"{SOURCES.get(name, name)} ({n})" for name, n in against.items())
    note = f"Large passes a token as predicted from a recorded text, against those of the settings{words}."
    return [
        Table(
            None,
            "What predictions are worth",
            note,
            ["", "settings", "within 10 %", "off by, median", "off by, most"],
            rows,
        )
    ]
