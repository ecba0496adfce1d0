"""The ids of one request: what is text, and the guesses behind it that may become text.

0           begin            sure                                 len(ids)
|  prompt   |   committed    |  guesses: each with its owner      |  free ...
|           |  given out,    |  `small`: checked softly           |
|           |  never changes |  `fallback`, `window`: exactly     |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from math import inf
from typing import NamedTuple, Protocol

from bild_dist.kv.prefix import Prefix
from bild_dist.messages import Outlook, Rules
from bild_dist.policy.outlook import chance
from bild_dist.policy.rules import next_run, owner
from bild_dist.types import Mode, Options, Role, Source


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
    """A token on the line that is not text yet, and who decides about its position. `chance`: that
    it will stand, if all before it do.
    """

    token: int
    confidence: float
    owner: Source
    chance: float
    others: tuple[int, ...] = ()
    """Next best tokens here, where they were asked for."""


class Handover(NamedTuple):
    """The position behind the line is known to be the large model's: why, and what the small one
    thinks of it.
    """

    source: Source
    confidence: float | None = None
    token: int | None = None


class Line:
    """One request's ids. Owned by its machine."""

    def __init__(self, ids: Sequence[int], rules: Rules, options: Options) -> None:
        self.prefix = Prefix(ids)
        self.guesses: list[Guess] = []
        self.run = 0
        """Tokens in a row that the small model has written at the end of the text."""
        self._rules = rules
        self._window = options.window
        self._exact = options.mode is Mode.EXACT
        self._alpha_fb = inf if self._exact else options.alpha_fb
        self._first = options.first
        self._low: Handover | None = None

    def __len__(self) -> int:
        return len(self.prefix)

    @property
    def sure(self) -> int:
        """Length of what can no longer change."""
        return len(self.prefix) - len(self.guesses)

    @property
    def room(self) -> int:
        """Positions behind the line."""
        return self._rules.limit - len(self.prefix)

    @property
    def ended(self) -> bool:
        """Whether the text is over if all guesses stand."""
        last = self.guesses[-1].token if self.guesses else None
        return self.room == 0 or last in self._rules.end_ids

    @property
    def end_run(self) -> int:
        """`run` behind the last guess."""
        run = self.run
        for guess in self.guesses:
            run = next_run(run, guess.owner)
        return run

    @property
    def reach(self) -> float:
        """The chance that all guesses stand."""
        product = 1.0
        for guess in self.guesses:
            product *= guess.chance
        return product

    @property
    def handover(self) -> Handover | None:
        """Set where the position behind the line is known to be the large model's."""
        if self._low is not None:
            return self._low
        if self.ended:
            return None
        if self.end_run == self._window:
            return Handover(Source.WINDOW)
        return Handover(Source.FALLBACK) if self._exact or self.starts_large else None

    @property
    def starts_large(self) -> bool:
        """Whether the position behind the line is the first of the text and the large model's."""
        return len(self.prefix) == self._rules.begin and self._first is Role.LARGE

    def draft(
        self,
        tokens: Sequence[int],
        confidences: Sequence[float],
        outlook: Outlook,
        others: Sequence[int] = (),
    ) -> None:
        """Appends what the small model wrote. `others`: next best tokens, as many for each position
        where it was unsure.
        """
        run = self.end_run
        each = len(others) // max(sum(c < outlook.alpha_fb for c in confidences), 1)
        rest = iter(others)
        for token, confidence in zip(tokens, confidences, strict=True):
            whose = owner(run, self._window, confidence, self._alpha_fb)
            if self.starts_large:
                whose = Source.FALLBACK
            stands = chance(outlook, confidence, whose)
            named = tuple(islice(rest, each)) if confidence < outlook.alpha_fb else ()
            self.guesses.append(Guess(token, confidence, whose, stands, named))
            self.prefix.extend((token,))
            run = next_run(run, whose)

    def declare(self, confidence: float, token: int) -> None:
        """The small model is unsure behind the line, where it would write `token`."""
        self._low = Handover(Source.FALLBACK, confidence, token)

    def commit(self) -> Guess:
        """The first guess becomes text, written by its owner."""
        guess = self.guesses.pop(0)
        self.run = next_run(self.run, guess.owner)
        return guess

    def write(self, token: int, source: Source) -> None:
        """A token of the large model becomes text where the first guess stands; it and all others
        go.
        """
        self.prefix.cut(self.sure)
        self.prefix.extend((token,))
        self.guesses.clear()
        self._low = None
        self.run = next_run(self.run, source)
