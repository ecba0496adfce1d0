"""A number and where it comes from. A plan is worth as much as its numbers, so it shows both."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any, Final, Self

_Z: Final = 1.96
"""Standard deviations that hold 95 % of a normal law."""
_ASSUMED: Final = "assumed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A number with its source. Where it is a share that was counted, `hits` of `count`."""

    value: float
    source: str
    hits: int = 0
    count: int = 0

    @classmethod
    def share(cls, hits: int, count: int, of: str) -> Self:
        """A share that was counted in `of`. `count` must not be 0."""
        return cls(value=hits / count, source=f"{hits} of {count} {of}", hits=hits, count=count)

    @property
    def sure(self) -> bool:
        """Whether somebody said or measured it."""
        return not self.source.startswith(_ASSUMED)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the share behind the count lies, with 95 % confidence (Wilson); None where nothing
        was counted.
        """
        n, p = self.count, self.value
        if n == 0:
            return None
        middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z * sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
        return max(middle - half, 0.0), min(middle + half, 1.0)

    def as_dict(self) -> dict[str, Any]:
        """The JSON object of the command line."""
        shown: dict[str, Any] = {"value": self.value, "source": self.source}
        if self.interval is not None:
            shown |= {"hits": self.hits, "count": self.count, "interval": list(self.interval)}
        return shown


def given(value: float) -> Known:
    """Said on the command line."""
    return Known(value=value, source="given")


def assumed(value: float, why: str) -> Known:
    """Nobody has measured it."""
    return Known(value=value, source=f"{_ASSUMED}: {why}")
