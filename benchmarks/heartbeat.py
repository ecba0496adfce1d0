"""How soon a worker's event loop answers a heartbeat while its engine computes.

A worker process with the default pair's large model writes one long text after the other; meanwhile
it is pinged every 10 ms. For comparison the same worker is pinged while it idles.
"""

from __future__ import annotations

import argparse
import asyncio

import bild_dist
from benchmarks import record
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.types import Role


async def pings(decoder: Decoder, count: int) -> list[float]:
    """Round trips, milliseconds."""
    worker = decoder.workers[Role.LARGE]
    times = []
    for _ in range(count):
        await worker.open_slots()
        times.append(worker.round_trip_ns / 1e6)
        await asyncio.sleep(0.01)
    return times


async def measure(transport: str, count: int, settings: dict[str, str]) -> dict[str, object]:
    """Idle and busy round trips over one transport, and how long the passes were meanwhile."""
    async with bild_dist.launch(transport=transport, **settings) as decoder:
        idle = await pings(decoder, count)
        text = decoder.stream("Tell a long story.", mode="large", max_new_tokens=1024)
        await anext(text)
        busy = await pings(decoder, count)
        if text.done:
            raise SystemExit("the text ended before the pings did: lower --count")
        await text.aclose()
        prefill = decoder.stream("word " * 1500, mode="large", max_new_tokens=1)
        long = await pings(decoder, 100)
        await prefill.aclose()
        trace = (await decoder.generate("Hello.", mode="large", max_new_tokens=32)).trace
    return {
        "idle_ms": record.spread(idle),
        "while_decoding_ms": record.spread(busy),
        "while_prefilling_ms": record.spread(long),
        "pass_ms": round(trace.verify_ns / trace.large_passes / 1e6, 2),
    }


async def main() -> None:
    """Measures both transports and keeps the figures."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--count", type=int, default=1000)
    given = arguments.parse_args()
    figures = {t: await measure(t, given.count, {}) for t in ("zmq", "grpc")}
    record.write("heartbeat", figures)


if __name__ == "__main__":
    asyncio.run(main())
