"""How many texts are under way, and when the next one is refused: at once, before anything of it is
read, so that a refusal costs next to nothing however many come.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from bild_dist.clock import now_ns
from bild_dist.orchestrator.http.problems import RETRY_S, Problem

_MOST_S: Final = 60
"""Longest pause that a refused client is asked to make."""
_WEIGHT: Final = 0.1
"""Of a text's time in the mean of the texts before it."""


class Admission:
    """The places of one server. Owned by its event loop.

    A text has a place from its admission until it is written, a request is open until its answer
    has gone out: a client that reads slowly keeps no place from the others.
    """

    def __init__(self) -> None:
        self.texts = 0
        """Texts that are written or wait for their turn."""
        self.requests = 0
        """Requests whose answer has not gone out."""
        self.refused = 0
        """Requests that found no place so far."""
        self.draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._mean_s = 1.0

    def __repr__(self) -> str:
        return (
            f"<Admission texts={self.texts} requests={self.requests} refused={self.refused} "
            f"draining={self.draining}>"
        )

    def check(self, count: int, places: int, at_once: int) -> None:
        """Raises Problem where there is no place for so many more texts. `places` is how many there
        are, `at_once` how many of those are written side by side.
        """
        if self.draining:
            raise Problem(
                503, "the server is shutting down: send the request to another one",
                kind="server_error", code="shutting_down",
                headers={"Connection": "close", "Retry-After": str(RETRY_S)},
            )  # fmt: skip
        if self.texts + count > places:
            self.refused += 1
            wait_s = math.ceil(self._mean_s * self.texts / at_once)
            raise Problem(
                429, f"{self.texts} texts are under way, which is all that this server takes",
                kind="rate_limit_error", code="overloaded",
                headers={"Retry-After": str(min(max(wait_s, 1), _MOST_S))},
            )  # fmt: skip

    @contextmanager
    def request(self) -> Iterator[None]:
        """A request is open."""
        self.requests += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.requests -= 1
            if self.requests == 0:
                self._idle.set()

    def enter(self) -> Callable[[object], None]:
        """A text takes its place; returns what gives it back, for a task to call when it is
        done. Whoever enters has called `check` in
        the same turn of the loop.
        """
        self.texts += 1
        started_ns = now_ns()

        def leave(_: object) -> None:
            self.texts -= 1
            spent_s = (now_ns() - started_ns) / 1e9
            self._mean_s += _WEIGHT * (spent_s - self._mean_s)

        return leave

    async def idle(self) -> None:
        """Returns once no request is open."""
        await self._idle.wait()
