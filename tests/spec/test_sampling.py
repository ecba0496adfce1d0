"""Sampling: the noise, the draw with lists and with tensors, and the law of the texts.

Where random numbers decide, seeds are fixed, so a test that passes once passes always. `LUCK` is
the chance that a correct program would have failed it with seeds not looked at.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from math import exp, inf, log, nan
from typing import Any

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from bild_dist.config import settled
from bild_dist.errors import InvalidRequest
from bild_dist.messages import Rules
from bild_dist.model import draw
from bild_dist.model.base import Pass
from bild_dist.model.toy import VOCABULARY as TOY_WIDTH
from bild_dist.model.toy import Script, ToyModel
from bild_dist.orchestrator import cli
from bild_dist.policy.machine import Machine
from bild_dist.sampling import choose, gumbel, sampled, stream, uniform
from bild_dist.types import Options, Role
from tests.drive import END, VOCABULARY, HandWorker, play
from tests.laws import Shares, chi_square, coupling, little, predictor, tempered, text_law
from tests.oracle import reference

LUCK = 1e-6


def rules(width: int = VOCABULARY, begin: int = 0, **changes: Any) -> Rules:
    return Rules(vocabulary=width, begin=begin, limit=begin + 10_000, **changes)


def test_tensors_and_lists_compute_the_same_bits() -> None:
    """A worker on another device, or without torch, makes the same noise, to the last bit."""
    dice = random.Random(1)
    seeds = [0, 1, 2**63 - 1, *(dice.getrandbits(63) for _ in range(20))]
    keys = [stream(seed, position) for seed in seeds for position in (0, 1, 1000, 2**31)]
    tokens = [*range(64), 151_935, 2**24, 2**31]
    ids = torch.tensor(tokens)
    assert draw.uniform(keys, ids).tolist() == [[uniform(k, t) for t in tokens] for k in keys]
    noise = draw.gumbel(keys, ids).tolist()
    for key, row in zip(keys, noise, strict=True):
        assert row == pytest.approx([gumbel(key, t) for t in tokens], rel=1e-14, abs=1e-14)


def test_noise_never_reaches_an_end_of_its_range() -> None:
    """The extreme hashes give finite noise: u is an odd multiple of 2**-53."""
    for bits in (0, 2**53 - 1):
        u = (bits | 1) * 2.0**-53
        assert 0 < u < 1
        assert -37 < -log(-log(u)) < 37


NEIGHBOURS: dict[str, Callable[[], tuple[torch.Tensor, torch.Tensor]]] = {
    "tokens": lambda: _halves(draw.uniform([stream(7, p) for p in range(64)], torch.arange(8193))),
    "positions": lambda: _halves(
        draw.uniform([stream(7, p) for p in range(8193)], torch.arange(64)).T
    ),
    "seeds": lambda: _halves(draw.uniform([stream(s, 3) for s in range(8193)], torch.arange(64)).T),
}


def _halves(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return values[:, :-1].reshape(-1), values[:, 1:].reshape(-1)


@pytest.mark.parametrize("axis", NEIGHBOURS)
def test_noise_is_uniform_and_its_neighbours_know_nothing_of_each_other(axis: str) -> None:
    """Half a million pairs of neighbours along each axis fill a 32 by 32 grid evenly (LUCK)."""
    first, second = NEIGHBOURS[axis]()
    cells = (first * 32).long() * 32 + (second * 32).long()
    counts = dict(enumerate(torch.bincount(cells, minlength=1024).tolist()))
    assert chi_square(dict.fromkeys(range(1024), 1 / 1024), counts) > LUCK


def settings() -> Iterator[dict[str, Any]]:
    values = product((0.2, 1.0, 5.0), (0, 1, 7, 2000), (1.0, 0.9999, 0.9, 1e-3))
    for seed, (temperature, top_k, top_p) in enumerate(values):
        yield {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("width", [2, 64, 1500])
def test_both_implementations_draw_the_same(width: int, half: bool) -> None:
    """Tensors and lists agree on every draw and on the next best, and a row does not depend on
    the others of its pass; half precision makes ties too.
    """
    random_ = torch.Generator().manual_seed(width)
    for setting in [{"temperature": 0.0}, *settings()]:
        logits = torch.randn(3, width, generator=random_) * 3
        logits[1, 0] = -inf
        if half:
            logits = logits.bfloat16().float()
        law = rules(width - width // 32, begin=5, **setting)
        drawn = draw.Draw(law).choose(logits.clone(), 9, others=1).tolist()
        for row, ids in enumerate(drawn):
            assert ids == choose(logits[row].tolist(), law, 9 + row, others=1)
            alone = draw.Draw(law).choose(logits[row : row + 1], 9 + row)
            assert alone.tolist() == [ids[:1]]


def test_the_support_is_that_of_transformers() -> None:
    """The draw is the arg max of noise and what transformers' own warpers leave of the logits."""
    random_ = torch.Generator().manual_seed(4)
    for setting in settings():
        logits = torch.randn(20, 300, generator=random_) * 3
        warped = TemperatureLogitsWarper(setting["temperature"])(torch.empty(0), logits)
        if setting["top_k"]:
            warped = TopKLogitsWarper(setting["top_k"])(torch.empty(0), warped)
        if setting["top_p"] < 1:
            warped = TopPLogitsWarper(setting["top_p"])(torch.empty(0), warped)
        keys = [stream(setting["seed"], position) for position in range(20)]
        expected = (warped.double() + draw.gumbel(keys, torch.arange(300))).argmax(-1)
        drawn = draw.Draw(rules(300, begin=2, **setting)).choose(logits, 2)
        assert drawn[:, 0].tolist() == expected.tolist(), setting


def test_how_many_tokens_are_ranked_does_not_matter() -> None:
    """A flat distribution, where top-p needs far more than the head, is drawn from as a whole."""
    logits = torch.randn(2, 20_000, generator=torch.Generator().manual_seed(1)) * 0.1
    flat = logits.tolist()
    for seed in range(10):
        law = rules(20_000, temperature=1.0, top_p=0.95, seed=seed)
        drawn = draw.Draw(law).choose(logits, 0)[:, 0].tolist()
        assert drawn == [choose(flat[row], law, row)[0] for row in range(2)]


def test_ids_of_one_probability_rank_by_id() -> None:
    """Ties go to the lowest id, whatever the sorting library makes of them; -0.0 is 0.0."""
    logits = torch.tensor([[1.0, -0.0, 3.0, 0.0, 3.0, -inf, 1.0, -2.0]])
    assert draw.ranked(logits, 8).tolist() == [[2, 4, 0, 6, 1, 3, 7, 5]]
    law = rules(8, temperature=2.0, top_k=1, seed=9)
    for index in range(20):
        assert draw.Draw(law).choose(logits, index).tolist() == [[2]]
        assert choose(logits[0].tolist(), law, index) == [2]


def test_one_candidate_is_greedy() -> None:
    """top_k = 1, a tiny top_p and a tiny temperature each write the most likely token."""
    logits = torch.randn(50, 200, generator=torch.Generator().manual_seed(2))
    greedy = logits.argmax(-1).tolist()
    narrow: list[dict[str, Any]] = [
        {"temperature": 9.0, "top_k": 1},
        {"temperature": 1.0, "top_p": 1e-9},
        {"temperature": 5e-324},
        {"temperature": 1e-9, "top_p": 0.5},
        {"temperature": 0.0, "top_k": 3, "top_p": 0.5, "seed": 8},
    ]
    for setting in narrow:
        law = rules(200, **setting)
        assert draw.Draw(law).choose(logits.clone(), 0)[:, 0].tolist() == greedy
        assert [choose(row, law, i)[0] for i, row in enumerate(logits.tolist())] == greedy


P = (0.4, 0.25, 0.15, 0.1, 0.06, 0.03, 0.01)


@pytest.mark.parametrize(
    "setting",
    [{"temperature": 1.0}, {"temperature": 0.5}, {"temperature": 2.0, "top_k": 4},
     {"temperature": 1.5, "top_p": 0.7}, {"temperature": 0.8, "top_k": 5, "top_p": 0.9}],
    ids=str,
)  # fmt: skip
def test_draws_have_the_law_that_they_should(setting: dict[str, Any]) -> None:
    """60,000 draws, over positions and over seeds: p^(1/T) on the support, renormalised (LUCK)."""
    law = tempered(dict(enumerate(P)), **setting)
    logits = torch.tensor(P).log().expand(60_000, -1)
    over_positions = draw.Draw(rules(len(P), **setting)).choose(logits, 0)[:, 0].tolist()
    over_seeds = [
        choose([log(p) for p in P], rules(len(P), **setting, seed=seed), 5)[0]
        for seed in range(20_000)
    ]
    assert chi_square(law, Counter(over_positions)) > LUCK
    assert chi_square(law, Counter(over_seeds)) > LUCK


def test_the_enumerated_coupling_is_one_of_the_two_laws() -> None:
    """Its margins are p and q, 200,000 shared draws have its joint law (LUCK), and they agree more
    often than independent ones.
    """
    p: Shares = {0: 0.5, 1: 0.2, 2: 0.2, 3: 0.1}
    q: Shares = {0: 0.1, 1: 0.3, 2: 0.35, 4: 0.25}
    joint = coupling(p, q)
    for token in range(5):
        assert sum(v for (i, _), v in joint.items() if i == token) == pytest.approx(p.get(token, 0))
        assert sum(v for (_, j), v in joint.items() if j == token) == pytest.approx(q.get(token, 0))
    drawer = draw.Draw(rules(5, temperature=1.0, seed=3))
    drawn = []
    for law in (p, q):
        logits = torch.tensor([law.get(t, 0.0) for t in range(5)]).log().expand(200_000, -1)
        drawn.append(drawer.choose(logits, 0)[:, 0].tolist())
    assert chi_square(joint, Counter(zip(*drawn, strict=True))) > LUCK
    agree = sum(v for (i, j), v in joint.items() if i == j)
    assert agree > 1.5 * sum(p.get(t, 0) * q.get(t, 0) for t in range(5))


LAWS: dict[str, dict[str, Any]] = {
    "large": {"mode": "large", "temperature": 1.0},
    "large, warm and cut": {"mode": "large", "temperature": 1.5, "top_k": 3, "top_p": 0.9},
    "small": {"mode": "small", "temperature": 0.7},
    "exact": {"mode": "exact", "temperature": 1.0},
    "exact, window 1": {"mode": "exact", "window": 1, "temperature": 0.6, "top_p": 0.95},
    "bild, all rolls back": {"alpha_fb": 0.0, "alpha_rb": 0.0, "temperature": 1.0},
    "bild": {"alpha_fb": 0.45, "alpha_rb": 1.2, "window": 2, "temperature": 1.0},
    "bild, cold": {"alpha_fb": 0.45, "alpha_rb": 1.0, "window": 2, "temperature": 0.6},
    "bild, warm and cut": {
        "alpha_fb": 0.45, "alpha_rb": 0.9, "window": 2, "temperature": 1.8, "top_k": 3, "top_p": 0.95
    },
}  # fmt: skip


@pytest.mark.parametrize("name", LAWS)
def test_texts_have_the_law_that_the_table_gives(name: str) -> None:
    """Texts of three tokens under 3,000 seeds: the large model's own law in `large` and `exact`,
    the small one's in `small`, and in `bild` that of the table over the enumerated coupling (LUCK).
    """
    small, large = predictor(little(1)), predictor(little(2))
    counts: Counter[Any] = Counter()
    for seed in range(3000):
        case = Options().merged({**LAWS[name], "seed": seed})
        tokens, _ = play(machine(case, 3), HandWorker(small), HandWorker(large))
        counts[tuple(t.token for t in tokens), tuple(t.source.value for t in tokens)] += 1
    law = text_law(1, 2, Options().merged(LAWS[name]), 3)
    assert chi_square(law, counts) > LUCK
    if name.startswith("bild"):
        assert any("rollback" in sources for _, sources in counts)


def test_exact_writes_what_large_writes() -> None:
    """Under one seed modes `exact` and `large` give the same text, token by token: lossless is a
    word about texts, not only about their law.
    """
    small, large = predictor(little(1)), predictor(little(2))
    for seed in range(100):
        texts = []
        for mode in ("exact", "large"):
            case = Options().merged({"mode": mode, "temperature": 1.3, "top_p": 0.9, "seed": seed})
            tokens, _ = play(machine(case, 12), HandWorker(small), HandWorker(large))
            texts.append([t.token for t in tokens])
        assert texts[0] == texts[1]


def machine(case: Options, length: int) -> Machine:
    law = Rules(
        vocabulary=VOCABULARY, begin=1, limit=1 + length, end_ids=(END,), seed=case.seed,
        temperature=case.temperature, top_k=case.top_k, top_p=case.top_p,
    )  # fmt: skip
    return Machine(1, [3], (), law, case)


def test_a_wrong_law_would_be_noticed() -> None:
    """The same counts against independent draws of the two models: no chance at all."""
    case = Options().merged(LAWS["bild, all rolls back"])
    p, q = little(1)([3]), little(2)([3])
    shared = coupling(p, q)
    drawn = {key: round(share * 3000) for key, share in shared.items()}
    independent = {(i, j): p[i] * q[j] for i, j in product(p, q)}
    assert case.alpha_rb == 0
    assert chi_square(independent, {k: n for k, n in drawn.items() if n}) < LUCK


@pytest.mark.parametrize("setting", list(LAWS.values())[4:], ids=list(LAWS)[4:])
def test_machine_and_definition_draw_the_same(setting: dict[str, Any]) -> None:
    """Under 60 seeds each text and each source is that of the cache-free definition."""
    small, large = predictor(little(5)), predictor(little(6))
    texts = set()
    for seed in range(60):
        case = Options().merged({**setting, "seed": seed})
        tokens, _ = play(machine(case, 12), HandWorker(small), HandWorker(large))
        expected = reference(small, large, [3], case, end_ids=[END], max_new_tokens=12)
        assert expected.tokens == [t.token for t in tokens]
        assert expected.sources == [t.source.value for t in tokens]
        texts.add(tuple(expected.tokens))
    assert len(texts) > 30


@pytest.mark.parametrize("role", list(Role))
def test_a_toy_draws_from_its_script(role: Role) -> None:
    """The script knows a toy's draws too; confidence and distance know nothing of sampling."""
    line = list(b"Why is the sea salty?")
    law = rules(TOY_WIDTH, begin=len(line), temperature=1.2, seed=4)
    for warm in (True, False):
        toy = ToyModel(f"toy:{role}?seed=3")
        toy.allocate(1)
        toy.open(0, (), law if warm else rules(TOY_WIDTH, begin=len(line)))
        [choice] = toy.forward(Pass(0, 0, line, rows=1, judge=(65,), others=2))
        logs = Script(seed=3).logs(role, line)
        assert sum(exp(value) for value in logs) == pytest.approx(1)
        assert choice.confidence == pytest.approx(exp(max(logs)))
        assert choice.distance == pytest.approx(-logs[65])
        expected = choose(logs, law if warm else rules(TOY_WIDTH), len(line), 2)
        assert [choice.token, *choice.others] == expected


BAD: dict[str, list[Any]] = {
    "temperature": [-0.1, nan, inf, "1", True, None],
    "top_k": [-1, 1.5, True, None],
    "top_p": [0, 0.0, -0.5, 1.0001, nan, None],
    "seed": [-1, 2**63, 1.0, True, None],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, vs in BAD.items() for v in vs])
def test_bad_values_are_refused_by_name(name: str, value: Any) -> None:
    """The message names the option, the value and the range."""
    with pytest.raises(InvalidRequest, match=rf"^{name} = .* must be a"):
        Options().merged({name: value})


@pytest.mark.parametrize(
    "bad",
    [{"temperature": -1.0}, {"temperature": nan}, {"temperature": inf}, {"top_k": -1},
     {"top_p": 0.0}, {"top_p": 1.5}, {"top_p": nan}, {"seed": -1}],
    ids=str,
)  # fmt: skip
def test_a_worker_refuses_bad_rules_when_it_opens(bad: dict[str, Any]) -> None:
    """Over the wire anything may come; it ends its own request and not the worker."""
    toy = ToyModel("toy:small")
    toy.allocate(1)
    with pytest.raises(InvalidRequest, match=next(iter(bad))):
        toy.open(0, (), rules(TOY_WIDTH, **bad))
    with pytest.raises(InvalidRequest, match=next(iter(bad))):
        draw.Draw(rules(TOY_WIDTH, **bad))


def test_greedy_is_the_default_and_asks_for_no_noise() -> None:
    """Without a temperature nothing is drawn, whatever else is set."""
    assert not sampled(rules())
    assert not sampled(rules(top_k=3, top_p=0.5, seed=1))
    assert Options().temperature == 0


def test_the_command_line_has_all_four() -> None:
    """`--temperature --top-k --top-p --seed` become the options of the same names."""
    words = ["generate", "--temperature", "0.7", "--top-k", "40", "--top-p", "0.9", "--seed", "5", "x"]  # fmt: skip
    given = vars(cli.parser().parse_args(words))
    names = ("temperature", "top_k", "top_p", "seed")
    config, _ = settled({name: given[name] for name in names})
    assert [getattr(config.generate, name) for name in names] == [0.7, 40, 0.9, 5]
