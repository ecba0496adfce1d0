"""The page that Prometheus reads, for processes that serve nothing else over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from prometheus_client import start_http_server

from bild_dist.errors import ConfigError
from bild_dist.metrics import Metrics
from bild_dist.tables import host_and_port
from bild_dist.tasks import TaskSet

LAG_EVERY_S: Final = 0.25
"""How often the event loop is asked how late it is."""


@asynccontextmanager
async def page(metrics: Metrics, listen: str) -> AsyncIterator[str]:
    """Serves the metrics of this process at HOST:PORT, from a thread of its own; gives the address that was taken.

    Read-only and plain: whoever reaches the address may read it, and nothing else can be asked of it.

    Raises:
        ConfigError: the address cannot be had.
    """
    host, port = host_and_port("metrics", listen)
    try:
        server, thread = start_http_server(port, host, metrics.registry)
    except OSError as error:
        raise ConfigError(f"metrics = {listen!r} cannot be had: {error.strerror}") from None
    shown = f"[{host}]" if ":" in host else host
    try:
        yield f"http://{shown}:{server.server_port}/metrics"
    finally:
        # It may be half a second until the thread looks.
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()


@asynccontextmanager
async def lag_watched(metrics: Metrics) -> AsyncIterator[None]:
    """Measures how late this event loop comes to what is due, as long as the context is open."""
    tasks = TaskSet()
    tasks.start(_watch_lag(metrics))
    try:
        yield
    finally:
        await tasks.close()


async def _watch_lag(metrics: Metrics) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_EVERY_S
        await asyncio.sleep(LAG_EVERY_S)
        metrics.loop_lag.observe(max(0.0, loop.time() - due))
