"""Log-probabilities on their way from the model that decided a token to whoever asked for them.

ln p is that of section 1's p: the softmax of the raw logits at temperature 1 behind the rules, in
nats, whatever temperature, top-k and top-p a token was drawn with. A position's log-probabilities
are a *row*: ln p of the token, then of the k likeliest ids, best first and of equal ones the lowest
id, where k is what was asked for or the whole vocabulary. On the wire all rows lie one behind the
other, the ids in a tuple of their own.

Whose they are follows from who decides the position. What the small model owns it tells with its
draft; what the large one owns it tells with its check, for its own guesses that stand too. With
policy `rejection` the text is of the large model's law and every token its own.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from math import inf
from typing import NamedTuple

from bild_dist.errors import InvalidRequest, RemoteProtocolError
from bild_dist.messages import Drafted, Rules, Verified
from bild_dist.types import TOP_LOGPROBS


class Logprob(NamedTuple):
    """ln p of a token, nats, and the likeliest ids at its position with theirs, best first."""

    own: float
    top: tuple[tuple[int, float], ...] = ()


def check(rules: Rules) -> None:
    """Raises InvalidRequest where the rules ask for more than is told."""
    if rules.logprobs is not None and not 0 <= rules.logprobs <= TOP_LOGPROBS:
        raise InvalidRequest(f"logprobs = {rules.logprobs} must be from 0 to {TOP_LOGPROBS}")


def size(rules: Rules) -> int:
    """Bytes of one row on the wire, at most; 0 where none is asked for."""
    # A float takes 9 bytes of msgpack; an id, below 2**32, takes 5.
    return 0 if rules.logprobs is None else 9 + 14 * rules.logprobs


def of(logs: Sequence[float], token: int, rules: Rules) -> Logprob:
    """One row of a distribution over all ids. `logs`: ln p of each, nats (-inf where it may not
    stand); the rules ask for a row.
    """
    ids = range(min(len(logs), rules.vocabulary))
    best = heapq.nsmallest(rules.logprobs or 0, ids, key=lambda t: (-logs[t], t))
    # Rounding may leave a certain token a little more than 1.
    return Logprob(min(logs[token], 0.0), tuple((t, min(logs[t], 0.0)) for t in best))


def flat(rows: Iterable[Logprob | None]) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Rows as `logprobs` and `top_ids` of a message. None stands where nothing was asked for."""
    told = [row for row in rows if row is not None]
    if not told:
        return (), ()
    numbers = tuple(p for row in told for p in (row.own, *(p for _, p in row.top)))
    return numbers, tuple(token for row in told for token, _ in row.top)


def rows_of(reply: Drafted | Verified, count: int, rules: Rules) -> list[Logprob | None]:
    """The `count` rows of an answer, with a None for each where the rules ask for none. Ids that may
    not stand are left out of `top`.

    Raises:
        RemoteProtocolError: there are not exactly so many, or they are no log-probabilities.
    """
    if rules.logprobs is None:
        _require(not (reply.logprobs or reply.top_ids), "log-probabilities only where asked for")
        return [None] * count
    width = min(rules.logprobs, rules.vocabulary)
    numbers, ids = reply.logprobs, reply.top_ids
    _require(len(numbers) == count * (1 + width), "one row of log-probabilities a token")
    _require(len(ids) == count * width, "an id for each of the likeliest log-probabilities")
    _require(all(0 <= t < rules.vocabulary for t in ids), "likeliest ids of the vocabulary")
    _require(all(p <= 0 for p in numbers), "log-probabilities of at most 0")  # nan is none
    rows: list[Logprob | None] = []
    for row in range(count):
        own, *best = numbers[row * (1 + width) : (row + 1) * (1 + width)]
        _require(own > -inf, "a token that may stand")
        top = zip(ids[row * width : (row + 1) * width], best, strict=True)
        rows.append(Logprob(own, tuple((t, p) for t, p in top if p > -inf)))
    return rows


def _require(ok: bool, what: str) -> None:
    if not ok:
        raise RemoteProtocolError(f"a worker's answer must have {what}")
