"""Step 1: the instructions, made of Debian's package indexes; what is held out goes to a file for
`bild bench`.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from rich.console import Console

from bild_dist.evaluation.corpora import named

NAME = "debian-instructions"


def main() -> None:
    """Fetches and makes what is not there yet, and says how much there is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--held-out", type=Path, required=True, metavar="FILE.jsonl")
    chosen = parser.parse_args()
    console = Console(highlight=False)
    for split in named.SPLITS:
        kinds = Counter(example.id.split("/")[0] for example in named.load(NAME, split))
        parts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
        console.print(f"{split}: {kinds.total():,} prompts ({parts})")
    asked = [{"id": e.id, "prompt": e.prompt} for e in named.load(NAME, "test")]
    chosen.held_out.parent.mkdir(parents=True, exist_ok=True)
    chosen.held_out.write_text("".join(json.dumps(line) + "\n" for line in asked), encoding="utf-8")


if __name__ == "__main__":
    main()
