"""What stands on a request's line of ids behind its text, and what may end the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from bild_dist.types import Source


class Stops(Protocol):
    """Stop strings, as the machine sees them. Must depend on the tokens alone."""

    def push(self, token: int) -> bool:
        """Takes a committed token; whether it completes a stop string."""
        ...

    def ahead(self, tokens: Sequence[int]) -> int | None:
        """Index of the first of these further tokens that would complete a stop string. Changes
        nothing.
        """
        ...


@dataclass(frozen=True, slots=True)
class Guess:
    """A token on the line that is not text yet, and who decides about its position."""

    token: int
    confidence: float
    owner: Source


@dataclass(frozen=True, slots=True)
class Handover:
    """The position behind the last guess is the large model's: why, and what the small one
    thought.
    """

    source: Source
    confidence: float | None


class Written(NamedTuple):
    """Why the large model's own token stands where it does, and what the small one had there."""

    source: Source
    confidence: float | None
    distance: float | None
