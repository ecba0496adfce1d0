"""The engine: one thread that owns the device, the slots and the cache.

The event loop only passes messages: `submit` from there, `deliver` back to it. The thread takes
what has arrived, gives one pass to the request whose turn it is, and looks again. Requests take
turns pass by pass, those whose draft only runs ahead behind all others; commands of one request run
in their order, and a command of a newer epoch removes what is left of the older ones.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeAlias

from bild_dist.clock import now_ns
from bild_dist.errors import BildError, InvalidRequest, Overloaded, RemoteProtocolError, WorkerFault
from bild_dist.kv.slots import Slot, SlotPool
from bild_dist.messages import (
    Close,
    Draft,
    Encode,
    Failed,
    Info,
    Open,
    Opened,
    Reply,
    Steer,
    Verify,
)
from bild_dist.model.base import Choice, Model, Pass
from bild_dist.workers.jobs import Meter, Steps, draft, prefill, verify

Command: TypeAlias = Open | Draft | Verify | Steer | Close | Encode
Deliver: TypeAlias = Callable[[Hashable, Reply], None]

WAITING_LIMIT: Final = 1024
"""Requests that may wait for a slot before the next one is refused."""

_END: Final[Any] = object()


@dataclass(frozen=True, slots=True)
class Owner:
    """A request: its number is its connection's own, so the pair names it."""

    connection: Hashable
    session: int


@dataclass(slots=True)
class Job:
    """One command at work. Owned by the engine thread."""

    command: Open | Draft | Verify
    steps: Steps


@dataclass(slots=True)
class Work:
    """What an open request still has to do, in order. Owned by the engine thread."""

    slot: Slot
    jobs: deque[Job] = field(default_factory=deque)
    meter: Meter = field(default_factory=Meter)

    @property
    def needed(self) -> bool:
        """Whether somebody waits for what it does next."""
        return self.slot.needed or not isinstance(self.jobs[0].command, Draft)


class Engine:
    """Runs one model on a thread of its own.

    `deliver(connection, reply)` is called on that thread and must only pass on. Everything but
    `submit`, `disconnect`, `stop` and the readings belongs to the thread.

    `load` makes the model, on that thread too: what a model sets up for the thread that makes it
    (torch's pool of CPU threads) is not made a second time for the thread that runs it. Measured
    with SmolLM2 on two cores: a step takes 37 ms so, and 51 to 58 ms when another thread loads.

    `ready` is set to the model once that is warm. `ended` is set when the thread ends: with a
    result after `stop`, with a WorkerFault (or what the model raised) otherwise.
    """

    def __init__(self, load: Callable[[], Model], slots: int, deliver: Deliver) -> None:
        self.ready: Future[Model] = Future()
        self.ended: Future[None] = Future()
        # A running future cannot be cancelled from the event loop, so the thread can always set it.
        self.ready.set_running_or_notify_cancel()
        self.ended.set_running_or_notify_cancel()
        self._load = load
        self._model: Model
        self._info: Info
        self._slots = slots
        self._pool = SlotPool(slots)
        self._deliver = deliver
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._work: dict[Owner, Work] = {}
        self._turns: deque[Owner] = deque()
        self._waiting: dict[Owner, Open] = {}
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)
        self._pass_started_ns = 0
        self._pass_length = 0
        self._usual_ns: dict[int, int] = {}
        self.progress = 0
        """Passes so far. Read by the event loop for its heartbeat."""

    # Called from the event loop.

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the pass that is running. Waits for it."""
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, connection: Hashable, command: Command) -> None:
        self._inbox.put(lambda: self._take(connection, command))

    def disconnect(self, connection: Hashable) -> None:
        """Frees every slot of a connection that has ended."""
        self._inbox.put(lambda: self._forget(connection))

    def busy(self) -> tuple[int, int]:
        """How long the present pass has run, and how long its like usually take; 0 for nothing or
        unknown.
        """
        started = self._pass_started_ns
        if started == 0:
            return 0, 0
        return now_ns() - started, self._usual_ns.get(_bucket(self._pass_length), 0)

    @property
    def open_slots(self) -> int:
        return self._pool.open_count

    # The thread.

    def _main(self) -> None:
        try:
            self._model = self._load()
            self._model.allocate(self._slots)
            self._info = self._model.info
            self._warm_up()
            self.ready.set_result(self._model)
            while self._receive():
                self._step()
        except BaseException as error:
            fault = error if isinstance(error, BildError) else _fault(error)
            if not self.ready.done():
                self.ready.set_exception(fault)
            self.ended.set_exception(fault)
        else:
            self.ended.set_result(None)

    def _receive(self) -> bool:
        """Takes what has arrived; waits only when there is nothing to do."""
        if not self._turns:
            self._pool.check()
            call = self._inbox.get()
            if call is None:
                return False
            call()
        while not self._inbox.empty():
            call = self._inbox.get()
            if call is None:
                return False
            call()
        return True

    def _step(self) -> None:
        """One pass for the request whose turn it is."""
        if not self._turns:
            return
        owner = next((o for o in self._turns if self._work[o].needed), self._turns[0])
        self._turns.remove(owner)
        work = self._work[owner]
        job = work.jobs[0]
        try:
            reply = next(job.steps, _END)
        except (InvalidRequest, RemoteProtocolError) as error:
            work.jobs.clear()
            self._fail(owner.connection, job.command, error)
            return
        if reply is _END:
            work.jobs.popleft()
        elif reply is not None:
            work.slot.answers.append(reply)
            self._deliver(owner.connection, reply)
        if work.jobs:
            self._turns.append(owner)

    def _run(self, work: Work, task: Pass) -> list[Choice]:
        length = len(task.ids) - task.at
        self._pass_length, self._pass_started_ns = length, now_ns()
        choices = self._model.forward(task)
        spent_ns = now_ns() - self._pass_started_ns
        self._pass_started_ns = 0
        self.progress += 1
        usual_ns = self._usual_ns.get(_bucket(length), spent_ns)
        self._usual_ns[_bucket(length)] = usual_ns + (spent_ns - usual_ns) // 8
        work.meter.compute_ns += spent_ns
        work.meter.passes += 1
        return choices

    # Commands.

    def _take(self, connection: Hashable, command: Command) -> None:
        if isinstance(command, Encode):
            self._encode(connection, command)
            return
        owner = Owner(connection, command.session)
        if isinstance(command, Close):
            self._close(owner)
        elif isinstance(command, Open):
            self._open(owner, command)
        elif isinstance(command, Steer):
            self._steer(owner, command)
        else:
            self._enqueue(owner, command)

    def _encode(self, connection: Hashable, command: Encode) -> None:
        try:
            reply: Reply = self._model.encode(
                command.seq, command.text, command.src_lang, command.tgt_lang
            )
        except InvalidRequest as error:
            reply = _failed(0, 0, command.seq, error)
        self._deliver(connection, reply)

    def _open(self, owner: Owner, command: Open) -> None:
        if owner in self._work:
            self._repeat(owner, self._work[owner], command)
        elif self._pool.has_room:
            self._grant(owner, command)
        elif len(self._waiting) < WAITING_LIMIT:
            self._waiting[owner] = command
        else:
            error = Overloaded("all slots of the worker are taken and the queue is full: try later")
            self._fail(owner.connection, command, error)

    def _grant(self, owner: Owner, command: Open) -> None:
        try:
            self._check_open(command)
        except InvalidRequest as error:
            self._fail(owner.connection, command, error)
            return
        slot = self._pool.take(owner, command.rules)
        slot.epoch, slot.seq = command.epoch, command.seq
        work = self._work[owner] = Work(slot)
        opened = Opened(session=command.session, epoch=command.epoch, seq=command.seq)
        slot.answers.append(opened)
        self._deliver(owner.connection, opened)
        run = partial(self._run, work)
        work.jobs.append(Job(command, prefill(self._model, slot, command, run, work.meter)))
        self._turns.append(owner)

    def _check_open(self, command: Open) -> None:
        info, rules = self._info, command.rules
        for name, ids in (("prompt", command.ids), ("source", command.source)):
            if not all(0 <= token < info.rules.vocabulary for token in ids):
                raise InvalidRequest(f"the {name} has ids outside the vocabulary of {info.model}")
        if not 0 < rules.vocabulary <= info.rules.vocabulary:
            raise InvalidRequest(f"{info.model} has {info.rules.vocabulary} token ids")
        if not 0 < len(command.ids) == rules.begin < rules.limit <= info.max_length:
            raise InvalidRequest(
                f"{len(command.ids)} prompt ids and a limit of {rules.limit} do not fit the "
                f"{info.max_length} positions of {info.model}"
            )
        if bool(command.source) != (info.max_source > 0) or len(command.source) > info.max_source:
            raise InvalidRequest(
                f"{info.model} takes up to {info.max_source} ids to encode, not {len(command.source)}"
            )

    def _enqueue(self, owner: Owner, command: Draft | Verify) -> None:
        work = self._work.get(owner)
        if work is None:
            error = RemoteProtocolError("a command for a request that has no slot here")
            self._fail(owner.connection, command, error)
            return
        slot = work.slot
        if command.epoch < slot.epoch:
            return
        if command.seq <= slot.seq:
            self._repeat(owner, work, command)
            return
        self._renew(owner, work, command.epoch)
        slot.seq, slot.needed = command.seq, True
        slot.answers.clear()
        run = partial(self._run, work)
        if not work.jobs:
            work.meter.since_ns = now_ns()
        steps = (
            draft(slot, command, run, work.meter)
            if isinstance(command, Draft)
            else verify(slot, command, run, work.meter)
        )
        work.jobs.append(Job(command, steps))
        if owner not in self._turns:
            self._turns.append(owner)

    def _steer(self, owner: Owner, command: Steer) -> None:
        work = self._work.get(owner)
        if work is not None and command.epoch >= work.slot.epoch:
            self._renew(owner, work, command.epoch)
            work.slot.needed = command.needed

    def _renew(self, owner: Owner, work: Work, epoch: int) -> None:
        """Ends what is left of older epochs, but for the prefill."""
        if epoch > work.slot.epoch:
            work.jobs = deque(job for job in work.jobs if isinstance(job.command, Open))
            work.slot.epoch = epoch
            if not work.jobs and owner in self._turns:
                self._turns.remove(owner)

    def _repeat(self, owner: Owner, work: Work, command: Open | Draft | Verify) -> None:
        """A duplicate of the last command gets its answers again; an older one gets nothing."""
        if command.seq == work.slot.seq:
            for reply in work.slot.answers:
                self._deliver(owner.connection, reply)

    def _close(self, owner: Owner) -> None:
        self._waiting.pop(owner, None)
        if self._work.pop(owner, None) is None:
            return
        if owner in self._turns:
            self._turns.remove(owner)
        self._pool.release(owner)
        while self._waiting and self._pool.has_room:
            waiting = next(iter(self._waiting))
            self._grant(waiting, self._waiting.pop(waiting))

    def _forget(self, connection: Hashable) -> None:
        for owner in [*self._waiting, *self._work]:
            if owner.connection == connection:
                self._close(owner)

    def _fail(self, connection: Hashable, command: Open | Draft | Verify, error: BildError) -> None:
        self._deliver(connection, _failed(command.session, command.epoch, command.seq, error))

    def _warm_up(self) -> None:
        """Runs the shapes of a draft step and of a check once, so that the first request does not
        pay.
        """
        info = self._info
        ids = [*(info.decoder_prompt or (0,)), *[0] * 8]
        length = min(len(ids), info.max_length)
        rules = replace(info.rules, begin=1, limit=length)
        self._model.open(0, (0,) if info.max_source else (), rules)
        self._model.forward(Pass(0, 0, ids[:1], rows=1))
        for _ in range(2):
            self._model.forward(Pass(0, 1, ids[:length], rows=1))


def _failed(session: int, epoch: int, seq: int, error: BildError) -> Failed:
    name, text = type(error).__name__, str(error)
    return Failed(session=session, epoch=epoch, seq=seq, error=name, message=text)


def _fault(error: BaseException) -> WorkerFault:
    logging.getLogger(__name__).error("the engine failed", exc_info=error)
    return WorkerFault(f"the engine failed: {type(error).__name__}: {error}")


def _bucket(length: int) -> int:
    """Passes of about the same length: powers of two."""
    return length.bit_length()
