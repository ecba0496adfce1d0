"""A worker's life: start up, serve, shut down. Signals live in a context manager.

Ready means warm: the line `ready ADDRESS ...` is printed once the first request would not pay for
anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import sys
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Self, cast

from bild_dist import log
from bild_dist.errors import BildError
from bild_dist.messages import Info, Reply
from bild_dist.model.base import Model
from bild_dist.signals import heeded
from bild_dist.telemetry.spans import Spans
from bild_dist.transport import serve
from bild_dist.transport.base import Server
from bild_dist.transport.serving import complaint
from bild_dist.workers.engine import Engine
from bild_dist.workers.service import Connection, Service
from bild_dist.workers.telemetry import shown, traced
from bild_dist.workers.turns import Readings


class Worker:
    """One model behind one address, from entering to leaving it as an async context.

    `over` is set when the worker should go: its engine ended, or somebody outside says so.

    `load` makes the model, on the engine's thread: it takes seconds and the loop must not stall.

    Raises (on entering):
        ConfigError: the model cannot be loaded or the address cannot be had.
    """

    def __init__(
        self, load: Callable[[], Model], listen: str, slots: int, spans: Spans | None = None
    ) -> None:
        self._load = load
        self._listen = listen
        self._slots = slots
        self._spans = spans
        self._engine: Engine
        self._service: Service
        self._server: Server
        self.info: Info
        self.over = asyncio.Event()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()

        def deliver(connection: Hashable, reply: Reply) -> None:
            loop.call_soon_threadsafe(self._service.deliver, cast(Connection, connection), reply)

        self._engine = Engine(self._load, self._slots, deliver)
        self._engine.start()
        try:
            model = await asyncio.wrap_future(self._engine.ready)
            self.info = replace(
                model.info, generation=secrets.token_hex(8), pid=os.getpid(), slots=self._slots,
                cores=len(os.sched_getaffinity(0)),
            )  # fmt: skip
            self._service = Service(model, self._engine, self.info)
            self._server = await serve(self._listen, traced(self._service.serve, self._spans))
        except BaseException:
            await asyncio.to_thread(self._engine.stop)
            raise
        self._engine.ended.add_done_callback(lambda _: _call(loop, self._engine_ended))
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._service.farewell("the worker was stopped")
        await self._server.close()
        await asyncio.to_thread(self._engine.stop)

    @property
    def address(self) -> str:
        """Where it listens, with the port that the system chose."""
        return self._server.address

    def readings(self) -> Readings:
        """What its engine has done so far."""
        return self._engine.readings()

    def check(self) -> None:
        """Raises what the engine failed with, if it has."""
        error = self._fault()
        if error is not None:
            raise error

    def _engine_ended(self) -> None:
        error = self._fault()
        if error is not None:
            self._service.tell(complaint(error))
        self.over.set()

    def _fault(self) -> BildError | None:
        error = self._engine.ended.exception() if self._engine.ended.done() else None
        return error if isinstance(error, BildError) else None


async def run(
    load: Callable[[], Model],
    listen: str,
    slots: int,
    *,
    with_parent: bool,
    metrics: str = "",
    spans: Spans | None = None,
) -> None:
    """Runs a worker until a signal comes, its parent goes, or its engine fails.

    `with_parent`: standard input is a pipe that the parent holds; its end is the parent's end. `metrics`: HOST:PORT of
    its page, empty for none.

    Raises:
        ConfigError: as `Worker`.
        WorkerFault: the engine failed.
    """
    worker = Worker(load, listen, slots, spans)
    if with_parent:
        await _watch_parent(worker.over)
    async with worker, shown(metrics, worker) as page:
        log.always(worker=worker.address, generation=worker.info.generation)
        # Before this a signal simply ends the process: a model that loads has nothing to tidy up.
        with heeded(worker.over.set):
            told = f"{describe(worker.info)} metrics={page}" if page else describe(worker.info)
            print(f"ready {worker.address} {told}", flush=True)  # noqa: T201
            logging.getLogger(__name__).info("ready", extra={"model": worker.info.model})
            await worker.over.wait()
            worker.check()


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    """Calls on the loop from another thread, if it still runs."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function)


def describe(info: Info) -> str:
    """One line for people: what the worker runs and on what."""
    return (
        f"model={info.model} architecture={info.architecture} device={info.device} "
        f"dtype={info.dtype} threads={info.threads} slots={info.slots} max_length={info.max_length}"
    )


async def _watch_parent(over: asyncio.Event) -> None:
    """Ends the worker when standard input ends: no orphan outlives a killed parent."""

    class Watch(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            over.set()

    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(Watch, sys.stdin)
