"""What a worker's answer must satisfy before the machine believes it.

Each check raises RemoteProtocolError and changes nothing. The meaning of the fields is in
`messages.py`.
"""

from __future__ import annotations

from typing import Protocol

from bild_dist.errors import RemoteProtocolError
from bild_dist.kv.prefix import Prefix
from bild_dist.logprobs import Logprob, rows_of
from bild_dist.messages import Draft, Drafted, Rules, Verified, Verify
from bild_dist.policy.rules import Ruler
from bild_dist.shares import bounds, needed


class Place(Protocol):
    """Where a draft goes on: the ids so far, all earlier pieces of it among them, and whose the next
    position is.
    """

    @property
    def prefix(self) -> Prefix: ...

    @property
    def ruler(self) -> Ruler: ...


def check_drafted(asked: Draft, reply: Drafted, place: Place, rules: Rules) -> None:
    """A piece of a draft."""
    fed = asked.at + len(asked.tokens)
    written = len(place.prefix) - fed + len(reply.tokens)
    ended = bool(reply.tokens) and reply.tokens[-1] in rules.end_ids
    ruler, unsure = place.ruler, 0
    # Most answers need no walk.
    if asked.others or reply.low:
        for doubt, _, behind in place.ruler.along(reply.confidences):
            unsure += doubt
            ruler = behind
    low = reply.low and asked.stops and ruler.low(reply.low_confidence)
    _require(len(reply.tokens) == len(reply.confidences), "as many confidences as tokens")
    _require(written <= asked.limit, "no more tokens than asked for")
    _require(all(0 <= t < rules.vocabulary for t in reply.tokens), "tokens of the vocabulary")
    _require(all(_is_chance(c) for c in reply.confidences), "probabilities as confidences")
    _require(reply.low == low, "a low position only below the threshold")
    _require(not low or _is_chance(reply.low_confidence), "a probability as low confidence")
    _require(
        not low or 0 <= reply.low_token < rules.vocabulary,
        "a token of the vocabulary at a low position",
    )
    _require(
        all(0 <= t < rules.vocabulary for t in reply.others), "other candidates of the vocabulary"
    )
    _require(len(reply.others) == asked.others * unsure, "the other candidates that were asked for")
    _require(not any(t in rules.end_ids for t in reply.tokens[:-1]), "nothing behind an end token")
    _require(asked.at <= reply.length <= fed + written, "a length that its tokens explain")
    _require(reply.passes >= 0, "a count of passes")
    reason = ended or low or written == asked.limit
    # Where its outlook may end a draft, the worker's arithmetic is taken on trust.
    _require(reply.final == reason or (reply.final and asked.outlook.floor > 0),
             "its end exactly where there is a reason for one")  # fmt: skip
    bounds(reply.shares, len(reply.tokens) if needed(rules) else 0)
    rows_of(reply, len(reply.tokens), rules)


def check_verified(asked: Verify, reply: Verified, rules: Rules) -> None:
    """The answer to one check."""
    count = len(asked.exact)
    fed = asked.at + len(asked.tokens)
    writes = asked.bonus or reply.accepted < count
    known = 0 <= reply.token < rules.vocabulary
    _require(0 <= reply.accepted <= count, "no more accepted tokens than checked ones")
    _require(len(reply.distances) == min(reply.accepted + 1, count), "a distance per checked token")
    _require(known if writes else reply.token == -1, "a token exactly where one is due")
    _require(
        asked.at <= reply.length <= fed - count + reply.accepted, "a length within what it accepted"
    )
    _require(reply.passes >= 0, "a count of passes")
    verified_rows(asked, reply, rules)


def verified_rows(asked: Verify, reply: Verified, rules: Rules) -> list[Logprob | None]:
    """The log-probabilities that a check tells: of each accepted token that the large model decides,
    then of the one that it writes.
    """
    count = reply.accepted + 1
    if rules.logprobs is not None:
        writes = asked.bonus or reply.accepted < len(asked.exact)
        count = sum(asked.exact[: reply.accepted]) + writes
    return rows_of(reply, count, rules)


def _is_chance(value: float) -> bool:
    """Whether this is a probability, give or take its rounding; nan is none."""
    return 0 <= value <= 1 + 1e-3


def _require(ok: bool, what: str) -> None:
    if not ok:
        raise RemoteProtocolError(f"a worker's answer must have {what}")
