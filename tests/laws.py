"""The laws of sampled texts, spelt out: what is drawn from, how two models with the same noise go
together, what the decision table makes of it, and how far counts are from a law.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise, product
from math import inf, log
from typing import Any, TypeAlias

import pytest
import torch

from bild_dist.policy.rules import next_run, owner
from bild_dist.types import Mode, Options, Source
from tests.drive import END, VOCABULARY
from tests.oracle import Distribution, Predictor

Law: TypeAlias = Mapping[Any, float]
Shares: TypeAlias = dict[int, float]
"""Ids to probabilities; what is not named has none."""


def chi_square(law: Law, counts: Mapping[Any, int]) -> float:
    """The chance that counts drawn from `law` are as far from it as these, or further."""
    assert set(counts) <= {key for key, share in law.items() if share > 0}
    drawn = sum(counts.values())
    cells = [(share * drawn, counts.get(key, 0)) for key, share in law.items() if share > 0]
    rare = [cell for cell in cells if cell[0] < 5]
    cells = [cell for cell in cells if cell[0] >= 5]
    if rare:
        cells.append((sum(e for e, _ in rare), sum(n for _, n in rare)))
    assert len(cells) > 1
    distance = sum((n - e) ** 2 / e for e, n in cells)
    freedom = torch.tensor((len(cells) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, torch.tensor(distance / 2, dtype=torch.float64)))


def tempered(p: Shares, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Shares:
    """What is drawn from, spelt out."""
    ranked = sorted((t for t in p if p[t] > 0), key=lambda t: (-p[t], t))[: top_k or None]
    powers = {t: p[t] ** (1 / temperature) for t in ranked}
    total = sum(powers.values())
    support: list[int] = []
    for token in ranked:
        if sum(powers[t] for t in support) < top_p * total:
            support.append(token)
    total = sum(powers[t] for t in support)
    return {t: powers[t] / total for t in support}


def coupling(p: Shares, q: Shares) -> dict[tuple[int, int], float]:
    """The exact chance that two models with the same noise draw i from `p` and j from `q`.

    e^-g is exponential, and the draw from p is the token of the least e^-g / p. With x and y the two
    least quotients and r = x / y, every token's e^-g is at least y max(r p, q), which gives for i
    other than j: p_i q_j times the integral of dr / (sum over t of max(r p_t, q_t))^2, from
    q_i / p_i to q_j / p_j; between two such quotients the sum is linear in r.
    """
    tokens = sorted({*p, *q})
    ratio = {t: q.get(t, 0.0) / p[t] if p.get(t, 0.0) > 0 else inf for t in tokens}
    edges = sorted(set(ratio.values()))
    joint = {}
    for i, j in product(p, q):
        if i == j:
            worst = [max(p.get(t, 0.0) / p[i], q.get(t, 0.0) / q[i]) for t in tokens]
            joint[i, i] = 1 / sum(worst)
            continue
        integral = 0.0
        for low, high in pairwise(edges):
            if ratio[i] <= low and high <= ratio[j]:
                slope = sum(p[t] for t in tokens if ratio[t] <= low)
                start = sum(q[t] for t in tokens if ratio[t] >= high)
                if high == inf:
                    integral += 1 / (slope * (start + slope * low))
                else:
                    integral += (high - low) / (start + slope * low) / (start + slope * high)
        joint[i, j] = p[i] * q[j] * integral
    return joint


def little(seed: int) -> Callable[[Sequence[int]], Shares]:
    """A model over four ids, one of them the end, that looks at the last token alone."""

    def shares(ids: Sequence[int]) -> Shares:
        dice = random.Random(100 * seed + ids[-1])
        weights = [dice.random() ** 2 + 0.02 for _ in range(4)]
        weights[END] *= 0.3
        return {t: w / sum(weights) for t, w in enumerate(weights)}

    return shares


def predictor(shares: Callable[[Sequence[int]], Shares]) -> Predictor:
    def predict(ids: Sequence[int]) -> Distribution:
        p = shares(ids)
        best = max(p, key=lambda t: (p[t], -t))
        nats = {t: -log(p[t]) for t in p}
        return Distribution(best, p[best], lambda t: nats.get(t, inf), width=VOCABULARY)

    return predict


def text_law(small: int, large: int, options: Options, length: int) -> dict[Any, float]:
    """Every text and its sources with its chance, from the decision table and the coupling."""
    warp: dict[str, Any] = {
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
    }
    models = little(small), little(large)
    law: dict[Any, float] = defaultdict(float)

    def step(line: list[int], run: int) -> Iterator[tuple[int, Source, float]]:
        p, q = (model([3, *line]) for model in models)
        p_warped, q_warped = tempered(p, **warp), tempered(q, **warp)
        if options.mode is not Mode.BILD:
            law_here = p_warped if options.mode is Mode.SMALL else q_warped
            source = Source.FALLBACK if options.mode is Mode.EXACT else Source(options.mode.value)
            yield from ((t, source, share) for t, share in law_here.items())
            return
        row = owner(run, options.window, max(p.values()), options.alpha_fb)
        if row is not Source.SMALL:
            yield from ((t, row, share) for t, share in q_warped.items())
            return
        for (s, other), share in coupling(p_warped, q_warped).items():
            objects = -log(q[s]) > options.alpha_rb and s != other
            yield (other, Source.ROLLBACK, share) if objects else (s, Source.SMALL, share)

    def walk(line: list[int], sources: list[str], run: int, chance: float) -> None:
        if len(line) == length or line[-1:] == [END]:
            law[tuple(line), tuple(sources)] += chance
            return
        for token, source, share in step(line, run):
            walk([*line, token], [*sources, source.value], next_run(run, source), chance * share)

    walk([], [], 0, 1.0)
    assert sum(law.values()) == pytest.approx(1)
    return law
