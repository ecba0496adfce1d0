"""What two models say of the same positions, counted. Plain arrays: no model, no torch.

The positions are those of the large model's own text, with its own ids before each of them. BiLD
writes another text as soon as a small token stands that the large model would not have written, so
these figures say how well two models agree, not what a text of BiLD costs: for that there is
`agreement_replay`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from bild_dist.policy.rules import next_run, owner, stands
from bild_dist.types import Options, Source

ALPHA_FB: Final = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
ALPHA_RB: Final = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
BINS: Final = 10
"""Of equal width, of confidence."""
WINDOW: Final = Options().window

Numbers: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Positions:
    """One text, position by position. All arrays have its T positions.

    `small`, `large`: what each model would write. `confidence`: the small model's largest
    probability. `distance`, `own`: -ln p under the large model of `small` and of `large`, nats
    (infinite where it can never write it). `written`: the text itself, which is `large` unless the
    text came from other numbers than these.
    """

    small: Numbers
    large: Numbers
    confidence: Numbers
    distance: Numbers
    own: Numbers
    written: Numbers

    def __len__(self) -> int:
        return len(self.small)

    @property
    def same(self) -> Numbers:
        """Where both would write the same token."""
        same: Numbers = self.small == self.large
        return same


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Positions whose confidence lies in [low, high), in the last bin up to 1 inclusive.

    `confidence` is their mean: where `matches` of `positions` is the same, confidence can be taken
    at its word.
    """

    low: float
    high: float
    positions: int
    matches: int
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What a pair of thresholds does. Counts of positions.

    `unsure`: confidence below `alpha_fb`; `hits`: those of them where the small model's guess is
    the large model's token. Of the others, the sure ones, `rollbacks` are replaced and `mild` stand
    although the large model would write something else; `cost_nats` is how much likelier, on
    average over all that stand, the large model's own token was to it, nats a token. `written` is
    what is left to the small model where the window too hands over.
    """

    alpha_fb: float
    alpha_rb: float
    positions: int
    unsure: int
    hits: int
    rollbacks: int
    mild: int
    cost_nats: float
    written: int

    @property
    def sure(self) -> int:
        return self.positions - self.unsure

    @property
    def fallback_rate(self) -> float:
        """f of `model/scripted.py`."""
        return share(self.unsure, self.positions)

    @property
    def hit_rate(self) -> float:
        """q."""
        return share(self.hits, self.unsure)

    @property
    def rollback_rate(self) -> float:
        """rho."""
        return share(self.rollbacks, self.sure)

    @property
    def mild_rate(self) -> float:
        return share(self.mild, self.sure)

    @property
    def written_rate(self) -> float:
        """Share of all positions that the small model writes."""
        return share(self.written, self.positions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """Mode `exact` with drafts of `draft` guesses: what stands of them, and what that takes."""

    draft: int
    tokens: int
    passes: int
    accepted: int

    @property
    def acceptance_length(self) -> float:
        """Guesses that stand a pass of the large model."""
        return share(self.accepted, self.passes)

    @property
    def large_passes_per_token(self) -> float:
        return share(self.passes, self.tokens)


def share(part: float, whole: float) -> float:
    """A share; 0 of nothing."""
    return part / whole if whole else 0.0


def bins_of(texts: Sequence[Positions]) -> tuple[Bin, ...]:
    """How often both models agree, by confidence."""
    confidence, same = joined(texts, "confidence"), joined(texts, "same")
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    found = []
    for number in range(BINS):
        inside = place == number
        count = int(inside.sum())
        found.append(
            Bin(
                low=number / BINS, high=(number + 1) / BINS, positions=count,
                matches=int(same[inside].sum()),
                confidence=float(confidence[inside].mean()) if count else 0.0,
            )
        )  # fmt: skip
    return tuple(found)


def point_of(
    texts: Sequence[Positions], alpha_fb: float, alpha_rb: float, window: int = WINDOW
) -> Point:
    """What a pair of thresholds does on these texts."""
    confidence, same = joined(texts, "confidence"), joined(texts, "same")
    distance, own = joined(texts, "distance"), joined(texts, "own")
    unsure = confidence < alpha_fb
    apart = ~unsure & ~same
    rolled = apart & (distance > alpha_rb)
    kept = ~unsure & ~rolled
    # Where nobody rolls back a token may stand that the large model can never write.
    lost = float((distance[kept] - own[kept]).mean()) if kept.any() else 0.0
    return Point(
        alpha_fb=alpha_fb, alpha_rb=alpha_rb, positions=len(confidence), unsure=int(unsure.sum()),
        hits=int((unsure & same).sum()), rollbacks=int(rolled.sum()),
        mild=int((apart & ~rolled).sum()), cost_nats=lost,
        written=sum(sources(text, alpha_fb, alpha_rb, window)[Source.SMALL] for text in texts),
    )  # fmt: skip


def sources(
    text: Positions, alpha_fb: float, alpha_rb: float, window: int = WINDOW
) -> Counter[Source]:
    """Who would write each position, by the decision table and with the window."""
    count: Counter[Source] = Counter()
    run = 0
    for confidence, same, distance in zip(
        text.confidence.tolist(), text.same.tolist(), text.distance.tolist(), strict=True
    ):
        source = owner(run, window, confidence, alpha_fb)
        if source is Source.SMALL and not stands(same, False, distance, alpha_rb):
            source = Source.ROLLBACK
        count[source] += 1
        run = next_run(run, source)
    return count


def exact_of(texts: Sequence[Positions], draft: int = WINDOW) -> Exact:
    """Mode `exact`: each pass of the large model lets the guesses stand up to the first wrong one,
    and writes one token behind them.
    """
    tokens = passes = accepted = 0
    for text in texts:
        same, at = text.same.tolist(), 0
        while at < len(same):
            stood = 0
            while stood < draft and at + stood < len(same) and same[at + stood]:
                stood += 1
            passes += 1
            accepted += stood
            at += stood + 1
        tokens += len(same)
    return Exact(draft=draft, tokens=tokens, passes=passes, accepted=accepted)


def joined(texts: Sequence[Positions], name: str) -> Numbers:
    """One array over the positions of all texts. There must be at least one."""
    return np.concatenate([getattr(text, name) for text in texts])
