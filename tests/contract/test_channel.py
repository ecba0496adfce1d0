"""What every transport must do: one suite for the in-process one, gRPC, and ZeroMQ over TCP and ipc."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from bild_dist.errors import ConfigError, InvalidRequest, RemoteProtocolError, WorkerUnavailable
from bild_dist.messages import MAX_FRAME, PROTOCOL, Chunk, Fetch, Hello, Ping, Pong, Reply, Request
from bild_dist.transport import connect, serve
from bild_dist.transport.base import Channel, Handler, Server
from bild_dist.wire.codec import KINDS
from tests.spec.test_codec import example

HELLO = Hello(protocol=PROTOCOL, client="test")


@pytest.fixture(params=["inproc", "grpc", "zmq", "zmq+ipc"])
def listen(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An address that nobody uses, on each transport."""
    where = {
        "inproc": f"inproc://{tmp_path}",
        "grpc": "grpc://127.0.0.1:0",
        "zmq": "zmq://127.0.0.1:0",
        "zmq+ipc": f"zmq+ipc://{tmp_path}/s",
    }
    return where[request.param]


@asynccontextmanager
async def serving(listen: str, handler: Handler) -> AsyncIterator[Server]:
    server = await serve(listen, handler)
    try:
        yield server
    finally:
        await server.close()


async def dial(stack: AsyncExitStack, server: Server) -> Channel:
    """A connection that has said hello, closed with the stack."""
    channel = await connect(server.address, timeout=5)
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


async def test_every_message_survives_both_ways(listen: str) -> None:
    """Each kind of message arrives equal to what was sent: requests at the worker, replies back."""
    requests = [example(kind) for kind in KINDS if kind in Request.__args__]
    replies = [example(kind) for kind in KINDS if kind in Reply.__args__]
    got: list[object] = []

    async def handler(channel: Channel) -> None:
        await channel.receive()
        for _ in requests:
            got.append(await channel.receive())
        for reply in replies:
            await channel.send(reply)
        with pytest.raises(WorkerUnavailable):
            await channel.receive()

    async with serving(listen, handler) as server, AsyncExitStack() as stack:
        channel = await dial(stack, server)
        for request in requests:
            await channel.send(request)
        back = [await channel.receive() for _ in replies]

    assert requests == got
    assert replies == back


async def test_order_is_kept(listen: str) -> None:
    """A thousand messages come back in the order in which they were sent."""
    async with serving(listen, echo) as server, AsyncExitStack() as stack:
        channel = await dial(stack, server)
        async with asyncio.TaskGroup() as group:
            group.create_task(_send_all(channel, 1000))
            counts = [await channel.receive() for _ in range(1000)]

    assert [pong(n) for n in range(1000)] == counts


async def _send_all(channel: Channel, count: int) -> None:
    for n in range(count):
        await channel.send(ping(n))
        await asyncio.sleep(0)


async def test_two_clients_do_not_mix(listen: str) -> None:
    """Each connection gets the answers to its own messages only."""
    async with serving(listen, echo) as server, AsyncExitStack() as stack:
        a, b = await dial(stack, server), await dial(stack, server)
        for n in range(50):
            await a.send(ping(n))
            await b.send(ping(1000 + n))
        assert [pong(n) for n in range(50)] == [await a.receive() for _ in range(50)]
        assert [pong(1000 + n) for n in range(50)] == [await b.receive() for _ in range(50)]


async def test_a_cancelled_receive_loses_nothing(listen: str) -> None:
    """A message is either returned or still there, however often a receive is given up."""
    async with serving(listen, echo) as server, AsyncExitStack() as stack:
        channel = await dial(stack, server)
        got: list[object] = []
        for n in range(200):
            await channel.send(ping(n))
            waiting = asyncio.ensure_future(channel.receive())  # noqa: TID251 (a bare task to cancel)
            for _ in range(n % 7):
                await asyncio.sleep(0)
            waiting.cancel()
            try:
                got.append(await waiting)
            except asyncio.CancelledError:
                pass
        while len(got) < 200:
            got.append(await channel.receive())

    assert [pong(n) for n in range(200)] == got


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

    async with serving(listen, handler) as server, AsyncExitStack() as stack:
        channel = await dial(stack, server)
        await channel.send(ping(1))
        await channel.close()
        await channel.close()
        assert ["end", "end"] == [await seen.get(), await seen.get()]
        with pytest.raises(WorkerUnavailable):
            await channel.send(ping(2))
        with pytest.raises(WorkerUnavailable):
            await channel.receive()


async def _returns(channel: Channel) -> None:
    await channel.receive()
    await channel.send(pong(7))


async def _raises(channel: Channel) -> None:
    await _returns(channel)
    raise asyncio.CancelledError


@pytest.mark.parametrize("handler", [_returns, _raises])
async def test_the_client_sees_the_handler_end(
    listen: str, handler: Callable[[Channel], Awaitable[None]]
) -> None:
    """When a connection's handler is done, its client gets what was sent and then the end."""
    async with serving(listen, handler) as server, AsyncExitStack() as stack:
        channel = await dial(stack, server)
        assert pong(7) == await channel.receive()
        for _ in range(2):
            with pytest.raises(WorkerUnavailable):
                await channel.receive()


async def test_the_client_sees_the_server_close(listen: str) -> None:
    """A server that closes ends its connections, and a handler that waits is cancelled."""
    async with AsyncExitStack() as stack:
        async with serving(listen, echo) as server:
            channel = await dial(stack, server)
            await channel.send(ping(1))
            assert pong(1) == await channel.receive()
        with pytest.raises(WorkerUnavailable):
            await channel.receive()


async def test_large_messages_pass_and_too_large_ones_harm_nothing(listen: str) -> None:
    """Up to the limit a message passes; beyond it the sender gets InvalidRequest and goes on."""
    async with serving(listen, echo) as server, AsyncExitStack() as stack:
        channel = await dial(stack, server)
        size = MAX_FRAME - 100
        await channel.send(Fetch(seq=1, name="x", offset=size))
        answer = await channel.receive()
        assert isinstance(answer, Chunk)
        assert size == len(answer.data)
        with pytest.raises(InvalidRequest, match="larger than"):
            await channel.send(Hello(protocol=1, client="x" * (MAX_FRAME + 1)))
        await channel.send(ping(5))
        assert pong(5) == await channel.receive()


async def test_nobody_listens(listen: str) -> None:
    """Connecting to nobody fails within the time given, naming the address."""
    where = listen.replace(":0", ":9")
    started = asyncio.get_running_loop().time()
    with pytest.raises(WorkerUnavailable, match=where.rpartition("/")[2]):
        await connect(where, timeout=0.3)
    assert asyncio.get_running_loop().time() - started < 3


async def test_an_address_in_use_is_refused(listen: str) -> None:
    """Two servers never share an address; the first one goes on undisturbed."""
    async with serving(listen, echo) as server, AsyncExitStack() as stack:
        with pytest.raises(ConfigError, match=r"in use|taken"):
            await serve(server.address, echo)
        channel = await dial(stack, server)
        await channel.send(ping(1))
        assert pong(1) == await channel.receive()


async def test_a_socket_of_the_dead_is_replaced(tmp_path: Path) -> None:
    """A path that a killed worker left behind can be listened on again."""
    path = tmp_path / "s"
    path.write_bytes(b"")
    async with serving(f"zmq+ipc://{path}", echo) as server, AsyncExitStack() as stack:
        channel = await dial(stack, server)
        await channel.send(ping(1))
        assert pong(1) == await channel.receive()


async def test_a_peer_must_say_hello_on_zmq(tmp_path: Path) -> None:
    """ZeroMQ has no connections of its own, so the first message opens one; anything else is refused."""
    async with serving(f"zmq+ipc://{tmp_path}/s", echo) as server:
        channel = await connect(server.address, timeout=5)
        await channel.send(ping(1))
        answer = await channel.receive()
        assert "RemoteProtocolError" == getattr(answer, "error", None)
        with pytest.raises((WorkerUnavailable, RemoteProtocolError)):
            await channel.receive()
        await channel.close()
