"""Who runs when: at most `concurrency` requests are under way, the others wait in their order.

Owns the connections to the workers and the tasks of all requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from bild_dist.clock import now_ns
from bild_dist.errors import DeadlineExceeded
from bild_dist.messages import Rules
from bild_dist.orchestrator.client import WorkerClient
from bild_dist.orchestrator.session import Record, Session
from bild_dist.orchestrator.watch import Progress
from bild_dist.policy.events import Command, Emit, Event, Finish
from bild_dist.policy.forecast import Costs, Forecast
from bild_dist.policy.line import Stops
from bild_dist.policy.machine import Machine
from bild_dist.types import Options, Role, Source, Trace

FORECASTS: Final = 64
"""Settings whose forecasts are kept, unless somebody asks for more; the one used least lately goes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A request as the models see it: ids, constraints and options."""

    ids: tuple[int, ...]
    source: tuple[int, ...]
    rules: Rules
    options: Options


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a request ended."""

    finish: Finish
    tokens: tuple[int, ...]
    sources: tuple[Source, ...]
    trace: Trace


class Dispatcher:
    """All requests of one pair of workers, as an async context. Lives on one event loop."""

    def __init__(
        self,
        workers: Mapping[Role, WorkerClient],
        concurrency: int,
        record: Record | None = None,
    ) -> None:
        self._workers = workers
        self._record = record
        self._costs = Costs()
        self._forecasts: dict[Options, Forecast] = {}
        self._kept = FORECASTS
        self._room = asyncio.Semaphore(concurrency)
        self._group = asyncio.TaskGroup()
        self._requests: set[asyncio.Task[Any]] = set()
        self._connections: list[asyncio.Task[None]] = []
        self._sessions = 0

    def __repr__(self) -> str:
        return f"<Dispatcher requests={len(self._requests)} room={self._room!r}>"

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        for worker in self._workers.values():
            self._connections.append(self._group.create_task(worker.run()))
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Ends what is still running. The body's own exception passes by: it is no error of
        ours.
        """
        for task in self._requests:
            task.cancel()
        if self._requests:
            await asyncio.wait(self._requests)
        for worker in self._workers.values():
            worker.close()
        await self._group.__aexit__(None, None, None)

    def expect(self, settings: int) -> None:
        """Keeps the forecasts of so many settings at least."""
        self._kept = max(self._kept, settings)

    async def broken(self) -> None:
        """Returns when the connection to a worker has ended, for whatever reason."""
        await asyncio.wait(self._connections, return_when=asyncio.FIRST_COMPLETED)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs a request's task as a child of this context. It must not raise."""
        task = self._group.create_task(work)
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
        return task

    async def decode(
        self,
        work: Work,
        stops: Stops | None,
        give: Callable[[Emit, bool], None],
        started_ns: int,
        record: Record | None = None,
        admitted: Callable[[Progress], None] = lambda progress: None,
    ) -> Outcome:
        """Decodes one request when its turn has come.

        `give(emit, last)` gets the tokens as they become text; `last` with those that end it.
        `record` is told of every step of this request alone, `admitted` when it has a place.
        """
        options = work.options
        spent_s = (now_ns() - started_ns) / 1e9
        deadline = None
        if options.deadline is not None:
            deadline = asyncio.get_running_loop().time() + options.deadline - spent_s
        number = self._sessions + 1
        self._sessions += options.branches
        forecast = self._forecast(options)
        machine = Machine(number, work.ids, work.source, work.rules, options, stops, forecast)
        told = both(self._record, record)
        session = Session(number, machine, self._workers, give, started_ns, told)
        try:
            async with asyncio.timeout_at(deadline):
                await self._room.acquire()
        except TimeoutError:
            error = DeadlineExceeded(
                "the request was still waiting at its deadline: allow more seconds"
            )
            finish = Finish(None, error)
        else:
            admitted(
                Progress(
                    prompt_tokens=len(work.ids) + len(work.source),
                    sources=machine.books.sources,
                    trace=session.trace,
                )
            )
            try:
                finish = await session.decode(deadline)
            finally:
                self._room.release()
        return Outcome(
            finish=finish,
            tokens=tuple(machine.books.tokens),
            sources=tuple(machine.books.sources),
            trace=session.trace(),
        )

    def _forecast(self, options: Options) -> Forecast:
        """What requests of this setting have learned from each other."""
        setting = Options(
            mode=options.mode, schedule=options.schedule, alpha_fb=options.alpha_fb,
            alpha_rb=options.alpha_rb, window=options.window, temperature=options.temperature,
            policy=options.policy, confidence=options.confidence, distance=options.distance,
            adapt=options.adapt,
        )  # fmt: skip
        forecast = self._forecasts.pop(setting, None) or Forecast(self._costs, setting)
        self._forecasts[setting] = forecast
        if len(self._forecasts) > self._kept:
            del self._forecasts[next(iter(self._forecasts))]
        return forecast


def both(one: Record | None, other: Record | None) -> Record | None:
    """Tells two watchers, or the only one there is."""
    if one is None or other is None:
        return one if other is None else other

    def record(session: int, at_ns: int, what: Event | Command) -> None:
        one(session, at_ns, what)
        other(session, at_ns, what)

    return record
