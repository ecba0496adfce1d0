"""From texts to figures: quality with intervals, time, and who wrote.

All figures of a run, of the large model too, are over the items for which every part has a text, so
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
    Judged,
    Marks,
    Metric,
    Resamples,
    percentiles,
    ratio,
)
from bild_dist.evaluation.metrics.own import identical
from bild_dist.evaluation.run.record import TextRecord, finite
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
    """The texts of the first round that every round has, with the wall times of all; `wall_ns` and
    `first_token_ns` are medians over the rounds.
    """
    found = {}
    for name, text in rounds[0].items():
        again = [ran[name] for ran in rounds if name in ran]
        if len(again) == len(rounds):
            walls = [one.wall_ns for one in again]
            found[name] = replace(
                text,
                wall_ns=int(statistics.median(walls)),
                first_token_ns=int(statistics.median(one.first_token_ns for one in again)),
                walls_ns=tuple(walls),
            )
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
    """Makes figures of the parts of a run. Immutable.

    `large`: the large model alone on the same items; `parts`: those that will be judged beside it. All
    figures are over the items for which every one of them has a text, and the large model's texts are
    marked once.
    """

    def __init__(
        self,
        items: Sequence[Item],
        metrics: Sequence[Metric],
        large: Written,
        parts: Sequence[Written] = (),
    ) -> None:
        self._metrics = metrics
        self._large = large
        there = set(large.texts).intersection(*(part.texts for part in parts))
        self._items = [item for item in items if item.id in there]
        self._draws = Resamples(len(self._items)) if self._items else None
        own = self._judged(large) if self._items else []
        self._own = {metric.name: metric.marks(own) for metric in metrics if own}

    def figures(self, part: Written) -> dict[str, Any]:
        """The figures of a part by name, `difference` of each metric and `speedup` to the large model on
        the same items, None for a number that is infinite or not known; empty where no item has all texts.
        The part is the large model, or one of those that were named, or has a text of every item.
        """
        draws = self._draws
        if draws is None:
            return {}
        alone = part is self._large
        ours = self._judged(part)
        found: dict[str, Any] = {}
        for metric in self._metrics:
            base = self._own[metric.name]
            marks = base if alone else metric.marks(ours)
            scores = draws.scores(marks)
            low, high = percentiles(scores)
            figure = {"value": marks.value, "low": low, "high": high, "signature": marks.signature}
            if not alone:
                low, high = percentiles(scores - draws.scores(base))
                figure["difference"] = {
                    "value": marks.value - base.value,
                    "low": low,
                    "high": high,
                    "of": "large",
                }
            if metric.name == "agreement":
                figure["identical"] = identical(ours)
            found[metric.name] = figure
        texts = [part.texts[item.id] for item in self._items]
        walls = [self._large.texts[item.id].wall_ns for item in self._items]
        found |= of_texts(texts)
        found["speedup"] = _speedup(texts, walls, draws)
        found |= {"texts": len(self._items), "interval": INTERVAL}
        return {name: finite(figure) for name, figure in found.items()}

    def _judged(self, part: Written) -> list[Judged]:
        return [
            Judged(
                text=part.texts[item.id].text,
                tokens=part.texts[item.id].tokens,
                references=item.references,
                own=self._large.texts[item.id].tokens,
                nats=part.nats.get(item.id),
            )
            for item in self._items
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
