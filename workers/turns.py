"""Whose pass is next: the requests of one worker, their slots, and what each still has to do.

Requests take turns pass by pass, those whose draft only runs ahead behind all others; commands of
one request run in their order, and a command of a newer epoch removes what is left of the older
ones. Everything here is synchronous; the engine gives it a thread, the simulator a virtual clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any, Final, TypeAlias

from bild_dist import logprobs, shares
from bild_dist.clock import now_ns
from bild_dist.errors import BildError, InvalidRequest, Overloaded, RemoteProtocolError
from bild_dist.kv.slots import Slot, SlotPool
from bild_dist.messages import (
    Close,
    Draft,
    Encode,
    Failed,
    Open,
    Opened,
    Reply,
    Steer,
    Verify,
)
from bild_dist.model.base import Choice, Model, Pass
from bild_dist.policy.outlook import Draughtsman
from bild_dist.workers.jobs import Meter, Steps, draft, prefill, verify

Command: TypeAlias = Open | Draft | Verify | Steer | Close | Encode
Deliver: TypeAlias = Callable[[Hashable, Reply], None]
Clock: TypeAlias = Callable[[], int]

WAITING_LIMIT: Final = 1024
"""Requests that may wait for a slot before the next one is refused."""

JOBS_LIMIT: Final = 16
"""Commands of one request that may wait; a proper peer has two or three."""

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
    meter: Meter
    optional: bool
    """Whether its slot may be taken back for a request that needs one."""
    jobs: deque[Job] = field(default_factory=deque)

    @property
    def needed(self) -> bool:
        """Whether somebody waits for what it does next."""
        return self.slot.needed or not isinstance(self.jobs[0].command, Draft)


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What an engine has done so far, and what it holds now. Counts only grow.

    `served` are the requests in those passes, one for each pass that they had part in; `fed` the
    tokens. `spent_ns` is the time of the passes, not that of their requests.
    """

    passes: int = 0
    served: int = 0
    fed: int = 0
    spent_ns: int = 0
    open_slots: int = 0
    waiting: int = 0
    kv_tokens: int = 0


class Turns:
    """All requests of one model. Owned by the engine thread.

    `deliver(connection, reply)` must only pass on. `clock` gives ns.
    """

    def __init__(self, model: Model, slots: int, deliver: Deliver, clock: Clock = now_ns) -> None:
        self._model = model
        self._info = model.info
        self._pool = SlotPool(slots)
        self._deliver = deliver
        self._clock = clock
        self._work: dict[Owner, Work] = {}
        self._turns: deque[Owner] = deque()
        self._waiting: dict[Owner, Open] = {}
        self._started_ns = 0
        self._length = 0
        self._usual_ns: dict[int, int] = {}
        self.passes = 0
        """Passes so far."""
        self._fed = 0
        self._spent_ns = 0

    @property
    def idle(self) -> bool:
        return not self._turns

    @property
    def open_slots(self) -> int:
        return self._pool.open_count

    def readings(self) -> Readings:
        """Safe to call from other threads."""
        return Readings(
            passes=self.passes,
            served=self.passes,
            fed=self._fed,
            spent_ns=self._spent_ns,
            open_slots=self._pool.open_count,
            waiting=len(self._waiting),
            kv_tokens=self._pool.held,
        )

    def check(self) -> None:
        """Raises RuntimeError if the slots' books do not balance."""
        self._pool.check()

    def busy(self) -> tuple[int, int]:
        """How long the present pass has run, and how long its like usually take; 0 for nothing or
        unknown. Safe to read from other threads.
        """
        started = self._started_ns
        if started == 0:
            return 0, 0
        return self._clock() - started, self._usual_ns.get(_bucket(self._length), 0)

    def take(self, connection: Hashable, command: Command) -> None:
        """A command has arrived."""
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
            return
        if not (command.optional or self._pool.has_room):
            self._evict()
        if self._pool.has_room:
            self._grant(owner, command)
        elif command.optional:
            self._fail(owner.connection, command, Overloaded("no slot is free for a second guess"))
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
        work = self._work[owner] = Work(slot, Meter(self._clock), command.optional)
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
        if not 0 < rules.repetition_penalty < inf:
            raise InvalidRequest(
                f"repetition_penalty = {rules.repetition_penalty} must be a number above 0"
            )
        shares.check(rules)
        logprobs.check(rules)
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
        if len(work.jobs) >= JOBS_LIMIT:
            error = RemoteProtocolError("too many commands of one request wait")
            self._fail(owner.connection, command, error)
            return
        if command.seq <= slot.seq:
            self._repeat(owner, work, command)
            return
        self._renew(owner, work, command.epoch)
        slot.seq = command.seq
        slot.needed = not isinstance(command, Draft) or Draughtsman(command.outlook).needed
        slot.answers.clear()
        run = partial(self._run, work)
        if not work.jobs:
            work.meter.since_ns = self._clock()
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

    def _evict(self) -> None:
        """Takes back a slot that was only lent."""
        lent = next((owner for owner, work in self._work.items() if work.optional), None)
        if lent is not None:
            self._close(lent)

    def forget(self, connection: Hashable) -> None:
        """Frees every slot of a connection that has ended."""
        for owner in [*self._waiting, *self._work]:
            if owner.connection == connection:
                self._close(owner)

    def _fail(self, connection: Hashable, command: Open | Draft | Verify, error: BildError) -> None:
        self._deliver(connection, _failed(command.session, command.epoch, command.seq, error))

    def step(self) -> None:
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
            self._fail(owner.connection, job.command, error)
            work.jobs.clear()
            if isinstance(job.command, Open):
                # The model holds nothing for this slot, or what the request before it left there.
                self._close(owner)
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
        self._length, self._started_ns = length, self._clock()
        try:
            choices = self._model.forward(task)
            spent_ns = self._clock() - self._started_ns
        finally:
            self._started_ns = 0
        self.passes += 1
        self._fed += length
        self._spent_ns += spent_ns
        usual_ns = self._usual_ns.get(_bucket(length), spent_ns)
        self._usual_ns[_bucket(length)] = usual_ns + (spent_ns - usual_ns) // 8
        work.meter.compute_ns += spent_ns
        work.meter.passes += 1
        return choices


def _failed(session: int, epoch: int, seq: int, error: BildError) -> Failed:
    name, text = type(error).__name__, str(error)
    return Failed(session=session, epoch=epoch, seq=seq, error=name, message=text)


def _bucket(length: int) -> int:
    """Passes of about the same length: powers of two."""
    return length.bit_length()
