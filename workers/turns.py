"""Whose passes are next: the requests of one worker, their slots, and what each still has to do.

Requests take turns; as many of those whose turn it is as the model can take at once share a batch
(`batcher.py`), needed work before drafts that only run ahead. Commands of one request run in their
order, and a command of a newer epoch removes what is left of the older ones. Everything here is
synchronous; the engine gives it a thread, the simulator a virtual clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from bild_dist.clock import now_ns
from bild_dist.errors import BildError, InvalidRequest, Overloaded, RemoteProtocolError
from bild_dist.kv.slots import SlotPool
from bild_dist.messages import (
    Close,
    Draft,
    Drafted,
    Encode,
    Failed,
    Open,
    Opened,
    Reply,
    Steer,
    Verified,
    Verify,
)
from bild_dist.model.base import Model, Pass
from bild_dist.policy.outlook import Draughtsman
from bild_dist.workers.batcher import Wanted, together
from bild_dist.workers.device import Clock, Device
from bild_dist.workers.jobs import BESIDE_CHUNK, PREFILL_CHUNK, Meter, draft, prefill, verify
from bild_dist.workers.work import Job, Owner, Work, check_open

Command: TypeAlias = Open | Draft | Verify | Steer | Close | Encode
Deliver: TypeAlias = Callable[[Hashable, Reply], None]

WAITING_LIMIT: Final = 1024
"""Requests that may wait for a slot before the next one is refused."""

JOBS_LIMIT: Final = 16
"""Commands of one request that may wait; a proper peer has two or three."""


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
        self._device = Device(model, clock)
        self._pool = SlotPool(slots)
        self._deliver = deliver
        self._clock = clock
        self._work: dict[Owner, Work] = {}
        self._turns: deque[Owner] = deque()
        self._waiting: dict[Owner, Open] = {}

    @property
    def idle(self) -> bool:
        return not self._turns

    @property
    def passes(self) -> int:
        """Passes so far, each batch counted once."""
        return self._device.passes

    @property
    def open_slots(self) -> int:
        return self._pool.open_count

    def readings(self) -> Readings:
        """Safe to call from other threads."""
        return Readings(
            passes=self.passes,
            served=self._device.served,
            fed=self._device.fed,
            spent_ns=self._device.total_ns,
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
        return self._device.busy()

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
            check_open(command, self._info)
        except InvalidRequest as error:
            self._fail(owner.connection, command, error)
            return
        slot = self._pool.take(owner, command.rules)
        slot.epoch, slot.seq = command.epoch, command.seq
        work = self._work[owner] = Work(slot, Meter(self._clock), command.optional)
        opened = Opened(session=command.session, epoch=command.epoch, seq=command.seq)
        slot.answers.append(opened)
        self._deliver(owner.connection, opened)
        steps = prefill(self._model, slot, command, self._room, work.meter)
        work.jobs.append(Job(command, steps))
        self._turns.append(owner)

    def _room(self) -> int:
        """Tokens of a prompt that one pass may feed now."""
        alone = self._device.batching == "single" or len(self._turns) == 1
        return PREFILL_CHUNK if alone else BESIDE_CHUNK

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
        if not work.jobs:
            work.meter.since_ns = self._clock()
        steps = (
            draft(slot, command, work.meter)
            if isinstance(command, Draft)
            else verify(slot, command, work.meter)
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
            work.keep(job for job in work.jobs if isinstance(job.command, Open))
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
        """One batch for the requests whose turn it is: a pass for each, or one encoder for one."""
        order: Sequence[Owner] = self._turns
        if not order:
            return
        first = next((owner for owner in order if self._work[owner].needed), order[0])
        if self._work[first].opening:
            self._encode_source(first)
            return
        if self._device.batching == "single":
            order = [first]
        wanted = {
            owner: task
            for owner in tuple(order)
            if not self._work[owner].opening and (task := self._wanted(owner)) is not None
        }
        line = [
            Wanted(len(task.ids) - task.at, self._work[owner].needed, task.rows == 0)
            for owner, task in wanted.items()
        ]
        owners = tuple(wanted)
        self._serve([owners[number] for number in together(line, self._device.batching)])

    def _encode_source(self, owner: Owner) -> None:
        """Opens the model's slot. An encoder runs for one request at a time, between two batches."""
        work = self._work[owner]
        self._turns.remove(owner)
        work.opening = False
        try:
            next(work.jobs[0].steps)
        except InvalidRequest as error:
            self._drop(owner, work, error)
        else:
            self._turns.append(owner)

    def _wanted(self, owner: Owner) -> Pass | None:
        """The pass that a request needs next; None where it has nothing left to do, or fails."""
        work = self._work[owner]
        while work.jobs:
            job = work.jobs[0]
            if job.asked is not None:
                return job.asked
            try:
                asked = next(job.steps, None)
            except RemoteProtocolError as error:
                self._turns.remove(owner)
                self._drop(owner, work, error)
                return None
            if isinstance(asked, Pass):
                job.asked = asked
            else:
                work.jobs.popleft()
        self._turns.remove(owner)
        return None

    def _serve(self, owners: Sequence[Owner]) -> None:
        """Runs one pass for each of some requests, as one batch."""
        tasks = [task for owner in owners if (task := self._work[owner].jobs[0].asked) is not None]
        if not tasks:
            return
        for owner, found in zip(owners, self._device.run(tasks), strict=True):
            work = self._work[owner]
            job = work.jobs[0]
            work.meter.compute_ns += self._device.spent_ns
            work.meter.passes += 1
            self._turns.remove(owner)
            if isinstance(found, InvalidRequest):
                self._drop(owner, work, found)
                continue
            job.asked = None
            reply = job.steps.send(found)
            if isinstance(reply, Drafted | Verified):
                work.slot.answers.append(reply)
                self._deliver(owner.connection, reply)
                if isinstance(reply, Verified) or reply.final:
                    # At once: what comes until its next turn would count as waiting in here.
                    work.jobs.popleft()
            if work.jobs:
                self._turns.append(owner)

    def _drop(self, owner: Owner, work: Work, error: InvalidRequest | RemoteProtocolError) -> None:
        """Ends all that a request was about to do, because some of it cannot be done."""
        command = work.jobs[0].command
        self._fail(owner.connection, command, error)
        work.keep(())
        if isinstance(command, Open):
            # The model holds nothing for this slot, or what the request before it left there.
            self._close(owner)


def _failed(session: int, epoch: int, seq: int, error: BildError) -> Failed:
    name, text = type(error).__name__, str(error)
    return Failed(session=session, epoch=epoch, seq=seq, error=name, message=text)
