"""How long to wait before something that ended is started again, and when to give it up."""

from __future__ import annotations

from typing import Final

from bild_dist.clock import now_ns

BACKOFF_S: Final = (0.5, 2.0, 8.0, 30.0)
"""Pauses before a worker that ended is started again; after the last it is given up."""
STEADY_NS: Final = 60_000_000_000
"""What ran for so long is steady: its next end starts the pauses anew."""


class Patience:
    """The pauses of one thing that is kept running. Owned by whoever keeps it."""

    def __init__(self) -> None:
        self._left = list(BACKOFF_S)
        self._since_ns = now_ns()

    def begin(self) -> None:
        """It is started now."""
        self._since_ns = now_ns()

    def pause_s(self) -> float | None:
        """It has ended: seconds until the next start, or None where that has failed too often."""
        if now_ns() - self._since_ns > STEADY_NS:
            self._left = list(BACKOFF_S)
        return self._left.pop(0) if self._left else None
