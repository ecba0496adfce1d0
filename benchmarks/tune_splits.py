"""Does what `bild tune` promises hold? Seeded halves of one sweep: choose on one, check on the other.

    python -m benchmarks.tune_splits SWEEP.json --floor rougeL=0.99 [--splits 20] [--output FILE.json]

Reads a file of `bild sweep`, runs no model. Says in how many splits the chosen setting met its floor on
the other half, and how its speed compares with the fastest setting of the grid that meets it there.
Mode `large` is among the settings, so that something always passes. It and mode `exact` meet any floor by
definition, so splits that chose thresholds are counted apart: the others say nothing about the choice.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bild_dist.errors import BildError
from bild_dist.evaluation.sweep.study import Study
from bild_dist.evaluation.tune.choice import Evidence, Floor, chosen

NEEDED_MET = 19 / 20
NEEDED_SPEED = 0.9


def main() -> int:
    """Exit code: 0 both promises hold, 1 not, 2 the file cannot be read."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("sweep", type=Path, metavar="SWEEP.json")
    parser.add_argument("--floor", action="append", required=True, metavar="METRIC=F")
    parser.add_argument("--confidence", type=float, default=0.95, metavar="P")
    parser.add_argument("--splits", type=int, default=20, metavar="N")
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    given = parser.parse_args()
    try:
        floors = [Floor.parse(text) for text in given.floor]
        evidence = Evidence.of(Study.read(given.sweep), floors)
    except BildError as error:
        print(f"tune_splits: {error}", file=sys.stderr)
        return 2
    rows = [split(evidence, seed, given.confidence) for seed in range(given.splits)]
    met = sum(row["met"] for row in rows)
    drawn = [row for row in rows if row["thresholds"]]
    kept = sum(row["met"] for row in drawn)
    speed = [row["speed"] for row in rows]
    fast = sum(value >= NEEDED_SPEED for value in speed)
    for row in rows:
        print(f"seed {row['seed']:3}: {row['chosen']:28} {'met' if row['met'] else 'MISSED':6} "
              f"speed {row['speed']:.2f} of {row['fastest']}")  # fmt: skip
    print(f"floor met in {met} of {len(rows)} splits, in {kept} of the {len(drawn)} that chose thresholds; "
          f"speed at least {NEEDED_SPEED} in {fast}, "
          f"mean {np.mean(speed):.3f}, least {min(speed):.3f}")  # fmt: skip
    if given.output is not None:
        said = [given.sweep.name, *(f"--floor {floor}" for floor in given.floor)]
        said += [f"--splits {given.splits} --confidence {given.confidence:g}"]
        command = f"python -m benchmarks.tune_splits {' '.join(said)}"
        found = {"command": command, "texts": len(evidence), "met": met, "fast": fast,
                 "thresholds": {"chosen": len(drawn), "met": kept},
                 "splits": rows}  # fmt: skip
        given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if met >= NEEDED_MET * len(rows) and fast == len(rows) else 1


def split(evidence: Evidence, seed: int, confidence: float) -> dict[str, Any]:
    """One split: what was chosen on one half of the texts, and how it did on the other."""
    order = np.random.default_rng(seed).permutation(len(evidence))
    half = len(evidence) // 2
    ours, theirs = evidence.only(order[:half]), evidence.only(order[half:])
    choice = chosen(ours, check=len(theirs), confidence=confidence, seed=seed)
    met, latency = theirs.met(), theirs.latency_ns
    large_ns = float(theirs.large_ns.mean())
    best = int(np.where(met, latency, np.inf).argmin())
    # Nobody need take a setting that is slower than the large model alone.
    use_large = not met.any() or large_ns < latency[best]
    fastest_ns = large_ns if use_large else float(latency[best])
    taken = choice.place
    return {
        "seed": seed,
        "chosen": choice.name,
        "thresholds": taken is not None and not evidence.exact[taken],
        "met": taken is None or bool(met[taken]),
        "speed": fastest_ns / (large_ns if taken is None else float(latency[taken])),
        "fastest": "large" if use_large else evidence.names[best],
    }


if __name__ == "__main__":
    sys.exit(main())
