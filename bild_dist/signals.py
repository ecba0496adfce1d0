"""How a process that serves is told to end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def heeded(stop: Callable[[], None]) -> Iterator[None]:
    """Calls `stop` on the running loop for SIGINT and SIGTERM while the body runs; afterwards they are
    Python's own again.
    """
    loop = asyncio.get_running_loop()
    kinds = (signal.SIGINT, signal.SIGTERM)
    for kind in kinds:
        loop.add_signal_handler(kind, stop)
    try:
        yield
    finally:
        for kind in kinds:
            loop.remove_signal_handler(kind)
