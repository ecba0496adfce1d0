"""What every transport must do: one suite for the in-process one, gRPC, and ZeroMQ over TCP and ipc."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from bild_dist.errors import InvalidRequest, WorkerUnavailable
from bild_dist.messages import (
    MAX_FRAME,
    Chunk,
    Encode,
    Fetch,
    Hello,
    Message,
    Ping,
    Reply,
    Request,
)
from bild_dist.transport import connect
from bild_dist.transport.base import Channel
from bild_dist.wire.codec import KINDS
from tests.contract.common import dial, echo, large, ping, pong, serving
from tests.spec.test_codec import example


async def test_every_message_survives_both_ways(listen: str) -> None:
    """Each kind of message arrives equal to what was sent: requests at the worker, replies back."""
    requests = [example(kind) for kind in KINDS if kind in Request.__args__]
    replies = [example(kind) for kind in KINDS if kind in Reply.__args__]
    got: list[object] = []

    async def handler(channel: Channel) -> None:
        await channel.receive()
        got.extend([await channel.receive() for _ in requests])
        for reply in replies:
            await channel.send(reply)
        with pytest.raises(WorkerUnavailable):
            await channel.receive()

    async with serving(listen, handler) as server, AsyncExitStack() as stack:
        channel = await dial(stack, server.address)
        for request in requests:
            await channel.send(request)
        back = [await channel.receive() for _ in replies]

    assert requests == got
    assert replies == back


async def test_order_is_kept_in_a_burst(listen: str) -> None:
    """Three thousand messages, sent without a pause, are all answered, in the order in which they were sent."""
    async with serving(listen, echo) as server, AsyncExitStack() as stack:
        channel = await dial(stack, server.address)
        async with asyncio.TaskGroup() as group:
            group.create_task(_send_all(channel, 3000))
            counts = [await channel.receive() for _ in range(3000)]

    assert [pong(n) for n in range(3000)] == counts


async def _send_all(channel: Channel, count: int) -> None:
    for n in range(count):
        await channel.send(ping(n))


async def test_two_clients_do_not_mix(listen: str) -> None:
    """Each connection gets the answers to its own messages only."""
    async with serving(listen, echo) as server, AsyncExitStack() as stack:
        a, b = await dial(stack, server.address), await dial(stack, server.address)
        for n in range(50):
            await a.send(ping(n))
            await b.send(ping(1000 + n))
        assert [pong(n) for n in range(50)] == [await a.receive() for _ in range(50)]
        assert [pong(1000 + n) for n in range(50)] == [await b.receive() for _ in range(50)]


async def test_a_cancelled_receive_loses_nothing(listen: str) -> None:
    """A message is either returned or still there, however often a receive is given up."""
    async with serving(listen, echo) as server, AsyncExitStack() as stack:
        channel = await dial(stack, server.address)
        got: list[Message] = []
        async with asyncio.TaskGroup() as group:
            for n in range(200):
                await channel.send(ping(n))
                waiting = group.create_task(channel.receive())
                for _ in range(n % 7):
                    await asyncio.sleep(0)
                waiting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    got.append(await waiting)
        while len(got) < 200:
            got.append(await channel.receive())

    assert [pong(n) for n in range(200)] == got


async def test_a_cancelled_send_is_sent_or_not(listen: str) -> None:
    """Giving up a send neither ends the connection nor tears or reorders messages: others go on with theirs."""
    got: list[int] = []

    async def handler(channel: Channel) -> None:
        with contextlib.suppress(WorkerUnavailable):
            while True:
                message = await channel.receive()
                if isinstance(message, Encode):
                    assert 500_000 == len(message.text)
                    got.append(message.seq)
                if isinstance(message, Ping):
                    await channel.send(pong(message.count))

    sure: set[int] = set()
    async with serving(listen, handler) as server, AsyncExitStack() as stack:
        channel = await dial(stack, server.address)
        async with asyncio.TaskGroup() as group:
            for n in range(60):
                sending = group.create_task(channel.send(large(n)))
                for _ in range(n % 9):
                    await asyncio.sleep(0)
                sending.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await sending
                    sure.add(n)
        await channel.send(ping(7))
        assert pong(7) == await channel.receive()

    assert sorted(got) == got
    assert sure <= set(got)


async def test_the_worker_sees_the_client_close(listen: str) -> None:
    """Closing an end tells the other, after what was sent before; every later receive says so again."""
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def handler(channel: Channel) -> None:
        await channel.receive()
        assert ping(1) == await channel.receive()
        for _ in range(2):
            try:
                await channel.receive()
            except WorkerUnavailable:
                seen.put_nowait("end")
        with pytest.raises(WorkerUnavailable):
            await channel.send(pong(1))
        seen.put_nowait("done")

    async with serving(listen, handler) as server, AsyncExitStack() as stack:
        channel = await dial(stack, server.address)
        await channel.send(ping(1))
        await channel.close()
        await channel.close()
        assert ["end", "end", "done"] == [await seen.get() for _ in range(3)]
        with pytest.raises(WorkerUnavailable):
            await channel.send(ping(2))
        with pytest.raises(WorkerUnavailable):
            await channel.receive()


async def test_a_close_delivers_what_was_sent(listen: str) -> None:
    """A hundred large messages and a close at once: all of them arrive before the end does."""
    count = 0
    over = asyncio.Event()

    async def handler(channel: Channel) -> None:
        nonlocal count
        await channel.receive()
        with contextlib.suppress(WorkerUnavailable):
            while True:
                await channel.receive()
                count += 1
        over.set()

    async with serving(listen, handler) as server, AsyncExitStack() as stack:
        channel = await dial(stack, server.address)
        for n in range(100):
            await channel.send(large(n, 50_000))
        await channel.close()
        await over.wait()

    assert 100 == count


async def _returns(channel: Channel) -> None:
    await channel.receive()
    await channel.send(pong(7))


async def _is_cancelled(channel: Channel) -> None:
    await _returns(channel)
    raise asyncio.CancelledError


@pytest.mark.parametrize("handler", [_returns, _is_cancelled])
async def test_the_client_sees_the_handler_end(
    listen: str, handler: Callable[[Channel], Awaitable[None]]
) -> None:
    """When a connection's handler is done, its client gets what was sent and then the end."""
    async with serving(listen, handler) as server, AsyncExitStack() as stack:
        channel = await dial(stack, server.address)
        assert pong(7) == await channel.receive()
        for _ in range(2):
            with pytest.raises(WorkerUnavailable):
                await channel.receive()
        with pytest.raises(WorkerUnavailable):
            await channel.send(ping(1))


async def test_a_handlers_bug_ends_its_connection_only(
    listen: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception in a handler is logged and ends that connection; the next one works."""

    async def handler(channel: Channel) -> None:
        await channel.receive()
        if await channel.receive() == ping(13):
            raise RuntimeError("a bug")
        await channel.send(pong(1))

    async with serving(listen, handler) as server, AsyncExitStack() as stack:
        unlucky, lucky = await dial(stack, server.address), await dial(stack, server.address)
        await unlucky.send(ping(13))
        with pytest.raises(WorkerUnavailable):
            await unlucky.receive()
        await lucky.send(ping(1))
        assert pong(1) == await lucky.receive()

    assert ["a connection's handler failed"] == [r.message for r in caplog.records]


async def test_the_client_sees_the_server_close(listen: str) -> None:
    """A server that closes ends its connections at once, also where a handler waits, and may be closed twice."""
    async with AsyncExitStack() as stack:
        async with serving(listen, echo) as server:
            channel = await dial(stack, server.address)
            await channel.send(ping(1))
            assert pong(1) == await channel.receive()
            started = asyncio.get_running_loop().time()
            await server.close()
            assert asyncio.get_running_loop().time() - started < 0.9
        with pytest.raises(WorkerUnavailable):
            await channel.receive()


async def test_an_address_is_free_after_a_close(listen: str) -> None:
    """A server can be replaced by another at the same address at once."""
    async with serving(listen, echo) as first:
        address = first.address
    async with serving(address, echo) as server, AsyncExitStack() as stack:
        assert address == server.address
        channel = await dial(stack, address)
        await channel.send(ping(1))
        assert pong(1) == await channel.receive()


async def test_large_messages_pass_and_too_large_ones_harm_nothing(listen: str) -> None:
    """Up to the limit a message passes; beyond it the sender gets InvalidRequest and goes on."""
    async with serving(listen, echo) as server, AsyncExitStack() as stack:
        channel = await dial(stack, server.address)
        size = MAX_FRAME - 100
        await channel.send(Fetch(seq=1, name="x", offset=size))
        answer = await channel.receive()
        assert isinstance(answer, Chunk)
        assert size == len(answer.data)
        with pytest.raises(InvalidRequest, match="larger than"):
            await channel.send(Hello(protocol=1, client="x" * (MAX_FRAME + 1)))
        await channel.send(ping(5))
        assert pong(5) == await channel.receive()


async def test_closed_connections_leave_nothing(listen: str) -> None:
    """Each connection's handler ends with it, and no task is left when the server has closed."""
    before = asyncio.all_tasks()
    ended = 0
    all_ended = asyncio.Event()

    async def handler(channel: Channel) -> None:
        nonlocal ended
        await echo(channel)
        ended += 1
        if ended == 20:
            all_ended.set()

    async with serving(listen, handler) as server:
        for n in range(20):
            async with AsyncExitStack() as stack:
                channel = await dial(stack, server.address)
                await channel.send(ping(n))
                assert pong(n) == await channel.receive()
        await all_ended.wait()

    assert before == asyncio.all_tasks()


async def test_nobody_listens(listen: str) -> None:
    """Connecting to nobody fails within the time given, naming the address and what to do."""
    where = listen.replace(":0", ":9")
    started = asyncio.get_running_loop().time()
    with pytest.raises(WorkerUnavailable, match=where.rpartition("/")[2]):
        await connect(where, timeout=0.3)
    assert asyncio.get_running_loop().time() - started < 1
