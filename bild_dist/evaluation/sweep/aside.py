"""Long reckoning beside the loop, which Ctrl-C ends."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Generator
from typing import TypeVar

_T = TypeVar("_T")


async def aside(work: Callable[[], Generator[_T]]) -> list[_T]:
    """All that some work gives, done on another thread, so that the loop goes on. Cancelled, it ends behind
    the piece that it is at: a thread cannot be stopped from outside, and the command waits for its end.
    """
    over = threading.Event()

    def done() -> list[_T]:
        found = []
        with contextlib.closing(work()) as pieces:
            for piece in pieces:
                if over.is_set():
                    break
                found.append(piece)
        return found

    try:
        return await asyncio.to_thread(done)
    finally:
        over.set()
