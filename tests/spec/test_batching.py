"""Requests that share passes: each gets what it would get alone, and nobody pays for another's end."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence

import pytest

from bild_dist.errors import InvalidRequest
from bild_dist.kv.prefix import Prefix
from bild_dist.messages import (
    Close,
    Draft,
    Drafted,
    Failed,
    Open,
    Outlook,
    Reply,
    Rules,
    Steer,
    Verified,
    Verify,
)
from bild_dist.model.base import Choice, Pass
from bild_dist.workers.batcher import SPARE
from bild_dist.workers.jobs import BESIDE_CHUNK, PREFILL_CHUNK
from bild_dist.workers.turns import Turns
from tests.drive import VOCABULARY, PredictorModel, scripted

PREDICT = scripted(5)
LENGTH = 700
PASS_NS = 1000
REFUSED = 11
"""No text can be begun behind this token."""


class SharedModel(PredictorModel):
    """Takes passes together, remembers which, and tells a clock how long they took."""

    def __init__(self, batching: str = "ragged") -> None:
        super().__init__(PREDICT, LENGTH)
        self.info = dataclasses.replace(self.info, batching=batching)
        self.batches: list[list[Pass]] = []
        self.now_ns = 0

    def forward(self, work: Pass) -> list[Choice]:
        self._note([work])
        return self._read(work)

    def forward_batch(self, works: Sequence[Pass]) -> list[list[Choice] | InvalidRequest]:
        self._note(works)
        found: list[list[Choice] | InvalidRequest] = []
        for work in works:
            try:
                found.append(self._read(work))
            except InvalidRequest as error:
                found.append(error)
        return found

    def _note(self, works: Sequence[Pass]) -> None:
        assert len({work.slot for work in works}) == len(works)
        self.batches.append([dataclasses.replace(work, ids=list(work.ids)) for work in works])
        self.now_ns += PASS_NS

    def _read(self, work: Pass) -> list[Choice]:
        if len(work.ids) == 3 and work.ids[-1] == REFUSED:
            raise InvalidRequest("no token is left")
        return super().forward(work)


class Worker:
    """Turns over such a model, with what they answered. Prompts are three ids of their own."""

    def __init__(self, slots: int = 20, batching: str = "ragged") -> None:
        self.replies: list[Reply] = []
        self.model = SharedModel(batching)
        self.model.allocate(slots)
        self.turns = Turns(self.model, slots, self._put, lambda: self.model.now_ns)

    def _put(self, connection: Hashable, reply: Reply) -> None:
        self.replies.append(reply)

    def open(self, *sessions: int, ids: Sequence[int] = (), last: int = 4) -> None:
        for session in sessions:
            line = tuple(ids) or prompt(session, last)
            rules = Rules(vocabulary=VOCABULARY, begin=len(line), limit=LENGTH)
            self.turns.take(
                "a", Open(session=session, epoch=0, seq=1, ids=line, source=(), rules=rules)
            )

    def opened(self, *sessions: int, last: int = 4) -> None:
        self.open(*sessions, last=last)
        self.settle()

    def draft(self, session: int, limit: int = 3, *, last: int = 4, **changes: object) -> None:
        line = Prefix(prompt(session, last))
        command = Draft(
            session=session, epoch=0, seq=2, at=2, digest=line.digest(2), tokens=(last,),
            limit=limit, stops=False, piece=0,
        )  # fmt: skip
        self.turns.take("a", dataclasses.replace(command, **changes))  # type: ignore[arg-type]

    def check(self, session: int, tokens: Sequence[int], **changes: object) -> None:
        line = Prefix(prompt(session))
        command = Verify(
            session=session, epoch=0, seq=2, at=2, digest=line.digest(2), tokens=(4, *tokens),
            exact=(False,) * len(tokens), alpha_rb=1e9, bonus=True,
        )  # fmt: skip
        self.turns.take("a", dataclasses.replace(command, **changes))  # type: ignore[arg-type]

    def settle(self) -> None:
        """Until nothing is left to do; then forgets what was seen."""
        for _ in range(1000):
            self.turns.step()
        assert self.turns.idle
        self.turns.check()
        self.replies.clear()
        self.model.batches.clear()

    def finish(self) -> list[Reply]:
        while not self.turns.idle:
            self.turns.step()
        self.turns.check()
        return self.replies

    def shapes(self) -> list[list[int]]:
        """Tokens fed by each pass of each batch."""
        return [[len(work.ids) - work.at for work in batch] for batch in self.model.batches]


def prompt(session: int, last: int = 4) -> tuple[int, ...]:
    return 1 + session % 9, 3, last


def text(session: int, count: int) -> tuple[int, ...]:
    line = list(prompt(session))
    for _ in range(count):
        line.append(PREDICT(line).draw)
    return tuple(line[3:])


def test_drafts_share_every_pass() -> None:
    """Sixteen texts of three tokens are three batches, and each text is its own."""
    worker = Worker()
    worker.opened(*range(16))
    for session in range(16):
        worker.draft(session)
    drafted = {reply.session: reply for reply in worker.finish() if isinstance(reply, Drafted)}
    assert [[1] * 16] * 3 == worker.shapes()
    assert {n: text(n, 3) for n in range(16)} == {n: drafted[n].tokens for n in drafted}


def test_checks_and_drafts_share_a_pass() -> None:
    """Whatever each of them feeds, and whatever is rejected."""
    worker = Worker()
    worker.opened(1, 2, 3)
    worker.draft(1, limit=1)
    worker.check(2, text(2, 4))
    worker.check(3, (*text(3, 1), 99 % VOCABULARY, 5), alpha_rb=0.0)
    draft, kept, cut = worker.finish()
    assert [[1, 5, 4]] == worker.shapes()
    assert isinstance(draft, Drafted)
    assert text(1, 1) == draft.tokens
    assert isinstance(kept, Verified)
    assert (4, text(2, 5)[-1]) == (kept.accepted, kept.token)
    assert isinstance(cut, Verified)
    assert (1, text(3, 2)[-1]) == (cut.accepted, cut.token)


@pytest.mark.parametrize("batching", ["groups", "single"])
def test_a_model_says_what_may_share_a_pass(batching: str) -> None:
    """The text is the same; only who runs beside whom differs."""
    worker = Worker(batching=batching)
    worker.opened(1, 2, 3)
    for session in (1, 2):
        worker.draft(session, limit=2)
    worker.check(3, [5] * 99)
    drafted = [reply.tokens for reply in worker.finish() if isinstance(reply, Drafted)]
    assert [text(1, 2), text(2, 2)] == drafted
    shared = [[1, 1], [100], [1, 1]]
    alone = [[1], [1], [100], [1], [1]]
    assert worker.shapes() == (shared if batching == "groups" else alone)


def test_a_request_that_fails_fails_alone() -> None:
    """Those that shared its pass never hear of it, and its slot serves its next command."""
    worker = Worker()
    worker.opened(1, 3)
    worker.opened(2, last=REFUSED)
    worker.draft(1)
    worker.draft(2, last=REFUSED)
    worker.draft(3)
    failed, *drafted = worker.finish()
    assert isinstance(failed, Failed)
    assert (2, "InvalidRequest") == (failed.session, failed.error)
    assert [text(1, 3), text(3, 3)] == [r.tokens for r in drafted if isinstance(r, Drafted)]
    assert [[1, 1, 1], [1, 1], [1, 1]] == worker.shapes()
    worker.replies.clear()
    worker.draft(2, seq=3, tokens=(5,))
    assert isinstance(worker.finish()[0], Drafted)


def test_a_command_that_breaks_the_contract_fails_alone() -> None:
    """Before the batch that it would have been in."""
    worker = Worker()
    worker.opened(1, 2)
    worker.draft(1)
    worker.draft(2, digest=7)
    failed, drafted = worker.finish()
    assert isinstance(failed, Failed)
    assert (2, "RemoteProtocolError") == (failed.session, failed.error)
    assert isinstance(drafted, Drafted)
    assert text(1, 3) == drafted.tokens


def test_a_request_that_closes_between_two_passes_leaves_the_rest_alone() -> None:
    """Its slot is free at once, and another request may have it while the others write on."""
    worker = Worker(slots=3)
    worker.opened(1, 2, 3)
    for session in (1, 2, 3):
        worker.draft(session, limit=6)
    for _ in range(2):
        worker.turns.step()
    worker.turns.take("a", Close(session=2))
    assert 2 == worker.turns.open_slots
    worker.open(4)
    for _ in range(2):
        worker.turns.step()
    worker.draft(4, limit=6)
    drafted = {r.session: r.tokens for r in worker.finish() if isinstance(r, Drafted)}
    assert {1: text(1, 6), 3: text(3, 6), 4: text(4, 6)} == drafted
    worker.turns.forget("a")
    assert 0 == worker.turns.open_slots


def test_a_newer_epoch_stops_one_draft_between_two_passes() -> None:
    """The others of its batch go on; what it had written is dropped without an answer."""
    worker = Worker()
    worker.opened(1, 2)
    for session in (1, 2):
        worker.draft(session, limit=5)
    for _ in range(2):
        worker.turns.step()
    worker.draft(1, limit=2, epoch=1, seq=3)
    drafted = [(r.session, r.seq, r.tokens) for r in worker.finish() if isinstance(r, Drafted)]
    assert [(1, 3, text(1, 2)), (2, 2, text(2, 5))] == drafted


def test_a_pass_that_never_ran_leaves_no_trace() -> None:
    """A check that did not fit its batch and is then overtaken: its ids are not in the slot, so that
    nothing can build on keys that were never computed.
    """
    worker = Worker()
    worker.opened(1, 2)
    worker.check(1, [5] * 250)
    worker.check(2, [5, 6, 7, 8, 9, 10])
    worker.turns.step()
    assert [[251]] == worker.shapes()
    line = Prefix((*prompt(2), 5, 6))
    worker.turns.take("a", Steer(session=2, epoch=1, needed=True))
    worker.draft(2, seq=3, epoch=1, at=5, digest=line.digest(5), tokens=(7,))
    failed = worker.finish()[-1]
    assert isinstance(failed, Failed)
    assert "builds on 5 ids, but the slot holds 2" in failed.message
    worker.replies.clear()
    worker.draft(2, seq=4, epoch=1)
    drafted = worker.finish()[-1]
    assert isinstance(drafted, Drafted)
    assert text(2, 3) == drafted.tokens


def test_commands_of_one_request_run_in_their_order() -> None:
    """One pass of a request at a time, however many of its commands wait."""
    worker = Worker()
    worker.opened(1, 2)
    for session in (1, 2):
        worker.draft(session, limit=2)
    written = text(1, 2)
    line = Prefix((*prompt(1), *written))
    worker.draft(1, seq=3, at=4, digest=line.digest(4), tokens=written[1:], limit=1)
    drafted = [(r.session, r.seq, r.tokens) for r in worker.finish() if isinstance(r, Drafted)]
    assert [(1, 2, written), (2, 2, text(2, 2)), (1, 3, text(1, 3)[2:])] == drafted


def test_a_long_prompt_comes_in_pieces_beside_drafts() -> None:
    """A draft that is under way gets its token in every pass, and none of them is long."""
    worker = Worker()
    worker.opened(1)
    worker.draft(1, limit=8)
    worker.turns.step()
    worker.open(2, ids=[3] * 301)
    worker.finish()
    pieces = [[1, BESIDE_CHUNK]] * 4 + [[1, 300 - 4 * BESIDE_CHUNK]]
    assert [[1], [1], *pieces, [1]] == [sorted(fed) for fed in worker.shapes()]


def test_a_long_prompt_alone_comes_in_long_pieces() -> None:
    """Nobody waits for them to end."""
    worker = Worker()
    worker.open(1, ids=[3] * 601)
    worker.finish()
    assert [[PREFILL_CHUNK], [PREFILL_CHUNK], [600 - 2 * PREFILL_CHUNK]] == worker.shapes()


def test_drafts_that_run_ahead_ride_along_where_there_is_room() -> None:
    """Beside needed ones while the batch is short; a needed check that fills it leaves them behind."""
    worker = Worker()
    ahead = Outlook(reach=0.5, floor=0.9, ahead=0.0, lead=50)
    worker.opened(1, 2, 3)
    worker.draft(1, limit=40, outlook=ahead)
    worker.turns.step()
    worker.draft(2, limit=2)
    worker.turns.step()
    worker.check(3, [5] * SPARE)
    worker.turns.step()
    assert [[1], [1, 1], [1, SPARE + 1]] == worker.shapes()
    assert [1, 2, 2] == [len({work.slot for work in batch}) for batch in worker.model.batches]
    slots = [[work.slot for work in batch] for batch in worker.model.batches]
    assert slots[2][0] == slots[1][0] != slots[0][0]


def test_everybody_in_a_batch_waited_for_all_of_it() -> None:
    """A shared pass counts once, and in full, for each request; the worker's own count counts it once."""
    worker = Worker()
    worker.opened(1, 2)
    before = worker.turns.passes
    for session in (1, 2):
        worker.draft(session)
    drafted = [reply for reply in worker.finish() if isinstance(reply, Drafted)]
    # Three draft steps, and before them their prompts, which shared a pass too.
    assert [(3, 4 * PASS_NS, 0)] * 2 == [(r.passes, r.compute_ns, r.queue_ns) for r in drafted]
    assert 3 == worker.turns.passes - before
