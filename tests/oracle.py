"""The text by its definition: one position after the other, no cache, no schedule, no workers.

Written from the decision table alone and kept apart from the code that it judges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import exp, inf

from bild_dist.sampling import gumbel, stream
from bild_dist.types import Mode, Options, Role


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
    alpha_fb = inf if options.mode is Mode.EXACT else options.alpha_fb
    text: list[int] = []
    sources: list[str] = []
    gaps: list[float] = [inf]

    def over(line: Sequence[int]) -> str | None:
        if line and line[-1] in end_ids:
            return "eos"
        if line and stopped(line):
            return "stop"
        return "length" if len(line) == max_new_tokens else None

    def put(token: int, source: str) -> None:
        text.append(token)
        sources.append(source)

    def ask(model: Predictor, line: Sequence[int]) -> Distribution:
        answer = model([*prompt, *line])
        if options.temperature > 0:
            answer = answer.drawn(options, len(line))
        gaps.append(answer.gap)
        return answer

    def objects(proposed: int, line: Sequence[int]) -> int | None:
        """The token that the large model puts in place of a small one, or None."""
        p_l = ask(large, line)
        if p_l.draw != proposed:
            gaps.append(abs(p_l.nll(proposed) - options.alpha_rb))
        if p_l.nll(proposed) > options.alpha_rb and p_l.draw != proposed:
            return p_l.draw
        return None

    if options.mode in (Mode.LARGE, Mode.SMALL):
        model = large if options.mode is Mode.LARGE else small
        while over(text) is None:
            put(ask(model, text).draw, options.mode.value)
        return Reference(text, sources, str(over(text)), min(gaps))

    while over(text) is None:
        # A run: what the small model writes from here to a hand-over or to the end.
        run: list[int] = []
        handover = None
        while over([*text, *run]) is None:
            line = [*text, *run]
            if len(run) == options.window:
                handover = "window"
                break
            if not line and options.first is Role.LARGE:
                handover = "fallback"
                break
            p_s = ask(small, line)
            if alpha_fb < inf:
                gaps.append(abs(p_s.top - alpha_fb))
            if p_s.top < alpha_fb:
                handover = "fallback"
                break
            run.append(p_s.draw)
        checked = options.verify_tail or handover is not None
        for token in run:
            instead = objects(token, text) if checked else None
            if instead is not None:
                put(instead, "rollback")
                handover = None
                break
            put(token, "small")
        if handover is not None:
            put(ask(large, text).draw, handover)
    return Reference(text, sources, str(over(text)), min(gaps))
