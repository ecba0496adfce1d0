"""Peers that die, freeze, fall asleep or fall silent, in real processes on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import zmq

from bild_dist.errors import WorkerUnavailable
from bild_dist.transport.base import Channel
from bild_dist.wire.codec import to_msgpack
from tests.contract.common import HELLO, ROOT, child, dial, ping, pong, serving

pytestmark = pytest.mark.process

WIRES = ("grpc", "zmq", "zmq+ipc")


def address(wire: str, folder: Path) -> str:
    return f"{wire}://{folder}/s" if wire == "zmq+ipc" else f"{wire}://127.0.0.1:0"


@pytest.mark.parametrize("wire", WIRES)
async def test_a_killed_worker_is_noticed_at_once(wire: str, tmp_path: Path) -> None:
    """The channel ends well within a second, for who waits and for who sends, and says whose connection it was."""
    async with (
        child(address(wire, tmp_path), "echo") as (process, where),
        AsyncExitStack() as stack,
    ):
        channel = await dial(stack, where)
        await channel.send(ping(1))
        assert pong(1) == await channel.receive()
        process.kill()
        async with asyncio.timeout(0.5):
            with pytest.raises(WorkerUnavailable, match=re.escape(where)):
                await channel.receive()
        with pytest.raises(WorkerUnavailable):
            await channel.send(ping(2))


@pytest.mark.parametrize("wire", WIRES)
async def test_the_last_words_of_a_killed_worker_arrive(wire: str, tmp_path: Path) -> None:
    """What had reached the network before the death is received, in order, and then the end."""
    async with (
        child(address(wire, tmp_path), "last-words") as (_, where),
        AsyncExitStack() as stack,
    ):
        channel = await dial(stack, where)
        await channel.send(ping(1))
        assert [pong(n) for n in range(50)] == [await channel.receive() for _ in range(50)]
        assert pong(-1) == await channel.receive()
        with pytest.raises(WorkerUnavailable):
            await channel.receive()


async def test_a_frozen_worker_is_noticed(tmp_path: Path) -> None:
    """A stopped process keeps its sockets open: ZeroMQ notices in about 2 s all the same, gRPC within 6 s."""
    times: dict[str, float] = {}
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        for wire in WIRES:
            process, where = await stack.enter_async_context(child(address(wire, tmp_path), "echo"))
            channel = await dial(stack, where)
            await channel.send(ping(1))
            assert pong(1) == await channel.receive()
            os.kill(process.pid, signal.SIGSTOP)
            group.create_task(_time_to_end(wire, channel, times))

    assert max(times["zmq"], times["zmq+ipc"]) < 2.5
    assert times["grpc"] < 6


async def _time_to_end(wire: str, channel: Channel, times: dict[str, float]) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    with pytest.raises(WorkerUnavailable):
        await channel.receive()
    times[wire] = loop.time() - started


async def test_a_frozen_worker_does_not_hold_up_a_close(tmp_path: Path) -> None:
    """Closing waits for the peer for a second at most."""

    async def freeze_and_close(wire: str) -> None:
        async with (
            child(address(wire, tmp_path), "echo") as (process, where),
            AsyncExitStack() as stack,
        ):
            channel = await dial(stack, where)
            os.kill(process.pid, signal.SIGSTOP)
            async with asyncio.timeout(1.5):
                await channel.close()

    async with asyncio.TaskGroup() as group:
        for wire in WIRES:
            group.create_task(freeze_and_close(wire))


@pytest.mark.parametrize("wire", ["zmq", "zmq+ipc"])
async def test_a_worker_survives_who_floods_it_and_leaves(wire: str, tmp_path: Path) -> None:
    """libzmq aborts a process whose heartbeat is due on a full connection that its peer has left: ours sends none."""
    async with (
        child(address(wire, tmp_path), "busy") as (process, where),
        AsyncExitStack() as stack,
    ):
        channel = await dial(stack, where)
        await channel.send(ping(1))
        assert pong(1) == await channel.receive()
        await channel.send(ping(999))
        with zmq.Context() as context, context.socket(zmq.DEALER) as flood:
            flood.setsockopt(zmq.SNDHWM, 0)
            flood.setsockopt(zmq.LINGER, 300)
            flood.connect(where.replace("zmq+ipc", "ipc").replace("zmq", "tcp"))
            flood.send(to_msgpack(HELLO))
            for n in range(20_000):
                flood.send(to_msgpack(ping(n)))
        assert pong(999) == await channel.receive()
        assert process.returncode is None


CALM_CLIENT = """
import asyncio, sys, time
from contextlib import AsyncExitStack
from tests.contract.common import dial, ping
async def main(where):
    async with AsyncExitStack() as stack:
        channel = await dial(stack, where)
        for n in range(900):
            await channel.send(ping(n))
        print("asleep", flush=True)
        time.sleep(1.2)
        try:
            while True:
                await channel.receive()
        except Exception as error:
            print(type(error).__name__)
asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("wire", ["zmq", "zmq+ipc"])
async def test_a_client_survives_a_worker_that_dies_while_it_sleeps(
    wire: str, tmp_path: Path
) -> None:
    """A client whose loop stands still while replies pile up and the worker dies sees a closed connection, no abort."""
    async with child(address(wire, tmp_path), "echo") as (process, where):
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CALM_CLIENT, where, cwd=ROOT, stdout=PIPE
        )
        assert client.stdout is not None
        assert b"asleep\n" == await client.stdout.readline()
        await asyncio.sleep(
            0.3
        )  # in which replies pile up; were it too short, the test would only prove less
        process.kill()
        output, _ = await client.communicate()

    assert b"WorkerUnavailable" == output.strip()
    assert 0 == client.returncode


@pytest.mark.parametrize("wire", WIRES)
async def test_a_killed_client_is_noticed(
    wire: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gRPC sees the death of a peer; over ZeroMQ it is the silence that ends the connection."""
    monkeypatch.setattr("bild_dist.transport.zmq_router.SILENCE_S", 0.3)
    monkeypatch.setattr("bild_dist.transport.zmq_router.SWEEP_S", 0.05)
    greeted, over = asyncio.Event(), asyncio.Event()

    async def handler(channel: Channel) -> None:
        await channel.receive()
        greeted.set()
        with pytest.raises(WorkerUnavailable):
            await channel.receive()
        over.set()

    script = (
        "import asyncio, sys\n"
        "from contextlib import AsyncExitStack\n"
        "from tests.contract.common import dial\n"
        "async def main():\n"
        "    await dial(AsyncExitStack(), sys.argv[1])\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    async with serving(address(wire, tmp_path), handler) as server:
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, server.address, cwd=ROOT
        )
        await greeted.wait()
        client.kill()
        async with asyncio.timeout(2):
            await over.wait()
        await client.wait()


@pytest.mark.parametrize("wire", ["zmq", "zmq+ipc"])
async def test_a_talking_peer_is_not_silent(
    wire: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who says something now and then keeps its connection; who says nothing hears the end of it."""
    monkeypatch.setattr("bild_dist.transport.zmq_router.SILENCE_S", 0.4)
    monkeypatch.setattr("bild_dist.transport.zmq_router.SWEEP_S", 0.05)

    async def patient(channel: Channel) -> None:
        with contextlib.suppress(WorkerUnavailable):
            while True:
                await channel.receive()

    async with serving(address(wire, tmp_path), patient) as server, AsyncExitStack() as stack:
        quiet, talking = await dial(stack, server.address), await dial(stack, server.address)
        async with asyncio.TaskGroup() as group:
            chat = group.create_task(_chat(talking))
            with pytest.raises(WorkerUnavailable):
                await quiet.receive()
            await talking.send(ping(1))
            chat.cancel()


async def _chat(channel: Channel) -> None:
    while True:
        await channel.send(ping(0))
        await asyncio.sleep(0.05)
