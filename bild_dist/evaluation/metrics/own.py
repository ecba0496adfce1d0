"""Metrics that need no references: how near a text is to the large model's own, and how likely the
large model finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bild_dist.errors import ConfigError
from bild_dist.evaluation.metrics.base import Array, Judged, Marks, mean, ratio
from bild_dist.evaluation.metrics.overlap import agreement


@dataclass(frozen=True, slots=True)
class Agreement:
    """How much of a text and of the large model's own is the same, from 0 to 1: F1 of the longest
    common subsequence over tokens, mean over texts.
    """

    name: str = "agreement"
    title: str = "agreement"
    needs_references: bool = False
    higher_is_better: bool = True
    point: float = 0.01
    digits: int = 3

    def ready(self) -> None:
        """Needs nothing."""

    def marks(self, texts: Sequence[Judged]) -> Marks:
        found = [agreement(text.tokens, _own(text)) for text in texts]
        return mean(found, "F1 of the longest common subsequence of tokens, mean over texts")


@dataclass(frozen=True, slots=True)
class Perplexity:
    """e to the mean -ln p of the tokens of the texts under the large model, their end included."""

    name: str = "perplexity"
    title: str = "perplexity"
    needs_references: bool = False
    higher_is_better: bool = False
    point: float = 0.1
    digits: int = 2

    def ready(self) -> None:
        """Needs nothing."""

    def marks(self, texts: Sequence[Judged]) -> Marks:
        rows = [[_nats(text), float(len(text.tokens))] for text in texts]
        said = "e^(mean -ln p of the text's tokens under the large model, at temperature 1)"
        return Marks(np.array(rows).reshape(-1, 2), _perplexity, said)


def identical(texts: Sequence[Judged]) -> float:
    """Share of the texts that are, token for token, the large model's own."""
    return sum(text.tokens == _own(text) for text in texts) / max(1, len(texts))


def _perplexity(sums: Array) -> Array:
    found: Array = np.exp(ratio(sums))
    return found


def _own(text: Judged) -> tuple[int, ...]:
    if text.own is None:
        raise ConfigError(
            "agreement needs the large model's own text of every item: measure it too"
        )
    return text.own


def _nats(text: Judged) -> float:
    if text.nats is None:
        raise ConfigError("perplexity needs the large model's reading of every text: let it read")
    return text.nats
