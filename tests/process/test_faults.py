"""Workers that die or freeze in the middle of a request: a clear error, soon, and nothing hangs."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import bild_dist
from bild_dist.clock import now_ns
from bild_dist.errors import WorkerUnavailable
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.types import Role

pytestmark = pytest.mark.process

SLOW = "seed=3&f=0.2&end=0&ms=20"
BOUND_NS = 3_000_000_000


@asynccontextmanager
async def slow_pair(transport: str, concurrency: int = 1) -> AsyncIterator[Decoder]:
    """Paced toys: a text of 2,000 tokens would take the better part of a minute."""
    async with bild_dist.launch(
        f"toy:small?{SLOW}", f"toy:large?{SLOW}", transport=transport, concurrency=concurrency,
        max_new_tokens=1500,
    ) as decoder:  # fmt: skip
        yield decoder


@pytest.mark.parametrize("transport", ["grpc", "zmq"])
@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_lost_worker_ends_its_requests(
    transport: str, role: Role, kind: signal.Signals
) -> None:
    """Killed or frozen in the middle of two texts: both end with WorkerUnavailable within 3 s, and
    so does the next.
    """
    async with slow_pair(transport, concurrency=2) as decoder:
        texts = [decoder.stream("one"), decoder.stream("two")]
        for text in texts:
            await anext(text)
        pid = decoder.workers[role].info.pid
        struck_ns = now_ns()
        os.kill(pid, kind)
        for text in texts:
            with pytest.raises(WorkerUnavailable, match=role.value):
                await asyncio.wait_for(text.result(), 10)
        assert now_ns() - struck_ns < BOUND_NS
        with pytest.raises(WorkerUnavailable):
            await asyncio.wait_for(decoder.generate("three"), 10)


@pytest.mark.parametrize("transport", ["grpc", "zmq"])
async def test_the_other_workers_slots_are_freed(transport: str) -> None:
    """When the small worker dies, the large one gives the request's slot back and serves on."""
    async with slow_pair(transport) as decoder:
        text = decoder.stream("one")
        await anext(text)
        os.kill(decoder.workers[Role.SMALL].info.pid, signal.SIGKILL)
        with pytest.raises(WorkerUnavailable):
            await asyncio.wait_for(text.result(), 10)
        large = decoder.workers[Role.LARGE]
        async with asyncio.timeout(5):
            while await large.open_slots() != 0:
                pass
        assert large.lost is None


@pytest.mark.parametrize("transport", ["grpc", "zmq"])
async def test_leaving_stops_the_processes(transport: str) -> None:
    """After the context is left no worker process remains, also when a text was under way."""
    async with slow_pair(transport) as decoder:
        text = decoder.stream("one")
        await anext(text)
        pids = [worker.info.pid for worker in decoder.workers.values()]

    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with pytest.raises(asyncio.CancelledError):
        await text.result()


async def test_workers_end_with_a_killed_parent() -> None:
    """A worker whose orchestrator was killed sees the end of its pipe and goes."""
    script = (
        "import asyncio, bild_dist\n"
        "async def main():\n"
        f"    async with bild_dist.launch('toy:small?{SLOW}', 'toy:large?{SLOW}') as decoder:\n"
        "        print(*[w.info.pid for w in decoder.workers.values()], flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    import sys

    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pids = [int(word) for word in (await parent.stdout.readline()).split()]
    assert 2 == len(pids)
    parent.kill()
    await parent.wait()
    async with asyncio.timeout(10):
        while any(_alive(pid) for pid in pids):  # noqa: ASYNC110 (no stranger is told of an end)
            await asyncio.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:  # a zombie waits for its reaper, but runs no more
        return stat.read().rpartition(")")[2].split()[0] != "Z"
