"""What leaves one end of a channel: at once where the wire takes it, else in its turn.

A queue and a task behind it for every message cost two turns of the event loop; they are only needed
where the wire makes a sender wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from bild_dist.errors import InvalidRequest, WorkerUnavailable
from bild_dist.messages import Chunk, Message
from bild_dist.transport.base import Channel

WAITING: Final = 1024
"""Messages that may wait for a slow peer before its outbox is full."""
WAITING_BYTES: Final = 8 * 1024 * 1024


class Outbox:
    """Messages on their way out, in order. Owned by the end that sends; `run` is its one task.

    `refused(message, error)` hears of a message that no wire carries (too large, half a character):
    that is its sender's fault alone.
    """

    def __init__(
        self, channel: Channel, refused: Callable[[Message, InvalidRequest], None]
    ) -> None:
        self._channel = channel
        self._refused = refused
        self._waiting: asyncio.Queue[Message | None] = asyncio.Queue()
        self._behind = 0
        """Messages, or the end, that are not with the wire yet: what comes must wait behind them."""
        self._bytes = 0
        """What files the messages among them carry."""

    @property
    def full(self) -> bool:
        """Whether the peer reads so slowly that it should be given no more to answer."""
        return self._behind >= WAITING or self._bytes >= WAITING_BYTES

    def post(self, message: Message) -> None:
        """Sends a message, or queues it."""
        if self._behind == 0:
            try:
                if self._channel.try_send(message):
                    return
            except InvalidRequest as error:
                self._refused(message, error)
                return
            except WorkerUnavailable:
                pass  # `run` hears of it too, and tells
        self._behind += 1
        self._bytes += _carried(message)
        self._waiting.put_nowait(message)

    def end(self) -> None:
        """Nothing more comes: `run` returns after what is queued."""
        self._behind += 1
        self._waiting.put_nowait(None)

    async def run(self) -> None:
        """Sends what must wait, until the end. Raises WorkerUnavailable when the connection ends."""
        while (message := await self._waiting.get()) is not None:
            try:
                await self._channel.send(message)
            except InvalidRequest as error:
                self._refused(message, error)
            self._behind -= 1
            self._bytes -= _carried(message)


def _carried(message: Message) -> int:
    return len(message.data) if isinstance(message, Chunk) else 0
