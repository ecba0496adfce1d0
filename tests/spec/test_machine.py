"""The machine writes the text that the decision table defines, and believes no answer that breaks
the contract.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import product
from math import inf

import pytest

from bild_dist.errors import (
    DeadlineExceeded,
    LocalProtocolError,
    Overloaded,
    RemoteProtocolError,
    WorkerUnavailable,
)
from bild_dist.messages import Close, Draft, Drafted, Open, Opened, Rules, Verified, Verify
from bild_dist.policy.events import Cancelled, Emit, Failed, Finish, FromWorker, ToWorker
from bild_dist.policy.machine import Machine
from bild_dist.types import FinishReason, Mode, Options, Role, Source
from tests.drive import END, VOCABULARY, HandWorker, play, scripted
from tests.oracle import reference

PROMPT = [3, 1, 4]


class Ending:
    """Stop strings in miniature: the text stops once it ends in this run of tokens."""

    def __init__(self, tail: Sequence[int]) -> None:
        self.tail = list(tail)
        self.text: list[int] = []

    def __call__(self, text: Sequence[int]) -> bool:
        return list(text[-len(self.tail) :]) == self.tail

    def push(self, token: int) -> bool:
        self.text.append(token)
        return self(self.text)

    def ahead(self, tokens: Sequence[int]) -> int | None:
        lines = ([*self.text, *tokens[: i + 1]] for i in range(len(tokens)))
        return next((i for i, line in enumerate(lines) if self(line)), None)


def rules(max_new_tokens: int) -> Rules:
    begin = len(PROMPT)
    return Rules(vocabulary=VOCABULARY, begin=begin, limit=begin + max_new_tokens, end_ids=(END,))


def options(**changes: object) -> Options:
    return Options().merged(changes)


CASES = [
    options(mode=mode, alpha_fb=fb, alpha_rb=rb, window=window, first=first, verify_tail=tail)
    for mode, fb, rb, window, first, tail in product(
        ("bild", "exact"), (0.0, 0.35, 1.0), (0.0, 1.5, inf), (1, 3, 10), ("small", "large"),
        (True, False),
    )
] + [options(mode="large"), options(mode="small")]  # fmt: skip


def test_text_and_sources_are_those_of_the_table() -> None:
    """On 220 settings times 12 pairs of models every token and every source is the cache-free
    one.
    """
    seen: set[tuple[Mode, Source]] = set()
    reasons: set[FinishReason | None] = set()
    for seed in range(12):
        large = scripted(seed)
        small = scripted(100 + seed, large)
        stop = Ending([seed % VOCABULARY, 7][: 1 + seed % 2]) if seed % 3 else None
        for case in CASES:
            watch = Ending(stop.tail) if stop is not None else None
            machine = Machine(1, PROMPT, (), rules(24), case, watch)
            tokens, finish = play(machine, HandWorker(small), HandWorker(large))

            expected = reference(
                small, large, PROMPT, case, end_ids=[END], max_new_tokens=24,
                stopped=stop if stop is not None else lambda text: False,
            )  # fmt: skip
            assert expected.tokens == [t.token for t in tokens], (seed, case)
            assert expected.sources == [t.source.value for t in tokens], (seed, case)
            assert finish.reason is not None
            assert expected.reason == finish.reason.value
            assert list(range(len(tokens))) == [t.position for t in tokens]
            seen |= {(case.mode, t.source) for t in tokens}
            reasons.add(finish.reason)

    bild = {Source.SMALL, Source.FALLBACK, Source.WINDOW, Source.ROLLBACK}
    assert bild == {source for mode, source in seen if mode is Mode.BILD}
    assert {Source.FALLBACK} == {source for mode, source in seen if mode is Mode.EXACT}
    assert {Source.LARGE} == {source for mode, source in seen if mode is Mode.LARGE}
    assert set(FinishReason) == reasons


def test_exact_is_the_large_models_own_text_in_fewer_passes() -> None:
    """Mode `exact` gives the tokens of mode `large`, and guesses that hit save large passes."""
    large = scripted(7)
    small = scripted(8, large, agree=0.95)
    texts, passes = [], []
    for mode in ("exact", "large"):
        machine = Machine(1, PROMPT, (), rules(40), options(mode=mode))
        tokens, _ = play(machine, HandWorker(small), HandWorker(large))
        texts.append([t.token for t in tokens])
        passes.append(machine.books.trace.large_passes)

    assert texts[0] == texts[1]
    assert passes[0] < passes[1]


def test_counts_explain_the_text() -> None:
    """Every drafted token is text or wasted, and each large token is counted under its source."""
    for seed, case in product(range(8), CASES):
        large = scripted(seed)
        machine = Machine(1, PROMPT, (), rules(24), case)
        small = HandWorker(scripted(50 + seed, large))
        tokens, _ = play(machine, small, HandWorker(large))
        trace, sources = machine.books.trace, [t.source for t in tokens]

        assert sources.count(Source.FALLBACK) == trace.fallbacks
        assert sources.count(Source.ROLLBACK) == trace.rollbacks
        assert sources.count(Source.WINDOW) == trace.windows
        if case.mode is Mode.BILD:
            assert sources.count(Source.SMALL) == trace.drafted - trace.wasted
        elif case.mode is Mode.EXACT:
            assert len(tokens) <= trace.drafted - trace.wasted + trace.large_passes
        else:
            assert len(tokens) == trace.small_passes + trace.large_passes


def test_verification_keeps_its_kv_cache() -> None:
    """The large model is fed every id of the text once, but for those that it rolled back."""
    large = scripted(3)
    worker = HandWorker(large)
    fed: list[int] = []

    def spy(command: ToWorker) -> None:
        if isinstance(command.request, Verify):
            fed.append(len(command.request.tokens))

    machine = Machine(1, PROMPT, (), rules(60), options(alpha_fb=0.3, alpha_rb=1.0))
    tokens, _ = play(machine, HandWorker(scripted(4, large)), worker, spy)

    assert sum(fed) <= len(tokens) + 1 + machine.books.trace.wasted


def test_slots_are_taken_large_first_and_given_back() -> None:
    """Open goes to the large worker, then to the small one; both get Close at the end."""
    sent: list[tuple[Role, str]] = []
    large = scripted(1)
    machine = Machine(9, PROMPT, (), rules(5), options())
    workers = HandWorker(scripted(2, large)), HandWorker(large)
    play(machine, *workers, lambda c: sent.append((c.role, type(c.request).__name__)))

    assert [(Role.LARGE, "Open"), (Role.SMALL, "Open")] == sent[:2]
    assert {(Role.LARGE, "Close"), (Role.SMALL, "Close")} == set(sent[-2:])


def opened_machine(**changes: object) -> tuple[Machine, Draft]:
    """A machine in mode `bild` that waits for its first draft."""
    machine = Machine(1, PROMPT, (), rules(20), options(**changes))
    commands = machine.start()
    for role in (Role.LARGE, Role.SMALL):
        (command,) = commands
        assert isinstance(command, ToWorker)
        assert isinstance(command.request, Open)
        assert role is command.role
        seq = command.request.seq
        commands = machine.handle(FromWorker(role, Opened(session=1, epoch=0, seq=seq)))
    (command,) = commands
    assert isinstance(command, ToWorker)
    assert isinstance(command.request, Draft)
    return machine, command.request


def drafted(asked: Draft, **changes: object) -> Drafted:
    """A proper answer: two tokens, then a hand-over."""
    answer = Drafted(
        session=1, epoch=asked.epoch, seq=asked.seq, tokens=(5, 6), confidences=(0.9, 0.8),
        low=True, low_token=2, low_confidence=0.1, final=True,
        length=asked.at + len(asked.tokens) + 2, passes=3, queue_ns=0, compute_ns=0,
    )  # fmt: skip
    return dataclasses.replace(answer, **changes)  # type: ignore[arg-type]


BAD_DRAFTS = {
    "one confidence too few": {"confidences": (0.9,)},
    "more tokens than asked for": {"tokens": (5,) * 11, "confidences": (0.9,) * 11},
    "a token outside the vocabulary": {"tokens": (5, VOCABULARY)},
    "a negative token": {"tokens": (-1, 6)},
    "a confidence that is no number": {"confidences": (0.9, float("nan"))},
    "a confidence that is no probability": {"confidences": (0.9, 1e308)},
    "a negative confidence": {"confidences": (-7.0, 0.9)},
    "a low confidence that is none": {"low_confidence": -7.0},
    "a low token outside the vocabulary": {"low_token": VOCABULARY},
    "candidates that nobody asked for": {"others": (1, 2)},
    "a token behind the end": {"tokens": (END, 6)},
    "a length past its tokens": {"length": 99},
    "a length before what it built on": {"length": 0},
    "an end without a reason": {"low": False},
    "a hand-over above the threshold": {"low_confidence": 0.99},
    "no end where there is a reason": {"final": False},
    "a negative count": {"passes": -1},
}


@pytest.mark.parametrize("changes", BAD_DRAFTS.values(), ids=BAD_DRAFTS)
def test_a_bad_draft_is_refused_and_changes_nothing(changes: dict[str, object]) -> None:
    """An answer that breaks the contract raises RemoteProtocolError; the proper one still works."""
    machine, asked = opened_machine()
    before = repr(machine), dataclasses.asdict(machine.books.trace)
    with pytest.raises(RemoteProtocolError):
        machine.handle(FromWorker(Role.SMALL, drafted(asked, **changes)))

    assert before == (repr(machine), dataclasses.asdict(machine.books.trace))
    (command,) = machine.handle(FromWorker(Role.SMALL, drafted(asked)))
    assert isinstance(command, ToWorker)
    assert isinstance(command.request, Verify)


def verified(asked: Verify, **changes: object) -> Verified:
    """A proper answer: both tokens stand, and a bonus."""
    answer = Verified(
        session=1, epoch=asked.epoch, seq=asked.seq, accepted=2, token=7, distances=(0.1, 0.2),
        length=asked.at + len(asked.tokens), passes=1, queue_ns=0, compute_ns=0,
    )  # fmt: skip
    return dataclasses.replace(answer, **changes)  # type: ignore[arg-type]


BAD_CHECKS = {
    "more accepted than checked": {"accepted": 3},
    "a negative count of accepted": {"accepted": -1},
    "a distance too few": {"distances": (0.1,)},
    "no token where a bonus is due": {"token": -1},
    "a token outside the vocabulary": {"token": VOCABULARY},
    "a length past what it accepted": {"accepted": 1, "length": 99},
}


@pytest.mark.parametrize("changes", BAD_CHECKS.values(), ids=BAD_CHECKS)
def test_a_bad_check_is_refused_and_changes_nothing(changes: dict[str, object]) -> None:
    """As for drafts: the wrong answer raises, the right one still works."""
    machine, draft = opened_machine()
    (command,) = machine.handle(FromWorker(Role.SMALL, drafted(draft)))
    assert isinstance(command, ToWorker)
    assert isinstance(command.request, Verify)
    before = repr(machine), dataclasses.asdict(machine.books.trace)
    with pytest.raises(RemoteProtocolError):
        machine.handle(FromWorker(Role.LARGE, verified(command.request, **changes)))

    assert before == (repr(machine), dataclasses.asdict(machine.books.trace))
    emit, *_ = machine.handle(FromWorker(Role.LARGE, verified(command.request)))
    assert isinstance(emit, Emit)
    assert [(5, "small"), (6, "small"), (7, "fallback")] == [
        (t.token, t.source) for t in emit.tokens
    ]


def test_an_answer_to_no_command_is_our_own_fault() -> None:
    """Another session, another number, another worker: LocalProtocolError, since routing is
    ours.
    """
    machine, asked = opened_machine()
    for role, answer in (
        (Role.SMALL, drafted(asked, session=2)),
        (Role.SMALL, drafted(asked, seq=asked.seq + 1)),
        (Role.LARGE, drafted(asked)),
        (Role.SMALL, drafted(asked, epoch=1)),
    ):
        with pytest.raises(LocalProtocolError):
            machine.handle(FromWorker(role, answer))


def test_a_check_is_no_answer_to_a_draft() -> None:
    """An answer of the wrong kind is the worker's fault."""
    machine, asked = opened_machine()
    wrong = Verified(
        session=1, epoch=0, seq=asked.seq, accepted=0, token=1, distances=(), length=3, passes=1,
        queue_ns=0, compute_ns=0,
    )  # fmt: skip
    with pytest.raises(RemoteProtocolError):
        machine.handle(FromWorker(Role.SMALL, wrong))


@pytest.mark.parametrize(
    "event", [Failed(WorkerUnavailable("gone")), Cancelled(DeadlineExceeded("late"))]
)
def test_a_failed_or_cancelled_request_closes_what_it_opened(event: Failed | Cancelled) -> None:
    """Both slots are given back, the error is passed on, and late answers are ignored."""
    machine, asked = opened_machine()
    commands = machine.handle(event)

    assert [Close(session=1)] * 2 == [c.request for c in commands if isinstance(c, ToWorker)]
    assert Finish(None, event.error) == commands[-1]
    assert [] == machine.handle(FromWorker(Role.SMALL, drafted(asked)))


def test_an_old_epoch_is_dropped_and_counted() -> None:
    """After a rollback, answers to what was taken back change nothing but the count of waste."""
    machine, draft = opened_machine()
    (command,) = machine.handle(FromWorker(Role.SMALL, drafted(draft)))
    assert isinstance(command, ToWorker)
    assert isinstance(command.request, Verify)
    length = command.request.at + len(command.request.tokens) - 1
    rollback = verified(command.request, accepted=1, distances=(0.1, 9.0), length=length)
    machine.handle(FromWorker(Role.LARGE, rollback))
    wasted = machine.books.trace.wasted

    assert [] == machine.handle(FromWorker(Role.SMALL, drafted(draft)))
    assert wasted + 2 == machine.books.trace.wasted


def test_rules_that_do_not_fit_the_prompt_are_our_own_fault() -> None:
    """The text's bounds are part of the machine's promise, so it checks them when it is made."""
    with pytest.raises(LocalProtocolError):
        Machine(1, PROMPT, (), dataclasses.replace(rules(5), begin=1), options())
    with pytest.raises(LocalProtocolError):
        Machine(1, [], (), rules(5), options())


def test_a_stop_string_before_a_hand_over_ends_the_text_unchecked() -> None:
    """`verify_tail = False` waives the check of a final run, whatever the small model thinks behind
    its end.
    """
    for low in (True, False):
        stops = Ending([6])
        machine = Machine(1, PROMPT, (), rules(20), options(verify_tail=False, window=2), stops)
        commands = machine.start()
        for role in (Role.LARGE, Role.SMALL):
            (command,) = commands
            assert isinstance(command, ToWorker)
            assert isinstance(command.request, Open)
            opened = Opened(session=1, epoch=0, seq=command.request.seq)
            commands = machine.handle(FromWorker(role, opened))
        (command,) = commands
        assert isinstance(command, ToWorker)
        assert isinstance(command.request, Draft)
        end = {} if low else {"low": False, "low_token": -1, "low_confidence": 0.0}
        emit, *_, finish = machine.handle(FromWorker(Role.SMALL, drafted(command.request, **end)))
        assert isinstance(emit, Emit)
        assert [5, 6] == [t.token for t in emit.tokens]
        assert Finish(FinishReason.STOP, None) == finish


def test_a_spare_slot_that_is_lost_is_done_without() -> None:
    """An error that speaks of a spare slot alone retires it; the request goes on."""
    machine = Machine(5, PROMPT, (), rules(20), options(schedule="overlap", branches=2))
    assert [5, 6] == machine.sessions
    machine.start()
    assert [] == machine.handle(Failed(Overloaded("no slot"), session=6))
    assert not machine.done
    machine.handle(Failed(Overloaded("no slot"), session=5))
    assert machine.done
