"""How much one orchestrator process carries: hand-overs a second, and memory.

`python -m benchmarks.orchestrator`. Workers are toys at 0 ms. For the hand-overs the orchestrator is
bound to one core and the workers to the others; a hand-over is a draft, its check, and the tokens
given out. `workers_alone` says what share of their core the workers had used by then: near 1, they
are the limit and not the orchestrator. Memory is the resident set of the orchestrator with 100
streams open, and before and after 2,000 requests.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import bild_dist
from benchmarks.record import write
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.types import Role

TOY = "f=0.2&q=0.45&rho=0.03&end=0&seed=3"
ROUNDS, SECONDS = 3, 4.0


def resident_mb(pid: int | str = "self") -> float:
    """Resident set of a process, MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu_s(pid: int) -> float:
    """Time on a core that a process has used, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def write_for(decoder: Decoder, until: float, first: int) -> int:
    """Writes text after text until it is time; returns the checks that they took."""
    checks, number = 0, first
    while time.perf_counter() < until:
        text = await decoder.generate(f"text {number}", schedule="paper", max_new_tokens=64)
        checks += text.trace.large_passes
        number += 1000
    return checks


async def hand_overs(transport: str, at_once: int) -> dict[str, float]:
    """Hand-overs a second with so many requests at once."""
    cores = sorted(os.sched_getaffinity(0))
    models = f"toy:small?{TOY}", f"toy:large?{TOY}"
    async with bild_dist.launch(*models, transport=transport, concurrency=at_once) as decoder:
        pids = [decoder.workers[role].info.pid for role in Role]
        for pid in pids:
            os.sched_setaffinity(pid, set(cores[1:]) or {cores[0]})
        os.sched_setaffinity(0, {cores[0]})
        rates, busy, own = [], [], []
        for _ in range(ROUNDS):
            before, mine = sum(map(cpu_s, pids)), time.process_time()
            started = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                writers = [
                    group.create_task(write_for(decoder, started + SECONDS, i))
                    for i in range(at_once)
                ]
            spent = time.perf_counter() - started
            rates.append(sum(writer.result() for writer in writers) / spent)
            busy.append((sum(map(cpu_s, pids)) - before) / spent)
            own.append((time.process_time() - mine) / spent)
        os.sched_setaffinity(0, set(cores))
    return {
        "hand_overs_per_s": round(statistics.median(rates), 1),
        "orchestrator_core_share": round(statistics.median(own), 3),
        "workers_core_share": round(statistics.median(busy), 3),
    }


async def memory() -> dict[str, float]:
    """Resident set with 100 open streams, and growth over 2,000 requests, MB."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        for role in Role:
            file.write(f'[{role}]\nmodel = "toy:{role}?{TOY}&ms=2"\nslots = 100\n')
        file.flush()
        opening = bild_dist.launch(config=file.name, concurrency=100)
        decoder = await opening.__aenter__()
    try:
        streams = [decoder.stream(f"stream {i}", max_new_tokens=256) for i in range(100)]
        opened = 0
        for stream in streams:
            await anext(aiter(stream))
            opened += not stream.done
        open_mb = resident_mb()
        for stream in streams:
            await stream.aclose()
    finally:
        await opening.__aexit__(None, None, None)
    models = f"toy:small?{TOY}", f"toy:large?{TOY}"
    async with bild_dist.launch(*models, concurrency=8) as decoder:
        sizes = []
        for block in range(5):
            for i in range(0, 500 if block else 200, 10):
                texts = [
                    decoder.stream(f"block {block} text {i + k}", max_new_tokens=24)
                    for k in range(10)
                ]
                for text in texts:
                    await text.result()
            sizes.append(round(resident_mb(), 1))
    return {
        "streams_open": opened,
        "with_100_streams_mb": round(open_mb, 1),
        "after_200_requests_mb": sizes[0],
        "after_2200_requests_mb": sizes[-1],
        "every_500_mb": sizes,
    }


if __name__ == "__main__":
    found: dict[str, Any] = {
        t: {f"{n} at once": asyncio.run(hand_overs(t, n)) for n in (1, 8, 32)}
        for t in ("zmq", "grpc")
    }
    write("orchestrator", found | {"memory": asyncio.run(memory())})
