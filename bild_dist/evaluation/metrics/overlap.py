"""How much two texts have in common, token by token. Loads nothing: a process whose memory is measured can
use it.
"""

from __future__ import annotations

from collections.abc import Sequence


def agreement(tokens: Sequence[int], own: Sequence[int]) -> float:
    """How much of two texts is the same, from 0 to 1: the F1 of their longest common subsequence,
    over tokens (ROUGE-L, Lin 2004, without its stemming).
    """
    if not tokens and not own:
        return 1.0
    row = [0] * (len(own) + 1)
    for token in tokens:
        before = 0
        for place, other in enumerate(own, start=1):
            here = before + 1 if token == other else max(row[place], row[place - 1])
            before, row[place] = row[place], here
    return 2 * row[-1] / (len(tokens) + len(own))
