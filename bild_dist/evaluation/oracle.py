"""The oracle of figure 2: how few tokens the large model must write for its own quality.

Both models look at every position. Where the large one gives the small one's token less than a
threshold of probability, its own token stands there instead (paper, section 3.2). No program could
decode so and be fast, since the large model runs everywhere; it says how good a policy could be
that knew where the two differ most. Thresholds from nought to one lead from the small model's text
to the large one's.

In terms of the decision table that is rollback alone: nothing is handed over, and -ln p_L of the
small token is compared at every position. So it is a setting like any other: `bild eval --oracle NATS`
writes a point of the curve, and `bild report` draws it.
"""

from __future__ import annotations

from bild_dist.types import Confidence, Distance, Mode, Options, Policy, Role


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
