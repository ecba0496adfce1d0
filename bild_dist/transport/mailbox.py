"""A bounded queue with an end: what waits to be received, or to leave."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from bild_dist.errors import BildError, LocalProtocolError

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Items, then an error that every later `get` raises again. Owned by its channel.

    It is full at `count` items or `size` bytes, whichever is first, so that neither many small messages nor a few
    large ones grow memory without bound. Items change hands between two awaits, never across one: a cancelled `get` or
    `offer` leaves the mailbox as it was.
    """

    def __init__(self, count: int, size: int) -> None:
        self._items: deque[tuple[T, int]] = deque()
        self._waiting_bytes = 0
        self._count = count
        self._size = size
        self._end: BildError | None = None
        self._sink: Callable[[T], None] | None = None
        self._arrived = asyncio.Event()
        self._freed = asyncio.Event()

    def __repr__(self) -> str:
        state = "open" if self._end is None else "ended"
        return f"<Mailbox items={len(self._items)} bytes={self._waiting_bytes} {state}>"

    @property
    def full(self) -> bool:
        return len(self._items) >= self._count or self._waiting_bytes >= self._size

    @property
    def ended(self) -> bool:
        return self._end is not None

    def put(self, item: T, size: int) -> None:
        """Takes an item of `size` bytes, full or not; behind the end it is dropped."""
        if self._end is not None:
            return
        if self._sink is not None:
            self._deliver(self._sink, item)
        else:
            self._items.append((item, size))
            self._waiting_bytes += size
            self._arrived.set()

    def pour(self, sink: Callable[[T], None]) -> None:
        """Gives every item to `sink` as it comes, those that wait first. What `sink` raises is the end."""
        self._sink = sink
        while self._items:
            item, size = self._items.popleft()
            self._waiting_bytes -= size
            self._deliver(sink, item)
        self._freed.set()

    def _deliver(self, sink: Callable[[T], None], item: T) -> None:
        try:
            sink(item)
        except BildError as error:
            self.end(error, clear=True)
        except Exception as error:
            # Whoever reads the socket carries other connections too: a bug ends this one alone.
            logging.getLogger(__name__).exception("a message could not be handled")
            self.end(LocalProtocolError(f"a bug in the receiver: {error!r}"), clear=True)

    async def room(self) -> None:
        """Waits while the mailbox is full; not after its end."""
        while self.full and self._end is None:
            self._freed.clear()
            await self._freed.wait()

    async def offer(self, item: T, size: int) -> None:
        """Waits for room, then takes the item. Raises what `end` was given."""
        await self.room()
        if self._end is not None:
            raise self._end.with_traceback(None)
        self.put(item, size)

    def end(self, error: BildError, *, clear: bool = False) -> None:
        """Nothing comes behind this; the first end counts. `clear` forgets what still waits."""
        if self._end is None:
            self._end = error
        if clear:
            self._items.clear()
            self._waiting_bytes = 0
        self._arrived.set()
        self._freed.set()

    async def get(self) -> T:
        """The next item. Raises what `end` was given once all items are taken."""
        while not self._items:
            if self._end is not None:
                # Raised again and again: it must not collect a traceback each time.
                raise self._end.with_traceback(None)
            self._arrived.clear()
            await self._arrived.wait()
        item, size = self._items.popleft()
        self._waiting_bytes -= size
        self._freed.set()
        return item
