"""The driver of one request: takes an event, hands it to the machine, carries out its commands.

An answer is handled where it arrives, in the turn of the event loop that read it: a queue and a task
of its own between the two would cost two more turns of the loop for every round trip.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

from bild_dist.clock import now_ns
from bild_dist.errors import (
    BildError,
    DeadlineExceeded,
    LocalProtocolError,
    ProtocolError,
    WorkerUnavailable,
)
from bild_dist.messages import Close, Drafted, Opened, Steer, Verified
from bild_dist.orchestrator.client import Answer, WorkerClient
from bild_dist.policy.events import (
    Cancelled,
    Command,
    Emit,
    Event,
    Failed,
    Finish,
    FromWorker,
    ToWorker,
)
from bild_dist.policy.machine import Machine
from bild_dist.types import Role, Trace

Record: TypeAlias = Callable[[int, int, Event | Command], None]
"""Told of everything that enters or leaves a machine: session, time in ns, event or command."""


class Session:
    """One request on its way. Owned by the task that runs `decode`, on one event loop."""

    def __init__(
        self,
        number: int,
        machine: Machine,
        workers: Mapping[Role, WorkerClient],
        give: Callable[[Emit, bool], None],
        started_ns: int,
        record: Record | None = None,
    ) -> None:
        self._number = number
        self._machine = machine
        self._workers = workers
        self._give = give
        self._waiting: deque[Event] = deque()
        self._handling = False
        self._finished: asyncio.Future[Finish] = asyncio.get_running_loop().create_future()
        self._record = record
        self._sent_ns: dict[tuple[Role, int, int], int] = {}
        self._times = Trace()
        self._started_ns = started_ns

    async def decode(self, deadline: float | None) -> Finish:
        """Runs the request to its end. `deadline`: loop time in seconds, None for no bound.

        Cancelling it closes the request on both workers and gives nothing more.
        """
        for role in self._machine.roles:
            for number in self._machine.sessions:
                self._workers[role].attach(number, self._sink(role, number))
        try:
            async with asyncio.timeout_at(deadline):
                self._guarded(self._machine.start)
                return await self._finished
        except TimeoutError:
            error = DeadlineExceeded(
                "the text was not complete at its deadline: allow more seconds"
            )
            return self._stop(error)
        except asyncio.CancelledError:
            self._stop(DeadlineExceeded("the request was cancelled"))
            raise
        finally:
            for role in self._machine.roles:
                for number in self._machine.sessions:
                    self._workers[role].detach(number)

    def trace(self) -> Trace:
        """Counts of the machine with the times measured here."""
        counts, times = self._machine.books.trace, self._times
        return dataclasses.replace(
            counts,
            draft_ns=times.draft_ns,
            verify_ns=times.verify_ns,
            queue_ns=times.queue_ns,
            wire_ns=times.wire_ns,
            first_token_ns=times.first_token_ns,
            wall_ns=now_ns() - self._started_ns,
        )

    def _take(self, event: Event) -> None:
        """Handles an event, and those that come up while it is handled, in their order."""
        self._waiting.append(event)
        if self._handling:
            return
        self._handling = True
        while self._waiting and not self._finished.done():
            self._guarded(partial(self._step, self._waiting.popleft()))
        self._handling = False

    def _guarded(self, step: Callable[[], list[Command]]) -> None:
        try:
            self._carry_out(step())
        except Exception as error:
            # This runs in the turn of whoever read the answer: a bug ends its own request, not the
            # connection, and gives its slots back.
            logging.getLogger(__name__).exception("a request failed")
            finish = self._stop(LocalProtocolError(f"a bug in the orchestrator: {error!r}"))
            if not self._finished.done():
                self._finished.set_result(finish)

    def _step(self, event: Event) -> list[Command]:
        self._note(event)
        try:
            return self._machine.handle(event)
        except ProtocolError as error:
            return self._machine.handle(Failed(error))

    def _stop(self, error: BildError) -> Finish:
        cancelled = Cancelled(error)
        self._note(cancelled)
        finish = self._carry_out(self._machine.handle(cancelled))
        return finish if finish is not None else Finish(None, error)

    def _carry_out(self, commands: list[Command]) -> Finish | None:
        last = commands[-1] if commands else None
        finish = last if isinstance(last, Finish) else None
        # Workers first: they need not wait for the text, and get their slots back whatever happens
        # to it.
        for command in commands:
            self._note(command)
            if isinstance(command, ToWorker):
                self._send(command)
        for command in commands:
            if isinstance(command, Emit):
                if self._times.first_token_ns == 0:
                    self._times.first_token_ns = now_ns() - self._started_ns
                self._give(command, finish is not None)
        if finish is not None and not self._finished.done():
            self._finished.set_result(finish)
        return finish

    def _send(self, command: ToWorker) -> None:
        worker = self._workers[command.role]
        if isinstance(command.request, Close | Steer):
            with contextlib.suppress(WorkerUnavailable):
                worker.post(command.request)
            return
        self._sent_ns[command.role, command.request.session, command.request.seq] = now_ns()
        try:
            worker.post(command.request)
        except WorkerUnavailable as error:
            self._take(Failed(error))

    def _sink(self, role: Role, number: int) -> Callable[[Answer], None]:
        def sink(answer: Answer) -> None:
            if isinstance(answer, BildError):
                self._take(Failed(answer, number))
            else:
                wire_ns = self._measure(role, answer)
                self._take(FromWorker(role, answer, wire_ns, now_ns()))

        return sink

    def _note(self, what: Event | Command) -> None:
        if self._record is None:
            return
        try:
            self._record(self._number, now_ns(), what)
        except Exception:
            # Whoever watches does not decide whether there is a text.
            logging.getLogger(__name__).exception("a recorder failed and is asked no more")
            self._record = None

    def _measure(self, role: Role, answer: Opened | Drafted | Verified) -> int:
        """Keeps the times of an answer. Returns what its round trip took beyond the worker's own."""
        if isinstance(answer, Opened):
            return 0
        times = self._times
        if role is Role.SMALL:
            times.draft_ns += answer.compute_ns
        else:
            times.verify_ns += answer.compute_ns
        times.queue_ns += answer.queue_ns
        sent_ns = self._sent_ns.pop((role, answer.session, answer.seq), None)
        if sent_ns is None:  # later pieces of a draft come unasked: they have no round trip
            return 0
        wire_ns = max(0, now_ns() - sent_ns - answer.queue_ns - answer.compute_ns)
        times.wire_ns += wire_ns
        return wire_ns
