"""One request between two workers, every order of events open to whoever plays it.

At each moment some things can happen next: a message arrives at a worker, a worker runs one pass, a
reply arrives at the machine. `Board` lists them and does the one that is chosen; `every_order` does
them all, one order after the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from bild_dist.messages import Close, Draft, Drafted, Open, Opened, Reply, Steer, Verified, Verify
from bild_dist.model.scripted import Script, ScriptedModel
from bild_dist.policy.events import Emit, Finish, FromWorker, Token, ToWorker
from bild_dist.policy.machine import Machine
from bild_dist.types import Role
from bild_dist.workers.turns import Turns

Move: TypeAlias = tuple[str, Role]


@dataclass
class Side:
    """A worker with its two queues."""

    turns: Turns
    to: deque[Open | Draft | Verify | Steer | Close] = field(default_factory=deque)
    back: deque[Reply] = field(default_factory=deque)


class Board:
    """The state of play."""

    def __init__(self, machine: Machine, script: Script) -> None:
        self.machine = machine
        self.given: list[Token] = []
        self.finish: Finish | None = None
        self.sides: dict[Role, Side] = {}
        for role in Role:
            model = ScriptedModel(role, script, lambda fed: None)
            model.allocate(1)
            back: deque[Reply] = deque()
            turns = Turns(model, 1, partial(_put, back), lambda: 0)
            self.sides[role] = Side(turns, back=back)
        self._carry_out(machine.start())

    def moves(self) -> list[Move]:
        """What can happen next."""
        found = []
        for role, side in self.sides.items():
            if side.to:
                found.append(("take", role))
            if not side.turns.idle:
                found.append(("step", role))
            if side.back and self.finish is None:
                found.append(("hear", role))
        return found

    def do(self, move: Move) -> None:
        what, role = move
        side = self.sides[role]
        if what == "take":
            side.turns.take("orchestrator", side.to.popleft())
        elif what == "step":
            side.turns.step()
        else:
            reply = side.back.popleft()
            if not isinstance(reply, Opened | Drafted | Verified):
                raise AssertionError(f"a worker complains: {reply}")
            self._carry_out(self.machine.handle(FromWorker(role, reply)))

    def _carry_out(self, commands: Sequence[object]) -> None:
        for command in commands:
            if isinstance(command, ToWorker):
                self.sides[command.role].to.append(command.request)
            elif isinstance(command, Emit):
                self.given += command.tokens
            elif isinstance(command, Finish):
                self.finish = command


def _put(back: deque[Reply], connection: Hashable, reply: Reply) -> None:
    back.append(reply)


@dataclass
class _Fork:
    """One moment of a play: what could happen, what need not be tried, and what is being tried."""

    moves: list[Move]
    asleep: set[Move]
    tried: list[Move] = field(default_factory=list)

    def left(self) -> list[Move]:
        return [m for m in self.moves if m not in self.asleep and m not in self.tried]

    def child_asleep(self) -> set[Move]:
        now = self.tried[-1]
        return {m for m in {*self.asleep, *self.tried[:-1]} if _apart(m, now)}


def every_order(make: Callable[[], Board]) -> Iterator[Board]:
    """Plays the same request to its end in each order in which its events can happen.

    Orders that differ only in the order of events that do not touch each other (a pass of one
    worker, a message to the other) are the same play, and each play comes once: sleep sets
    (Godefroid 1996).
    """
    path: list[_Fork] = []
    while True:
        board = make()
        for fork in path:
            board.do(fork.tried[-1])
        asleep = path[-1].child_asleep() if path else set()
        while moves := board.moves():
            fork = _Fork(moves, asleep)
            path.append(fork)
            if not fork.left():
                break
            fork.tried.append(fork.left()[0])
            board.do(fork.tried[-1])
            asleep = fork.child_asleep()
        else:
            yield board
        while path and not path[-1].left():
            path.pop()
        if not path:
            return
        path[-1].tried.append(path[-1].left()[0])


def _apart(one: Move, other: Move) -> bool:
    """Whether two moves can change places: they belong to different ones of the three parties."""
    return _party(one) != _party(other)


def _party(move: Move) -> object:
    what, role = move
    return "machine" if what == "hear" else role
