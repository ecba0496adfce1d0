"""A timeline: the story that a recording tells. `test_drawing.py` is about what people see of it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from bild_dist.app import inproc
from bild_dist.config import settled
from bild_dist.errors import DeadlineExceeded, WorkerUnavailable
from bild_dist.messages import Draft, Drafted, Open, Opened, Reply, Rules, Steer, Verified, Verify
from bild_dist.orchestrator.drawing import totals
from bild_dist.orchestrator.recording import Moment, Recording
from bild_dist.orchestrator.story import Fate, Kind, Story
from bild_dist.orchestrator.timeline import stories
from bild_dist.policy.events import (
    Cancelled,
    Command,
    Emit,
    Event,
    Failed,
    Finish,
    FromWorker,
    Token,
    ToWorker,
)
from bild_dist.types import FinishReason, Mode, Result, Role, Schedule, Source

MS = 1_000_000


async def recorded(spec: str, **settings: Any) -> tuple[Recording, list[Result]]:
    """Four requests, three at a time, over toys in this process."""
    recording = Recording()
    pair = {"small": f"toy:small?{spec}", "large": f"toy:large?{spec}"}
    config, _ = settled({**pair, "transport": "inproc", "concurrency": 3, **settings})
    async with inproc(config, recording) as decoder:
        texts = [decoder.stream(f"Prompt {n}") for n in range(4)]
        return recording, [await text.result() for text in texts]


@pytest.mark.parametrize("schedule", list(Schedule))
@pytest.mark.parametrize("mode", list(Mode))
async def test_a_story_counts_what_the_request_counted(schedule: Schedule, mode: Mode) -> None:
    """Passes, drafted and wasted tokens, rollbacks and the text itself, rebuilt from messages alone,
    are those of the machine that kept the books.
    """
    for spec in ("seed=1&f=0.3&end=0.01", "seed=2&f=0.2&q=0.9", "seed=3&f=0.9&q=0.1"):
        recording, results = await recorded(spec, schedule=schedule, mode=mode, max_new_tokens=60)
        told = stories(recording.moments)
        assert len(results) == len(told)
        for story, result in zip(told, results, strict=True):
            figures = totals(story)
            names = ("small_passes", "large_passes", "drafted", "wasted", "rollbacks")
            assert {n: getattr(result.trace, n) for n in names} == {n: figures[n] for n in names}
            assert result.tokens == tuple(chip.token for chip in story.chips)
            assert result.sources == tuple(chip.source for chip in story.chips)
            assert (result.finish_reason, False) == (story.end, story.failed)
            assert Fate.OPEN not in {cell.fate for cell in story.guesses()}


@pytest.mark.parametrize("schedule", list(Schedule))
async def test_time_is_in_order_and_nothing_is_lost(schedule: Schedule) -> None:
    """The parts of a block follow each other, the blocks of a lane do not overlap, and a worker's
    busy time is what it reported.
    """
    spec = "seed=1&f=0.3&end=0&ms=1"
    recording, results = await recorded(spec, schedule=schedule, max_new_tokens=30)
    for story, result in zip(stories(recording.moments), results, strict=True):
        for block in story.blocks:
            times = [block.came_ns, block.start_ns, block.end_ns, block.back_ns, block.seen_ns]
            assert sorted(times) == times
            assert story.from_ns <= block.came_ns <= story.to_ns
        for role, reported_ns in (
            (Role.SMALL, result.trace.draft_ns),
            (Role.LARGE, result.trace.verify_ns),
        ):
            lane = sorted((b.start_ns, b.end_ns) for b in story.blocks if b.role is role)
            assert all(a[1] <= b[0] for a, b in pairwise(lane))
            assert 0.9 * reported_ns <= story.busy_ns(role) <= reported_ns + MS
        waits = [(wait.from_ns, wait.to_ns) for wait in story.waits]
        assert all(a[1] <= b[0] for a, b in pairwise(waits))


class Hand:
    """A recording written by hand: one request whose prompt has three ids, times in ms."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []
        rules = Rules(vocabulary=99, begin=3, limit=50)
        for seq, role in enumerate((Role.LARGE, Role.SMALL)):
            ask = Open(session=1, epoch=0, seq=1, ids=(1, 2, 3), source=(), rules=rules)
            self.sent(seq, role, ask)
            self.came(seq, role, Opened(session=1, epoch=0, seq=1))

    def note(self, at: float, what: Event | Command) -> None:
        self.moments.append(Moment(1, round(at * MS), what))

    def sent(self, at: float, role: Role, request: Open | Draft | Verify | Steer) -> None:
        self.note(at, ToWorker(role, request))

    def came(self, at: float, role: Role, reply: Reply, wire: float = 0) -> None:
        assert isinstance(reply, Opened | Drafted | Verified)
        self.note(at, FromWorker(role, reply, round(wire * MS), round(at * MS)))

    def gave(self, at: float, *tokens: tuple[int, int, Source]) -> None:
        self.note(at, Emit(tuple(Token(p, t, source, 0.5, None) for p, t, source in tokens)))

    def story(self) -> Story:
        (story,) = stories(self.moments)
        return story


def draft(seq: int, at: int, *tokens: int, epoch: int = 0) -> Draft:
    return Draft(
        session=1, epoch=epoch, seq=seq, at=at, digest=0, tokens=tokens, limit=9, stops=False,
        piece=1,
    )  # fmt: skip


def drafted(
    seq: int, *tokens: int, epoch: int = 0, passes: int = 0, compute: float = 10, final: bool = True
) -> Drafted:
    return Drafted(
        session=1, epoch=epoch, seq=seq, tokens=tokens, confidences=(0.9,) * len(tokens), low=False,
        low_token=-1, low_confidence=0.0, final=final, length=0, passes=passes or len(tokens),
        queue_ns=2 * MS, compute_ns=round(compute * MS),
    )  # fmt: skip


def verify(seq: int, at: int, *tokens: int, count: int, epoch: int = 0) -> Verify:
    return Verify(
        session=1, epoch=epoch, seq=seq, at=at, digest=0, tokens=tokens, exact=(False,) * count,
        alpha_rb=2.0, bonus=False,
    )  # fmt: skip


def verified(seq: int, accepted: int, token: int, *distances: float, epoch: int = 0) -> Verified:
    return Verified(
        session=1, epoch=epoch, seq=seq, accepted=accepted, token=token, distances=distances,
        length=0, passes=1, queue_ns=0, compute_ns=20 * MS,
    )  # fmt: skip


def overlapped() -> Hand:
    """Three tokens are drafted; while the first two are checked a fourth and a fifth come. The
    second is replaced; a sixth comes too late, and two passes more end without an answer.
    """
    hand = Hand()
    hand.sent(10, Role.SMALL, draft(2, 2, 3))
    hand.came(30, Role.SMALL, drafted(2, 11, 12, 13, final=False), wire=8)
    hand.sent(30, Role.LARGE, verify(2, 2, 3, 11, 12, count=2))
    hand.came(42, Role.SMALL, drafted(2, 14, 15, final=False))
    hand.came(60, Role.LARGE, verified(2, 1, 22, 0.1, 7.0), wire=10)
    hand.gave(60, (0, 11, Source.SMALL), (1, 22, Source.ROLLBACK))
    hand.sent(60, Role.SMALL, draft(3, 4, 22, epoch=1))
    hand.came(61, Role.SMALL, drafted(2, 16, final=False))
    hand.came(90, Role.SMALL, drafted(3, 31, epoch=1, passes=3, compute=15), wire=2)
    hand.note(95, Finish(FinishReason.EOS, None))
    return hand


def test_a_token_knows_what_became_of_it() -> None:
    """Stands, was replaced, fell with the one before it, came too late, or lay behind the end."""
    fates = {cell.token: cell.fate for cell in overlapped().story().guesses()}
    assert fates == {
        11: Fate.STOOD, 12: Fate.REPLACED, 13: Fate.BEHIND, 14: Fate.BEHIND, 15: Fate.BEHIND,
        16: Fate.OLD, 31: Fate.END,
    }  # fmt: skip


def test_a_rollback_says_what_replaced_what() -> None:
    """Where, by which check, whose draft it was, and how many tokens fell with it."""
    story = overlapped().story()
    (swap,) = story.swaps
    assert (1, 12, 22, Source.ROLLBACK, 3) == (
        swap.position, swap.old, swap.new, swap.source, swap.fell,
    )  # fmt: skip
    assert Kind.CHECK is story.blocks[swap.block].kind
    assert 12 in [cell.token for cell in story.blocks[swap.drafted].cells]
    assert [c.block for c in story.chips] == [swap.block] * 2


def test_a_pass_is_drawn_where_its_answer_says() -> None:
    """It ended half a wire before its answer came, computed until then, and queued before that; a
    later piece of a draft has no round trip of its own.
    """
    first, later = overlapped().story().blocks[:2]
    at_ms = [t / MS for t in (first.came_ns, first.start_ns, first.end_ns, first.back_ns)]
    assert at_ms == [14, 16, 26, 30]
    assert [later.start_ns / MS, later.end_ns / MS] == [28, 38]


def test_passes_of_a_draft_that_was_taken_back_are_drawn_apart() -> None:
    """The next answer brings their time and their count along; its own passes keep theirs."""
    story = overlapped().story()
    stopped, last = story.blocks[-2:]
    assert (Kind.STOPPED, 2, 10) == (
        stopped.kind, stopped.passes, (stopped.end_ns - stopped.start_ns) / MS,
    )  # fmt: skip
    assert (Kind.DRAFT, 1, 5) == (last.kind, last.passes, (last.end_ns - last.start_ns) / MS)


def test_a_slow_answer_does_not_eat_the_next_pass() -> None:
    """Two answers that come together were computed one after the other: the first moves back, but
    not to before it was asked for.
    """
    hand = Hand()
    hand.sent(10, Role.SMALL, draft(2, 2, 3))
    for token in (11, 12, 13):
        hand.came(42, Role.SMALL, drafted(2, token, final=False))
    assert [(12, 22), (22, 32), (32, 42)] == [
        (b.start_ns / MS, b.end_ns / MS) for b in hand.story().blocks
    ]
    hand.came(42, Role.SMALL, drafted(2, 14))
    assert 10 == hand.story().blocks[0].start_ns / MS


def test_waits_say_for_whom() -> None:
    """The small worker, the large one, or both; what is left is the orchestrator's own time."""
    story = overlapped().story()
    assert story.waited_ns(Role.SMALL, Role.LARGE) == 30 * MS
    assert story.waited_ns(Role.LARGE) == 0
    assert [w.roles for w in story.waits][-1] == (Role.SMALL,)


@pytest.mark.parametrize("ending", [Failed(WorkerUnavailable("it is gone")),
                                    Cancelled(DeadlineExceeded("too late"))])  # fmt: skip
def test_a_request_that_failed_says_why(ending: Failed | Cancelled) -> None:
    """The error is told, and what was drafted then is wasted."""
    hand = Hand()
    hand.sent(10, Role.SMALL, draft(2, 2, 3))
    hand.came(30, Role.SMALL, drafted(2, 11, 12))
    hand.note(40, ending)
    hand.note(40, Finish(None, ending.error))
    story = hand.story()
    assert story.failed
    assert story.end == f"{type(ending.error).__name__}: {ending.error}"
    assert {Fate.END} == {cell.fate for cell in story.guesses()}
