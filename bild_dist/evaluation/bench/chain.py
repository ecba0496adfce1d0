"""The critical path of a text: its recorded passes replayed with the same dependencies and at no
other cost.

A pass begins once its worker is done with the pass before it, and once everything is known that the
orchestrator knew when it asked for it. What is left out is what our own code costs: wire, queues,
the event loop, the policy. So critical path over wall clock says how much of the time was models'
time that nothing could have saved but another schedule.

    small  |d|d|d|      |d|d|d|          d: a draft step, VVV: a check
    large        |VVVVV|      |VVVVV|    here the path is everything; drafts ahead run below a V
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field

from bild_dist.orchestrator.story import Block, Kind, Story
from bild_dist.types import Role


def critical_ns(story: Story) -> int | None:
    """Length of the path to the last token, ns; None where no token was recorded."""
    if not story.chips:
        return None
    replay = _Replay()
    ends = [replay.take(block) for block in story.blocks]
    return round(ends[story.chips[-1].block])


@dataclass(slots=True)
class _Replay:
    """Where the replay stands. Times are ns from the start of the request. Owned by
    `critical_ns`.
    """

    lanes: dict[Role, float] = field(default_factory=lambda: dict.fromkeys(Role, 0.0))
    """When each worker is done with what it has."""
    stopped: dict[Role, tuple[float, float, int]] = field(default_factory=dict)
    """Start, length of a pass and number of passes of a draft that was taken back."""
    seen_ns: list[int] = field(default_factory=list)
    """When answers were taken up, on the recording's clock, ..."""
    known: list[float] = field(default_factory=list)
    """... and when all up to this one are there in the replay."""

    def take(self, block: Block) -> float:
        """The end of the next block in the replay. Blocks come in the order of their answers."""
        ready = self._ready(block.sent_ns)
        took = block.end_ns - block.start_ns
        if block.kind is Kind.STOPPED:
            start = max(self.lanes[block.role], ready)
            passes = max(1, block.passes)
            self.stopped[block.role] = (start, took / passes, passes)
            return start
        start = max(self._free(block.role, ready), ready)
        end = self.lanes[block.role] = start + took
        if block.kind is not Kind.PREFILL:  # which has no answer of its own
            self.seen_ns.append(block.seen_ns)
            self.known.append(max(end, self.known[-1] if self.known else 0.0))
        return end

    def _ready(self, sent_ns: int) -> float:
        """When everything is known that was known at this moment of the recording."""
        count = bisect_right(self.seen_ns, sent_ns)
        return self.known[count - 1] if count else 0.0

    def _free(self, role: Role, ready: float) -> float:
        """When a worker can begin: a draft that is taken back ends with the pass that is under way."""
        start, step, passes = self.stopped.pop(role, (0.0, 0.0, 0))
        if not step or ready <= start:
            return self.lanes[role]
        return start + step * min(passes, math.ceil((ready - start) / step))
