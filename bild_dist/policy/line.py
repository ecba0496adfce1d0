"""The ids of one request: what is text, and the guesses behind it that may become text.

0           begin            sure                                 len(ids)
|  prompt   |   committed    |  guesses: each with its owner      |  free ...
|           |  given out,    |  `small`: checked softly           |
|           |  never changes |  `fallback`, `window`: exactly     |
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple, Protocol

from bild_dist.kv.prefix import Prefix
from bild_dist.logprobs import Logprob
from bild_dist.logprobs import rows_of as logprobs_of
from bild_dist.messages import Draft, Drafted, Outlook, Rules
from bild_dist.policy.outlook import chance
from bild_dist.policy.rules import Ruler
from bild_dist.shares import rows_of
from bild_dist.types import Mode, Options, Policy, Role, Source


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


class Guess(NamedTuple):
    """A token on the line that is not text yet, and who decides about its position. `chance`: that
    it will stand, if all before it do.
    """

    token: int
    confidence: float
    owner: Source
    chance: float
    ruler: Ruler
    """Whose the next position is."""
    shares: bytes = b""
    """The small model's row of probabilities here, where the large worker needs it."""
    others: tuple[int, ...] = ()
    """Next best tokens here, where they were asked for."""
    logprob: Logprob | None = None
    """Of the small model, where it was asked for."""


class Handover(NamedTuple):
    """The position behind the line is known to be the large model's: why, and what the small one
    thinks of it.
    """

    source: Source
    confidence: float | None = None
    token: int | None = None


class Line:
    """One request's ids. Owned by its machine. `rules`: as the small model was told them."""

    def __init__(self, ids: Sequence[int], rules: Rules, options: Options) -> None:
        self.prefix = Prefix(ids)
        self.guesses: list[Guess] = []
        self._ruler = Ruler.start(options)
        """Whose the position behind the text is."""
        self._rules = rules
        self._exact = options.mode is Mode.EXACT
        self._rejects = options.policy is Policy.REJECTION
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
    def ruler(self) -> Ruler:
        """Whose the position behind the line is."""
        ruler = self.guesses[-1].ruler if self.guesses else self._ruler
        # A first position of the large model is as one behind a full window: known beforehand.
        return ruler._replace(run=ruler.window) if self.starts_large else ruler

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
        if self.starts_large:
            return Handover(Source.FALLBACK)
        ruler = self.ruler
        if ruler.run == ruler.window:
            return Handover(Source.WINDOW)
        return Handover(Source.FALLBACK) if self._exact else None

    @property
    def starts_large(self) -> bool:
        """Whether the position behind the line is the first of the text and the large model's."""
        return len(self.prefix) == self._rules.begin and self._first is Role.LARGE

    def draft(self, asked: Draft, reply: Drafted) -> None:
        """Appends what the small model wrote."""
        count = len(reply.tokens)
        rows, told = rows_of(reply.shares, count), logprobs_of(reply, count, self._rules)
        self.guess(
            reply.tokens, reply.confidences, asked.outlook, rows, told, reply.others, asked.others
        )

    def guess(
        self,
        tokens: Sequence[int],
        confidences: Sequence[float],
        outlook: Outlook,
        shares: Sequence[bytes],
        logprobs: Sequence[Logprob | None],
        others: Sequence[int] = (),
        each: int = 0,
    ) -> None:
        """Appends tokens of the small model. `shares`: its rows of probabilities, one a token, or
        empty ones. `logprobs`: its row of those for each token, or None. `others`: the next best
        tokens, `each` for every position where it was unsure.
        """
        rest = iter(others)
        first = self.starts_large
        walk = self.ruler.along(confidences)
        told = zip(tokens, confidences, shares, logprobs, walk, strict=True)
        for token, confidence, row, logprob, (unsure, whose, behind) in told:
            if first:
                whose, first = Source.FALLBACK, False
            stands = chance(outlook, confidence, whose)
            named = tuple(islice(rest, each)) if each and unsure else ()
            self.guesses.append(
                Guess(token, confidence, whose, stands, behind, row, named, logprob)
            )
        self.prefix.extend(tokens)

    def declare(self, confidence: float, token: int) -> None:
        """The small model is unsure behind the line, where it would write `token`."""
        self._low = Handover(Source.FALLBACK, confidence, token)

    def exact(self, count: int) -> tuple[bool, ...]:
        """Of the first `count` guesses, which stand only as the large model's own."""
        return tuple(self._rejects or g.owner is not Source.SMALL for g in self.guesses[:count])

    def shares(self, count: int) -> bytes:
        """The small model's probabilities at the first `count` guesses."""
        return b"".join(guess.shares for guess in self.guesses[:count])

    def commit(self) -> Guess:
        """The first guess becomes text, written by its owner."""
        guess = self.guesses.pop(0)
        self._ruler = guess.ruler
        return guess

    def write(self, token: int, source: Source, confidence: float | None = None) -> None:
        """A token of the large model becomes text where the first guess stands; it and all others
        go. `confidence`: of the small model there, where it was asked.
        """
        first = self.sure == self._rules.begin and self._first is Role.LARGE
        self._ruler = self._ruler.after(source, None if first else confidence)
        self.prefix.cut(self.sure)
        self.prefix.extend((token,))
        self.guesses.clear()
        self._low = None
