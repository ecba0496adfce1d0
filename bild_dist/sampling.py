"""Drawing a token with noise that every worker computes for itself: the same seed, the same text.

draw(p) = arg max over a support of (ln p / T + g), where g is Gumbel noise and a pure function of
(seed, position, token id): an exact draw from p^(1/T) on that support (Gumbel-max). Both models use
the same noise, so they agree more often than independent draws would, and a text can be replayed.

The support is what temperature, then top-k, then top-p leave, in the order and with the meaning of
transformers' warpers: the k most likely ids, then the smallest set of those whose share of the
tempered mass reaches top-p, at least one. Ids of the same probability rank by id, the lowest first.

`model/draw.py` does the same with tensors; the random bits of the two are identical.

Source: the hash is splitmix64 (Steele, Lea, Flood 2014) with one stream for each position.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from math import exp, inf, log
from typing import Final

from bild_dist.errors import InvalidRequest
from bild_dist.messages import Rules

GOLDEN: Final = 0x9E3779B97F4A7C15
SHIFTS: Final = (30, 27, 31)
FACTORS: Final = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
ACCEPT: Final = 1
"""The lane of the number that decides whether a token is rejected."""
INSTEAD: Final = 2
"""The lane of the token that is drawn in place of a rejected one."""
_MASK: Final = (1 << 64) - 1


def mix(value: int) -> int:
    """A 64-bit finaliser, one to one: every bit of the result depends on every bit of the value."""
    value &= _MASK
    value = (value ^ value >> SHIFTS[0]) * FACTORS[0] & _MASK
    value = (value ^ value >> SHIFTS[1]) * FACTORS[1] & _MASK
    return value ^ value >> SHIFTS[2]


def stream(seed: int, position: int, lane: int = 0) -> int:
    """The 64-bit key of all noise at one position; position 0 is the first generated token.

    `lane`: what the noise is for, where draws at one position must know nothing of each other.
    """
    key = mix(mix(seed + GOLDEN) + position * GOLDEN)
    return mix(key ^ lane * FACTORS[1]) if lane else key


def uniform(key: int, token: int) -> float:
    """One of 2**52 numbers in (0, 1), never an end of it: an odd multiple of 2**-53.

    `key`: of a `stream`.
    """
    return (mix(key + (token + 1) * GOLDEN) >> 11 | 1) * 2.0**-53


def gumbel(key: int, token: int) -> float:
    """Standard Gumbel noise of one token id, nats."""
    return -log(-log(uniform(key, token)))


def sampled(rules: Rules) -> bool:
    """Whether these rules draw with noise; if not, the most likely token is written.

    Raises:
        InvalidRequest: a value out of its range has come over the wire.
    """
    good = (
        0 <= rules.temperature < inf
        and rules.top_k >= 0
        and 0 < rules.top_p <= 1
        and 0 <= rules.seed < 1 << 63
    )
    if not good:
        raise InvalidRequest(
            f"temperature = {rules.temperature}, top_k = {rules.top_k}, top_p = {rules.top_p}, "
            f"seed = {rules.seed}: must be at least 0, at least 0, above 0 and at most 1, "
            "and from 0 to 2**63 - 1"
        )
    return rules.temperature > 0


def choose(logs: Sequence[float], rules: Rules, index: int, others: int = 0) -> list[int]:
    """The draw from a distribution, then the next best draws, best first; behind those, if needed,
    the most likely of what cannot be drawn.

    `logs`: ln p of each id, nats (-inf where it may not stand). `index`: where in the line of ids,
    prompt included, the token will stand.
    """
    if not sampled(rules):
        width = min(len(logs), rules.vocabulary)
        return heapq.nsmallest(1 + others, range(width), key=lambda t: (-logs[t], t))
    ranked, scaled = _scaled(logs, rules)
    count = _support(scaled, rules)
    key = stream(rules.seed, index - rules.begin)
    scores = {t: s + gumbel(key, t) for t, s in zip(ranked[:count], scaled, strict=False)}
    best = heapq.nsmallest(1 + others, scores, key=lambda t: (-scores[t], t))
    return best + ranked[count : 1 + others]


def law(logs: Sequence[float], rules: Rules) -> dict[int, float]:
    """What `choose` draws from: ids with their probabilities, most likely first. Arguments as there;
    the rules must draw with noise.
    """
    ranked, scaled = _scaled(logs, rules)
    mass = [exp(s) for s in scaled[: _support(scaled, rules)]]
    total = sum(mass)
    return {t: m / total for t, m in zip(ranked, mass, strict=False)}


def settle(
    logs: Sequence[float], rules: Rules, index: int, token: int, small: Mapping[int, float]
) -> int:
    """Speculative sampling: `token`, drawn from the law `small`, is left standing with the chance
    min(1, p_L / p_S); else a token is drawn from what p_L has more than p_S. The result is an exact
    draw from p_L (Leviathan et al. 2022, appendix A.1). Arguments as for `choose`.
    """
    large, position = law(logs, rules), index - rules.begin
    if accepted(rules, position, small.get(token, 0.0), large.get(token, 0.0)):
        return token
    left = {t: p - small.get(t, 0.0) for t, p in large.items() if p > small.get(t, 0.0)}
    key = stream(rules.seed, position, INSTEAD)
    # Where rounding leaves nothing, the two laws are one.
    return min(left or large, key=lambda t: (-log((left or large)[t]) - gumbel(key, t), t))


def accepted(rules: Rules, position: int, small: float, large: float) -> bool:
    """Whether a token of these probabilities stands; `position` 0 is the first generated token."""
    return uniform(stream(rules.seed, position, ACCEPT), 0) * small < large


def _scaled(logs: Sequence[float], rules: Rules) -> tuple[list[int], list[float]]:
    """The ids that the rules know, ranked, with their ln p / T but for a constant."""
    width = min(len(logs), rules.vocabulary)
    ranked = sorted(range(width), key=lambda t: (-logs[t], t))
    # Less the largest, so that no temperature, however small, makes an infinity of it.
    return ranked, [(logs[t] - logs[ranked[0]]) / rules.temperature for t in ranked]


def _support(scaled: Sequence[float], rules: Rules) -> int:
    """How many of the ids, ranked, top-k and top-p leave. `scaled`: ln p / T but for a constant."""
    count = min(rules.top_k or len(scaled), len(scaled))
    if rules.top_p == 1:
        return count
    mass = [exp(s) for s in scaled[:count]]
    total, before = sum(mass), 0.0
    for rank, share in enumerate(mass):
        if before >= rules.top_p * total:
            return rank
        before += share
    return count
