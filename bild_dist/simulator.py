"""The whole system on a virtual clock: real machines, real turns of the workers, scripted models.

What a worker does is `workers/turns.py` and `workers/jobs.py`, what a request decides is
`policy/machine.py`; only time is made up. A pass lasts as long as `Costs` says, a message travels
half a round trip, and every run with the same seed is the same run. So schedules can be priced, and
any order of events can be brought about.
"""

from __future__ import annotations

import dataclasses
import heapq
import random
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import exp

from bild_dist.errors import BildError, InvalidRequest, revive
from bild_dist.messages import (
    Draft,
    Drafted,
    Failed,
    Open,
    Opened,
    Reply,
    Rules,
    Verified,
    Verify,
)
from bild_dist.model.scripted import END, VOCABULARY, Script, ScriptedModel
from bild_dist.model.scripted import Rates as Rates
from bild_dist.policy import events
from bild_dist.policy.forecast import Costs as Measured
from bild_dist.policy.forecast import Forecast
from bild_dist.policy.line import Stops
from bild_dist.policy.machine import Machine
from bild_dist.types import Options, Role, Source, Trace
from bild_dist.workers.turns import Command, Turns


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """How long things take, ns. A pass over n tokens takes base + n * `_token_ns`.

    `small_trip_ns`, `large_trip_ns`: a message there and its answer back, without the work between.
    `colocated`: both models share one device, so their passes exclude each other. `batching`: which
    requests share a pass, as in `messages.Info`; n counts the tokens of all of them.
    """

    small_ns: int
    large_ns: int
    small_token_ns: int = 0
    large_token_ns: int = 0
    small_trip_ns: int = 0
    large_trip_ns: int = 0
    colocated: bool = False
    batching: str = "single"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a simulation cost in all: tokens of text, virtual ns, sums of the requests' traces."""

    tokens: int
    wall_ns: int
    trace: Trace


@dataclass(slots=True)
class Outcome:
    """One request. Filled in by the world that runs it."""

    machine: Machine
    finish: events.Finish | None = None
    given: list[events.Token] = dataclasses.field(default_factory=list)
    started_ns: int = 0
    first_ns: int = 0
    ended_ns: int = 0

    @property
    def tokens(self) -> list[int]:
        return [token.token for token in self.given]

    @property
    def sources(self) -> list[Source]:
        return [token.source for token in self.given]


def simulate(
    costs: Costs,
    rates: Rates,
    options: Options,
    *,
    requests: int,
    length: int,
    concurrency: int = 1,
    seed: int = 0,
) -> Report:
    """Decodes `requests` texts of at most `length` tokens, `concurrency` at a time."""
    world = World(costs, rates, seed=seed, slots=concurrency * options.branches)
    waiting = list(range(requests))
    options = dataclasses.replace(options, max_new_tokens=length)
    forecast = Forecast(world.measured, options)

    def start() -> None:
        if waiting:
            world.request(prompt(waiting.pop(0)), options, forecast, done=start)

    for _ in range(concurrency):
        start()
    world.run()
    trace = Trace()
    for outcome in world.outcomes:
        for field in dataclasses.fields(Trace):
            total = getattr(trace, field.name) + getattr(outcome.machine.books.trace, field.name)
            setattr(trace, field.name, total)
    trace.wall_ns = world.now_ns
    trace.first_token_ns = sum(o.first_ns - o.started_ns for o in world.outcomes)
    trace.draft_ns, trace.verify_ns = world.computed(Role.SMALL), world.computed(Role.LARGE)
    tokens = sum(len(outcome.given) for outcome in world.outcomes)
    return Report(tokens=tokens, wall_ns=world.now_ns, trace=trace)


def prompt(number: int) -> list[int]:
    """A prompt of its own for each of 12,167 numbers."""
    base = VOCABULARY - 1
    return [1 + number % base, 1 + number // base % base, 1 + number // base**2 % base]


class World:
    """A virtual clock, two workers and the requests between them. Owns all of it.

    `shake` > 0 stretches or shrinks every time at random by a factor of up to e^shake, which brings
    events into any order; messages of one connection keep theirs.
    """

    def __init__(
        self,
        costs: Costs,
        rates: Rates,
        *,
        seed: int = 0,
        slots: int = 1,
        shake: float = 0.0,
        record: Callable[[int, int, events.Event | events.Command], None] | None = None,
    ) -> None:
        self.now_ns = 0
        self.measured = Measured()
        self.outcomes: list[Outcome] = []
        self.script = Script(rates, seed)
        self._random = random.Random(seed)
        self._shake = shake
        self._record = record
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._numbers = 0
        small = _Worker(self, Role.SMALL, self.script, slots,
                        costs.small_ns, costs.small_token_ns, costs.small_trip_ns, costs.batching)  # fmt: skip
        large = _Worker(self, Role.LARGE, self.script, slots,
                        costs.large_ns, costs.large_token_ns, costs.large_trip_ns, costs.batching)  # fmt: skip
        self._workers = {Role.SMALL: small, Role.LARGE: large}
        if costs.colocated:
            small.neighbour, large.neighbour = large, small

    def request(
        self,
        ids: Sequence[int],
        options: Options,
        forecast: Forecast | None = None,
        *,
        stops: Stops | None = None,
        cancel_ns: int | None = None,
        done: Callable[[], None] = lambda: None,
    ) -> Outcome:
        """Starts a text now; `done` is called when it has ended. `cancel_ns`: gives up after that."""
        begin = len(ids)
        rules = Rules(vocabulary=VOCABULARY, begin=begin, limit=begin + options.max_new_tokens,
                      end_ids=(END,))  # fmt: skip
        number = self._numbers + 1
        self._numbers += options.branches
        machine = Machine(number, ids, (), rules, options, stops, forecast)
        outcome = Outcome(machine, started_ns=self.now_ns)
        self.outcomes.append(outcome)
        request = _Request(self, number, outcome, done)
        for role, worker in self._workers.items():
            for session in machine.sessions:
                worker.sinks[session] = request.sink(role, session)
        self.after(0, request.start)
        if cancel_ns is not None:
            error = InvalidRequest("cancelled")
            self.after(cancel_ns, lambda: request.handle(events.Cancelled(error)))
        return outcome

    def fail(self, role: Role, error: BildError) -> None:
        """The worker of that role is lost; every request on it hears of it, and it says no more."""
        self._workers[role].lose(error)

    def run(self) -> None:
        """Lets time pass until nothing is left to happen."""
        while self._heap:
            self.now_ns, _, call = heapq.heappop(self._heap)
            call()

    def computed(self, role: Role) -> int:
        """Time that a worker has spent in passes, ns."""
        return self._workers[role].computed_ns

    def open_slots(self) -> int:
        """Slots that both workers have given out and not got back."""
        return sum(worker.turns.open_slots for worker in self._workers.values())

    # For what lives in this world.

    def after(self, delay_ns: int, call: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (self.now_ns + delay_ns, self._count, call))

    def shaken(self, time_ns: int) -> int:
        if self._shake == 0 or time_ns == 0:
            return time_ns
        return int(time_ns * exp(self._random.uniform(-self._shake, self._shake))) + 1

    def send(self, role: Role, command: Command) -> None:
        self._workers[role].post(command)

    def note(self, number: int, what: events.Event | events.Command) -> None:
        if self._record is not None:
            self._record(number, self.now_ns, what)


class _Request:
    """What `orchestrator/session.py` is to a real request. Owned by its world."""

    def __init__(
        self, world: World, number: int, outcome: Outcome, done: Callable[[], None]
    ) -> None:
        self._world = world
        self._number = number
        self._outcome = outcome
        self._done = done
        self._sent_ns: dict[tuple[Role, int, int], int] = {}

    def start(self) -> None:
        self._carry_out(self._outcome.machine.start())

    def sink(self, role: Role, number: int) -> Callable[[Reply | BildError], None]:
        def sink(reply: Reply | BildError) -> None:
            if isinstance(reply, BildError):
                self.handle(events.Failed(reply, number))
            elif isinstance(reply, Opened | Drafted | Verified):
                self.handle(
                    events.FromWorker(role, reply, self._wire_ns(role, reply), self._world.now_ns)
                )
            elif isinstance(reply, Failed):
                self.handle(events.Failed(revive(reply.error, reply.message), number))

        return sink

    def handle(self, event: events.Event) -> None:
        if self._outcome.finish is None:
            self._world.note(self._number, event)
            self._carry_out(self._outcome.machine.handle(event))

    def _wire_ns(self, role: Role, reply: Opened | Drafted | Verified) -> int:
        sent_ns = self._sent_ns.pop((role, reply.session, reply.seq), None)
        if sent_ns is None or isinstance(reply, Opened):
            return 0
        return max(0, self._world.now_ns - sent_ns - reply.queue_ns - reply.compute_ns)

    def _carry_out(self, commands: list[events.Command]) -> None:
        world, outcome = self._world, self._outcome
        for command in commands:
            world.note(self._number, command)
            if isinstance(command, events.ToWorker):
                request = command.request
                if isinstance(request, Open | Draft | Verify):
                    key = command.role, request.session, request.seq
                    self._sent_ns[key] = world.now_ns
                world.send(command.role, request)
            elif isinstance(command, events.Emit):
                outcome.first_ns = outcome.first_ns or world.now_ns
                outcome.given.extend(command.tokens)
            else:
                outcome.finish, outcome.ended_ns = command, world.now_ns
                self._done()


class _Worker:
    """A worker process and its connection. Owned by its world."""

    def __init__(
        self, world: World, role: Role, script: Script, slots: int,
        base_ns: int, token_ns: int, trip_ns: int, batching: str,
    ) -> None:  # fmt: skip
        self.sinks: dict[int, Callable[[Reply | BildError], None]] = {}
        self.neighbour: _Worker | None = None
        self.computed_ns = 0
        self._world = world
        self._trip_ns = trip_ns
        self._cost = base_ns, token_ns
        self._inbox: deque[Command] = deque()
        self._outbox: list[Reply] = []
        self._busy = False
        self._lost = False
        self._clock_ns = 0
        self._heard_ns = [0, 0]
        model = ScriptedModel(role, script, self._spend, batching)
        model.allocate(slots)
        self.turns = Turns(model, slots, self._deliver, lambda: self._clock_ns)

    def post(self, command: Command) -> None:
        """The orchestrator sends; it arrives half a round trip later."""
        self._travel(0, lambda: self._arrive(command))

    def lose(self, error: BildError) -> None:
        self._lost = True
        for sink in list(self.sinks.values()):
            self._world.after(0, lambda sink=sink: sink(error))  # type: ignore[misc]

    def _travel(self, way: int, call: Callable[[], None]) -> None:
        world = self._world
        arrives_ns = world.now_ns + world.shaken(self._trip_ns // 2)
        # Messages of one connection arrive in the order in which they were sent.
        self._heard_ns[way] = max(arrives_ns, self._heard_ns[way])
        world.after(self._heard_ns[way] - world.now_ns, call)

    def _arrive(self, command: Command) -> None:
        if not self._lost:
            self._inbox.append(command)
            self._go()

    def _go(self) -> None:
        """Takes what has arrived and starts the next pass, if there is one and the device is
        free.
        """
        while not (self._busy or self._lost or (self.neighbour and self.neighbour._busy)):
            self._clock_ns = self._world.now_ns
            while self._inbox:
                self.turns.take(self, self._inbox.popleft())
            if not self.turns.idle:
                self.turns.step()
            spent_ns = self._clock_ns - self._world.now_ns
            if spent_ns > 0:
                self._busy = True
                self.computed_ns += spent_ns
                self._world.after(spent_ns, self._finished)
                return
            self._flush()
            if self.turns.idle:
                return

    def _finished(self) -> None:
        self._busy = False
        self._flush()
        # On a shared device a check goes first: everything waits for it.
        for worker in (self.neighbour, self):
            if worker is not None:
                worker._go()

    def _flush(self) -> None:
        for reply in self._outbox:
            if not self._lost:
                self._travel(1, lambda reply=reply: self._hand_over(reply))  # type: ignore[misc]
        self._outbox.clear()

    def _hand_over(self, reply: Reply) -> None:
        session = reply.session if isinstance(reply, Opened | Drafted | Verified | Failed) else 0
        if session in self.sinks and not self._lost:
            self.sinks[session](reply)

    def _deliver(self, connection: Hashable, reply: Reply) -> None:
        self._outbox.append(reply)

    def _spend(self, fed: int) -> None:
        base_ns, token_ns = self._cost
        self._clock_ns += self._world.shaken(base_ns + fed * token_ns)
