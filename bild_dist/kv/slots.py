"""Who holds which slot of the KV cache, and how much of it is true. Integers only.

    0              length            capacity
    |---- true ----|---- garbage ----|

Rollback is `length` made smaller; what lies past it is overwritten by the next pass, never cleared.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bild_dist.errors import RemoteProtocolError
from bild_dist.kv.prefix import Prefix
from bild_dist.messages import Reply, Rules


@dataclass(slots=True)
class Slot:
    """One request's place in the cache. Owned by the engine thread."""

    index: int
    rules: Rules
    prefix: Prefix
    """The ids under the KV cache. Its length is the slot's truth."""
    epoch: int = 0
    seq: int = 0
    """Number of the last command taken up, so that a duplicate is known."""
    needed: bool = True
    """Whether somebody waits for the draft under way; otherwise it runs ahead, behind all others."""
    answers: list[Reply] = field(default_factory=list)
    """Replies to that command, for a duplicate."""

    def rewind(self, at: int, digest: int) -> None:
        """Makes `at` the slot's length: rollback, O(1) in the length.

        Raises:
            RemoteProtocolError: the slot does not hold these `at` ids; nothing is changed.
        """
        if not 0 <= at <= len(self.prefix):
            raise RemoteProtocolError(
                f"a command builds on {at} ids, but the slot holds {len(self.prefix)}"
            )
        if self.prefix.digest(at) != digest:
            raise RemoteProtocolError(
                f"a command builds on {at} ids that are not those in the slot"
            )
        self.prefix.cut(at)


class SlotPool:
    """Free and open slots. Owned by the engine thread."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = list(range(count - 1, -1, -1))
        self._open: dict[object, Slot] = {}

    def __repr__(self) -> str:
        return f"<SlotPool open={len(self._open)} free={len(self._free)}>"

    @property
    def open_count(self) -> int:
        return len(self._open)

    @property
    def held(self) -> int:
        """Ids under the KV caches of all open slots. Safe to read from other threads."""
        return sum(len(slot.prefix) for slot in list(self._open.values()))

    @property
    def has_room(self) -> bool:
        return bool(self._free)

    def take(self, owner: object, rules: Rules) -> Slot:
        """Gives a free slot to `owner`. The caller asks `has_room` first."""
        slot = self._open[owner] = Slot(self._free.pop(), rules, Prefix())
        return slot

    def find(self, owner: object) -> Slot | None:
        return self._open.get(owner)

    def release(self, owner: object) -> None:
        """Takes the slot back. Idempotent."""
        slot = self._open.pop(owner, None)
        if slot is not None:
            self._free.append(slot.index)

    def owners(self) -> list[object]:
        return list(self._open)

    def check(self) -> None:
        """Books that balance: every slot is free or open, none is both. Cheap; run whenever the
        engine idles.

        Raises:
            RuntimeError: they do not balance, which is a bug in the engine.
        """
        held = sorted([*self._free, *(slot.index for slot in self._open.values())])
        if held != list(range(self._count)):
            raise RuntimeError(f"slot accounting is broken: {self!r} of {self._count}")
