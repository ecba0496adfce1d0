"""What happened to the requests of a decoder, moment by moment, for whoever wants to look at it
later.

A recording only keeps references: taking it costs an append, all thinking is done afterwards
(`timeline.py`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from bild_dist.policy.events import Command, Emit, Event

MOMENTS: Final = 200_000
"""Most moments that are kept, about 100 MB: some 40,000 tokens with three moments to a pass."""


class Moment(NamedTuple):
    """An event that entered the machine of a request, or a command that left it."""

    session: int
    at_ns: int
    what: Event | Command


class Recording:
    """A `session.Record` that keeps what it is told. Owned by the event loop of its decoder.

    The first `limit` moments are kept and the rest is counted: a beginning can be read without its
    end, but hardly the other way round.
    """

    def __init__(self, limit: int = MOMENTS) -> None:
        self.moments: list[Moment] = []
        self.missed = 0
        """Moments that found no room."""
        self._limit = limit

    def __repr__(self) -> str:
        return f"<Recording moments={len(self.moments)} missed={self.missed}>"

    def __call__(self, session: int, at_ns: int, what: Event | Command) -> None:
        if isinstance(what, Emit) and not what.tokens:
            return
        if len(self.moments) < self._limit:
            self.moments.append(Moment(session, at_ns, what))
        else:
            self.missed += 1
