"""Which passes a text took: read off a recording, or worked out from the record of a run.

A recording (`orchestrator/recording.py`) has every command with its place and its tokens, so its passes
are exact. The record of a run keeps counts alone. From them the number of passes is exact, and with it
nearly all bytes; what is an estimate is how many tokens the passes fed and where in the text they stood:

- The large model is fed each token of the text once and each guess that it threw out, as far as guesses
  were checked at all. Under the schedule `overlap` some are thrown out unread: there this is an upper bound.
- The small model is fed one token a pass, and two behind a full window, whose last token it has not read.
- The passes of a text are spread evenly over it.

`tests/spec/test_costs.py` compares both on the same texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from bild_dist.messages import Draft, Drafted, Open, Verified, Verify
from bild_dist.orchestrator.recording import Moment
from bild_dist.policy.events import FromWorker, ToWorker
from bild_dist.types import Role
from bild_dist.workers.jobs import PREFILL_CHUNK


class Fed(NamedTuple):
    """A pass of a model: so many tokens behind the first `at`, with the head for the last `rows`.
    Fractions come of spreading a count over a text.
    """

    role: Role
    tokens: float
    at: float
    rows: float


@dataclass(frozen=True, slots=True)
class Passes:
    """All that was run for one text.

    `source`: tokens that each model's encoder read, by role; `prefill`: passes that only filled the
    caches; `steps`: those that decided about tokens.
    """

    source: Mapping[Role, int] = field(default_factory=dict)
    prefill: tuple[Fed, ...] = ()
    steps: tuple[Fed, ...] = ()
    exact: bool = False


def prompt(role: Role, source: int, begin: int) -> Passes:
    """What a model runs before the first step: over a source of so many tokens and a decoder prompt of
    `begin` ids, of which the last is fed with the first step.
    """
    starts = range(0, begin - 1, PREFILL_CHUNK)
    return Passes(
        {role: source},
        tuple(Fed(role, min(PREFILL_CHUNK, begin - 1 - at), at, 0) for at in starts),
    )


def recorded(moments: Iterable[Moment]) -> dict[int, Passes]:
    """The passes of each request of a recording, by its session, in the order in which they began."""
    readers: dict[int, _Reader] = {}
    for session, _, what in moments:
        reader = readers.setdefault(session, _Reader())
        if isinstance(what, ToWorker):
            reader.sent(what)
        elif isinstance(what, FromWorker):
            reader.answered(what)
    return {session: reader.passes for session, reader in readers.items()}


def derived(trace: Mapping[str, int], tokens: int, source: int, begin: int) -> Passes:
    """The passes of a text of so many tokens, as far as the counts of its trace tell."""
    small, large = trace.get("small_passes", 0), trace.get("large_passes", 0)
    wasted = trace.get("wasted", 0)
    found = Passes()
    for role, count, feeds in (
        (Role.SMALL, small, small + trace.get("windows", 0)),
        (Role.LARGE, large, tokens + wasted if small else large),
    ):
        if count:
            found = _joined(found, prompt(role, source, begin))
            feeds = max(feeds, count)
            rows = feeds / count if role is Role.LARGE else 1
            steps = tuple(
                Fed(role, feeds / count, begin - 1 + tokens * i / count, rows) for i in range(count)
            )
            found = replace(found, steps=found.steps + steps)
    return found


def _joined(a: Passes, b: Passes) -> Passes:
    return Passes(
        {**a.source, **b.source}, a.prefill + b.prefill, a.steps + b.steps, a.exact and b.exact
    )


class _Reader:
    """Collects the passes of one request. Owned by `recorded`."""

    def __init__(self) -> None:
        self.passes = Passes(exact=True)
        self._drafts: dict[tuple[Role, int, int], _Draft] = {}
        self._checks: dict[tuple[Role, int, int], Verify] = {}

    def sent(self, command: ToWorker) -> None:
        request = command.request
        if isinstance(request, Open):
            opened = prompt(command.role, len(request.source), len(request.ids))
            # A second slot on the same worker reads the source once more.
            already = self.passes.source.get(command.role, 0)
            source = {command.role: len(request.source) + already}
            self.passes = _joined(self.passes, replace(opened, source=source, exact=True))
        elif isinstance(request, Draft):
            key = (command.role, request.session, request.seq)
            self._drafts[key] = _Draft(len(request.tokens), request.at)
        elif isinstance(request, Verify):
            self._checks[command.role, request.session, request.seq] = request

    def answered(self, event: FromWorker) -> None:
        role, reply = event.role, event.reply
        if isinstance(reply, Verified):
            check = self._checks.pop((role, reply.session, reply.seq))
            self._carried(role, reply.session, reply.seq, reply.passes - 1)
            fed = len(check.tokens) - (not check.bonus)
            self._add([Fed(role, fed, check.at, len(check.exact) + check.bonus)])
        elif isinstance(reply, Drafted):
            own = min(len(reply.tokens) + reply.low, reply.passes)
            self._carried(role, reply.session, reply.seq, reply.passes - own)
            key = (role, reply.session, reply.seq)
            self._add(self._drafts[key].ran(role, own))
            if reply.final:
                del self._drafts[key]

    def _carried(self, role: Role, session: int, seq: int, count: int) -> None:
        """Passes of a draft that was stopped come with the next answer of its worker."""
        older = [
            key for key in self._drafts if key[0] is role and key[1] == session and key[2] < seq
        ]
        for key in sorted(older, key=lambda key: -key[2])[:1]:
            self._add(self._drafts[key].ran(role, max(count, 0)))
        for key in older:
            del self._drafts[key]

    def _add(self, steps: list[Fed]) -> None:
        self.passes = replace(self.passes, steps=(*self.passes.steps, *steps))


@dataclass(slots=True)
class _Draft:
    """A draft under way: what its next pass feeds, and where."""

    tokens: int
    at: int

    def ran(self, role: Role, passes: int) -> list[Fed]:
        """Its next passes; every one but the first feeds the token that was just written."""
        found = []
        for _ in range(passes):
            found.append(Fed(role, self.tokens, self.at, 1))
            self.at, self.tokens = self.at + self.tokens, 1
        return found
