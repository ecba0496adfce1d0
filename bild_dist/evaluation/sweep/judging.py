"""The last stage of a sweep: figures of everything that has texts, and how far the predictions were off."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from bild_dist.evaluation.metrics.base import Metric, Resamples
from bild_dist.evaluation.run.record import TextRecord
from bild_dist.evaluation.sweep import timing
from bild_dist.evaluation.sweep.alone import priced
from bild_dist.evaluation.sweep.grid import Grid, rule
from bild_dist.evaluation.sweep.replay import Marks, replay
from bild_dist.evaluation.sweep.study import MEASURED, Point, Study, totals
from bild_dist.types import Mode, Role


def judged(study: Study, points: Sequence[Point], metrics: Sequence[Metric]) -> Study:
    """With the figures of its parts and of all settings that were written."""
    resamples = Resamples(len(study.items))

    def figures(texts: Sequence[TextRecord]) -> dict[str, Any]:
        found, held = {}, tuple(texts)
        for metric in metrics:
            marks = study.marks(metric, held)
            low, high = resamples.interval(marks)
            found[metric.name] = {"value": marks.value, "low": low, "high": high,
                                  "signature": marks.signature}  # fmt: skip
        return found

    found = tuple(
        dataclasses.replace(point, figures=figures(point.texts)) if point.texts else point
        for point in points
    )
    parts: dict[str, Any] = {
        kind: dataclasses.replace(part, figures=figures(part.texts))
        for kind, part in (("large", study.large), ("small", study.small), ("middle", study.middle))
    }
    return dataclasses.replace(study, points=found, **parts)


def difference(study: Study, grid: Grid) -> dict[str, Any]:
    """Large passes a token, predicted from each of the recorded texts, against those that ran, and under
    `latency` the times in units of the large model's, predicted ones in those of the predicted large model, where
    they were measured. A setting that was played over the very text that was read is no prediction, and does not
    count.
    """
    found = {}
    costs, alone_ms = priced(study.costs), totals(study.alone(Role.LARGE))["latency_ms"]
    large_ms = study.large_ms
    ran = [p for p in study.points if p.ran and p.setting.options.mode in (Mode.BILD, Mode.EXACT)]
    for kind, said in study.readings.items():
        marks = [Marks.of(reading) for reading in said]
        read = rule(timing.of_kind(grid, kind))
        sources: Counter[str] = Counter()
        passes, times = [], []
        for point in ran:
            options = point.setting.options
            if rule(options) == read and (point.source != MEASURED or options == grid.middle):
                continue
            if kind != study.recorded:
                opening = study.costs["opening_ns"]
                played = tuple(
                    text._replace(wall_ns=text.wall_ns + opening)
                    for text in replay(marks, options, costs)
                )
                point = dataclasses.replace(point, played=played)
            if point.gap is not None:
                passes.append(point.gap)
                sources[point.source] += 1
            if point.source == MEASURED:
                predicted = totals(point.played)["latency_ms"] / alone_ms
                times.append(predicted * large_ms / point.latency_ms - 1)
        if passes:
            found[kind] = {"sources": dict(sources), **_spread(passes)}
            if times:
                found[kind]["latency"] = _spread(times)
    return found


def _spread(gaps: Sequence[float]) -> dict[str, float]:
    """Of shares by which predictions are off."""
    off = np.abs(gaps)
    return {
        "settings": len(gaps),
        "within_10_percent": float(np.mean(off <= 0.1)),
        "median": float(np.median(off)),
        "most": float(off.max()),
    }
