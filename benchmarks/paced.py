"""What our own code costs: paced toys (5 ms a draft step, 25 ms a check) in real processes.

`python -m benchmarks.paced [ROUNDS]`. The toys agree as in the paper's table: f = 0.2, q = 0.45,
rho = 0.03. Every round writes the same texts in turn on each schedule and transport, every second
round in reverse order; ratios are taken within a round, and medians of them reported. `efficiency`
is the sum of the passes that waited for each other, over the wall clock: on `paper`, all of them.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from typing import Any

import bild_dist
from benchmarks.record import write
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.types import Result, Schedule

TOY = "f=0.2&q=0.45&rho=0.03&end=0&seed=3"
SMALL, LARGE = f"toy:small?{TOY}&ms=5", f"toy:large?{TOY}&ms=25"
TEXTS, LENGTH, FLIGHT = 3, 96, 8


async def schedules(decoder: Decoder, backwards: bool) -> dict[str, dict[str, float]]:
    """One round of every schedule."""
    order = list(Schedule)[:: -1 if backwards else 1]
    found = {}
    for schedule in order:
        texts, cpu = [], time.process_time()
        for number in range(TEXTS):
            text = await decoder.generate(
                f"text {number}", schedule=schedule, max_new_tokens=LENGTH
            )
            texts.append(text)
        found[schedule.value] = figures(texts, time.process_time() - cpu)
    return found


def figures(texts: list[Result], cpu: float) -> dict[str, float]:
    """Sums over some texts."""
    traces = [text.trace for text in texts]
    wall = sum(t.wall_ns for t in traces) / 1e9
    large = sum(t.large_passes for t in traces)
    busy = sum(t.draft_ns + t.verify_ns for t in traces) / 1e9
    tokens = sum(len(text.tokens) for text in texts)
    return {
        "wall_s": wall, "tokens_per_s": tokens / wall, "large_passes_per_token": large / tokens,
        "busy_over_wall": busy / wall, "wire_over_wall": sum(t.wire_ns for t in traces) / 1e9 / wall,
        "wasted": sum(t.wasted for t in traces) / sum(t.drafted for t in traces),
        # A check and the draft before it: two round trips.
        "cpu_ms_per_round_trip": cpu / large / 2 * 1e3,
    }  # fmt: skip


async def in_flight(decoder: Decoder) -> float:
    """Eight requests at once over the same eight in sequence, on `paper`: tokens per second."""
    spent = []
    for together in (False, True):
        started = time.perf_counter()
        options: dict[str, Any] = {"schedule": "paper", "max_new_tokens": LENGTH // 2}
        if together:
            texts = [decoder.stream(f"flight {i}", **options) for i in range(FLIGHT)]
            for text in texts:
                await text.result()
        else:
            for i in range(FLIGHT):
                await decoder.generate(f"flight {i}", **options)
        spent.append(time.perf_counter() - started)
    return spent[0] / spent[1]


async def measure(transport: str, rounds: int) -> dict[str, Any]:
    """All rounds over one transport."""
    found: list[dict[str, dict[str, float]]] = []
    flights = []
    async with bild_dist.launch(SMALL, LARGE, transport=transport, concurrency=FLIGHT) as decoder:
        await decoder.generate("warm up", max_new_tokens=32)
        for number in range(rounds):
            found.append(await schedules(decoder, number % 2 == 1))
            flights.append(await in_flight(decoder))
    out: dict[str, Any] = {}
    for schedule in Schedule:
        rows = [one[schedule.value] for one in found]
        out[schedule.value] = {
            name: round(statistics.median(row[name] for row in rows), 4) for name in rows[0]
        }
        ratios = [one["paper"]["wall_s"] / one[schedule.value]["wall_s"] for one in found]
        out[schedule.value]["speed_over_paper"] = round(statistics.median(ratios), 4)
        out[schedule.value]["speed_over_paper_range"] = [round(f(ratios), 4) for f in (min, max)]
    out["eight_in_flight_over_sequence"] = round(statistics.median(flights), 3)
    return out


def main(rounds: int) -> None:
    """Measures and records."""
    write(
        "paced", {t: asyncio.run(measure(t, rounds)) for t in ("zmq", "grpc")} | {"rounds": rounds}
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
