"""A sequence of token ids that can tell the fingerprint of each of its prefixes in O(1).

Both peers keep one for every slot: a command names the length that it builds on and the digest of
that prefix, so two sides that disagree about the past find out before a wrong token is written.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

# A Mersenne prime keeps the arithmetic in one machine word and digests below 2**61. The digest
# finds bugs, not attackers: whoever can send commands can send any tokens anyway.
_MODULUS: Final = (1 << 61) - 1
_BASE: Final = 0x9E3779B97F4A7C15 % _MODULUS


class Prefix:
    """Token ids with a polynomial digest per length. Owned by whoever made it."""

    __slots__ = ("_digests", "ids")

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self.ids: list[int] = []
        self._digests: list[int] = [1]
        self.extend(ids)

    def __len__(self) -> int:
        return len(self.ids)

    def extend(self, ids: Iterable[int]) -> None:
        """Appends ids, O(1) each."""
        digest = self._digests[-1]
        for token in ids:
            digest = (digest * _BASE + token + 1) % _MODULUS
            self.ids.append(token)
            self._digests.append(digest)

    def cut(self, length: int) -> None:
        """Forgets what lies past `length`. The ids go, the cost does not depend on how long they
        were kept.
        """
        del self.ids[length:]
        del self._digests[length + 1 :]

    def digest(self, length: int) -> int:
        """Fingerprint of the first `length` ids, in [0, 2**61)."""
        return self._digests[length]
