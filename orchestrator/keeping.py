"""A decoder for services: opened again when a worker is lost, over workers that are started again.

A `Decoder` ends with either of its connections. What stays here is the process: the workers that
are still well are joined anew, the others are replaced first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final, NoReturn, Self, TypeAlias

from bild_dist.clock import now_ns
from bild_dist.config import Config
from bild_dist.errors import BildError, ConfigError, WorkerUnavailable
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.orchestrator.fleet import Fleet
from bild_dist.orchestrator.opening import connected
from bild_dist.orchestrator.patience import BACKOFF_S, Patience
from bild_dist.orchestrator.session import Record
from bild_dist.orchestrator.supervisor import Child, Supervisor
from bild_dist.types import Role

Opening: TypeAlias = Callable[[], AbstractAsyncContextManager[Decoder]]
"""Gives a decoder; called again for each further one."""
Say: TypeAlias = Callable[[str], None]

ENDING_S: Final = 0.3
"""Seconds in which a process whose connection has ended may still end by itself."""
_ORDER = (Role.LARGE, Role.SMALL)
"""In which a decoder joins its workers."""


class Keeping:
    """A decoder that is there whenever it can be. Owned by the task that runs `run`.

    `stubborn`: goes on trying for ever, because somebody else looks after the workers.
    """

    def __init__(self, opening: Opening, say: Say, *, stubborn: bool = False) -> None:
        self._opening = opening
        self._say = say
        self._stubborn = stubborn
        self._decoder: Decoder | None = None
        self._up = asyncio.Event()
        self._next_ns = 0
        self.restarts = 0
        """How often the decoder had to be opened again."""

    @property
    def decoder(self) -> Decoder:
        """Raises WorkerUnavailable while there is none."""
        if self._decoder is None:
            raise WorkerUnavailable("the models are being started: try again in a few seconds")
        return self._decoder

    @property
    def current(self) -> Decoder | None:
        """The decoder, or None while there is none."""
        return self._decoder

    @property
    def pause_s(self) -> float:
        """Seconds until the models are started again; 0 where that is under way."""
        return max(self._next_ns - now_ns(), 0) / 1e9

    async def up(self) -> None:
        """Returns once there is a decoder."""
        await self._up.wait()

    async def run(self, on_up: Callable[[], None] = lambda: None) -> NoReturn:
        """Keeps a decoder open until it is cancelled. `on_up` is called each time there is one.

        Raises:
            ConfigError: the models cannot be started, or do not fit together.
            WorkerUnavailable: too many starts in a row have failed.
        """
        patience = Patience()
        while True:

            def up() -> None:
                patience.up()
                on_up()

            try:
                error = await self._once(up)
            except ConfigError:
                raise
            except BildError as failure:
                error = failure
            self._say(f"not serving: {error}")
            pause_s = patience.pause_s()
            if pause_s is None and not self._stubborn:
                raise WorkerUnavailable(
                    f"gave up after {len(BACKOFF_S) + 1} failed starts: {error}"
                )
            self.restarts += 1
            pause_s = BACKOFF_S[-1] if pause_s is None else pause_s
            self._next_ns = now_ns() + int(pause_s * 1e9)
            await asyncio.sleep(pause_s)

    async def _once(self, on_up: Callable[[], None]) -> BildError:
        """One decoder, from its opening to its end; returns why it ended."""
        async with self._opening() as decoder:
            self._decoder = decoder
            self._up.set()
            on_up()
            try:
                return await decoder.lost()
            finally:
                self._decoder = None
                self._up.clear()


class Processes:
    """The worker processes of a pair, which stay while decoders over them come and go. An async
    context that ends with them; owned by the task that enters it.
    """

    def __init__(
        self,
        config: Config,
        say: Say,
        on_line: Callable[[Child, str], None] = lambda child, line: None,
        record: Record | None = None,
        fleet: Fleet | None = None,
    ) -> None:
        self._fleet = Fleet(None) if fleet is None else fleet
        self._config = config
        self._say = say
        self._record = record
        self._supervisor = Supervisor(self._on_exit, on_line)
        self._children: dict[Role, Child] = {}
        self._decoder: Decoder | None = None

    async def __aenter__(self) -> Self:
        await self._supervisor.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._supervisor.__aexit__(None, None, None)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Decoder]:
        """A decoder over both workers; those that do not run are started first. Afterwards those
        that were lost are gone for good.

        Raises:
            ConfigError, WorkerFault: a worker cannot start; the message is its own.
            WorkerUnavailable: one does not answer.
        """
        await self._start_missing()
        addresses = {role: child.address for role, child in self._children.items()}
        if len(addresses) < len(_ORDER):
            raise WorkerUnavailable("a worker ended while the other one was starting")
        decoder = Decoder(
            addresses, options=self._config.generate,
            concurrency=self._config.orchestrator.concurrency, record=self._record,
        )  # fmt: skip
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(decoder)
            except WorkerUnavailable:
                await self._end(_silent(decoder))
                raise
            self._decoder = decoder
            try:
                yield decoder
            finally:
                self._decoder = None
                for role, client in decoder.workers.items():
                    if client.lost is not None:
                        await self._end(role)

    async def _start_missing(self) -> None:
        """Starts side by side what does not run; a failure of one leaves the other alone, since one
        that is half started could not be told to end.
        """
        failures: list[BildError] = []

        async def start(role: Role) -> None:
            supervisor, config = self._supervisor, self._config
            worker = config.worker(role)
            try:
                listen = supervisor.private_address(role, config.orchestrator.transport)
                child = await supervisor.start(role, worker, listen)
            except BildError as error:
                failures.append(error)
                self._fleet.lost(role, error, None)
                return
            self._children[role] = child
            self._fleet.ready(child, worker)
            self._say(child.ready)

        async with asyncio.TaskGroup() as group:
            for role in _ORDER:
                if role not in self._children:
                    group.create_task(start(role))
        if failures:
            raise next((e for e in failures if isinstance(e, ConfigError)), failures[0])

    async def _end(self, role: Role) -> None:
        """Ends a worker that is lost to us: it may be frozen, and then hears nothing but this."""
        child = self._children.pop(role, None)
        if child is None:
            return
        with contextlib.suppress(TimeoutError):
            # A connection ends a moment before its process: one that has ended tells so itself.
            async with asyncio.timeout(ENDING_S):
                await child.process.wait()
                return
        await self._supervisor.kill(child)
        self._fleet.lost(role, WorkerUnavailable("it was frozen, and killed"), child)

    def _on_exit(self, child: Child, error: BildError) -> None:
        self._fleet.lost(child.role, error, child)
        if self._children.get(child.role) is child:
            del self._children[child.role]
        if self._decoder is not None:
            self._decoder.worker_failed(child.role, error)


def _silent(decoder: Decoder) -> Role:
    """Who did not answer a decoder that could not be entered."""
    # They are joined one after the other, so it is the first that is missing; with both joined it was the
    # tokenizer that did not come, which is the large one's.
    return next((role for role in _ORDER if role not in decoder.workers), Role.LARGE)


@asynccontextmanager
async def keeping(
    config: Config,
    addresses: Mapping[Role, str],
    inproc: Callable[[Config, Record | None], AbstractAsyncContextManager[Decoder]],
    say: Say,
    on_line: Callable[[Child, str], None] = lambda child, line: None,
    record: Record | None = None,
    fleet: Fleet | None = None,
) -> AsyncIterator[Keeping]:
    """What to `run` for a configuration: over running workers where `addresses` names them, in this
    process for the transport `inproc`, else over processes of its own, which end with the context.
    """
    if addresses:
        yield Keeping(lambda: connected(config, addresses, record), say, stubborn=True)
    elif config.orchestrator.transport == "inproc":
        yield Keeping(lambda: inproc(config, record), say)
    else:
        async with Processes(config, say, on_line, record, fleet) as processes:
            yield Keeping(processes.opened, say)
