"""Too much of everything: peers that flood, peers that do not read, too many peers."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import zmq

from bild_dist.errors import Overloaded, WorkerUnavailable
from bild_dist.messages import Chunk, Encode, Failed, Fetch, Message
from bild_dist.transport.address import parse
from bild_dist.transport.base import Channel
from bild_dist.transport.zmq import endpoint
from bild_dist.wire.codec import to_msgpack
from tests.contract.common import HELLO, child, dial, echo, large, ping, pong, serving

ENDLESS = 400
"""Megabytes of which a flood is taken for endless.

Where it stops depends on the turns that both ends get: the mailboxes hold 8 MB each and a wire's own queues some tens,
and a peer that is dropped may have sent as much again by then.
"""


async def test_a_flood_is_held_back_or_ended(listen: str) -> None:
    """A peer that is not read cannot fill our memory: its sends wait, or its connection ends. Others do not notice."""
    size = 1_000_000

    async def handler(channel: Channel) -> None:
        await channel.receive()
        if isinstance(await channel.receive(), Encode):
            await asyncio.Event().wait()  # reads no more
        await channel.send(pong(1))

    async with serving(listen, handler) as server, AsyncExitStack() as stack:
        flooding, other = await dial(stack, server.address), await dial(stack, server.address)
        sent = 0
        with contextlib.suppress(TimeoutError, WorkerUnavailable):
            while sent < ENDLESS:
                async with asyncio.timeout(0.2):
                    await flooding.send(large(sent, size))
                sent += 1
        assert sent < ENDLESS
        await other.send(ping(1))
        assert pong(1) == await other.receive()


@pytest.mark.process
@pytest.mark.parametrize("wire", ["zmq", "zmq+ipc"])
async def test_a_flood_leaves_the_others_their_turn(wire: str, tmp_path: Path) -> None:
    """A ZeroMQ socket hands over a backlog without ever waiting; between two messages the others are served."""
    listen = f"zmq+ipc://{tmp_path}/s" if wire == "zmq+ipc" else "zmq://127.0.0.1:0"
    loop = asyncio.get_running_loop()
    slowest = 0.0
    async with child(listen, "echo") as (_, where), AsyncExitStack() as stack:
        channel = await dial(stack, where)
        async with asyncio.TaskGroup() as group:
            flooding = group.create_task(asyncio.to_thread(_flood, endpoint(parse(where))))
            while not flooding.done():
                asked = loop.time()
                await channel.send(ping(1))
                assert pong(1) == await channel.receive()
                slowest = max(slowest, loop.time() - asked)
    assert slowest < 0.3


def _flood(where: str) -> None:
    """30,000 messages that nobody answers, as fast as the wire takes them."""
    frame = to_msgpack(large(1, 1000))
    with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
        peer.setsockopt(zmq.LINGER, 0)
        peer.connect(where)
        peer.send(to_msgpack(HELLO))
        for _ in range(30_000):
            peer.send(frame)


async def test_who_does_not_read_is_held_back_or_ended(listen: str) -> None:
    """A client that takes no replies costs the worker bounded memory, and the other clients nothing."""
    chunk = Chunk(seq=1, total=0, data=b"x" * 1_000_000)
    sent = 0
    begun = asyncio.Event()

    async def handler(channel: Channel) -> None:
        nonlocal sent
        await channel.receive()
        if isinstance(await channel.receive(), Fetch):
            begun.set()
            while sent < ENDLESS:
                await channel.send(chunk)
                sent += 1
        await channel.send(pong(1))

    async with serving(listen, handler) as server, AsyncExitStack() as stack:
        deaf, other = await dial(stack, server.address), await dial(stack, server.address)
        await deaf.send(Fetch(seq=1, name="x", offset=0))
        await begun.wait()
        before = -1
        while before < sent:  # until it stands still
            before = sent
            await asyncio.sleep(0.2)
        assert sent < ENDLESS
        await other.send(ping(1))
        assert pong(1) == await other.receive()


async def test_connections_are_counted(listen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit a peer hears Overloaded, until another one has left."""
    for module in ("inproc", "grpc", "zmq_router"):
        monkeypatch.setattr(f"bild_dist.transport.{module}.PEERS", 2)
    async with serving(listen, echo) as server, AsyncExitStack() as stack:
        first, second = await dial(stack, server.address), await dial(stack, server.address)
        for n, channel in enumerate((first, second)):
            await channel.send(ping(n))
            assert pong(n) == await channel.receive()
        try:
            third = await dial(stack, server.address)
        except Overloaded:
            assert listen.startswith("inproc")
        else:
            answer = await third.receive()
            assert isinstance(answer, Failed)
            assert "Overloaded" == answer.error
        await first.close()
        assert pong(1) == await _once_there_is_room(server.address)


async def _once_there_is_room(address: str) -> Message:
    """The answer to a ping of a connection that is tried again while the server is crowded."""
    async with asyncio.timeout(5):
        while True:
            with contextlib.suppress(Overloaded, WorkerUnavailable):
                async with AsyncExitStack() as stack:
                    late = await dial(stack, address)
                    await late.send(ping(1))
                    answer = await late.receive()
                    if not isinstance(answer, Failed):
                        return answer
            await asyncio.sleep(0)
