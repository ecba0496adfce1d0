"""A next-token distribution on its way from one worker to the other, and what is measured of two.

Most rules look at one number of a distribution, and only that crosses the wire. The others compare
p_L with p_S, so the small worker's distribution at each drafted token goes along as a *row*:

- for a distance, the 64 likeliest tokens with their probabilities; what they leave is one lump. Over
  such cells `kl`, `js` and `tv` are never more than over the whole vocabulary; `l2` may be. 520
  bytes a token.
- for rejection, everything that could be drawn: the support that top-k and top-p leave, 8 bytes an
  id, or, where that is most of the vocabulary, a float32 for every id (128 KB a token for T5).

A row is little-endian: how many entries (uint32), whether ids are left out because they are 0, 1,
2, ... (uint32, 0 or 1), the ids (int32 each), the probabilities (float32 each).
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import exp, inf, log, sqrt
from typing import Final

from bild_dist.errors import InvalidRequest, RemoteProtocolError
from bild_dist.messages import Rules
from bild_dist.types import Confidence, Distance

SKETCH: Final = 64
"""Tokens that a distance looks at one by one."""

_HEAD: Final = struct.Struct("<II")
_SWAP: Final = sys.byteorder == "big"
_PLAIN: Final = bytes(range(0x40))


@dataclass(frozen=True, slots=True)
class Shares:
    """Ids and their probabilities, most likely first where ids are named. Can be a key.

    The probabilities stay as they came: a Python number for each id of a large vocabulary takes
    milliseconds every time that they are copied.
    """

    row: bytes
    ids: Sequence[int] = field(compare=False)
    values: array[float] = field(compare=False)

    def of(self, token: int) -> float:
        """The probability of an id; of one that is not here, 0."""
        return self.values[self.ids.index(token)] if token in self.ids else 0.0


def check(rules: Rules) -> None:
    """Raises InvalidRequest where the rules name a measure that there is none."""
    for kind, name in ((Confidence, rules.confidence), (Distance, rules.distance)):
        if name not in [member.value for member in kind]:
            raise InvalidRequest(f"{kind.__name__.lower()} = {name!r}: this worker knows none such")


def needed(rules: Rules) -> bool:
    """Whether the other worker must see the distribution at a token to judge it."""
    return rules.distance != Distance.CE or drawn(rules)


def drawn(rules: Rules) -> bool:
    """Whether tokens are rejected by chance. Where nothing is drawn a token stands if it is the
    same, and no distribution is needed.
    """
    return rules.rejection and rules.temperature > 0


def size(count: int, *, dense: bool) -> int:
    """Bytes of a row with so many entries."""
    return _HEAD.size + count * (4 if dense else 8)


def longest(rules: Rules) -> int:
    """Bytes of the longest row that these rules ask for; 0 where they ask for none."""
    width = rules.vocabulary
    if drawn(rules):
        support = min(rules.top_k or width, width)
        return min(size(support, dense=False), size(width, dense=True))
    return size(min(SKETCH, width), dense=False) if needed(rules) else 0


def pack(values: Sequence[float], ids: Sequence[int] | None = None) -> bytes:
    """One row. Without `ids` the entries are those of 0, 1, 2, ... Arrays are copied as they are."""
    head = _HEAD.pack(len(values), ids is None)
    return head + _bytes(array("i", ids or ())) + _bytes(array("f", values))


def bounds(rows: bytes, count: int) -> list[int]:
    """Where each of the rows for `count` tokens begins, and where the last one ends.

    Raises:
        RemoteProtocolError: there are not exactly so many.
    """
    found = [0]
    while found[-1] + _HEAD.size <= len(rows):
        entries, dense = _HEAD.unpack_from(rows, found[-1])
        end = found[-1] + size(entries, dense=bool(dense))
        if dense > 1 or end > len(rows):
            break
        found.append(end)
    if found[-1] != len(rows) or len(found) != count + 1:
        raise RemoteProtocolError(f"{count} rows of probabilities must come with {count} tokens")
    return found


def split(rows: bytes, count: int) -> list[bytes]:
    """The rows for `count` tokens, one by one. Errors as for `bounds`."""
    return [rows[start:end] for start, end in pairwise(bounds(rows, count))]


def rows_of(rows: bytes, count: int) -> list[bytes]:
    """The rows for `count` tokens, empty ones where none were needed."""
    return split(rows, count) if rows else [b""] * count


def read(row: bytes, vocabulary: int) -> Shares:
    """What one row of `split` says.

    Raises:
        RemoteProtocolError: an id is outside the vocabulary, or the probabilities are none.
    """
    entries, dense = _HEAD.unpack_from(row)
    named, values = array("i"), array("f")
    start = _HEAD.size
    if not dense:
        named.frombytes(row[start : start + 4 * entries])
        start += 4 * entries
    values.frombytes(row[start:])
    if _SWAP:
        named.byteswap()
        values.byteswap()
    ids: Sequence[int] = range(entries) if dense else tuple(named)
    # The highest byte of a float32 tells whether it is a number from 0 to below 2.
    good = entries > 0 and not row[start + 3 :: 4].translate(None, _PLAIN)
    if dense:
        good = good and entries <= vocabulary
    else:
        good = good and min(ids) >= 0 and max(ids) < vocabulary and len(set(ids)) == entries
    if not (good and 0 < sum(values) <= 1 + 1e-3):
        raise RemoteProtocolError("a row of probabilities must be one over the vocabulary")
    return Shares(row, ids, values)


def sketch(chances: Sequence[float]) -> bytes:
    """The row that a distance needs of a distribution over all ids."""
    ranked = sorted(range(len(chances)), key=lambda t: (-chances[t], t))[:SKETCH]
    return pack([chances[t] for t in ranked], ranked)


def law_row(law: Mapping[int, float], vocabulary: int) -> bytes:
    """The row that rejection needs of a law: whichever form is shorter."""
    if 2 * len(law) > vocabulary:
        return pack([law.get(token, 0.0) for token in range(vocabulary)])
    return pack(list(law.values()), list(law))


def sureness(kind: str, chances: Sequence[float]) -> float:
    """How sure a distribution over all ids is, in [0, 1]; `product` is multiplied up elsewhere."""
    if kind == Confidence.MARGIN:
        second, first = sorted([0.0, *chances])[-2:]
        return first - second
    if kind == Confidence.ENTROPY:
        return exp(sum(p * log(p) for p in chances if p > 0))
    return max(chances)


def apart(kind: str, small: Sequence[float], large: Sequence[float]) -> float:
    """A distance of two distributions whose first entries are those of the small model's likeliest
    tokens; what is left of either is one entry more. Not for `ce`, which looks at one token.
    """
    p, q = _lumped(small), _lumped(large)
    if kind == Distance.KL:
        return _divergence(p, q)
    if kind == Distance.JS:
        middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        return (_divergence(p, middle) + _divergence(q, middle)) / 2
    if kind == Distance.TV:
        return sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2
    return sqrt(sum((a - b) ** 2 for a, b in zip(p, q, strict=True)))


def _lumped(head: Sequence[float]) -> list[float]:
    # Float32 entries may add up to a little more than 1.
    return [*head, max(0.0, 1.0 - sum(head))]


def _divergence(p: Sequence[float], q: Sequence[float]) -> float:
    """Kullback-Leibler, nats. Never below 0, which rounding would have it now and then."""
    if any(a > _DUST and b <= 0 for a, b in zip(p, q, strict=True)):
        return inf
    total = sum(a * log(a / b) for a, b in zip(p, q, strict=True) if a > 0 and b > 0)
    return max(total, 0.0)


_DUST: Final = 1e-6
"""A share that the rounding of 65 entries may leave where there is none."""


def _bytes(values: array[int] | array[float]) -> bytes:
    if _SWAP:
        values.byteswap()
    return values.tobytes()
