"""Metrics by name, and which of them some items can be judged by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bild_dist.errors import ConfigError
from bild_dist.evaluation.metrics.base import Metric
from bild_dist.evaluation.metrics.own import Agreement, Perplexity
from bild_dist.evaluation.metrics.words import Bleu, Chrf, RougeL
from bild_dist.evaluation.tasks.base import Item
from bild_dist.types import nearest

METRICS: Final[tuple[Metric, ...]] = (Bleu(), RougeL(), Chrf(), Agreement(), Perplexity())
DEAR: Final = "perplexity"
"""It loads the large model a second time, so it is computed where it is asked for."""


def names() -> list[str]:
    """The metrics there are."""
    return [metric.name for metric in METRICS]


def named(name: str) -> Metric:
    """The metric of that name.

    Raises:
        ConfigError: there is none; offers the nearest.
    """
    for metric in METRICS:
        if metric.name == name:
            return metric
    raise ConfigError(f"metric {name!r} is unknown{nearest(name, names())}")


def chosen(asked: Sequence[str], items: Sequence[Item], main: str = "") -> list[Metric]:
    """The metrics of these names, each once; `all` is all that the items allow. Without a name: those
    that cost next to nothing, and `main`, what the task is judged by first.

    Raises:
        ConfigError: an unknown metric (offers the nearest), or one that needs references where an item
            has none (names the item), or one whose library is missing.
    """
    words = [word.strip() for text in asked for word in text.split(",")]
    if "" in words:
        raise ConfigError(
            f"--metric {' '.join(asked)}: a name is empty: write one, or take a comma out"
        )
    bare = next((item for item in items if not item.references), None)
    # Without references at all there is nothing to choose; where some are missing somebody forgot.
    free = bare is not None and not any(item.references for item in items)
    for word in words:
        if word != "all" and word not in names():
            raise ConfigError(f"metric {word!r} is unknown{nearest(word, [*names(), 'all'])}")
    found = [
        metric
        for metric in METRICS
        if metric.name in words
        or (
            ("all" in words or (not words and metric.name in _usual(main)))
            and not (free and metric.needs_references)
        )
    ]
    needing = next((metric for metric in found if metric.needs_references), None)
    if bare is not None and needing is not None:
        raise ConfigError(
            f"{bare.title} has no reference, which {needing.name} needs: add one, or name other metrics "
            f"({', '.join(m.name for m in METRICS if not m.needs_references)})"
        )
    for metric in found:
        metric.ready()
    return found


def _usual(main: str) -> set[str]:
    return ({*names()} - {DEAR}) | {main}
