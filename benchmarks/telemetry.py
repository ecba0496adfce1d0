"""What it costs an orchestrator to be watched: time on its core for each hand-over, with and without.

`python -m benchmarks.telemetry`. Workers are toys at 0 ms, over ZeroMQ, four requests at once. Kinds
take turns in one process, so that all see the same machine: `off` is nothing at all and `again` is the
same once more, which says how far the figures can be trusted; `metrics` counts requests and is read
once a second (Prometheus does so every 15 s), `unsampled` makes spans that their sampler drops,
`spans` writes all of them, to nowhere.
"""

from __future__ import annotations

import asyncio
import statistics
import time

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

import bild_dist
from benchmarks.record import write
from bild_dist.metrics import Metrics
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.orchestrator.telemetry import Telemetry
from bild_dist.telemetry.spans import Spans

TOY = "f=0.2&q=0.45&rho=0.03&end=0&seed=3"
ROUNDS, SECONDS, AT_ONCE, TOKENS = 30, 1.0, 4, 64


async def write_for(decoder: Decoder, until: float, first: int) -> int:
    """Writes text after text until it is time; returns the checks that they took."""
    checks, number = 0, first
    while time.perf_counter() < until:
        text = await decoder.generate(f"text {number}", schedule="paper", max_new_tokens=TOKENS)
        checks += text.trace.large_passes
        number += 1000
    return checks


async def spent(decoder: Decoder, metrics: Metrics | None) -> float:
    """Microseconds on a core for each hand-over."""
    until = time.perf_counter() + SECONDS
    before = time.process_time()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(write_for(decoder, until, n)) for n in range(AT_ONCE)]
        if metrics is not None:
            await asyncio.sleep(SECONDS / 2)
            metrics.render()
    return (time.process_time() - before) / sum(task.result() for task in tasks) * 1e6


async def main() -> None:
    """Measures and writes the record."""
    provider = TracerProvider(shutdown_on_exit=False)
    dropped = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    kinds: dict[str, Telemetry | None] = {
        "off": None,
        "again": None,
        "metrics": Telemetry(Metrics()),
        "unsampled": Telemetry(None, Spans(dropped)),
        "spans": Telemetry(None, Spans(provider)),
    }
    micros: dict[str, list[float]] = {kind: [] for kind in kinds}
    async with bild_dist.launch(
        f"toy:small?{TOY}", f"toy:large?{TOY}", transport="zmq", concurrency=AT_ONCE
    ) as decoder:
        await spent(decoder, None)
        for turn in range(ROUNDS):
            # Each kind comes first as often as last: a machine that slows down slows all alike.
            order = list(kinds.items())[:: 1 if turn % 2 == 0 else -1]
            for kind, telemetry in order:
                decoder.watch = None
                if telemetry is not None:
                    telemetry.watch(decoder)
                micros[kind].append(await spent(decoder, telemetry.metrics if telemetry else None))
    off = micros["off"]
    figures = {
        kind: {
            "cpu_us_per_hand_over": round(statistics.median(values), 1),
            "least": round(min(values), 1),
            "most": round(max(values), 1),
            "beyond_off_us": round(
                statistics.median(a - b for a, b in zip(values, off, strict=True)), 1
            ),
        }
        for kind, values in micros.items()
    }
    write("telemetry", figures)


if __name__ == "__main__":
    asyncio.run(main())
