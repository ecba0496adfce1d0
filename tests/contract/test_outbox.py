"""The short way: messages that leave in the turn of whoever posts them, and are handled in the turn that reads them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import cast

import pytest
import zmq

from bild_dist.errors import (
    InvalidRequest,
    LocalProtocolError,
    RemoteProtocolError,
    WorkerUnavailable,
)
from bild_dist.messages import Chunk, Message, Ping
from bild_dist.transport.base import Channel
from bild_dist.transport.mailbox import Mailbox
from bild_dist.transport.outbox import Outbox
from bild_dist.wire.codec import to_msgpack
from tests.contract.common import HELLO, dial, echo, large, ping, pong, serving


def no_refusal(message: Message, error: InvalidRequest) -> None:
    raise error


class Collector:
    """A sink that knows when it has enough."""

    def __init__(self, wanted: int) -> None:
        self.got: list[Message] = []
        self.full = asyncio.Event()
        self._wanted = wanted

    def __call__(self, message: Message) -> None:
        self.got.append(message)
        if len(self.got) == self._wanted:
            self.full.set()


async def post_all(outbox: Outbox, messages: list[Message]) -> None:
    """Posts all without a pause, and returns when they have left."""
    for message in messages:
        outbox.post(message)
    outbox.end()
    await outbox.run()


async def test_posts_keep_their_order_when_the_wire_is_full(listen: str) -> None:
    """A thousand posts in one turn of the loop: those that must wait are not overtaken by later ones."""
    async with serving(listen, echo) as server, AsyncExitStack() as stack:
        channel = await dial(stack, server.address)
        sink = Collector(1000)
        channel.deliver_to(sink)
        await post_all(Outbox(channel, no_refusal), [ping(n) for n in range(1000)])
        await sink.full.wait()
        assert [pong(n) for n in range(1000)] == sink.got


async def test_what_waits_is_delivered_first(listen: str) -> None:
    """A sink gets what arrived before it was there, then the rest, in order."""
    async with serving(listen, echo) as server, AsyncExitStack() as stack:
        channel = await dial(stack, server.address)
        for n in range(3):
            await channel.send(ping(n))
        assert pong(0) == await channel.receive()
        sink = Collector(3)
        channel.deliver_to(sink)
        await channel.send(ping(3))
        await sink.full.wait()
        assert [pong(1), pong(2), pong(3)] == sink.got


async def test_what_a_sink_raises_ends_its_connection_alone(listen: str) -> None:
    """`receive` raises it; the server's other connection goes on, and nothing more is delivered."""

    async def strict(channel: Channel) -> None:
        def take(message: Message) -> None:
            if message == ping(13):
                raise RemoteProtocolError("thirteen")
            assert isinstance(message, Ping)
            assert channel.try_send(pong(message.count)) or listen.startswith("inproc")

        await channel.receive()  # the hello
        channel.deliver_to(take)
        await channel.receive()

    async with serving(listen, strict) as server, AsyncExitStack() as stack:
        lucky, unlucky = await dial(stack, server.address), await dial(stack, server.address)
        await unlucky.send(ping(13))
        with pytest.raises(Exception, match=r"ended|gone"):
            await unlucky.receive()
        if not listen.startswith("inproc"):
            await lucky.send(ping(1))
            assert pong(1) == await lucky.receive()


async def test_a_message_that_no_wire_carries_is_refused_alone(listen: str) -> None:
    """It is told to its sender, and those behind it leave."""
    refused: list[Message] = []
    async with serving(listen, echo) as server, AsyncExitStack() as stack:
        channel = await dial(stack, server.address)
        outbox = Outbox(channel, lambda message, error: refused.append(message))
        too_large = large(1, 5_000_000)
        await post_all(outbox, [ping(1), too_large, ping(2)])
        assert [pong(1), pong(2)] == [await channel.receive() for _ in range(2)]
        assert [too_large] == refused


async def test_a_bug_in_a_sink_is_an_end_with_its_name() -> None:
    """Whoever reads the socket reads for others too: no bug of a sink gets so far."""
    box = Mailbox[int](4, 100)

    def broken(item: int) -> None:
        raise KeyError("why")

    box.pour(broken)
    box.put(1, 1)
    box.put(2, 1)
    with pytest.raises(LocalProtocolError, match="why"):
        await box.get()


async def test_a_peer_that_does_not_read_makes_nobody_deaf(tmp_path: Path) -> None:
    """A send that fails may take the one sign that something has come from another peer: what came is
    read all the same.
    """
    channels: list[Channel] = []
    came: list[Message] = []

    async def handler(channel: Channel) -> None:
        await channel.receive()  # the hello
        channels.append(channel)
        channel.deliver_to(came.append)
        with suppress(WorkerUnavailable):
            await channel.receive()

    address = f"zmq+ipc://{tmp_path}/s"
    with zmq.Context() as context, context.socket(zmq.DEALER) as deaf:
        deaf.setsockopt(zmq.LINGER, 0)
        deaf.setsockopt(zmq.RCVHWM, 1)
        async with serving(address, handler), AsyncExitStack() as stack:
            deaf.connect(f"ipc://{tmp_path}/s")
            deaf.send(to_msgpack(HELLO))
            while not channels:  # noqa: ASYNC110 (nobody tells)
                await asyncio.sleep(0.01)
            other = await dial(stack, address)
            while len(channels) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            chunk = Chunk(seq=1, total=0, data=b"x" * 1_000_000)
            while channels[0].try_send(chunk):
                pass
            for count in range(50):
                await other.send(ping(count))
                # Without a turn of the loop: the send must take the sign, not the reader.
                for _ in range(200):
                    assert not channels[0].try_send(chunk)
                async with asyncio.timeout(5):
                    while len(came) <= count:  # noqa: ASYNC110
                        await asyncio.sleep(0)
            assert [ping(n) for n in range(50)] == came


async def test_a_peer_that_reads_nothing_is_told_to_send_slower(tmp_path: Path) -> None:
    """Its outbox is full at so many messages or so many bytes of files."""

    class Stuck:
        def try_send(self, message: Message) -> bool:
            return False

    small, large = (Outbox(cast(Channel, Stuck()), no_refusal) for _ in range(2))
    for count in range(1024):
        assert not small.full
        small.post(pong(count))
    assert small.full
    for _ in range(9):
        assert not large.full
        large.post(Chunk(seq=1, total=0, data=b"x" * 1_000_000))
    assert large.full
