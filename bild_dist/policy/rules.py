"""The decision table of BiLD as scalar functions (paper, section 3; Algorithm 1).

| when                                             | token     | source     |
|--------------------------------------------------|-----------|------------|
| `run == window`                                  | draw(p_L) | `window`   |
| confidence < alpha_fb                            | draw(p_L) | `fallback` |
| d > alpha_rb and draw(p_L) != s, s = draw(p_S)   | draw(p_L) | `rollback` |
| otherwise                                        | s         | `small`    |

Who *owns* a position follows from what is known before the large model looks at it: the first two
rows. The confidence is max p_S unless another measure is asked for (`types.Confidence`), and
alpha_fb a constant unless it adapts: both then depend on the positions before, which a `Ruler`
follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import inf
from typing import Final, NamedTuple, Self

from bild_dist.messages import Outlook, Rules
from bild_dist.types import Confidence, Mode, Options, Policy, Role, Source

STEP: Final = 0.05
"""How far one position moves a threshold that adapts, at most."""


def owner(run: int, window: int, confidence: float, alpha_fb: float) -> Source:
    """The source that a position has if nobody objects: `window`, `fallback` or `small`.

    `run`: tokens in a row that the small model has written; `confidence`: how sure it is here.
    """
    if run == window:
        return Source.WINDOW
    if confidence < alpha_fb:
        return Source.FALLBACK
    return Source.SMALL


def stands(same: bool, exact: bool, distance: float, alpha_rb: float) -> bool:
    """Whether the large model lets a proposed token stand.

    `same`: it would draw that token too. `exact`: the position is the large model's own, so nothing
    else will do. `distance`: of the two models at the proposed token, by default -ln p_L of it.
    """
    return same or (not exact and not distance > alpha_rb)


def next_run(run: int, source: Source) -> int:
    """`run` after a token of this source."""
    return run + 1 if source is Source.SMALL else 0


def told(rules: Rules, options: Options, role: Role) -> Rules:
    """The rules with what the worker of this role shall tell. How it measures is of use only where
    both models write, and log-probabilities only of a model that decides.
    """
    decides = role is Role.LARGE or not all_large(options)
    rules = replace(rules, logprobs=options.logprobs if decides else None)
    if options.mode is not Mode.BILD:
        return rules
    return replace(
        rules, confidence=options.confidence.value, distance=options.distance.value,
        rejection=options.policy is Policy.REJECTION,
    )  # fmt: skip


def all_large(options: Options) -> bool:
    """Whether the text is the large model's own, or of its law: the small one only guesses."""
    return options.mode is Mode.EXACT or options.policy is Policy.REJECTION


class Ruler(NamedTuple):
    """Measures one position after the other: whose is it? Both sides follow a line with one.

    Everything in it depends on tokens, sources and confidences before the position, never on what
    the large model says of it, so it holds for guesses as for text.
    """

    window: int
    alpha_fb: float
    run: int = 0
    level: float = 1.0
    """What the next confidence is multiplied by, where it is a product."""
    product: bool = False
    adapt: float = 0.0
    """Share of positions that shall fall below the threshold; 0 leaves it where it is."""

    @classmethod
    def start(cls, options: Options) -> Self:
        """Before the first token of a text."""
        if options.mode is Mode.EXACT or options.policy is Policy.REJECTION:
            return cls(options.window, inf if options.mode is Mode.EXACT else 0.0)
        product = options.confidence is Confidence.PRODUCT
        return cls(options.window, options.alpha_fb, product=product, adapt=options.adapt)

    @classmethod
    def of(cls, outlook: Outlook) -> Self:
        """Where the peer's ruler stands."""
        return cls(outlook.window, outlook.alpha_fb, outlook.run, outlook.level, outlook.product,
                   outlook.adapt)  # fmt: skip

    def seen(self, outlook: Outlook) -> Outlook:
        """That outlook from here."""
        return replace(outlook, **self._asdict())

    def measure(self, confidence: float) -> float:
        """What is compared with the threshold at the next position."""
        return self.level * confidence if self.product else confidence

    def low(self, measured: float) -> bool:
        """Whether the small model is too unsure for the next position to be its own."""
        return measured < self.alpha_fb

    def owner(self, measured: float) -> Source:
        """Whose the next position is."""
        return owner(self.run, self.window, measured, self.alpha_fb)

    def after(self, source: Source, measured: float | None) -> Self:
        """Behind a token of that source. `measured`: None where nobody asked the small model, or its
        answer did not matter.
        """
        run = next_run(self.run, source)
        if not (self.adapt or self.product):
            # The usual rulers: nothing but the run moves, at every token on both sides.
            return type(self)(self.window, self.alpha_fb, run)
        alpha_fb = self.alpha_fb
        if self.adapt > 0 and measured is not None and source is not Source.WINDOW:
            # The quantile that the confidences of this text have there (Robbins and Monro 1951):
            # steps up and down cancel once the share below is the one that is wanted.
            moved = alpha_fb + STEP * (self.adapt - self.low(measured))
            alpha_fb = min(max(moved, 0.0), 1.0)
        level = measured if source is Source.SMALL and measured is not None else 1.0
        return type(self)(self.window, alpha_fb, run, level, self.product, self.adapt)

    def along(self, confidences: Iterable[float]) -> Iterator[tuple[bool, Source, Self]]:
        """Measures the positions of a draft by their measured confidences: for each whether it is
        `low`, whose it is, and the ruler behind it.
        """
        ruler = self
        for measured in confidences:
            low, whose = ruler.low(measured), ruler.owner(measured)
            ruler = ruler.after(whose, measured)
            yield low, whose, ruler
