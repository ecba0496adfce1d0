"""From texts to figures: quality with intervals, time, and who wrote.

All figures of a part and of the large model beside it are over the items for which both have a text, so
that every comparison is of the same texts. Times are milliseconds an item, rates are shares of all
tokens; quality is as `metrics` has it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from bild_dist.evaluation.metrics.base import (
    INTERVAL,
    Array,
    Judged,
    Marks,
    Metric,
    Resamples,
    percentiles,
    ratio,
)
from bild_dist.evaluation.metrics.own import identical
from bild_dist.evaluation.run.record import TextRecord
from bild_dist.evaluation.tasks.base import Item
from bild_dist.types import FinishReason

_RATES: Final = ("fallbacks", "rollbacks", "windows")


@dataclass(frozen=True, slots=True)
class Written:
    """A part's texts by id, and what the large model thinks of them (-ln p of each, nats; empty where
    nobody asked).
    """

    texts: Mapping[str, TextRecord]
    nats: Mapping[str, float]


def merged(rounds: Sequence[Mapping[str, TextRecord]]) -> dict[str, TextRecord]:
    """The texts of the first round that every round has, with the wall times of all."""
    found = {}
    for name, text in rounds[0].items():
        again = [ran[name].wall_ns for ran in rounds if name in ran]
        if len(again) == len(rounds):
            middle = int(statistics.median(again))
            found[name] = replace(text, wall_ns=middle, walls_ns=tuple(again))
    return found


def repeats(rounds: Sequence[Mapping[str, TextRecord]]) -> bool:
    """Whether every round wrote the same tokens; anything else is a bug, or a tie that rounds another
    way.
    """
    return all(
        ran[name].tokens == text.tokens
        for ran in rounds[1:]
        for name, text in rounds[0].items()
        if name in ran
    )


class Judge:
    """Makes figures of the parts of a run. Marks the large model's texts once. Immutable.

    `large`: the large model alone on the same items.
    """

    def __init__(self, items: Sequence[Item], metrics: Sequence[Metric], large: Written) -> None:
        self._items = items
        self._metrics = metrics
        self._large = large

    def figures(self, part: Written) -> dict[str, Any]:
        """The figures of a part by name, `difference` of each metric and `speedup` to the large model on
        the same items; empty where no item has both texts.
        """
        shared = [
            item for item in self._items if item.id in part.texts and item.id in self._large.texts
        ]
        if not shared:
            return {}
        draws = Resamples(len(shared))
        own = self._judged(shared, self._large)
        ours = own if part is self._large else self._judged(shared, part)
        found: dict[str, Any] = {}
        for metric in self._metrics:
            marks, scores = _scored(metric, ours, draws)
            low, high = percentiles(scores)
            figure = {"value": marks.value, "low": low, "high": high, "signature": marks.signature}
            if part is not self._large:
                base, others = _scored(metric, own, draws)
                low, high = percentiles(scores - others)
                figure["difference"] = {
                    "value": marks.value - base.value,
                    "low": low,
                    "high": high,
                    "of": "large",
                }
            if metric.name == "agreement":
                figure["identical"] = identical(ours)
            found[metric.name] = figure
        texts = [part.texts[item.id] for item in shared]
        walls = [self._large.texts[item.id].wall_ns for item in shared]
        found |= of_texts(texts)
        found["speedup"] = _speedup(texts, walls, draws)
        return {**found, "texts": len(shared), "interval": INTERVAL}

    def _judged(self, items: Sequence[Item], part: Written) -> list[Judged]:
        return [
            Judged(
                text=part.texts[item.id].text,
                tokens=part.texts[item.id].tokens,
                references=item.references,
                own=self._large.texts[item.id].tokens,
                nats=part.nats.get(item.id),
            )
            for item in items
        ]


def of_texts(texts: Sequence[TextRecord]) -> dict[str, Any]:
    """What some texts, at least one, say by themselves: latency, speed, passes and who wrote."""
    walls = np.array([text.wall_ns for text in texts]) / 1e6
    tokens = max(1, sum(len(text.tokens) for text in texts))
    ended = sum(text.finish_reason == FinishReason.LENGTH for text in texts)
    p50, p99 = np.percentile(walls, (50, 99))
    return {
        "latency_ms": {"mean": float(walls.mean()), "p50": float(p50), "p99": float(p99)},
        "first_token_ms": float(np.mean([text.first_token_ns for text in texts]) / 1e6),
        "tokens_per_s": tokens / float(walls.sum()) * 1e3 if walls.sum() else 0.0,
        "tokens_per_text": tokens / len(texts),
        "large_passes_per_token": _total(texts, "large_passes") / tokens,
        "small_passes_per_token": _total(texts, "small_passes") / tokens,
        **{f"{name.removesuffix('s')}_rate": _total(texts, name) / tokens for name in _RATES},
        "ended_by_length": ended / len(texts),
    }


def _scored(metric: Metric, texts: Sequence[Judged], draws: Resamples) -> tuple[Marks, Array]:
    marks = metric.marks(texts)
    return marks, draws.scores(marks)


def _speedup(
    texts: Sequence[TextRecord], walls: Sequence[int], draws: Resamples
) -> dict[str, float | str]:
    """Mean wall time of the large model over that of these texts."""
    rows = np.array(
        [[wall, text.wall_ns] for text, wall in zip(texts, walls, strict=True)], dtype=float
    )
    marks = Marks(rows, ratio, "")
    low, high = draws.interval(marks)
    return {"value": marks.value, "low": low, "high": high, "of": "large"}


def _total(texts: Sequence[TextRecord], name: str) -> int:
    return sum(text.trace.get(name, 0) for text in texts)
