"""A metric marks texts one by one; a figure of any set of texts is a function of sums of those marks.

So a bootstrap draws sums and scores nothing again. Intervals are of 95 %, percentiles over the same
resamples of items for everybody, so that two settings are compared on the same texts (Koehn 2004,
"Statistical significance tests for machine translation evaluation").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

import numpy as np

RESAMPLES: Final = 1000
SEED: Final = 0
INTERVAL: Final = f"95 %, percentiles of {RESAMPLES} paired bootstrap resamples, seed {SEED}"

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Judged:
    """A text with all that a metric may ask: what it should be, what the large model wrote alone, and
    what the large model thinks of it.

    `nats`: the sum of -ln p of its tokens under the large model; None where nobody asked for it.
    """

    text: str
    tokens: tuple[int, ...]
    references: tuple[str, ...] = ()
    own: tuple[int, ...] | None = None
    nats: float | None = None


@dataclass(frozen=True, slots=True)
class Marks:
    """Marks of some texts. `rows`: sufficient statistics, [N, K]; `score` makes a figure of each row of
    sums, [R, K] to [R]. `signature` says how the figure is computed.
    """

    rows: Array
    score: Callable[[Array], Array]
    signature: str

    @property
    def value(self) -> float:
        """Of all the texts."""
        return float(self.score(self.rows.sum(axis=0)[None])[0])


class Metric(Protocol):
    """One way to judge texts."""

    @property
    def name(self) -> str:
        """As on the command line and in a record."""
        ...

    @property
    def title(self) -> str:
        """As tables and figures call it."""
        ...

    @property
    def needs_references(self) -> bool:
        """Whether a text without a reference cannot be judged."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """Perplexity is the exception."""
        ...

    @property
    def point(self) -> float:
        """What counts as one point of it: what the paper gives away for speed."""
        ...

    @property
    def digits(self) -> int:
        """Decimals that a figure is shown with: a tenth of a point is still seen."""
        ...

    def ready(self) -> None:
        """Raises ConfigError where what it needs is not installed."""
        ...

    def marks(self, texts: Sequence[Judged]) -> Marks:
        """The marks of some texts, in their order."""
        ...


class Resamples:
    """Which items are in which resample, how often. Immutable.

    `size`: the number of items, at least 1.
    """

    def __init__(self, size: int, *, count: int = RESAMPLES, seed: int = SEED) -> None:
        even = np.full(size, 1 / size)
        self._drawn = np.random.default_rng(seed).multinomial(size, even, count).astype(float)

    def scores(self, marks: Marks) -> Array:
        """The figure of every resample, [R]."""
        return marks.score(self._drawn @ marks.rows)

    def interval(self, marks: Marks) -> tuple[float, float]:
        return percentiles(self.scores(marks))

    def difference(self, marks: Marks, base: Marks) -> tuple[float, float]:
        """Of the figure less the base's, on the same items."""
        return percentiles(self.scores(marks) - self.scores(base))


def percentiles(values: Array) -> tuple[float, float]:
    """The middle 95 % of the values."""
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def ratio(sums: Array) -> Array:
    """The first sum over the second: a mean where the second counts texts; 0 of nothing."""
    return np.divide(sums[:, 0], sums[:, 1], out=np.zeros(len(sums)), where=sums[:, 1] != 0)


def mean(values: Sequence[float], signature: str, scale: float = 1.0) -> Marks:
    """Marks whose figure is the mean over texts, times `scale`."""
    rows = np.array([[scale * value, 1.0] for value in values]).reshape(-1, 2)
    return Marks(rows, ratio, signature)
