"""What goes into the machine of a request and what comes out of it.

Worker messages travel unchanged inside `FromWorker` and `ToWorker`; the machine numbers them
itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from bild_dist.errors import BildError
from bild_dist.messages import Close, Draft, Drafted, Open, Opened, Steer, Verified, Verify
from bild_dist.types import FinishReason, Role, Source


@dataclass(frozen=True, slots=True)
class FromWorker:
    """A worker's answer. `wire_ns`: what its round trip took beyond the worker's own time; 0 where
    nothing was asked just before. `at_ns`: when it came, on a clock that never goes back.
    """

    role: Role
    reply: Opened | Drafted | Verified
    wire_ns: int = 0
    at_ns: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """A worker is lost, or a command of this request failed on it. `session`: the number that the
    error speaks of; 0 for the request as a whole.
    """

    error: BildError
    session: int = 0


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Nobody wants the text any more, or its time is up. `error` is what the caller is told."""

    error: BildError


Event: TypeAlias = FromWorker | Failed | Cancelled


@dataclass(frozen=True, slots=True)
class ToWorker:
    """Send this to the worker of that role."""

    role: Role
    request: Open | Draft | Verify | Steer | Close


@dataclass(frozen=True, slots=True)
class Token:
    """A committed token: it can no longer change. Fields as in `types.TokenEvent`."""

    position: int
    token: int
    source: Source
    confidence: float | None
    distance: float | None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Emit:
    """Give these tokens out."""

    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """The text is complete (`reason`) or the request failed (`error`). The last command but
    Close.
    """

    reason: FinishReason | None
    error: BildError | None


Command: TypeAlias = ToWorker | Emit | Finish
