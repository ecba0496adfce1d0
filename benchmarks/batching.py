"""What it brings that requests share passes: tokens a second with 1, 4 and 16 requests at once.

`python -m benchmarks.batching [ROUNDS]`. Paced toys in real processes (5 ms a draft step, 25 ms a check,
2 % more for each further token of a pass; f = 0.2, q = 0.45, rho = 0.03), with shared passes and
without; and the default pair, by both models and by the large one alone. Every round writes the same
texts at each number of requests, every second round in reverse order; ratios are taken within a
round, and medians reported. `differing` counts texts that are not those of one request at a time.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import bild_dist
from benchmarks.record import write
from bild_dist.evaluation.bench.prompts import BUILT_IN
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.types import Result

LEVELS = (1, 4, 16)
TEXTS = 16
TOY = "f=0.2&q=0.45&rho=0.03&end=0&seed=3&grow=0.02"
SMALL, LARGE = f"toy:small?{TOY}&ms=5", f"toy:large?{TOY}&ms=25"
PROMPTS = [*BUILT_IN, *(f"In one sentence: {text[0].lower()}{text[1:]}" for text in BUILT_IN)]


async def level(decoder: Decoder, together: int, **options: Any) -> tuple[float, list[Result]]:
    """Writes all texts, so many at once; tokens a second."""
    room = asyncio.Semaphore(together)

    async def one(prompt: str) -> Result:
        async with room:
            return await decoder.generate(prompt, **options)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(prompt)) for prompt in PROMPTS[:TEXTS]]
    spent = time.perf_counter() - started
    results = [task.result() for task in tasks]
    return sum(len(result.tokens) for result in results) / spent, results


async def measure(small: str, large: str, rounds: int, **options: Any) -> dict[str, Any]:
    """All rounds over one pair; the default pair where no models are named."""
    speeds: dict[int, list[float]] = {many: [] for many in LEVELS}
    texts: dict[int, list[Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "slots.toml"
        file.write_text(
            'pair = "default"\n' * (not small)
            + f"[small]\nslots = {max(LEVELS)}\n" + f"model = {small!r}\n" * bool(small)
            + f"[large]\nslots = {max(LEVELS)}\n" + f"model = {large!r}\n" * bool(large)
        )  # fmt: skip
        async with bild_dist.launch(
            config=str(file), concurrency=max(LEVELS), **options
        ) as decoder:
            await level(decoder, max(LEVELS), max_new_tokens=8)
            for number in range(rounds):
                for many in LEVELS[:: -1 if number % 2 else 1]:
                    speed, results = await level(decoder, many)
                    speeds[many].append(speed)
                    texts[many] = [result.tokens for result in results]
    over = {many: [a / b for a, b in zip(speeds[many], speeds[1], strict=True)] for many in LEVELS}
    return {
        f"{many}_at_once": {
            "tokens_per_s": round(statistics.median(speeds[many]), 1),
            "over_one": round(statistics.median(over[many]), 2),
            "over_one_range": [round(f(over[many]), 2) for f in (min, max)],
            "differing": sum(a != b for a, b in zip(texts[many], texts[1], strict=True)),
        }
        for many in LEVELS
    }


def main(rounds: int) -> None:
    """Measures and records."""
    toys = {"max_new_tokens": 64}
    real = {"max_new_tokens": 32, "threads": 1}
    figures: dict[str, Any] = {
        "toys": asyncio.run(measure(SMALL, LARGE, rounds, **toys)),
        "toys_one_by_one": asyncio.run(
            measure(f"{SMALL}&batch=0", f"{LARGE}&batch=0", rounds, **toys)
        ),
        "default_pair": asyncio.run(measure("", "", rounds, **real)),
        "default_pair_large_alone": asyncio.run(measure("", "", rounds, mode="large", **real)),
    }
    write("batching", {"rounds": rounds, "texts": TEXTS, **figures})


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
