"""Step 2: what the large model writes for the instructions, and how much of it a short head covers.

Takes the options of `bild align`, which finds these texts in the cache and would write them itself.
Alone, the step can run on another machine: copy `$XDG_CACHE_HOME/bild-dist/outputs` from there.
"""

from __future__ import annotations

import functools
import os
import sys
from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from bild_dist.errors import BildError
from bild_dist.evaluation.align.asking import Asking
from bild_dist.evaluation.align.models import threads
from bild_dist.evaluation.align.options import Alignment, asked
from bild_dist.evaluation.align.outputs import Output

HEADS = (1024, 2048, 4096, 8192, 16384)
"""Sizes of a short head to tell of."""


def main(argv: Sequence[str]) -> int:
    """Writes what is not there yet. Exit codes as in `bild align`."""
    try:
        plan = asked(argv)
        threads(plan.threads or os.cpu_count() or 1)
        found = written(plan)
    except BildError as error:
        Console(stderr=True).print(f"texts: {error}", markup=False)
        return 2
    except KeyboardInterrupt:
        Console(stderr=True).print("texts: interrupted; the same command goes on")
        return 130
    counts = Counter(token for text in found for token in text.ids)
    console = Console(highlight=False)
    console.print(f"{len(found):,} texts of {counts.total():,} tokens, {len(counts):,} ids")
    for size in HEADS:
        share = sum(count for _, count in counts.most_common(size)) / max(counts.total(), 1)
        console.print(f"the {size:,} most frequent ids are {share:.2%} of what is written")
    return 0


def written(plan: Alignment) -> list[Output]:
    """The texts to learn from and the held-out ones."""
    asking = Asking(plan, functools.cache(plan.large.load))
    parts = ((asking.learned, "large model writes"), (asking.held, "held-out texts"))
    return [text for found, name in parts for text in asking.texts(found, name)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
