"""The text by its definition: one position after the other, no cache, no schedule, no workers.

Written from the decision table alone and kept apart from the code that it judges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import exp, inf, log, prod, sqrt

from bild_dist.sampling import gumbel, stream, uniform
from bild_dist.types import Mode, Options, Policy, Role


@dataclass(frozen=True)
class Distribution:
    """A next-token distribution, reduced to what the table asks: `nll(t)` is -ln p(t)."""

    draw: int
    top: float
    nll: Callable[[int], float]
    gap: float = inf
    """Between the two largest probabilities: below 1e-4 the draw is a near-tie."""
    width: int = 0
    """Ids from here on do not exist. Only needed to draw with noise."""

    def chances(self) -> list[float]:
        """The probability of every id."""
        return [exp(-self.nll(t)) for t in range(self.width)]

    def sure(self, kind: str) -> float:
        """How sure it is by that measure."""
        if kind == "margin":
            best = sorted(self.chances())
            return best[-1] - best[-2]
        if kind == "entropy":
            return float(prod(p**p for p in self.chances() if p > 0))
        return self.top

    def law(self, options: Options) -> dict[int, float]:
        """What temperature, top-k and top-p leave to be drawn from."""
        p = self.chances()
        ranked = sorted((t for t in range(self.width) if p[t] > 0), key=lambda t: (-p[t], t))
        kept = ranked[: options.top_k or None]
        mass = {t: p[t] ** (1 / options.temperature) for t in kept}
        total, support, before = sum(mass.values()), [], 0.0
        for t in kept:
            if options.top_p == 1 or before < options.top_p * total:
                support.append(t)
            before += mass[t]
        total = sum(mass[t] for t in support)
        return {t: mass[t] / total for t in support}

    def drawn(self, options: Options, position: int) -> Distribution:
        """The same distribution with what temperature, top-k, top-p and noise make its draw.

        Its gap is the smallest change that would make it another: of the scores, or of what decides
        whether this token or one with a better score may be drawn.
        """
        logs = {t: -self.nll(t) / options.temperature for t in range(self.width)}
        ranked = sorted((t for t in logs if logs[t] > -inf), key=lambda t: (-logs[t], t))
        kept = ranked[: options.top_k or None]
        total = sum(exp(logs[t]) for t in kept)
        top_p = options.top_p if options.top_p < 1 else inf
        before = {t: sum(exp(logs[s]) for s in kept[:i]) / total for i, t in enumerate(kept)}
        support = [t for t in kept if before[t] < top_p]
        key = stream(options.seed, position)
        scores = {t: logs[t] + gumbel(key, t) for t in ranked}
        best = max(support, key=lambda t: (scores[t], -t))
        gaps = [scores[best] - scores[t] for t in support if t != best]
        gaps += [top_p - before[best]] if best != ranked[0] else []
        gaps += [logs[best] - logs[t] for t in ranked[len(kept) :][:1]]
        for t in ranked:
            if t not in support and scores[t] > scores[best]:
                gaps.append(before[t] - top_p if t in kept else logs[kept[-1]] - logs[t])
        return replace(self, draw=best, gap=min([inf, *gaps]))


Predictor = Callable[[Sequence[int]], Distribution]
"""All ids so far (prompt and text) to the distribution of the next one."""


def apart(kind: str, small: Distribution, large: Distribution, token: int) -> float:
    """How far two distributions are from each other at a token of the small one."""
    if kind == "ce":
        return large.nll(token)
    p_s, p_l = small.chances(), large.chances()
    named = sorted(range(small.width), key=lambda t: (-p_s[t], t))[:64]
    others = sorted({*range(small.width)} - {*named})
    p = [p_s[t] for t in named] + [sum(p_s[t] for t in others)]
    q = [p_l[t] for t in named] + [sum(p_l[t] for t in others)]
    cells = list(zip(p, q, strict=True))
    if kind == "kl":
        return float(sum(a * log(a / b) for a, b in cells if a > 0))
    if kind == "js":
        middle = [(a, b, (a + b) / 2) for a, b in cells]
        halves = [(x * log(x / m) if x > 0 else 0.0) for a, b, m in middle for x in (a, b)]
        return sum(halves) / 2
    if kind == "tv":
        over, under = ([max(sign * (a - b), 0.0) for a, b in cells] for sign in (1, -1))
        return float(max(sum(over), sum(under)))
    return sqrt(sum((a - b) ** 2 for a, b in cells))


@dataclass(frozen=True)
class Reference:
    tokens: list[int]
    sources: list[str]
    reason: str
    closest: float
    """The smallest gap that any decision had, to a second-best token or to a threshold."""


def reference(
    small: Predictor,
    large: Predictor,
    prompt: Sequence[int],
    options: Options,
    *,
    end_ids: Sequence[int],
    max_new_tokens: int,
    stopped: Callable[[Sequence[int]], bool] = lambda text: False,
) -> Reference:
    """Decides every position by the table, from scratch."""
    text: list[int] = []
    sources: list[str] = []
    gaps: list[float] = [inf]
    sure: list[float | None] = []
    """How sure the small model was at each token, where that decided anything."""

    def threshold(known: Sequence[float | None]) -> float:
        """alpha_fb behind these confidences."""
        if options.mode is Mode.EXACT:
            return inf
        alpha = float(options.alpha_fb)
        for confidence in known:
            if options.adapt > 0 and confidence is not None:
                step = options.adapt - 1 if confidence < alpha else options.adapt
                alpha = min(1.0, max(0.0, alpha + 0.05 * step))
        return alpha

    def over(line: Sequence[int]) -> str | None:
        if line and line[-1] in end_ids:
            return "eos"
        if line and stopped(line):
            return "stop"
        return "length" if len(line) == max_new_tokens else None

    def put(token: int, source: str, confidence: float | None = None) -> None:
        text.append(token)
        sources.append(source)
        sure.append(confidence)

    def ask(model: Predictor, line: Sequence[int]) -> Distribution:
        answer = model([*prompt, *line])
        if options.temperature > 0:
            answer = answer.drawn(options, len(line))
        gaps.append(answer.gap)
        return answer

    def objects(p_s: Distribution, line: Sequence[int]) -> int | None:
        """The token that the large model puts in place of a small one, or None."""
        p_l, proposed = ask(large, line), p_s.draw
        if p_l.draw == proposed:
            return None
        far = apart(options.distance, p_s, p_l, proposed)
        gaps.append(abs(far - options.alpha_rb))
        return p_l.draw if far > options.alpha_rb else None

    if options.mode in (Mode.LARGE, Mode.SMALL):
        model = large if options.mode is Mode.LARGE else small
        while over(text) is None:
            put(ask(model, text).draw, options.mode.value)
        return Reference(text, sources, str(over(text)), min(gaps))

    if options.policy is Policy.REJECTION:
        rejection(small, large, prompt, options, text, sources, gaps, over)
        return Reference(text, sources, str(over(text)), min(gaps))

    while over(text) is None:
        # A run: what the small model writes from here to a hand-over or to the end.
        run: list[Distribution] = []
        known: list[float | None] = []
        handover = None
        low: float | None = None
        while over([*text, *(p.draw for p in run)]) is None:
            line = [*text, *(p.draw for p in run)]
            if len(run) == options.window:
                handover = "window"
                break
            if not line and options.first is Role.LARGE:
                handover = "fallback"
                break
            p_s = ask(small, line)
            confidence = p_s.sure(options.confidence)
            if options.confidence == "product":
                confidence = prod([p.top for p in run], start=p_s.top)
            alpha_fb = threshold([*sure, *known])
            if alpha_fb < inf:
                gaps.append(abs(confidence - alpha_fb))
            if confidence < alpha_fb:
                handover, low = "fallback", confidence
                break
            run.append(p_s)
            known.append(confidence)
        checked = options.verify_tail or handover is not None
        for p_s, confidence_here in zip(run, known, strict=True):
            instead = objects(p_s, text) if checked else None
            if instead is not None:
                put(instead, "rollback", confidence_here)
                handover = None
                break
            put(p_s.draw, "small", confidence_here)
        if handover is not None:
            put(ask(large, text).draw, handover, low)
    return Reference(text, sources, str(over(text)), min(gaps))


def rejection(
    small: Predictor,
    large: Predictor,
    prompt: Sequence[int],
    options: Options,
    text: list[int],
    sources: list[str],
    gaps: list[float],
    over: Callable[[Sequence[int]], str | None],
) -> None:
    """Algorithm 1 of Leviathan et al. (2022), with this project's noise: one draft after another."""

    def drawn(model: Predictor, line: Sequence[int]) -> Distribution:
        answer = model([*prompt, *line])
        answer = answer.drawn(options, len(line)) if options.temperature > 0 else answer
        gaps.append(answer.gap)
        return answer

    while over(text) is None:
        draft: list[Distribution] = []
        first = not text and options.first is Role.LARGE
        while not first and len(draft) < options.window:
            line = [*text, *(p.draw for p in draft)]
            if over(line) is not None:
                break
            draft.append(drawn(small, line))
        whole = True
        for p_s in draft:
            p_l, token = drawn(large, text), p_s.draw
            if options.temperature == 0:
                instead = p_l.draw
            else:
                q, p = p_s.law(options), p_l.law(options)
                position = len(text)
                chance = p.get(token, 0.0) / q[token]
                u = uniform(stream(options.seed, position, 1), 0)
                gaps.append(abs(u - chance))
                instead = token
                if u >= chance:
                    rest = {t: p[t] - q.get(t, 0.0) for t in p if p[t] > q.get(t, 0.0)}
                    key = stream(options.seed, position, 2)
                    scores = {t: log(rest[t]) + gumbel(key, t) for t in rest}
                    instead = max(scores, key=lambda t: scores[t])
                    others = [scores[instead] - scores[t] for t in scores if t != instead]
                    gaps.append(min([inf, *others]))
            text.append(instead)
            sources.append("small" if instead == token else "rollback")
            if instead != token:
                whole = False
                break
        if whole and over(text) is None:
            text.append(drawn(large, text).draw)
            sources.append("fallback" if first else "window")
