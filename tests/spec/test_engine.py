"""The engine thread: slots, turns, epochs, duplicates, and commands that cannot be carried out."""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Hashable, Iterator
from itertools import pairwise

import pytest

from bild_dist.errors import WorkerFault
from bild_dist.kv.prefix import Prefix
from bild_dist.messages import (
    Close,
    Draft,
    Drafted,
    Encode,
    Failed,
    Open,
    Opened,
    Reply,
    Rules,
    Verified,
    Verify,
)
from bild_dist.model.base import Choice, Pass
from bild_dist.workers.engine import Engine
from tests.drive import VOCABULARY, PredictorModel, scripted

PROMPT = (3, 1, 4, 1)
RULES = Rules(vocabulary=VOCABULARY, begin=4, limit=30)
PREDICT = scripted(5)


class Bench:
    """An engine whose replies are collected, and a model that can be held up inside a pass."""

    def __init__(self, slots: int = 2) -> None:
        self.replies: queue.Queue[tuple[Hashable, Reply]] = queue.Queue()
        self.gate = threading.Event()
        self.gate.set()
        self.inside = threading.Event()
        self.passes: list[int] = []
        self.broken = False
        model = PredictorModel(PREDICT)
        model.allocate(slots)
        forward = model.forward

        def gated(work: Pass) -> list[Choice]:
            self.passes.append(work.slot)
            self.inside.set()
            if not self.gate.wait(10):
                raise TimeoutError("a test left the gate closed")
            if self.broken:
                raise RuntimeError("device lost")
            return forward(work)

        model.forward = gated  # type: ignore[method-assign]
        self.model = model
        self.engine = Engine(
            lambda: model, slots, lambda who, reply: self.replies.put((who, reply))
        )
        self.engine.start()
        self.engine.ready.result(10)
        self.passes.clear()
        self.inside.clear()

    def say(self, command: Open | Draft | Verify | Close | Encode, who: Hashable = "a") -> None:
        self.engine.submit(who, command)

    def next(self) -> Reply:
        return self.replies.get(timeout=10)[1]

    def hold(self) -> None:
        """The next pass waits inside the model until `gate` is set again."""
        self.gate.clear()
        self.inside.clear()

    def settle(self) -> None:
        """Returns when everything submitted so far has been taken up: an unknown question is
        answered in order.
        """
        self.say(Encode(seq=77, text="", src_lang="", tgt_lang=""), "settle")
        while self.replies.get(timeout=10)[0] != "settle":
            pass


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.gate.set()
    bench.engine.stop()


def open_(session: int = 1, **changes: object) -> Open:
    command = Open(session=session, epoch=0, seq=1, ids=PROMPT, source=(), rules=RULES)
    return dataclasses.replace(command, **changes)  # type: ignore[arg-type]


def draft_(session: int = 1, **changes: object) -> Draft:
    command = Draft(
        session=session, epoch=0, seq=2, at=3, digest=Prefix(PROMPT).digest(3), tokens=PROMPT[3:],
        limit=4, stops=False, piece=0,
    )  # fmt: skip
    return dataclasses.replace(command, **changes)  # type: ignore[arg-type]


def verify_(session: int = 1, **changes: object) -> Verify:
    command = Verify(
        session=session, epoch=0, seq=2, at=3, digest=Prefix(PROMPT).digest(3),
        tokens=(*PROMPT[3:], 5, 6), exact=(False, False), alpha_rb=1e9, bonus=True,
    )  # fmt: skip
    return dataclasses.replace(command, **changes)  # type: ignore[arg-type]


def expected_draft(count: int) -> tuple[int, ...]:
    line = list(PROMPT)
    for _ in range(count):
        line.append(PREDICT(line).draw)
    return tuple(line[len(PROMPT) :])


def test_a_draft_writes_what_the_model_draws(bench: Bench) -> None:
    """Open is granted at once, the prompt is prefilled, and the draft continues it."""
    bench.say(open_())
    bench.say(draft_())

    assert Opened(session=1, epoch=0, seq=1) == bench.next()
    reply = bench.next()
    assert isinstance(reply, Drafted)
    assert expected_draft(4) == reply.tokens
    assert (True, 7, 4) == (reply.final, reply.length, reply.passes)


def test_pieces_are_reported_as_they_are_written(bench: Bench) -> None:
    """With `piece` set every so many tokens are told at once; together they are the same draft."""
    bench.say(open_())
    bench.say(draft_(piece=1))
    bench.next()
    pieces = [bench.next() for _ in range(4)]

    assert [False, False, False, True] == [p.final for p in pieces if isinstance(p, Drafted)]
    assert expected_draft(4) == sum((p.tokens for p in pieces if isinstance(p, Drafted)), ())


def test_a_check_keeps_the_kv_of_what_it_accepts(bench: Bench) -> None:
    """After a rollback the next command builds on the accepted part, at the length that was
    told.
    """
    bench.say(open_())
    bench.say(verify_(exact=(False, True)))
    bench.next()
    reply = bench.next()
    assert isinstance(reply, Verified)
    assert (1, PREDICT([*PROMPT, 5]).draw, 5) == (reply.accepted, reply.token, reply.length)

    line = Prefix([*PROMPT, 5])
    bench.say(draft_(seq=3, epoch=1, at=5, digest=line.digest(5), tokens=(reply.token,), limit=1))
    after = bench.next()
    assert isinstance(after, Drafted)
    assert (PREDICT([*PROMPT, 5, reply.token]).draw,) == after.tokens


def test_requests_take_turns_pass_by_pass(bench: Bench) -> None:
    """A long draft does not keep another request waiting until it is done."""
    for session in (1, 2):
        bench.say(open_(session))
    bench.settle()
    bench.hold()
    bench.say(draft_(1, limit=20))
    assert bench.inside.wait(10)
    bench.say(draft_(2, limit=20))
    bench.passes.clear()
    bench.gate.set()
    bench.next(), bench.next()

    turns = bench.passes[2:30]
    assert all(a != b for a, b in pairwise(turns))


def test_a_newer_epoch_stops_a_draft_between_two_tokens(bench: Bench) -> None:
    """What is left of the old draft is dropped without an answer; the new command is answered."""
    bench.say(open_())
    bench.settle()
    bench.hold()
    bench.say(draft_(limit=20))
    assert bench.inside.wait(10)
    bench.say(draft_(seq=3, epoch=1, limit=2))
    bench.gate.set()

    reply = bench.next()
    assert isinstance(reply, Drafted)
    assert (3, 1, expected_draft(2)) == (reply.seq, reply.epoch, reply.tokens)
    assert bench.replies.empty()
    assert len(bench.passes) < 20


def test_a_duplicate_gets_the_same_answer_and_no_second_pass(bench: Bench) -> None:
    """Commands are numbered: the last one asked again is answered from memory, an older one not at
    all.
    """
    bench.say(open_())
    bench.say(open_())
    bench.say(draft_())
    first = [bench.next() for _ in range(3)]
    passes = bench.engine.progress
    bench.say(draft_())
    bench.say(open_())

    assert first[0] == first[1]
    assert first[2] == bench.next()
    bench.settle()
    assert passes == bench.engine.progress


def test_an_older_epoch_is_ignored(bench: Bench) -> None:
    """A command that was overtaken by a newer epoch does nothing."""
    bench.say(open_())
    bench.say(draft_(seq=3, epoch=2))
    bench.next(), bench.next()
    bench.say(draft_(seq=4, epoch=1))
    bench.settle()

    assert bench.replies.empty()


def test_requests_wait_for_a_slot_in_their_order(bench: Bench) -> None:
    """With every slot taken an Open waits; a Close lets the first in line in."""
    for session in (1, 2, 3, 4):
        bench.say(open_(session))
    granted = [bench.next(), bench.next()]
    assert [1, 2] == [r.session for r in granted if isinstance(r, Opened)]
    assert 2 == bench.engine.open_slots
    bench.say(Close(session=2))
    third = bench.next()

    assert isinstance(third, Opened)
    assert 3 == third.session
    bench.say(Close(session=4))  # still waiting: it simply leaves the line
    bench.say(Close(session=1))
    bench.settle()
    assert 1 == bench.engine.open_slots


def test_a_connection_that_ends_frees_its_slots_and_no_others(bench: Bench) -> None:
    """Slots belong to a connection; the same session number on another one is another request."""
    bench.say(open_(1), "a")
    bench.say(open_(1), "b")
    bench.next(), bench.next()
    bench.engine.disconnect("a")
    bench.say(draft_(1), "b")

    assert isinstance(bench.next(), Drafted)
    assert 1 == bench.engine.open_slots


BAD = {
    "a length past the slot's": draft_(at=9),
    "a negative length": draft_(at=-1),
    "another digest": draft_(digest=1),
    "nothing to feed": draft_(tokens=()),
    "a token outside the vocabulary": draft_(tokens=(VOCABULARY,)),
    "a draft past the text's bounds": draft_(limit=27),
    "a draft of nothing": draft_(limit=0),
    "a check past the text's bounds": verify_(tokens=(1,) * 27, exact=(False,) * 2),
    "a check without a committed id": verify_(tokens=(5, 6)),
    "a check of nothing": verify_(tokens=(1,), exact=(), bonus=False),
}


@pytest.mark.parametrize("command", BAD.values(), ids=BAD)
def test_a_command_that_breaks_the_contract_fails_alone(
    bench: Bench, command: Draft | Verify
) -> None:
    """It gets RemoteProtocolError; the slot and the other requests go on."""
    bench.say(open_())
    bench.say(open_(2))
    bench.say(command)
    bench.next(), bench.next()
    reply = bench.next()
    assert isinstance(reply, Failed)
    assert ("RemoteProtocolError", 1, 2) == (reply.error, reply.session, reply.seq)

    bench.say(draft_(1, seq=3))
    bench.say(draft_(2))
    answers = [bench.next(), bench.next()]
    assert [expected_draft(4)] * 2 == [a.tokens for a in answers if isinstance(a, Drafted)]


BAD_OPENS = {
    "ids outside the vocabulary": open_(ids=(3, 1, 4, VOCABULARY)),
    "a prompt that the rules do not fit": open_(ids=(3, 1)),
    "a limit past the positions": open_(rules=dataclasses.replace(RULES, limit=65)),
    "a source for a decoder-only model": open_(source=(1, 2)),
    "more ids than the model has": open_(rules=dataclasses.replace(RULES, vocabulary=99)),
}


@pytest.mark.parametrize("command", BAD_OPENS.values(), ids=BAD_OPENS)
def test_an_open_that_cannot_be_served_takes_no_slot(bench: Bench, command: Open) -> None:
    """It gets InvalidRequest and the slot stays free."""
    bench.say(command)
    reply = bench.next()
    assert isinstance(reply, Failed)
    assert "InvalidRequest" == reply.error
    bench.settle()
    assert 0 == bench.engine.open_slots


def test_a_command_without_a_slot_fails(bench: Bench) -> None:
    """A request that was closed, or never opened, is told so."""
    bench.say(draft_(8))
    reply = bench.next()
    assert isinstance(reply, Failed)
    assert "RemoteProtocolError" == reply.error


def test_a_broken_device_ends_the_engine(bench: Bench) -> None:
    """An error that is nobody's request ends the thread with a WorkerFault that names it."""
    bench.say(open_())
    bench.settle()
    bench.broken = True
    bench.say(draft_())
    with pytest.raises(WorkerFault, match="device lost"):
        bench.engine.ended.result(10)


def test_a_running_pass_shows_in_the_readings(bench: Bench) -> None:
    """The event loop can tell how long the present pass has run and how long its like take."""
    assert (0, 0) == bench.engine.busy()
    bench.say(open_())
    bench.say(draft_())
    bench.next(), bench.next()
    bench.hold()
    bench.say(draft_(seq=3))
    assert bench.inside.wait(10)
    busy_ns, expected_ns = bench.engine.busy()
    bench.gate.set()

    assert busy_ns > 0
    assert expected_ns > 0
    assert isinstance(bench.next(), Drafted)


def test_the_end_token_ends_a_draft(bench: Bench) -> None:
    """Nothing is written behind an end token."""
    ends = (expected_draft(4)[2],)
    bench.say(open_(rules=dataclasses.replace(RULES, end_ids=ends)))
    bench.say(draft_(limit=20))
    bench.next()
    reply = bench.next()

    assert isinstance(reply, Drafted)
    assert expected_draft(3) == reply.tokens
    assert reply.final
