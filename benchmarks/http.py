"""What HTTP costs: how long after the decoder's own first token the first byte comes, what happens
at ten times the load that can be served, and how soon a worker is free when a client goes away.

`bild serve` runs over a pair of paced toys, in processes of their own; so does this client.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks import record
from bild_dist.clock import now_ns
from bild_dist.orchestrator.client import WorkerClient
from bild_dist.types import Role

SMALL_MS, LARGE_MS = 2, 10
SPEC = "seed=1&end=0"
TEXTS, QUEUE = 8, 16
SHORT = {"prompt": "Hello", "max_tokens": 32}


@dataclass
class Served:
    """Where a `bild serve` and its workers listen."""

    port: int = 0
    workers: dict[str, str] = field(default_factory=dict)


@asynccontextmanager
async def serving() -> AsyncIterator[Served]:
    """A server in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bild_dist", "serve", "--port", "0", "--texts", str(TEXTS),
        "--set", f"http.queue={QUEUE}",
        "--small", f"toy:small?{SPEC}&ms={SMALL_MS}", "--large", f"toy:large?{SPEC}&ms={LARGE_MS}",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    served = Served()
    try:
        while served.port == 0 and process.stdout is not None:
            line = (await process.stdout.readline()).decode()
            role, ready, rest = line.partition(" worker ready: pid=")
            if ready:
                served.workers[role] = rest.split()[1]
            elif line.startswith("serving at "):
                served.port = int(line.rpartition(":")[2])
            elif not line:
                raise SystemExit("the server did not start")
        yield served
    finally:
        process.terminate()
        await process.wait()


class Request:
    """One request over a connection of its own, with as little of a client as will do."""

    def __init__(self, port: int, body: dict[str, Any]) -> None:
        self._port = port
        self._body = json.dumps(body).encode()
        self.status = 0
        self.asked_ns = 0
        self.answered_ns = 0
        """When the first of the body was here."""
        self.done_ns = 0

    async def __aenter__(self) -> Request:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self.asked_ns = now_ns()
        self._writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (len(self._body), self._body)
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._writer.transport.abort()

    async def read(self) -> bytes:
        """The whole answer."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        self.status = int(head.split()[1])
        body = await self._reader.read(1)
        self.answered_ns = now_ns()
        body += await self._reader.read()
        self.done_ns = now_ns()
        return body

    async def first(self) -> None:
        """Reads up to the first byte of the body."""
        await self._reader.readuntil(b"\r\n\r\n")
        await self._reader.read(1)


async def first_byte(port: int, count: int) -> dict[str, Any]:
    """How much later than the decoder's own first token the first byte of a stream is here, ms."""
    later, whole = [], []
    body = {**SHORT, "stream": True, "bild": {"trace": True}}
    for _ in range(count):
        async with Request(port, body) as request:
            answer = await request.read()
        # Pieces of a chunked body lie between the events; the trace is in the last one but [DONE].
        start = answer.rindex(b'"first_token_ns":') + len(b'"first_token_ns":')
        own_ns = int(answer[start : answer.index(b",", start)])
        later.append((request.answered_ns - request.asked_ns - own_ns) / 1e6)
        whole.append((request.answered_ns - request.asked_ns) / 1e6)
    return {
        "after_the_decoders_first_token_ms": record.spread(later),
        "first_byte_ms": record.spread(whole),
    }


async def overload(port: int, seconds: float, factor: float) -> dict[str, Any]:
    """Peak goodput with as many clients as there are places, then `factor` times as many requests a
    second as that, whatever comes of them.
    """
    peak = await _closed(port, seconds)
    good: list[float] = []
    refused: list[float] = []
    other = 0

    async def one() -> None:
        nonlocal other
        try:
            async with Request(port, SHORT) as request:
                await request.read()
        except (OSError, asyncio.IncompleteReadError):
            other += 1
            return
        if request.status == 200:
            good.append((request.done_ns - begun_ns) / 1e9)
        elif request.status == 429:
            refused.append((request.done_ns - request.asked_ns) / 1e6)
        else:
            other += 1

    begun_ns = now_ns()
    offered = 0
    async with asyncio.TaskGroup() as group:
        while (spent := (now_ns() - begun_ns) / 1e9) < seconds:
            while offered < peak * factor * spent:
                group.create_task(one())
                offered += 1
            await asyncio.sleep(0.001)
    # The first texts need their time: what is counted begins when the server is full.
    settled = [at for at in good if seconds * 0.2 < at <= seconds]
    goodput = len(settled) / (seconds * 0.8)
    return {
        "peak_texts_a_second": round(peak, 2),
        "offered_a_second": round(offered / seconds, 1),
        "goodput_texts_a_second": round(goodput, 2),
        "goodput_of_peak": round(goodput / peak, 3),
        "refused": len(refused),
        "refusal_ms": record.spread(refused),
        "other_outcomes": other,
    }


async def _closed(port: int, seconds: float) -> float:
    """Texts a second with as many clients as there are places."""
    done: list[float] = []
    begun_ns = now_ns()

    async def client() -> None:
        while (now_ns() - begun_ns) / 1e9 < seconds:
            async with Request(port, SHORT) as request:
                await request.read()
            done.append((request.done_ns - begun_ns) / 1e9)

    async with asyncio.TaskGroup() as group:
        for _ in range(TEXTS + QUEUE):
            group.create_task(client())
    return len([at for at in done if seconds * 0.2 < at <= seconds]) / (seconds * 0.8)


async def disconnects(served: Served, count: int) -> dict[str, Any]:
    """Clients that go away at a random moment of their text: how long until both workers hold no
    slot any more, ms. A pass that runs is not broken off, so the longest should be about one.
    """
    dice = random.Random(1)
    free = []
    async with asyncio.TaskGroup() as group:
        workers = []
        for role in Role:
            worker = await WorkerClient.open(role, served.workers[role.value], timeout=5)
            group.create_task(worker.run())
            workers.append(worker)
        for _ in range(count):
            body = {"prompt": "Hello", "max_tokens": 500, "stream": dice.random() < 0.5}
            async with Request(served.port, body):
                await asyncio.sleep(dice.random() * 0.3)
            gone_ns = now_ns()
            for worker in workers:
                while await worker.open_slots():
                    pass
            free.append((now_ns() - gone_ns) / 1e6)
        for worker in workers:
            worker.close()
    return {"slots_free_after_ms": record.spread(free), "large_pass_ms": LARGE_MS}


async def main() -> None:
    """Measures all three and keeps the figures."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--count", type=int, default=100, help="requests for the first byte")
    arguments.add_argument("--seconds", type=float, default=15, help="of each load")
    arguments.add_argument("--disconnects", type=int, default=200)
    given = arguments.parse_args()
    async with serving() as served:
        with contextlib.suppress(OSError):
            await first_byte(served.port, 5)  # warms up
        figures = {
            "first_byte": await first_byte(served.port, given.count),
            "overload_10x": await overload(served.port, given.seconds, 10),
            "disconnects": await disconnects(served, given.disconnects),
        }
    record.write("http", figures)


if __name__ == "__main__":
    asyncio.run(main())
