"""What a timeline shows of a request: who was busy when, with which tokens, and what became of
them. Plain data; `timeline.py` rebuilds it and `drawing.py` shows it.

    sent            came      start                    end           back     seen
     |---- wire ----|- queue -|------- compute --------|---- wire ---|- inbox -|

Times are ns of the orchestrator's clock. Position 0 is the first generated token.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from bild_dist.types import Role, Source


class Fate(StrEnum):
    """What became of a drafted token."""

    OPEN = "open"
    """Not known: the recording ends before."""
    STOOD = "stood"
    REPLACED = "replaced"
    """The large model wrote another one there."""
    BEHIND = "behind"
    """It stood behind one that was replaced."""
    OLD = "old"
    """It came after the text before it had changed."""
    END = "end"
    """The text was over before it."""


WASTED: Final = frozenset((Fate.REPLACED, Fate.BEHIND, Fate.OLD, Fate.END))


class Kind(StrEnum):
    """What a worker was busy with."""

    PREFILL = "prefill"
    DRAFT = "draft"
    STOPPED = "stopped"
    """Passes of a draft that was taken back; no answer came of them."""
    CHECK = "check"
    WRITE = "write"
    """A model that writes text alone, unchecked."""


@dataclass(slots=True)
class Cell:
    """A token that a draft brought. Position 0 is the first generated token."""

    position: int
    token: int
    confidence: float
    fate: Fate = Fate.OPEN


@dataclass(frozen=True, slots=True)
class Check:
    """What a check was about: `exact` has one entry for each position from `position` on.

    `token` is what the large model wrote behind the accepted ones, -1 for nothing.
    """

    position: int
    exact: tuple[bool, ...]
    accepted: int
    token: int
    distances: tuple[float, ...]


@dataclass(slots=True, kw_only=True)
class Block:
    """A stretch of time that a worker computed for a request. All times in ns."""

    role: Role
    kind: Kind
    epoch: int
    seq: int
    sent_ns: int
    came_ns: int
    start_ns: int
    end_ns: int
    back_ns: int
    seen_ns: int
    wire_ns: int = 0
    passes: int = 0
    first: bool = False
    """Whether the time may hold the prefill of the prompt too."""
    final: bool = True
    cells: list[Cell] = field(default_factory=list)
    low: tuple[int, float] | None = None
    """The token and the confidence at which a draft handed over."""
    check: Check | None = None


@dataclass(frozen=True, slots=True)
class Chip:
    """A token of the text: when it could no longer change, and by which block."""

    token: int
    source: Source
    confidence: float | None
    distance: float | None
    at_ns: int
    block: int


@dataclass(frozen=True, slots=True)
class Swap:
    """The large model wrote `new` where the small one had drafted `old`. `fell`: tokens behind it
    that fell with it.
    """

    position: int
    old: int
    new: int
    source: Source
    at_ns: int
    block: int
    drafted: int
    """The block that had brought `old`."""
    fell: int


@dataclass(frozen=True, slots=True)
class Wait:
    """The orchestrator had nothing to do but wait for these workers."""

    from_ns: int
    to_ns: int
    roles: tuple[Role, ...]


@dataclass(slots=True)
class Story:
    """One request. `end`: why its text is over, or the error; empty where the recording was cut."""

    session: int
    from_ns: int
    to_ns: int
    prompt: tuple[int, ...] = ()
    failed: bool = False
    end: str = ""
    blocks: list[Block] = field(default_factory=list)
    chips: list[Chip] = field(default_factory=list)
    swaps: list[Swap] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    roles: list[Role] = field(default_factory=list)

    def busy_ns(self, role: Role) -> int:
        """Time that a worker computed for this request."""
        return sum(b.end_ns - b.start_ns for b in self.blocks if b.role is role)

    def passes(self, role: Role) -> int:
        return sum(b.passes for b in self.blocks if b.role is role)

    def waited_ns(self, *roles: Role) -> int:
        """Time spent waiting for exactly these workers."""
        return sum(w.to_ns - w.from_ns for w in self.waits if set(w.roles) == set(roles))

    def guesses(self) -> list[Cell]:
        """What the small model proposed to the large one."""
        return [c for b in self.blocks if b.kind is Kind.DRAFT for c in b.cells]
