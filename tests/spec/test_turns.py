"""Whose pass is next: needed work before work that runs ahead, newer epochs before older ones."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import replace

import pytest

from bild_dist.errors import InvalidRequest
from bild_dist.kv.prefix import Prefix
from bild_dist.messages import (
    Close,
    Draft,
    Drafted,
    Failed,
    Open,
    Opened,
    Outlook,
    Reply,
    Rules,
    Steer,
)
from bild_dist.model.base import Choice, Pass
from bild_dist.model.scripted import END, VOCABULARY, Rates, Script, ScriptedModel
from bild_dist.types import Role
from bild_dist.workers.turns import Turns

IDS = (3, 1, 4)
RULES = Rules(vocabulary=VOCABULARY, begin=3, limit=60, end_ids=(END,))
NEEDED = Outlook(lead=50)
AHEAD = Outlook(reach=0.5, floor=0.9, ahead=0.0, lead=50)
"""Worth less than is waited for: the draft runs ahead from its first token."""


class Worker:
    """Turns over a scripted model, with what they answered."""

    def __init__(self, slots: int = 2) -> None:
        self.replies: list[Reply] = []
        self.model = ScriptedModel(Role.SMALL, Script(Rates(f=0.3), 1), lambda fed: None)
        self.model.allocate(slots)
        self.turns = Turns(self.model, slots, self._put, itertools.count(1).__next__)

    def _put(self, connection: Hashable, reply: Reply) -> None:
        self.replies.append(reply)

    def open(self, session: int) -> None:
        command = Open(session=session, epoch=0, seq=1, ids=IDS, source=(), rules=RULES)
        self.turns.take("a", command)
        for _ in range(4):
            self.turns.step()
        self.replies.clear()

    def draft(self, session: int, outlook: Outlook, *, epoch: int = 0, seq: int = 2) -> None:
        self.turns.take("a", Draft(
            session=session, epoch=epoch, seq=seq, at=2, digest=Prefix(IDS).digest(2), tokens=IDS[2:],
            limit=40, stops=False, piece=1, outlook=outlook,
        ))  # fmt: skip

    def steps(self, count: int) -> list[int]:
        """Sessions that got a token in the next passes."""
        self.replies.clear()
        for _ in range(count):
            self.turns.step()
        return [reply.session for reply in self.replies if isinstance(reply, Drafted)]


def test_needed_work_goes_before_work_that_runs_ahead() -> None:
    """A draft that runs ahead gets no pass while another request's draft is needed."""
    worker = Worker()
    for session in (1, 2):
        worker.open(session)
    worker.draft(1, AHEAD)
    assert [1, 1, 1] == worker.steps(3)
    worker.draft(2, NEEDED)
    assert [2] * 5 == worker.steps(5)
    worker.turns.take("a", Close(session=2))
    assert [1, 1] == worker.steps(2)


def test_two_needed_drafts_take_turns() -> None:
    """Pass by pass."""
    worker = Worker()
    for session in (1, 2):
        worker.open(session)
    for session in (1, 2):
        worker.draft(session, NEEDED)
    assert [1, 2, 1, 2] == worker.steps(4)


def test_a_draft_becomes_needed_when_it_is_said_so() -> None:
    """Steer promotes a draft that runs ahead, so that it cannot starve; and takes that back."""
    worker = Worker()
    for session in (1, 2):
        worker.open(session)
    for session, outlook in ((1, AHEAD), (2, NEEDED)):
        worker.draft(session, outlook)
    assert [2, 2] == worker.steps(2)
    worker.turns.take("a", Steer(session=1, epoch=0, needed=True))
    assert {1, 2} == set(worker.steps(2))
    worker.turns.take("a", Steer(session=1, epoch=0, needed=False))
    assert [2, 2] == worker.steps(2)


def test_a_newer_epoch_ends_a_draft_between_two_tokens() -> None:
    """Steer with a newer epoch stops what runs; one of an older epoch is ignored."""
    worker = Worker()
    worker.open(1)
    worker.draft(1, NEEDED, epoch=3)
    worker.turns.take("a", Steer(session=1, epoch=2, needed=False))
    assert [1] == worker.steps(1)
    worker.turns.take("a", Steer(session=1, epoch=4, needed=False))
    assert worker.turns.idle
    worker.draft(1, NEEDED, epoch=3, seq=3)
    assert worker.turns.idle
    worker.draft(1, NEEDED, epoch=4, seq=4)
    assert [1] == worker.steps(1)


def test_a_draft_ends_where_its_outlook_says_so() -> None:
    """Reports once what was needed, then token by token, and stops after its lead."""
    worker = Worker()
    worker.open(1)
    half = (0.5,) * 8
    outlook = Outlook(reach=1.0, floor=0.3, ahead=0.01, lead=2, window=9, alpha_fb=0.6,
                      soft=half, exact=half)  # fmt: skip
    worker.turns.take("a", Draft(
        session=1, epoch=0, seq=2, at=2, digest=Prefix(IDS).digest(2), tokens=IDS[2:], limit=40,
        stops=False, piece=0, outlook=outlook, others=2,
    ))  # fmt: skip
    worker.steps(9)
    drafted = [reply for reply in worker.replies if isinstance(reply, Drafted)]
    # Worth 1, 0.5, and then 0.25, which is below the floor: two tokens are needed, two run ahead.
    assert [2, 1, 1] == [len(reply.tokens) for reply in drafted]
    assert [False, False, True] == [reply.final for reply in drafted]
    for reply in drafted:
        assert len(reply.others) == 2 * sum(c < 0.6 for c in reply.confidences)


def test_a_session_that_is_not_open_is_not_steered() -> None:
    """A Steer that crosses a Close on the way is nothing to speak of."""
    worker = Worker()
    worker.turns.take("a", Steer(session=7, epoch=1, needed=True))
    assert worker.turns.idle
    assert [] == worker.replies


def test_a_lent_slot_is_taken_back_for_a_request_that_needs_one() -> None:
    """An optional Open never waits, and its slot goes to the next Open that is not."""
    worker = Worker(slots=2)
    worker.open(1)
    lent = Open(session=2, epoch=0, seq=1, ids=IDS, source=(), rules=RULES, optional=True)
    worker.turns.take("a", lent)
    assert 2 == worker.turns.open_slots
    worker.turns.take("a", replace(lent, session=3))
    assert isinstance(worker.replies[-1], Failed)
    assert "Overloaded" == worker.replies[-1].error
    worker.turns.take("a", replace(lent, session=4, optional=False))
    assert isinstance(worker.replies[-1], Opened)
    assert 4 == worker.replies[-1].session
    worker.turns.take("a", Close(session=2))
    assert 2 == worker.turns.open_slots


def test_an_open_that_fails_gives_its_slot_back() -> None:
    """Its Draft, which may be under way, finds no slot, least of all what was there before."""
    worker = Worker(slots=1)

    def refuse(slot: int, source: Sequence[int], rules: Rules) -> None:
        raise InvalidRequest("no")

    worker.model.open = refuse  # type: ignore[method-assign]
    worker.turns.take("a", Open(session=1, epoch=0, seq=1, ids=IDS, source=(), rules=RULES))
    worker.turns.step()
    assert ["Opened", "Failed"] == [type(reply).__name__ for reply in worker.replies]
    assert 0 == worker.turns.open_slots
    worker.draft(1, NEEDED)
    assert isinstance(worker.replies[-1], Failed)
    assert "no slot" in worker.replies[-1].message


def test_a_pass_that_fails_is_over() -> None:
    """A worker is not called busy, and later stuck, with a pass that has raised."""
    worker = Worker(slots=1)
    worker.open(1)

    def refuse(work: Pass) -> list[Choice]:
        raise InvalidRequest("no token is left")

    worker.model.forward = refuse  # type: ignore[method-assign]
    worker.draft(1, NEEDED)
    worker.turns.step()
    assert (0, 0) == worker.turns.busy()


@pytest.mark.parametrize("penalty", [0.0, -1.0, float("nan"), float("inf")])
def test_a_penalty_that_is_none_is_refused(penalty: float) -> None:
    """It would raise in the middle of a pass, where it ends the worker."""
    worker = Worker(slots=1)
    rules = replace(RULES, repetition_penalty=penalty)
    worker.turns.take("a", Open(session=1, epoch=0, seq=1, ids=IDS, source=(), rules=rules))
    assert isinstance(worker.replies[-1], Failed)
    assert "repetition_penalty" in worker.replies[-1].message
    assert 0 == worker.turns.open_slots
