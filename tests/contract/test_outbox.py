"""The short way: messages that leave in the turn of whoever posts them, and are handled in the turn that reads them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from bild_dist.errors import InvalidRequest, LocalProtocolError, RemoteProtocolError
from bild_dist.messages import Message, Ping
from bild_dist.transport.base import Channel
from bild_dist.transport.mailbox import Mailbox
from bild_dist.transport.outbox import Outbox
from tests.contract.common import dial, echo, large, ping, pong, serving


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
