"""Which passes go together: the requests of a worker share its model, batch by batch.

A decoder's pass costs what it takes to read the weights, whether one token is fed or a few; so all
requests that have a pass to run go through the model at once, draft steps and checks and pieces of
prompts alike, each with as many tokens as it feeds. Pure: the decision is a function of what is
asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MOST: Final = 256
"""Tokens fed in one batch: nobody waits for more than so much work of others. One pass that is
longer by itself runs alone.
"""
PIECES: Final = 128
"""The same of prompts alone, beside passes that write or check: many that begin at once must not make
every token of the others slow.
"""
SPARE: Final = 16
"""Tokens up to which a batch costs hardly more than one: up to here drafts that run ahead may join
those that somebody waits for.
"""
PADDED: Final = 32
"""Tokens up to which padding costs hardly anything either. Beyond, it is a third of a batch at most."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A pass that could run now.

    `fed`: its tokens. `needed`: whether somebody waits for what comes of it. `piece`: whether it only
    fills the cache with some of a prompt.
    """

    fed: int
    needed: bool = True
    piece: bool = False


def together(wanted: Sequence[Wanted], batching: str) -> list[int]:
    """Which of the passes, which stand in the order of their turns, make the next batch: their
    numbers, first come first.

    The first that is needed is always among them (the first of all where none is), so whoever was
    left out is first before long, as those who were served go to the end of the line. `batching` is
    what the model can do (`messages.Info`).
    """
    order = sorted(range(len(wanted)), key=lambda number: not wanted[number].needed)
    chosen = order[:1]
    if batching == "single" or not chosen:
        return chosen
    first = wanted[chosen[0]]
    total = longest = first.fed
    pieces = first.fed if first.piece else 0
    piecemeal = PIECES if any(one.needed and not one.piece for one in wanted) else MOST
    for number in order[1:]:
        one = wanted[number]
        if total + one.fed > (MOST if one.needed else SPARE):
            continue
        if one.piece and pieces + one.fed > piecemeal:
            continue
        if batching == "groups":
            padded = (len(chosen) + 1) * max(longest, one.fed)
            if padded > max(PADDED, 3 * (total + one.fed) // 2):
                continue
        chosen.append(number)
        total, longest = total + one.fed, max(longest, one.fed)
        pieces += one.fed if one.piece else 0
    return chosen
