"""Two ends of a connection, and what they say to each other in these tests."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from bild_dist.errors import WorkerUnavailable
from bild_dist.messages import PROTOCOL, Chunk, Encode, Fetch, Hello, Ping, Pong
from bild_dist.transport import connect, serve
from bild_dist.transport.base import Channel, Handler, Server

ROOT = Path(__file__).parents[2]
HELLO = Hello(protocol=PROTOCOL, client="test")


@asynccontextmanager
async def serving(listen: str, handler: Handler) -> AsyncIterator[Server]:
    server = await serve(listen, handler)
    try:
        yield server
    finally:
        await server.close()


@asynccontextmanager
async def child(listen: str, mode: str) -> AsyncIterator[tuple[Process, str]]:
    """A server in a process of its own, as `tests.contract.child` says, and where it listens."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.contract.child", listen, mode, cwd=ROOT, stdin=PIPE, stdout=PIPE
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process, (await process.stdout.readline()).decode().strip()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def dial(stack: AsyncExitStack, address: str) -> Channel:
    """A connection that has said hello, closed with the stack."""
    channel = await connect(address, timeout=5)
    stack.push_async_callback(channel.close)
    await channel.send(HELLO)
    return channel


async def echo(channel: Channel) -> None:
    """Sends every request's image back until the peer ends."""
    try:
        while True:
            message = await channel.receive()
            if isinstance(message, Ping):
                await channel.send(pong(message.count))
            elif isinstance(message, Fetch):
                await channel.send(Chunk(seq=message.seq, total=0, data=b"x" * message.offset))
    except WorkerUnavailable:
        return


def pong(count: int) -> Pong:
    return Pong(count=count, progress=0, busy_ns=0, expected_ns=0, open_slots=0)


def ping(count: int) -> Ping:
    return Ping(count=count, progress=0)


def large(seq: int, size: int = 500_000) -> Encode:
    """A request that takes its time on a wire."""
    return Encode(seq=seq, text="x" * size, src_lang="", tgt_lang="")
