"""Log-probabilities: those of the model that decided, row by row, and nothing where nobody asks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import exp, inf, isclose, log, nan
from typing import Any

import pytest
import torch

from bild_dist.errors import InvalidRequest, RemoteProtocolError
from bild_dist.logprobs import Logprob, check, flat, of, rows_of, size
from bild_dist.messages import Drafted, Open, Opened, Rules
from bild_dist.model.base import Pass
from bild_dist.model.draw import Draw
from bild_dist.model.measure import Measures
from bild_dist.model.scripted import END as SCRIPTED_END
from bild_dist.model.scripted import VOCABULARY as SCRIPTED
from bild_dist.model.scripted import Rates, Script
from bild_dist.model.toy import VOCABULARY as LETTERS
from bild_dist.model.toy import ToyModel
from bild_dist.policy.events import FromWorker, Token, ToWorker
from bild_dist.policy.machine import Machine
from bild_dist.policy.rules import all_large
from bild_dist.types import FinishReason, Mode, Options, Result, Role, Schedule, Source
from bild_dist.wire.codec import to_msgpack
from tests.drive import END, VOCABULARY, HandWorker, play, scripted
from tests.oracle import Predictor
from tests.orders import Board, every_order

PROMPT = [3, 1, 4]
NEW = 24
SETTINGS: list[dict[str, Any]] = [
    {"mode": "large"},
    {"mode": "small"},
    {"mode": "exact"},
    {"mode": "exact", "schedule": "through"},
    {"mode": "exact", "schedule": "overlap", "window": 3},
    {"alpha_fb": 0.35, "alpha_rb": 1.5, "window": 4},
    {"alpha_fb": 0.35, "alpha_rb": 1.5, "window": 4, "schedule": "through"},
    {"alpha_fb": 0.35, "alpha_rb": 1.5, "window": 4, "schedule": "overlap"},
    {"alpha_fb": 0.3, "alpha_rb": 0.5, "verify_tail": False},
    {"alpha_fb": 0.0, "alpha_rb": 0.0, "window": 2, "first": "large"},
    {"alpha_fb": 0.3, "alpha_rb": 0.4, "confidence": "entropy", "distance": "kl", "schedule": "through"},
    {"alpha_fb": 0.2, "adapt": 0.3, "confidence": "product", "schedule": "overlap"},
    {"temperature": 1.2, "top_k": 4, "seed": 3, "alpha_fb": 0.3, "alpha_rb": 1.0, "schedule": "overlap"},
    {"temperature": 0.7, "top_p": 0.8, "seed": 4, "mode": "exact", "schedule": "through"},
    {"policy": "rejection", "temperature": 1.0, "window": 3, "seed": 5},
    {"policy": "rejection", "window": 3},
]  # fmt: skip


def rules(**changes: Any) -> Rules:
    begin = len(PROMPT)
    made = Rules(vocabulary=VOCABULARY, begin=begin, limit=begin + NEW, end_ids=(END,))
    return replace(
        made, **{k: v for k, v in changes.items() if k in ("temperature", "top_k", "top_p", "seed")}
    )


def whose(token: Token, options: Options) -> Role:
    """The model that decides a position."""
    if all_large(options) or options.mode is Mode.LARGE:
        return Role.LARGE
    return Role.SMALL if token.source is Source.SMALL else Role.LARGE


def row(predict: Predictor, ids: Sequence[int], token: int, count: int) -> Logprob:
    """The same from scratch."""
    logs = [-predict(ids).nll(t) for t in range(VOCABULARY)]
    best = sorted(range(VOCABULARY), key=lambda t: (-logs[t], t))[:count]
    return Logprob(logs[token], tuple((t, logs[t]) for t in best))


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_each_row_is_that_of_the_model_that_decides(setting: dict[str, Any]) -> None:
    """Over all modes, schedules and policies: a token of the small model has its own ln p, every other
    that of the large one, also where the small one's guess stood; alternatives are the likeliest.
    """
    for pair, count in ((1, 0), (2, 3), (3, 20)):
        large = scripted(2 * pair)
        models = {Role.SMALL: scripted(2 * pair + 1, large), Role.LARGE: large}
        options = Options(logprobs=count, max_new_tokens=NEW).merged(setting)
        machine = Machine(1, PROMPT, (), rules(**setting), options)
        small, big = HandWorker(models[Role.SMALL]), HandWorker(large)
        tokens, finish = play(machine, small, big)
        assert finish.error is None
        ids = list(PROMPT)
        for token in tokens:
            expected = row(models[whose(token, options)], ids, token.token, min(count, VOCABULARY))
            assert expected == (token.logprob, token.top)
            ids.append(token.token)


@pytest.mark.parametrize("mode", [Mode.BILD, Mode.EXACT])
@pytest.mark.parametrize("schedule", list(Schedule))
def test_every_order_of_events_gives_the_same_rows(schedule: Schedule, mode: Mode) -> None:
    """Guesses taken back and drafts of older epochs leave nothing behind: each small token has the row
    of its own confidence, each other the large model's one half.
    """
    options = Options(schedule=schedule, mode=mode, max_new_tokens=3, window=2, logprobs=2)
    limit = 2 + options.max_new_tokens
    made = Rules(vocabulary=SCRIPTED, begin=2, limit=limit, end_ids=(SCRIPTED_END,))
    script = Script(Rates(f=0.4, rho=0.2), 5)
    found = set()
    for board in every_order(lambda: Board(Machine(1, [1, 2], (), made, options), script)):
        found.add(tuple(board.given))
    # Confidence and distance of a token of the large model depend on what was guessed there.
    assert 1 == len({tuple((t.token, t.logprob, t.top) for t in given) for given in found})
    for token in next(iter(found)):
        small = whose(token, options) is Role.SMALL
        assert token.logprob == log(token.confidence or 0.0 if small else 0.5)
        assert (token.token, token.logprob) == token.top[0]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_what_nobody_asks_for_is_not_told(setting: dict[str, Any]) -> None:
    """Tokens without log-probabilities, replies without rows, and rules that say so."""
    large = scripted(2)
    workers = {Role.SMALL: HandWorker(scripted(3, large)), Role.LARGE: HandWorker(large)}
    for worker in workers.values():
        answer = worker.answer
        worker.answer = partial(silent, answer)  # type: ignore[method-assign]
    options = Options(max_new_tokens=NEW).merged(setting)
    machine = Machine(1, PROMPT, (), rules(**setting), options)
    tokens, _ = play(machine, workers[Role.SMALL], workers[Role.LARGE])
    assert {(None, ())} == {(token.logprob, token.top) for token in tokens}


def silent(answer: Any, request: Any) -> Any:
    replies = answer(request)
    for reply in replies:
        assert ((), ()) == (getattr(reply, "logprobs", ()), getattr(reply, "top_ids", ()))
    return replies


def test_a_model_that_only_guesses_tells_none() -> None:
    """In mode `exact` and with rejection the small model's rows would be thrown away: it is not asked."""
    for setting in ({"mode": "exact"}, {"policy": "rejection"}, {}):
        asked: dict[Role, int | None] = {}

        def spy(command: ToWorker, asked: dict[Role, int | None] = asked) -> None:
            if isinstance(command.request, Open):
                asked[command.role] = command.request.rules.logprobs

        large = scripted(2)
        options = Options(logprobs=4).merged(setting)
        machine = Machine(1, PROMPT, (), rules(), options)
        play(machine, HandWorker(scripted(3, large)), HandWorker(large), spy)
        assert {Role.LARGE: 4, Role.SMALL: None if setting else 4} == asked


def test_a_trace_goes_to_both_workers() -> None:
    """Each Open names it, those of spare slots too."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    options = Options(traceparent=trace, schedule=Schedule.OVERLAP, branches=2)
    machine = Machine(1, PROMPT, (), rules(), options)
    commands = machine.start()
    for role in (Role.LARGE, Role.SMALL):
        opened = Opened(session=1, epoch=0, seq=1)
        commands += machine.handle(FromWorker(role, opened))
    sent = [c for c in commands if isinstance(c, ToWorker)]
    opens = [(c.role, c.request) for c in sent if isinstance(c.request, Open)]
    assert [(Role.LARGE, 1, trace), (Role.SMALL, 1, trace), (Role.SMALL, 2, trace)] == [
        (role, request.session, request.traceparent) for role, request in opens
    ]


def drafted(rows: Sequence[Logprob], **changes: Any) -> Drafted:
    numbers, ids = flat(rows)
    made = Drafted(
        session=1, epoch=0, seq=1, tokens=tuple(range(len(rows))), confidences=(0.5,) * len(rows),
        low=False, low_token=-1, low_confidence=0.0, final=True, length=4, passes=1, queue_ns=0,
        compute_ns=0, logprobs=numbers, top_ids=ids,
    )  # fmt: skip
    return replace(made, **changes)


ROWS = [Logprob(-1.0, ((5, -0.5), (6, -1.0))), Logprob(-0.25, ((1, -0.25), (2, -inf)))]


def test_rows_survive_the_wire() -> None:
    """What was flattened is read again, without the ids that may not stand."""
    asked = rules()
    asked = replace(asked, logprobs=2)
    assert [ROWS[0], Logprob(-0.25, ((1, -0.25),))] == rows_of(drafted(ROWS), 2, asked)
    assert [None, None] == rows_of(drafted(ROWS, logprobs=(), top_ids=()), 2, rules())
    # More than there are ids: as many as there are.
    few = replace(rules(), vocabulary=2, logprobs=20)
    row = Logprob(-0.1, ((0, -0.1), (1, -2.4)))
    assert [row] == rows_of(drafted([row]), 1, few)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"logprobs": (-1.0, -0.5)}, "one row of log-probabilities a token"),
        ({"top_ids": (5,)}, "an id for each"),
        ({"top_ids": (5, 6, 1, VOCABULARY)}, "ids of the vocabulary"),
        ({"logprobs": (-1.0, -0.5, -1.0, nan, -0.25, -1.0)}, "of at most 0"),
        ({"logprobs": (-1.0, -0.5, -1.0, 0.5, -0.25, -1.0)}, "of at most 0"),
        ({"logprobs": (-1.0, -0.5, -1.0, -inf, -0.25, -1.0)}, "a token that may stand"),
    ],
)
def test_rows_that_are_none_are_refused(changes: dict[str, Any], words: str) -> None:
    """A worker that counts wrongly, or names what cannot be, breaks the contract."""
    asked = replace(rules(), logprobs=2)
    with pytest.raises(RemoteProtocolError, match=words):
        rows_of(drafted(ROWS, **changes), 2, asked)
    with pytest.raises(RemoteProtocolError, match="only where asked for"):
        rows_of(drafted(ROWS), 2, rules())


def test_a_row_on_the_wire_is_no_longer_than_reckoned() -> None:
    """Whoever bounds a draft by the size of a message counts on it."""
    asked = replace(rules(), vocabulary=1 << 30, logprobs=20)
    one = Logprob(-1 / 3, tuple(((1 << 30) - t, -1 / 3) for t in range(20)))
    lengths = [len(to_msgpack(drafted([one] * n, tokens=(), confidences=()))) for n in (100, 101)]
    assert lengths[1] - lengths[0] <= size(asked)
    assert 0 == size(rules())


@pytest.mark.parametrize("value", [-1, 21, 1.0, True, "3"])
def test_a_count_out_of_its_range_is_refused(value: Any) -> None:
    """By name, where the request is made; and by a worker that is asked all the same."""
    with pytest.raises(InvalidRequest, match=r"logprobs = .* from 0 to 20"):
        Options(logprobs=value)
    if type(value) is int:
        with pytest.raises(InvalidRequest, match=f"logprobs = {value} must be from 0 to 20"):
            check(replace(rules(), logprobs=value))


@pytest.mark.parametrize(
    "value", [None, 7, "nonsense", "00-" + "0" * 600, "00-ABCD", "00-1-2-3\n", " "]
)
def test_a_trace_that_is_none_is_refused(value: Any) -> None:
    """It would travel to every worker only to be useless there."""
    with pytest.raises(InvalidRequest, match="traceparent"):
        Options(traceparent=value)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("count", [0, 1, 5, 20])
def test_tensors_tell_what_lists_tell(count: int, temperature: float) -> None:
    """Of the same logits, with a vocabulary narrower than they are and ids that may not stand."""
    dice = torch.Generator().manual_seed(7)
    logits = torch.randn(4, 40, generator=dice) * 3
    logits[:2, 11] = logits[:2, 5] = 9.0  # equals rank by id, where only one has room too
    logits[:, 20:24] = -torch.inf
    logits[2] = -torch.inf
    logits[2, [3, 4]] = 0.0
    asked = replace(rules(), vocabulary=32, logprobs=count, temperature=temperature)
    logits[:, 32:] = -torch.inf
    total = torch.logsumexp(logits, -1)
    tokens = [5, 11, 4, 30]
    told = Measures(asked, Draw(asked)).logprobs(logits, total, tokens)
    logs = (logits.double() - total.double()[:, None]).tolist()
    for here, token, line in zip(told, tokens, logs, strict=True):
        expected = of(line, token, asked)
        assert [t for t, _ in expected.top] == [t for t, _ in here.top]
        pairs = zip((here.own, *(p for _, p in here.top)),
                    (expected.own, *(p for _, p in expected.top)), strict=True)  # fmt: skip
        assert all(a == b or isclose(a, b, abs_tol=1e-6) for a, b in pairs)


def test_toys_tell_their_script() -> None:
    """ln p of the written token and of the likeliest ones, all of one distribution."""
    for role in Role:
        model = ToyModel(f"toy:{role}?seed=3")
        model.allocate(1)
        asked = replace(model.info.rules, begin=1, limit=9, logprobs=20)
        model.open(0, (), asked)
        choice = model.forward(Pass(0, 0, [65], rows=1))[0]
        logs = model.script.logs(role, [65], asked)
        assert of(logs, choice.token, asked) == choice.logprob
        assert isclose(1, sum(map(exp, logs)), abs_tol=1e-9)
        assert LETTERS == len(logs)
        model.open(0, (), replace(asked, logprobs=None))
        assert model.forward(Pass(0, 0, [65], rows=1))[0].logprob is None


def test_a_result_names_them_only_where_asked() -> None:
    """The JSON of a text without them is what it was before they were known."""
    plain = Result(text="a", tokens=(97,), sources=(Source.LARGE,), finish_reason=FinishReason.EOS)
    assert ["text", "tokens", "sources", "finish_reason", "trace"] == list(plain.as_dict())
    own = replace(plain, logprobs=(-0.5,))
    assert {"logprobs"} == {*own.as_dict()} - {*plain.as_dict()}
    both = json.loads(json.dumps(replace(own, top=(((97, -0.5), (98, -2.0)),)).as_dict()))
    assert ([-0.5], [[[97, -0.5], [98, -2.0]]]) == (both["logprobs"], both["top"])
