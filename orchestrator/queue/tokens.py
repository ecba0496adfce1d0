"""A job's tokens while they are written: gathered to a few messages a second."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

from bild_dist.errors import BildError
from bild_dist.orchestrator.queue import job
from bild_dist.orchestrator.queue.source import JobSource
from bild_dist.tasks import TaskSet
from bild_dist.types import TokenEvent

PAUSE_S: Final = 0.05
"""Between two messages of a job: at most 20 a second, however fast the text comes."""


class TokenStream:
    """The token stream of one attempt, as an async context. Owned by the task that writes the text.

    The first token leaves at once. A message that the broker does not take is lost, and its number
    with it, so that a reader sees the gap; the result has the whole text.
    """

    def __init__(self, source: JobSource, name: str, attempt: int) -> None:
        self._source = source
        self._name, self._word = name, job.word(name)
        self._attempt = attempt
        self._waiting: list[TokenEvent] = []
        self._fresh = asyncio.Event()
        self._seq = 0
        self._tasks = TaskSet()

    async def __aenter__(self) -> Self:
        self._tasks.start(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._tasks.close()
        if kind is None:
            await self._send()

    def push(self, event: TokenEvent) -> None:
        """Takes a token; it leaves with the next message."""
        self._waiting.append(event)
        self._fresh.set()

    async def _run(self) -> None:
        while True:
            await self._fresh.wait()
            self._fresh.clear()
            await self._send()
            await asyncio.sleep(PAUSE_S)

    async def _send(self) -> None:
        events, self._waiting = self._waiting, []
        if not events:
            return
        body = job.tokens(self._name, self._attempt, self._seq, events[0].position, events)
        self._seq += 1
        try:
            await self._source.tell(self._word, body)
        except BildError:
            return
