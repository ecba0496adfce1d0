"""The decision table of BiLD as scalar functions (paper, section 3; Algorithm 1).

| when                                             | token     | source     |
|--------------------------------------------------|-----------|------------|
| `run == window`                                  | draw(p_L) | `window`   |
| max p_S < alpha_fb                               | draw(p_L) | `fallback` |
| d > alpha_rb and draw(p_L) != s, s = draw(p_S)   | draw(p_L) | `rollback` |
| otherwise                                        | s         | `small`    |

Who *owns* a position follows from what is known before the large model looks at it: the first two
rows.
"""

from __future__ import annotations

from bild_dist.types import Source


def owner(run: int, window: int, confidence: float, alpha_fb: float) -> Source:
    """The source that a position has if nobody objects: `window`, `fallback` or `small`.

    `run`: tokens in a row that the small model has written; `confidence`: its top probability here.
    """
    if run == window:
        return Source.WINDOW
    if confidence < alpha_fb:
        return Source.FALLBACK
    return Source.SMALL


def stands(same: bool, exact: bool, distance: float, alpha_rb: float) -> bool:
    """Whether the large model lets a proposed token stand.

    `same`: it would draw that token too. `exact`: the position is the large model's own, so nothing
    else will do. `distance`: -ln p_L of the proposed token, nats.
    """
    return same or (not exact and not distance > alpha_rb)


def next_run(run: int, source: Source) -> int:
    """`run` after a token of this source."""
    return run + 1 if source is Source.SMALL else 0
