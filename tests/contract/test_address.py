"""Addresses: which ones there are, who may listen where, and what is never overwritten."""

from __future__ import annotations

import asyncio
import socket
import stat
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from bild_dist.errors import ConfigError, WorkerUnavailable
from bild_dist.transport import connect, serve
from bild_dist.transport.address import IPC_LIMIT, Address, parse
from tests.contract.common import dial, echo, ping, pong, serving

GOOD = {
    "grpc://127.0.0.1:5555": Address("grpc", "127.0.0.1", 5555),
    "grpc://gpu-7.example.org:1": Address("grpc", "gpu-7.example.org", 1),
    "zmq://[::1]:0": Address("zmq", "::1", 0),
    "zmq+ipc:///run/bild/s": Address("zmq+ipc", "/run/bild/s"),
    "zmq+ipc://here": Address("zmq+ipc", "here"),
    "inproc://a": Address("inproc", "a"),
}
BAD = {
    "nothing": "",
    "no scheme": "127.0.0.1:5555",
    "no host": "grpc://:5555",
    "no port": "grpc://127.0.0.1",
    "an empty port": "zmq://127.0.0.1:",
    "a port that is no number": "grpc://127.0.0.1:http",
    "a port beyond 65535": "grpc://127.0.0.1:65536",
    "a port of 5,000 digits": f"grpc://127.0.0.1:{'1' * 5000}",
    "a port in other digits": "grpc://127.0.0.1:٣٣",
    "IPv6 without brackets": "grpc://::1:80",
    "brackets around a name": "grpc://[localhost]:80",
    "a space in the host": "zmq://no host:5",
    "an unknown scheme": "http://127.0.0.1:5555",
    "no path": "zmq+ipc://",
    "a path that is too long": f"zmq+ipc:///{'x' * IPC_LIMIT}",
    "a name without file permissions": "zmq+ipc://@bild",
    "any path": "zmq+ipc://*",
    "a zero byte": "zmq+ipc:///tmp/a\0b",
}
OPEN = (
    "grpc://0.0.0.0:0",
    "zmq://0.0.0.0:0",
    "grpc://[::]:0",
    "zmq://192.0.2.1:0",
    "grpc://host:0",
)


@pytest.mark.parametrize("text", GOOD)
def test_an_address_is_read(text: str) -> None:
    """What is read says again what was written."""
    assert GOOD[text] == parse(text)
    assert text == str(parse(text))


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
async def test_what_is_no_address_is_refused(text: str) -> None:
    """ConfigError, with an address or the list of forms that would be right."""
    for use in (connect(text, timeout=1), serve(text, echo)):
        with pytest.raises(ConfigError, match=r"grpc://|zmq://|zmq\+ipc://|107 bytes"):
            await use


@pytest.mark.parametrize("text", OPEN)
async def test_only_this_host_is_listened_to(text: str) -> None:
    """Peers do not authenticate, so listening to other hosts is refused, with the way out in the message."""
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1.*tunnel"):
        await serve(text, echo)


@pytest.mark.parametrize("listen", ["grpc://localhost:0", "zmq://127.0.0.1:0"])
async def test_the_system_chooses_a_port(listen: str) -> None:
    """Port 0 becomes a free port, which the server's address names."""
    async with serving(listen, echo) as server, AsyncExitStack() as stack:
        assert parse(server.address).port > 0
        channel = await dial(stack, server.address)
        await channel.send(ping(1))
        assert pong(1) == await channel.receive()


async def test_an_address_in_use_is_refused(listen: str) -> None:
    """Two servers never share an address; the first one goes on undisturbed."""
    async with serving(listen, echo) as server, AsyncExitStack() as stack:
        with pytest.raises(ConfigError, match=r"in use|taken"):
            await serve(server.address, echo)
        channel = await dial(stack, server.address)
        await channel.send(ping(1))
        assert pong(1) == await channel.receive()


@pytest.mark.parametrize("transport", ["grpc", "zmq"])
async def test_a_port_of_another_program_is_refused(transport: str) -> None:
    """Whoever holds the port, the message names it and says what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"{port}.*in use.*[Cc]hoose"):
            await serve(f"{transport}://127.0.0.1:{port}", echo)


async def test_a_socket_of_the_dead_is_replaced(tmp_path: Path) -> None:
    """A path that a killed worker left behind can be listened on again."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(f"zmq+ipc://{path}", echo) as server, AsyncExitStack() as stack:
        channel = await dial(stack, server.address)
        await channel.send(ping(1))
        assert pong(1) == await channel.receive()
    assert not path.exists()


async def test_a_file_is_never_replaced(tmp_path: Path) -> None:
    """Where the path names something that is no socket, it stays as it is."""
    path = tmp_path / "thesis.txt"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="a file is there"):
        await serve(f"zmq+ipc://{path}", echo)
    assert "precious" == path.read_text()


async def test_a_new_folder_is_private(tmp_path: Path) -> None:
    """A folder that is made for a socket is closed to other users."""
    async with serving(f"zmq+ipc://{tmp_path}/new/s", echo):
        assert 0o700 == stat.S_IMODE((tmp_path / "new").stat().st_mode)


async def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """ConfigError names the address and the reason."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be listened on"):
        await serve(f"zmq+ipc://{tmp_path}/file/s", echo)


@pytest.mark.parametrize("transport", ["grpc", "zmq"])
async def test_an_unknown_host_is_unavailable(transport: str) -> None:
    """A name that cannot be resolved is nobody, within the time given."""
    with pytest.raises(WorkerUnavailable, match=r"nobody\.invalid:5.*start the worker"):
        await connect(f"{transport}://nobody.invalid:5", timeout=0.2)


@pytest.mark.parametrize(("there", "here"), [("zmq", "grpc"), ("grpc", "zmq")])
async def test_another_protocol_is_unavailable(there: str, here: str) -> None:
    """A worker that speaks the other protocol is nobody either, and goes on undisturbed."""
    async with serving(f"{there}://127.0.0.1:0", echo) as server, AsyncExitStack() as stack:
        with pytest.raises(WorkerUnavailable, match=here):
            await connect(server.address.replace(there, here), timeout=0.3)
        channel = await dial(stack, server.address)
        await channel.send(ping(1))
        assert pong(1) == await channel.receive()


async def test_giving_up_a_connect_leaves_nothing(listen: str) -> None:
    """A connect that is cancelled at any point leaves neither a connection nor a task behind."""
    before = asyncio.all_tasks()
    where = listen.replace(":0", ":9").replace("inproc", "zmq+ipc")
    for turns in range(1, 8):
        async with asyncio.TaskGroup() as group:
            dialling = group.create_task(connect(where, timeout=5))
            for _ in range(turns):
                await asyncio.sleep(0)
            dialling.cancel()
    assert before == asyncio.all_tasks()
