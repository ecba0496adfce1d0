"""The driver of one request: takes an event, hands it to the machine, carries out its commands."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Mapping

from bild_dist.clock import now_ns
from bild_dist.errors import BildError, DeadlineExceeded, ProtocolError, WorkerUnavailable
from bild_dist.messages import Close, Drafted, Opened, Verified
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


class Session:
    """One request on its way. Owned by the task that runs `decode`."""

    def __init__(
        self,
        number: int,
        machine: Machine,
        workers: Mapping[Role, WorkerClient],
        give: Callable[[Emit, bool], None],
        started_ns: int,
    ) -> None:
        self._number = number
        self._machine = machine
        self._workers = workers
        self._give = give
        self._inbox: asyncio.Queue[Event] = asyncio.Queue()
        self._sent_ns: dict[Role, int] = {}
        self._times = Trace()
        self._started_ns = started_ns

    async def decode(self, deadline: float | None) -> Finish:
        """Runs the request to its end. `deadline`: loop time in seconds, None for no bound.

        Cancelling it closes the request on both workers and gives nothing more.
        """
        for role, worker in self._workers.items():
            worker.attach(self._number, self._sink(role))
        try:
            async with asyncio.timeout_at(deadline):
                finish = self._carry_out(self._machine.start())
                while finish is None:
                    finish = self._carry_out(self._step(await self._inbox.get()))
                return finish
        except TimeoutError:
            error = DeadlineExceeded(
                "the text was not complete at its deadline: allow more seconds"
            )
            return self._stop(error)
        except asyncio.CancelledError:
            self._stop(DeadlineExceeded("the request was cancelled"))
            raise
        finally:
            for worker in self._workers.values():
                worker.detach(self._number)

    def trace(self) -> Trace:
        """Counts of the machine with the times measured here."""
        counts, times = self._machine.trace, self._times
        return dataclasses.replace(
            counts,
            draft_ns=times.draft_ns,
            verify_ns=times.verify_ns,
            queue_ns=times.queue_ns,
            wire_ns=times.wire_ns,
            first_token_ns=times.first_token_ns,
            wall_ns=now_ns() - self._started_ns,
        )

    def _step(self, event: Event) -> list[Command]:
        try:
            return self._machine.handle(event)
        except ProtocolError as error:
            return self._machine.handle(Failed(error))

    def _stop(self, error: BildError) -> Finish:
        finish = self._carry_out(self._machine.handle(Cancelled(error)))
        return finish if finish is not None else Finish(None, error)

    def _carry_out(self, commands: list[Command]) -> Finish | None:
        last = commands[-1] if commands else None
        finish = last if isinstance(last, Finish) else None
        for command in commands:
            if isinstance(command, ToWorker):
                self._send(command)
            elif isinstance(command, Emit):
                if self._times.first_token_ns == 0:
                    self._times.first_token_ns = now_ns() - self._started_ns
                self._give(command, finish is not None)
        return finish

    def _send(self, command: ToWorker) -> None:
        worker = self._workers[command.role]
        self._sent_ns[command.role] = now_ns()
        if isinstance(command.request, Close):
            with contextlib.suppress(WorkerUnavailable):
                worker.post(command.request)
            return
        try:
            worker.post(command.request)
        except WorkerUnavailable as error:
            self._inbox.put_nowait(Failed(error))

    def _sink(self, role: Role) -> Callable[[Answer], None]:
        def sink(answer: Answer) -> None:
            if isinstance(answer, BildError):
                self._inbox.put_nowait(Failed(answer))
            else:
                self._measure(role, answer)
                self._inbox.put_nowait(FromWorker(role, answer))

        return sink

    def _measure(self, role: Role, answer: Opened | Drafted | Verified) -> None:
        if isinstance(answer, Opened):
            return
        times = self._times
        if role is Role.SMALL:
            times.draft_ns += answer.compute_ns
        else:
            times.verify_ns += answer.compute_ns
        times.queue_ns += answer.queue_ns
        sent_ns = self._sent_ns.pop(role, None)
        if sent_ns is not None:  # later pieces of a draft come unasked: they have no round trip
            spent_ns = answer.queue_ns + answer.compute_ns
            times.wire_ns += max(0, now_ns() - sent_ns - spent_ns)
