"""Tasks that belong to an object instead of a block.

A TaskGroup is a block; a channel or a server lives from one call to another. This is the one place
that makes tasks without a block: the owner closes the set, which cancels and awaits them all, so
none outlives it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class TaskSet:
    """The tasks of one object. Owned by that object, which must `close` it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs `work`; it must handle its own errors, since nobody awaits its result."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Cancels what still runs and waits for it, but for the calling task. Idempotent."""
        others = self._tasks - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others)
