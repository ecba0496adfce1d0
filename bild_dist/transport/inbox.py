"""Received messages, up to the end of a connection."""

from __future__ import annotations

import asyncio

from bild_dist.errors import BildError
from bild_dist.messages import Message


class Inbox:
    """Messages, then an error that every later `get` raises again. Owned by its channel.

    `limit` bounds the messages that wait; the end always has room.
    """

    def __init__(self, limit: int) -> None:
        self._queue: asyncio.Queue[Message | BildError] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()
        self._limit = limit
        self._end: BildError | None = None

    @property
    def full(self) -> bool:
        return self._queue.qsize() >= self._limit

    def put(self, message: Message) -> None:
        """Takes a message. The caller awaits `room` or asks `full` first."""
        self._queue.put_nowait(message)
        if self.full:
            self._room.clear()

    async def room(self) -> None:
        """Waits while the inbox is full: not reading on holds the peer back."""
        await self._room.wait()

    def end(self, error: BildError) -> None:
        """No message comes behind this."""
        self._queue.put_nowait(error)

    async def get(self) -> Message:
        """The next message. Safe to cancel: it is returned or still there."""
        if self._end is not None:
            raise self._end
        item = await self._queue.get()
        if isinstance(item, BildError):
            self._end = item
            raise item
        if not self.full:
            self._room.set()
        return item
