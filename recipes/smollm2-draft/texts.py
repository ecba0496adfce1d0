"""Step 2: what the large model writes for the instructions, and how much of it a short head covers.

Takes the options of `bild align`, which finds these texts in the cache and would write them itself.
Alone, the step can run on another machine: copy `$XDG_CACHE_HOME/bild-dist/outputs` from there.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from bild_dist.errors import BildError
from bild_dist.evaluation.align.calibration import prompts, questions
from bild_dist.evaluation.align.models import Writer, longest, threads
from bild_dist.evaluation.align.options import Alignment, asked
from bild_dist.evaluation.align.outputs import Output, Teacher
from bild_dist.evaluation.align.progress import Bar

HEADS = (1024, 2048, 4096, 8192, 16384)
"""Sizes of a short head to tell of."""


def main(argv: Sequence[str]) -> int:
    """Writes what is not there yet. Exit codes as in `bild align`."""
    try:
        plan = asked(argv)
        threads(plan.threads or os.cpu_count() or 1)
        found = [text for split in ("train", "validation") for text in written(plan, split)]
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


def written(plan: Alignment, split: str) -> list[Output]:
    """The texts of a split, in the order of its prompts."""
    models: list[Any] = []

    def large() -> Any:
        if not models:
            models.append(plan.large.load())
        return models[0]

    limit = plan.limit if split == "train" else plan.held_out
    room = longest(large(), plan.max_length) - plan.writing.max_new_tokens
    writer = Writer(plan.large.tokens())
    kept = questions(prompts(plan.corpus, split), writer.ids, room, limit).kept
    with Bar(f"large model writes ({split})", len(kept)) as bar:
        return list(Teacher(large, plan.large.fingerprint(), plan.writing).outputs(kept, bar.at))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
