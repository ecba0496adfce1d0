"""The oracle of figure 2: how few tokens the large model must write for its own quality.

Both models look at every position. Where the large one gives the small one's token less than a
threshold of probability, its own token stands there instead (paper, section 3.2). No program could
decode so and be fast, since the large model runs everywhere; it says how good a policy could be
that knew where the two differ most. Thresholds from nought to one lead from the small model's text
to the large one's.

In terms of the decision table that is rollback alone: nothing is handed over, and -ln p_L of the
small token is compared at every position. So the texts come from the decoder that users call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from bild_dist.orchestrator.decoder import Decoder
from bild_dist.orchestrator.prompt import Prompt
from bild_dist.types import Confidence, Distance, Mode, Options, Policy, Result, Role, Source

NATS: Final = (inf, 16.0, 12.0, 9.0, 7.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.5, 0.0)
"""Thresholds of a whole curve, -ln of the probability: from the small model's text to the large
one's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One threshold: `share` of the tokens that the large model wrote, and how good the texts are."""

    nats: float
    share: float
    quality: float


def replacing(options: Options, nats: float) -> Options:
    """The setting whose text is the oracle's: a token of the small model stands unless -ln p_L of it
    exceeds `nats` and the large model would write another. Bounds and constraints stay as they are.
    """
    return options.merged(
        {
            "mode": Mode.BILD, "policy": Policy.BILD, "alpha_fb": 0.0, "alpha_rb": nats, "adapt": 0.0,
            "window": options.max_new_tokens, "verify_tail": True, "first": Role.SMALL,
            "confidence": Confidence.MAX, "distance": Distance.CE,
        }
    )  # fmt: skip


async def curve(
    decoder: Decoder,
    prompts: Sequence[Prompt],
    score: Callable[[Sequence[Result]], float],
    options: Options | None = None,
    nats: Sequence[float] = NATS,
) -> list[Point]:
    """Writes every prompt at every threshold. `score` judges the texts of one threshold, in the order
    of the prompts.

    Raises:
        BildError: a prompt cannot be decoded; see `Decoder.generate`.
    """
    base, points = options if options is not None else Options(), []
    for threshold in nats:
        asked = replacing(base, threshold)
        changes = {name: getattr(asked, name) for name in Options.__dataclass_fields__}
        under_way = [decoder.stream(prompt, **changes) for prompt in prompts]
        results = [await text.result() for text in under_way]
        points.append(Point(nats=threshold, share=share(results), quality=score(results)))
    return points


def share(results: Sequence[Result]) -> float:
    """Of all tokens, those that the large model wrote in place of the small one's."""
    sources = [source for result in results for source in result.sources]
    return sources.count(Source.ROLLBACK) / max(len(sources), 1)
