"""A thousand hostile frames on real sockets, next to a healthy client that must not notice any of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import pytest
import zmq
import zmq.asyncio

from bild_dist.errors import BildError
from bild_dist.messages import MAX_FRAME, Failed
from bild_dist.transport.address import parse
from bild_dist.transport.base import Channel, Server
from bild_dist.transport.grpc import METHOD
from bild_dist.transport.zmq import endpoint
from bild_dist.wire.codec import Protobuf, from_msgpack, to_msgpack
from tests.contract.common import HELLO, child, dial, echo, ping, pong, serving
from tests.contract.hostile import msgpack_frames, protobuf_frames, tcp_garbage

FRAMES = 1000
MEMORY_KIB = 40 * 1024
"""What the attacks may add to the largest size of a server's process. One frame may have 4 MiB."""


@asynccontextmanager
async def undisturbed(listen: str) -> AsyncIterator[Server]:
    """A server with a healthy client, that asks all the time and must get each answer soon and in order."""
    slowest = 0.0
    loop = asyncio.get_running_loop()

    async def talk(channel: Channel) -> None:
        nonlocal slowest
        for n in itertools.count():
            asked = loop.time()
            await channel.send(ping(n))
            assert pong(n) == await channel.receive()
            slowest = max(slowest, loop.time() - asked)
            await asyncio.sleep(0.001)

    async with serving(listen, patient_echo) as server, AsyncExitStack() as stack:
        channel = await dial(stack, server.address)
        async with asyncio.TaskGroup() as group:
            talking = group.create_task(talk(channel))
            yield server
            talking.cancel()
        await channel.send(ping(-1))
        while await channel.receive() != pong(-1):
            pass  # the answer that the healthy client was waiting for
        newcomer = await dial(stack, server.address)
        await newcomer.send(ping(1))
        assert pong(1) == await newcomer.receive()
    assert slowest < 1


async def patient_echo(channel: Channel) -> None:
    """As the worker's service does: tells a bad peer what was wrong."""
    try:
        await echo(channel)
    except BildError as error:
        name = type(error).__name__
        await channel.send(Failed(session=0, epoch=0, seq=0, error=name, message=str(error)))


@pytest.mark.parametrize("wire", ["zmq", "zmq+ipc"])
@pytest.mark.parametrize("polite", [True, False], ids=["after hello", "without hello"])
async def test_hostile_frames_over_zmq(wire: str, polite: bool, tmp_path: Path) -> None:
    """Noise, damage, bombs, lies and extra parts get Failed, never an answer, a crash or the healthy client's time."""
    listen = f"zmq+ipc://{tmp_path}/s" if wire == "zmq+ipc" else "zmq://127.0.0.1:0"
    async with undisturbed(listen) as server:
        complaints = await attack_zmq(server.address, polite)

    assert len(complaints) > FRAMES // 2
    assert {"RemoteProtocolError"} == set(complaints)


async def attack_zmq(address: str, polite: bool) -> list[str]:
    """Sends the frames, by 50 peers one after another. Returns the errors that they heard."""
    rng = random.Random(1)
    frames = itertools.islice(msgpack_frames(rng), FRAMES)
    complaints: list[str] = []
    with zmq.asyncio.Context() as context:
        for batch in _batches(frames, 50):
            with context.socket(zmq.DEALER) as peer:
                peer.setsockopt(zmq.LINGER, 0)
                peer.connect(endpoint(parse(address)))
                if polite:
                    await peer.send(to_msgpack(HELLO))
                for frame in batch:
                    extra = [rng.randbytes(5)] * rng.choice((0, 0, 0, 1, 50))
                    await peer.send_multipart([frame, *extra])
                complaints += await _complaints(peer)
    return complaints


def _batches(frames: Iterator[bytes], peers: int) -> list[list[bytes]]:
    return [list(itertools.islice(frames, FRAMES // peers)) for _ in range(peers)]


async def _complaints(peer: zmq.asyncio.Socket) -> list[str]:
    """Errors that a peer hears, up to the answer to a last honest question: all that it sent has been read by then."""
    found: list[str] = []
    async with asyncio.timeout(10):
        while True:
            # Asked again, since a damaged frame may have been a Bye, behind which nothing is taken.
            for question in (HELLO, ping(777)):
                await peer.send(to_msgpack(question))
            while await peer.poll(100):
                (frame,) = await peer.recv_multipart()
                answer = from_msgpack(frame) if frame else None
                if answer == pong(777):
                    return found
                if isinstance(answer, Failed):
                    found.append(answer.error)


async def test_a_frame_beyond_the_limit_over_zmq(tmp_path: Path) -> None:
    """A frame of more than MAX_FRAME bytes costs its sender the connection, before it is read."""
    async with undisturbed(f"zmq+ipc://{tmp_path}/s") as server:
        with zmq.asyncio.Context() as context, context.socket(zmq.DEALER) as peer:
            peer.setsockopt(zmq.LINGER, 0)
            peer.setsockopt(zmq.RECONNECT_IVL, -1)
            monitor = peer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            peer.connect(endpoint(parse(server.address)))
            await peer.send(to_msgpack(HELLO))
            await peer.send(b"x" * (MAX_FRAME + 1))
            assert await monitor.poll(2000)
            peer.disable_monitor()
            monitor.close(linger=0)


async def test_hostile_frames_over_grpc() -> None:
    """The same over gRPC: each stream ends by itself, whatever it carried."""
    async with undisturbed("grpc://127.0.0.1:0") as server:
        ends = await attack_grpc(server.address)

    assert FRAMES == len(ends)
    assert {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED} == set(ends)


async def attack_grpc(address: str) -> list[grpc.StatusCode]:
    """Sends the frames, each in a stream of its own behind a Hello. Returns how the streams ended."""
    frames = itertools.islice(protobuf_frames(random.Random(2)), FRAMES)
    hello = Protobuf().request(HELLO)
    ends: list[grpc.StatusCode] = []

    async def attack(batch: list[bytes]) -> None:
        ends.extend([await _stream(channel, METHOD, [hello, frame]) for frame in batch])

    async with (
        grpc.aio.insecure_channel(parse(address).host_port) as channel,
        asyncio.TaskGroup() as group,
    ):
        for batch in _batches(frames, 8):
            group.create_task(attack(batch))
    return ends


@pytest.mark.process
@pytest.mark.parametrize("wire", ["grpc", "zmq"])
async def test_hostile_frames_cost_no_memory(wire: str) -> None:
    """A server in a process of its own grows by little more than the largest frames, and lives."""
    async with (
        child(f"{wire}://127.0.0.1:0", "echo") as (process, where),
        AsyncExitStack() as stack,
    ):
        channel = await dial(stack, where)
        await channel.send(ping(1))
        assert pong(1) == await channel.receive()
        before = _peak_kib(process.pid)
        if wire == "grpc":
            await attack_grpc(where)
        else:
            await attack_zmq(where, polite=True)
        await channel.send(ping(2))
        assert pong(2) == await channel.receive()
        assert _peak_kib(process.pid) - before < MEMORY_KIB


def _peak_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


async def _stream(channel: grpc.aio.Channel, method: str, frames: list[bytes]) -> grpc.StatusCode:
    call = channel.stream_stream(method)()
    try:
        with contextlib.suppress(grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError):
            for frame in frames:
                await call.write(frame)
            await call.done_writing()
            while await call.read() is not grpc.aio.EOF:
                pass
        return await call.code()
    finally:
        call.cancel()


async def test_unknown_methods_over_grpc() -> None:
    """A call of something else is UNIMPLEMENTED."""
    async with (
        undisturbed("grpc://127.0.0.1:0") as server,
        grpc.aio.insecure_channel(parse(server.address).host_port) as channel,
    ):
        for method in ("/bild.v1.Worker/Nothing", "/x/y", "/" + "a" * 5000):
            # Nothing is sent: gRPC reports a write that crosses a refusal as INTERNAL instead.
            assert grpc.StatusCode.UNIMPLEMENTED == await _stream(channel, method, [])


@pytest.mark.parametrize("wire", ["grpc", "zmq"])
async def test_garbage_on_the_port(wire: str) -> None:
    """Whatever a stranger writes to the port, and whether or not it waits for an answer, the others go on."""
    rng = random.Random(3)
    async with undisturbed(f"{wire}://127.0.0.1:0") as server:
        port = parse(server.address).port
        for garbage in itertools.islice(tcp_garbage(rng), 200):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(garbage)
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(0.01):
                    await writer.drain()
                    await reader.read(1000)
            writer.transport.abort()
