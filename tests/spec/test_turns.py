"""Whose pass is next: needed work before work that runs ahead, newer epochs before older ones."""

from __future__ import annotations

from collections.abc import Hashable

from bild_dist.kv.prefix import Prefix
from bild_dist.messages import Close, Draft, Drafted, Open, Outlook, Reply, Rules, Steer
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
        model = ScriptedModel(Role.SMALL, Script(Rates(f=0.3), 1), lambda fed: None)
        model.allocate(slots)
        self.turns = Turns(model, slots, self._put, lambda: 0)

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
            limit=40, stop_below=0.0, piece=1, outlook=outlook,
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
        stop_below=0.0, piece=0, outlook=outlook, others=2,
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
