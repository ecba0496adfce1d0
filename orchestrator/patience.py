"""How long to wait before something that ended is started again, and when to give it up."""

from __future__ import annotations

from typing import Final

from bild_dist.clock import now_ns

BACKOFF_S: Final = (0.5, 2.0, 8.0, 30.0)
"""Pauses before what ended is started again; every further one is as long as the last."""
STEADY_NS: Final = 60_000_000_000
"""What was up for so long is steady: its next end starts the pauses anew."""


class Patience:
    """The pauses of one thing that is kept running. Owned by whoever keeps it.

    What comes up again is worth starting again, however often it is lost, though after longer and longer
    pauses; what fails to start so many times in a row as there are pauses, and once more, is given up.
    """

    def __init__(self) -> None:
        self._ends = 0
        self._failures = 0
        self._up_ns: int | None = None

    def up(self) -> None:
        """It is there, after all the time that its start took."""
        self._up_ns = now_ns()

    def pause_s(self) -> float | None:
        """It has ended, or has not come up: seconds until the next start, or None where that has failed too
        often.
        """
        if self._up_ns is None:
            self._failures += 1
        else:
            self._failures = 0
            if now_ns() - self._up_ns > STEADY_NS:
                self._ends = 0
        self._up_ns = None
        if self._failures > len(BACKOFF_S):
            return None
        self._ends += 1
        return BACKOFF_S[min(self._ends, len(BACKOFF_S)) - 1]
