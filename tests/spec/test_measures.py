"""Other measures of confidence and distance, thresholds that adapt, and rejection: each text is the
one of its cache-free definition, on every schedule that it knows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from math import exp, inf, log
from typing import Any

import pytest
import torch

from bild_dist.errors import InvalidRequest, RemoteProtocolError
from bild_dist.messages import Draft, Drafted, Rules
from bild_dist.model.draw import Draw
from bild_dist.model.measure import Measures
from bild_dist.orchestrator.prompt import check_frame
from bild_dist.policy.contract import check_drafted
from bild_dist.policy.line import Line
from bild_dist.policy.machine import Machine
from bild_dist.policy.rules import Ruler
from bild_dist.sampling import choose, law, settle
from bild_dist.shares import apart, law_row, pack, read, sketch, split, sureness
from bild_dist.types import Options, Schedule, Source
from tests.drive import END, VOCABULARY, HandWorker, play, scripted
from tests.laws import chi_square, little, predictor, text_law
from tests.oracle import Distribution, reference
from tests.oracle import apart as apart_by_definition

PROMPT = [3, 1, 4]
NEW = 24
LUCK = 1e-6


def rules(new: int = NEW, **changes: Any) -> Rules:
    begin = len(PROMPT)
    own = {"vocabulary": VOCABULARY, "begin": begin, "limit": begin + new, "end_ids": (END,)}
    return Rules(**{**own, **changes})


def disagreements(settings: list[dict[str, Any]], seeds: range) -> set[Source]:
    """Compares texts with the definition; returns the sources that occurred."""
    seen = set()
    for seed in seeds:
        large = scripted(seed)
        small = scripted(100 + seed, large)
        for setting in settings:
            options = Options().merged(setting)
            bounds = rules(
                temperature=float(options.temperature), top_k=options.top_k, top_p=options.top_p,
                seed=options.seed,
            )  # fmt: skip
            machine = Machine(1, PROMPT, (), bounds, options)
            tokens, finish = play(machine, HandWorker(small), HandWorker(large))
            expected = reference(small, large, PROMPT, options, end_ids=[END], max_new_tokens=NEW)
            assert finish.error is None
            assert expected.tokens == [t.token for t in tokens], (seed, setting)
            assert expected.sources == [t.source.value for t in tokens], (seed, setting)
            seen |= {t.source for t in tokens}
    return seen


TABLE = {Source.SMALL, Source.FALLBACK, Source.WINDOW, Source.ROLLBACK}


@pytest.mark.parametrize("schedule", list(Schedule))
@pytest.mark.parametrize(
    ("confidence", "alpha_fb"), [("margin", 0.12), ("entropy", 0.16), ("product", 0.08)]
)
def test_other_confidences_write_the_text_of_the_definition(
    confidence: str, alpha_fb: float, schedule: Schedule
) -> None:
    """Whatever alpha_fb is compared with, tokens and sources are those of the definition."""
    settings: list[dict[str, Any]] = [
        {"confidence": confidence, "alpha_fb": alpha_fb, "alpha_rb": 1.5, "window": window,
         "first": first, "schedule": schedule, "temperature": temperature}
        for window, first, temperature in ((3, "small", 0), (4, "large", 0), (3, "small", 1.0))
    ]  # fmt: skip
    assert disagreements(settings, range(6)) == TABLE


@pytest.mark.parametrize("schedule", list(Schedule))
@pytest.mark.parametrize(
    ("distance", "alpha_rb"), [("kl", 0.4), ("js", 0.1), ("tv", 0.35), ("l2", 0.25)]
)
def test_other_distances_write_the_text_of_the_definition(
    distance: str, alpha_rb: float, schedule: Schedule
) -> None:
    """Whatever alpha_rb is compared with, tokens and sources are those of the definition."""
    settings: list[dict[str, Any]] = [
        {"distance": distance, "alpha_fb": 0.25, "alpha_rb": alpha_rb, "window": 3,
         "schedule": schedule, "temperature": temperature}
        for temperature in (0, 1.0)
    ]  # fmt: skip
    assert disagreements(settings, range(6)) == TABLE


@pytest.mark.parametrize("schedule", list(Schedule))
def test_a_threshold_that_adapts_writes_the_text_of_the_definition(schedule: Schedule) -> None:
    """It moves with the text's own confidences alone, so it is the same on every schedule."""
    settings: list[dict[str, Any]] = [
        {"adapt": adapt, "alpha_fb": 0.3, "alpha_rb": 1.5, "window": 4, "first": first,
         "confidence": confidence, "schedule": schedule}
        for adapt, first, confidence in
        ((0.3, "small", "max"), (0.6, "large", "max"), (0.4, "large", "product"))
    ]  # fmt: skip
    assert disagreements(settings, range(6)) == TABLE


def test_a_threshold_that_adapts_finds_its_share() -> None:
    """From either side, the share of positions below it settles at the one asked for."""
    dice = torch.Generator().manual_seed(1)
    for start in (0.0, 1.0):
        ruler = Ruler.start(Options(alpha_fb=start, adapt=0.2, window=10**6))
        low = []
        for confidence in torch.rand(3000, generator=dice).tolist():
            low.append(ruler.low(confidence))
            ruler = ruler.after(ruler.owner(confidence), confidence)
        assert sum(low[1000:]) / 2000 == pytest.approx(0.2, abs=0.02)
        assert ruler.alpha_fb == pytest.approx(0.2, abs=0.15)


def test_measures_are_what_their_names_say() -> None:
    """On distributions whose measures can be worked out by hand."""
    even, sharp = [0.25] * 4, [1.0, 0.0, 0.0, 0.0]
    assert [sureness(kind, even) for kind in ("max", "margin", "entropy")] == pytest.approx(
        [0.25, 0.0, 0.25]
    )
    assert [sureness(kind, sharp) for kind in ("max", "margin", "entropy")] == pytest.approx(
        [1.0, 1.0, 1.0]
    )
    assert apart("tv", [1.0, 0.0], [0.0, 1.0]) == pytest.approx(1.0)
    assert apart("js", [1.0, 0.0], [0.0, 1.0]) == pytest.approx(log(2))
    assert apart("l2", [1.0, 0.0], [0.0, 1.0]) == pytest.approx(2**0.5)
    assert apart("kl", [1.0, 0.0], [0.5, 0.5]) == pytest.approx(log(2))
    assert apart("kl", [0.5, 0.5], [1.0, 0.0]) == inf
    # What is not named is one lump on both sides.
    assert apart("tv", [0.5], [0.25]) == pytest.approx(0.25)


def test_tensors_measure_what_lists_do() -> None:
    """Confidence, rows, distances and rejections of a real model's logits are those of the lists,
    with fewer entries than the vocabulary has ids.
    """
    dice = torch.Generator().manual_seed(2)
    width = 100
    p_s, p_l = torch.randn(2, 5, width, generator=dice) * 2
    for kind in ("kl", "js", "tv", "l2"):
        asked = rules(vocabulary=width, distance=kind)
        measures = Measures(asked, Draw(asked))
        rows = measures.rows(p_s)
        seen = [read(row, width) for row in rows]
        found = measures.distances(p_l, seen)
        assert found is not None
        for row in range(5):
            small, large = (_distribution(p[row].log_softmax(-1).tolist()) for p in (p_s, p_l))
            assert len(seen[row].ids) == 64
            listed = read(sketch(p_s[row].softmax(-1).tolist()), width)
            assert list(listed.ids) == list(seen[row].ids)
            expected = apart_by_definition(kind, small, large, 0)
            assert found[row] == pytest.approx(expected, abs=1e-5)
        seen[1] = read(pack([0.5], [3]), width)
        alone = apart(kind, [0.5], [p_l[1].softmax(-1)[3].item()])
        some = pytest.approx(alone, abs=1e-5)
        assert measures.distances(p_l, seen) == [found[0], some, *found[2:]]
    for kind in ("max", "margin", "entropy"):
        asked = rules(vocabulary=width, confidence=kind)
        got = Measures(asked, Draw(asked)).sureness(p_s, p_s.logsumexp(-1)).tolist()
        assert got == pytest.approx([sureness(kind, p) for p in p_s.softmax(-1).tolist()], abs=1e-5)


@pytest.mark.parametrize("offset", [-100.0, 30.0])
def test_logits_far_from_nought_leave_no_dust(offset: float) -> None:
    """What the likeliest ids leave over is rounded as little as they are: where they are the whole
    vocabulary, nothing; a divergence stays finite.
    """
    dice = torch.Generator().manual_seed(3)
    width = 64
    asked = rules(vocabulary=width, distance="kl")
    measures = Measures(asked, Draw(asked))
    p_s, p_l = torch.randn(2, 50, width, generator=dice) * 2 + offset
    found = measures.distances(p_l, [read(row, width) for row in measures.rows(p_s)])
    p, q = (p.double().log_softmax(-1) for p in (p_s, p_l))
    assert found == pytest.approx((p.exp() * (p - q)).sum(-1).tolist(), abs=1e-4)


def _distribution(logs: list[float]) -> Distribution:
    best = max(range(len(logs)), key=lambda t: (logs[t], -t))
    return Distribution(best, exp(logs[best]), lambda t: -logs[t], width=len(logs))


@pytest.mark.parametrize(
    "setting", [{}, {"top_k": 7}, {"top_p": 0.7}, {"top_k": 60, "top_p": 0.99}]
)
def test_tensors_reject_what_lists_do(setting: dict[str, Any]) -> None:
    """The same noise, the same verdicts and the same tokens instead."""
    dice = torch.Generator().manual_seed(3)
    width, rejected = 80, 0
    for seed in range(40):
        asked = rules(vocabulary=width, rejection=True, temperature=0.9, seed=seed, **setting)
        p_s, p_l = torch.randn(2, 4, width, generator=dice) * 1.5
        begin = asked.begin
        judged = [choose(p_s[i].tolist(), asked, begin + i)[0] for i in range(4)]
        measures = Measures(asked, Draw(asked))
        seen = [read(row, width) for row in measures.rows(p_s)]
        got = measures.settle(p_l, begin, judged, seen)
        assert got is not None
        for row, token in enumerate(got):
            listed = law(p_s[row].tolist(), asked)
            back = read(law_row(listed, width), width)
            small = dict(zip(back.ids, back.values, strict=True))
            assert token == settle(p_l[row].tolist(), asked, begin + row, judged[row], small)
        stood = [a == b for a, b in zip(got, judged, strict=False)]
        assert all(stood[:-1])
        assert len(got) == 4 or not stood[-1]
        rejected += not all(stood)
    assert rejected > 5


REJECTING: list[dict[str, Any]] = [
    {"policy": "rejection", "window": window, "temperature": temperature, "seed": 5, **more}
    for window, temperature, more in (
        (3, 1.0, {}), (10, 0.7, {"first": "large"}), (5, 1.3, {"top_k": 4}), (1, 1.0, {"top_p": 0.8}),
        (4, 0, {}),
    )
]  # fmt: skip


def test_rejection_writes_the_text_of_its_definition() -> None:
    """Leviathan's Algorithm 1 step by step, without a cache, gives the same tokens and sources."""
    seen = disagreements(REJECTING, range(8))
    assert seen == TABLE


def test_greedy_rejection_is_the_large_models_own_text() -> None:
    """At temperature 0 a token stands where it is the same."""
    large = scripted(4)
    texts = []
    for setting in ({"policy": "rejection", "window": 4}, {"mode": "large"}):
        machine = Machine(1, PROMPT, (), rules(), Options().merged(setting))
        tokens, _ = play(machine, HandWorker(scripted(9, large)), HandWorker(large))
        texts.append([t.token for t in tokens])
    assert texts[0] == texts[1]


@pytest.mark.parametrize("setting", [{"temperature": 1.0}, {"temperature": 1.5, "top_k": 3}])
def test_rejection_draws_from_the_large_models_own_law(setting: dict[str, Any]) -> None:
    """Texts of three tokens over many seeds are drawn from p_L to the power of 1/T itself, not from
    something near it (chi-square, LUCK); a small model of another law is no matter.
    """
    exact: dict[Any, float] = defaultdict(float)
    for (tokens, _), chance in text_law(1, 2, Options(mode="large", **setting), 3).items():  # type: ignore[arg-type]
        exact[tokens] += chance
    counts: Counter[Any] = Counter()
    small, large = predictor(little(1)), predictor(little(2))
    options = Options(policy="rejection", window=3, **setting)  # type: ignore[arg-type]
    rejected = 0
    for seed in range(1500):
        law_ = rules(3, begin=1, limit=4, seed=seed, **setting)
        machine = Machine(1, [3], (), law_, options)
        tokens_, _ = play(machine, HandWorker(small), HandWorker(large))
        counts[tuple(t.token for t in tokens_)] += 1
        rejected += any(t.source is Source.ROLLBACK for t in tokens_)
    assert chi_square(exact, counts) > LUCK
    assert rejected > 300


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"schedule": "through"}, "schedule = 'through' must be 'paper'"),
        ({"schedule": "overlap"}, "schedule = 'overlap' must be 'paper'"),
        ({"mode": "exact"}, "mode = 'exact' must be 'bild'"),
        ({"verify_tail": False}, "verify_tail = False must be True"),
        ({"confidence": "margin"}, "confidence = 'margin' must be 'max'"),
        ({"distance": "kl"}, "distance = 'kl' must be 'ce'"),
        ({"adapt": 0.2}, "adapt = 0.2 must be 0"),
    ],
)
def test_what_rejection_cannot_do_is_refused_by_name(setting: dict[str, Any], words: str) -> None:
    """The message names the option, its value and what to set it to."""
    with pytest.raises(InvalidRequest, match=words):
        Options(policy="rejection", **setting)  # type: ignore[arg-type]


def check(vocabulary: int, new: int, **changes: Any) -> None:
    """Whether a request passes, once its rules are known."""
    options = Options().merged(changes)
    sampling = {"temperature": float(options.temperature), "top_k": options.top_k}
    check_frame(options, rules(new, vocabulary=vocabulary, **sampling))


REJECTS: dict[str, Any] = {"policy": "rejection", "temperature": 1.0}


def test_a_draft_that_fits_no_message_is_refused() -> None:
    """With the largest window that would fit, and not at all where nothing is sent."""
    check(49_152, 128, **REJECTS)
    check(151_936, 128, policy="rejection")
    check(151_936, 128, **REJECTS, top_k=50)
    with pytest.raises(InvalidRequest, match="a window of at most 6, or a smaller top_k"):
        check(151_936, 128, **REJECTS)


def test_a_draft_is_as_long_as_its_window_and_its_text_allow() -> None:
    """A window that the text cannot fill is no reason to refuse; a draft that passes through its
    windows is as long as the text.
    """
    check(151_936, 6, **REJECTS)
    check(32_000, 20_000, distance="kl", schedule="paper")
    check(32_000, 20_000, schedule="through", window=9000)
    check(32_000, 20_000, distance="kl", schedule="through", mode="exact")
    check(32_000, 7000, distance="kl", schedule="overlap", window=9000)
    check(32_000, 11_000, logprobs=20, schedule="overlap")
    check(32_000, 20_000, logprobs=20, schedule="overlap", mode="large")
    check(32_000, 20_000, logprobs=20, schedule="paper")
    with pytest.raises(InvalidRequest, match=r"max_new_tokens of at most \d+, or fewer logprobs"):
        check(32_000, 20_000, logprobs=20, schedule="through", mode="exact")
    for setting, words in (
        ({"window": 8000}, "a window of at most 7069, or distance 'ce'"),
        ({"schedule": "overlap"}, "max_new_tokens of at most 7069, or distance 'ce'"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            check(32_000, 20_000, distance="kl", **setting)


def test_candidates_are_counted_where_they_were_asked_for() -> None:
    """So many for each position below the threshold, wherever that has moved to within the draft."""
    line = Line(PROMPT, rules(), Options(alpha_fb=0.3, adapt=0.4))
    asked = Draft(session=1, epoch=0, seq=1, at=2, digest=0, tokens=(4,), limit=4, stops=False,
                  piece=0, others=2)  # fmt: skip
    reply = Drafted(
        session=1, epoch=0, seq=1, tokens=(1, 2, 3, 4), confidences=(0.25, 0.28, 0.285, 0.9),
        low=False, low_token=-1, low_confidence=0.0, final=True, length=6, passes=4, queue_ns=0,
        compute_ns=0, others=(5, 6, 7, 8),
    )  # fmt: skip
    check_drafted(asked, reply, line, rules())
    for wrong in ((), (5, 6), (5, 6, 7, 8, 9, 10)):
        with pytest.raises(RemoteProtocolError, match="other candidates that were asked for"):
            check_drafted(asked, replace(reply, others=wrong), line, rules())
    line.draft(asked, reply)
    assert [guess.others for guess in line.guesses] == [(5, 6), (), (7, 8), ()]


@pytest.mark.parametrize("setting", [{}, {"top_k": 300}, {"top_k": 5}, {"top_p": 0.4}])
def test_what_tensors_send_is_what_lists_would(setting: dict[str, Any]) -> None:
    """The law of a draw goes out bit by bit as it does number by number."""
    width = 512
    asked = rules(vocabulary=width, rejection=True, temperature=1.2, **setting)
    logits = torch.randn(3, width, generator=torch.Generator().manual_seed(4))
    for row, law_ in zip(Measures(asked, Draw(asked)).rows(logits), Draw(asked).law(logits).tolist(),
                         strict=True):  # fmt: skip
        some = {token: p for token, p in enumerate(law_) if p > 0}
        dense = 2 * len(some) > width
        assert row == (pack(law_) if dense else pack(list(some.values()), list(some)))
        seen = read(row, width)
        assert [seen.of(token) for token in range(width)] == pytest.approx(law_)
        assert seen.of(width) == 0


def test_a_row_over_all_ids_is_checked_and_can_be_a_key() -> None:
    """It may be as long as the vocabulary and hold numbers from 0 to 1; the same row is the same
    key.
    """
    wide = [1 / 256] * 256
    assert len({read(pack(wide), 256), read(pack(wide), 300), read(pack(wide[1:]), 256)}) == 2
    with pytest.raises(RemoteProtocolError):
        read(pack(wide), 255)
    for bad in (-1e-9, float("nan"), float("-nan"), inf, -inf, 2.0, 1e30):
        for at in (0, 255):
            with pytest.raises(RemoteProtocolError):
                read(pack([*wide[:at], bad, *wide[at + 1 :]]), 256)


def test_rows_that_are_none_are_refused() -> None:
    """Whatever a peer sends as probabilities, it is a distribution over the vocabulary or refused."""
    good = pack([0.5, 0.25], [3, 1])
    assert list(read(good, 4).ids) == [3, 1]
    assert split(good + pack([1.0]), 2) == [good, pack([1.0])]
    for rows, count in ((good, 2), (good[:-1], 1), (b"", 1), (good + b"x", 1), (b"\xff" * 8, 1)):
        with pytest.raises(RemoteProtocolError):
            split(rows, count)
    for row in (pack([]), pack([0.5], [4]), pack([0.5], [-1]), pack([-0.5, 1.0], [0, 1]),
                pack([float("nan")], [0]), pack([0.9, 0.9], [0, 1])):  # fmt: skip
        with pytest.raises(RemoteProtocolError):
            read(row, 4)
