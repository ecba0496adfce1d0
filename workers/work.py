"""A request at a worker: whose it is, its slot, and the commands that it still has to carry out."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from math import inf

from bild_dist import logprobs, shares
from bild_dist.errors import InvalidRequest
from bild_dist.kv.slots import Slot
from bild_dist.messages import Draft, Info, Open, Verify
from bild_dist.model.base import Pass
from bild_dist.workers.jobs import Meter, Steps


@dataclass(frozen=True, slots=True)
class Owner:
    """A request: its number is its connection's own, so the pair names it."""

    connection: Hashable
    session: int


@dataclass(eq=False, slots=True)
class Job:
    """One command at work. Owned by the engine thread."""

    command: Open | Draft | Verify
    steps: Steps
    asked: Pass | None = None
    """The pass that it waits for."""


@dataclass(slots=True)
class Work:
    """What an open request still has to do, in order. Owned by the engine thread."""

    slot: Slot
    meter: Meter
    optional: bool
    """Whether its slot may be taken back for a request that needs one."""
    opening: bool = True
    """Whether the model knows nothing of it yet."""
    jobs: deque[Job] = field(default_factory=deque)

    @property
    def needed(self) -> bool:
        """Whether somebody waits for what it does next."""
        return self.slot.needed or not isinstance(self.jobs[0].command, Draft)

    def keep(self, jobs: Iterable[Job]) -> None:
        """Drops all jobs but these. A pass that one of the others asked for, and that did not run or
        failed, leaves nothing in the slot.
        """
        kept = deque(jobs)
        for job in self.jobs:
            if job.asked is not None and job not in kept:
                self.slot.prefix.cut(job.asked.at)
        self.jobs = kept


def check_open(command: Open, info: Info) -> None:
    """Raises InvalidRequest where a model cannot serve what a request opens with."""
    rules = command.rules
    for name, ids in (("prompt", command.ids), ("source", command.source)):
        if not all(0 <= token < info.rules.vocabulary for token in ids):
            raise InvalidRequest(f"the {name} has ids outside the vocabulary of {info.model}")
    if not 0 < rules.repetition_penalty < inf:
        raise InvalidRequest(
            f"repetition_penalty = {rules.repetition_penalty} must be a number above 0"
        )
    shares.check(rules)
    logprobs.check(rules)
    if not 0 < rules.vocabulary <= info.rules.vocabulary:
        raise InvalidRequest(f"{info.model} has {info.rules.vocabulary} token ids")
    if not 0 < len(command.ids) == rules.begin < rules.limit <= info.max_length:
        raise InvalidRequest(
            f"{len(command.ids)} prompt ids and a limit of {rules.limit} do not fit the "
            f"{info.max_length} positions of {info.model}"
        )
    if bool(command.source) != (info.max_source > 0) or len(command.source) > info.max_source:
        raise InvalidRequest(
            f"{info.model} takes up to {info.max_source} ids to encode, not {len(command.source)}"
        )
