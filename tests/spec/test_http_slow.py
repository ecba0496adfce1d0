"""Clients that take their time: half a request, silence, too many connections. None holds up another."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from typing import Any

import httpx
import pytest

from bild_dist.errors import ConfigError
from bild_dist.orchestrator.http.connection import make_room
from tests.serving import Served, serving

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def place(served: Served) -> tuple[str, int]:
    host, port = served.address.removeprefix("http://").split(":")
    return host, int(port)


async def until(what: Any) -> None:
    """Turns the loop until something holds; the test's time limit is the bound."""
    while not what():  # noqa: ASYNC110 (nobody tells)
        await asyncio.sleep(0.001)


async def test_a_body_that_never_comes_is_given_up() -> None:
    """408 after `stall` seconds, and the request is off the books."""
    async with serving(stall=0.1) as served:
        reader, writer = await asyncio.open_connection(*place(served))
        writer.write(HEAD + b"Content-Length: 100\r\n\r\n{")
        assert b"408" in await reader.readline()
        writer.close()
        await writer.wait_closed()
        await served.drained()


async def test_a_body_that_comes_in_drops_is_given_up() -> None:
    """`stall` seconds are for the whole of it: a byte now and then buys no more time."""
    async with serving(stall=0.3) as served:
        reader, writer = await asyncio.open_connection(*place(served))
        writer.write(HEAD + b"Content-Length: 1000\r\n\r\n{")
        status = b""
        while not status:
            writer.write(b" ")
            with contextlib.suppress(TimeoutError):
                status = await asyncio.wait_for(reader.readline(), 0.01)
        assert b"408" in status
        writer.close()
        await writer.wait_closed()


async def test_half_a_request_does_not_hold_up_the_end() -> None:
    """Whoever still sends a body when the server is told to stop gets 503 at once, and the end is clean."""
    async with serving("seed=1&end=0", stall=60, drain=60) as served:
        reader, writer = await asyncio.open_connection(*place(served))
        writer.write(HEAD + b"Content-Length: 100\r\n\r\n{")
        await until(lambda: served.house.admission._readers)
        await served.server._drain()
        assert b" 503 " in await reader.readline()
        assert b"shutting_down" in await reader.read()
        writer.close()
        await writer.wait_closed()
        assert served.server.clean


@pytest.mark.parametrize("said", [b"", b"\r\n", b"GET /health HTTP/1.1\r\nHost: local"])
async def test_a_connection_that_says_nothing_whole_is_closed(said: bytes) -> None:
    """After `stall` seconds, also where it goes on to say little by little, and as a second request."""
    async with serving("seed=1&end=0", stall=0.2) as served:
        for before in (b"", b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            if before and not said:
                continue  # between requests uvicorn's own clock runs
            reader, writer = await asyncio.open_connection(*place(served))
            writer.write(before)
            if before:
                assert b" 200 " in await reader.readuntil(b'{"ready":true}')
            writer.write(said)
            dripping = True
            while dripping:
                try:
                    dripping = await asyncio.wait_for(reader.read(1), 0.01) != b""
                except TimeoutError:
                    writer.write(said[:1] if said.startswith(b"\r") else said[-1:])
                except ConnectionError:  # a drop came after the end
                    dripping = False
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        assert not served.server._server.server_state.connections


async def test_one_connection_too_many_is_closed() -> None:
    """At once and for nothing; when one has gone there is a place again, and who has one is served."""
    async with serving("seed=1&end=0", connections=2) as served:
        assert 200 == (await served.client.get("/ready")).status_code  # and stays open
        _, second = await asyncio.open_connection(*place(served))
        open_now = served.server._server.server_state.connections
        await until(lambda: len(open_now) == 2)
        for _ in range(5):
            reader, third = await asyncio.open_connection(*place(served))
            with contextlib.suppress(ConnectionError):
                assert b"" == await reader.read()
            third.close()
        assert 200 == (await served.client.get("/ready")).status_code
        second.close()
        await second.wait_closed()
        await until(lambda: len(open_now) == 1)
        async with httpx.AsyncClient(base_url=served.address, trust_env=False) as again:
            assert 200 == (await again.get("/ready")).status_code


def test_files_for_all_connections_are_asked_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """The soft limit is raised as far as they need, and no further; where the hard one is lower the server
    does not start, and says what to change.
    """
    limits = [(1024, 20_000)]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, both: limits.append(both))
    make_room(1000)
    assert (2280, 20_000) == limits[-1]
    make_room(500)
    assert 2 == len(limits)
    with pytest.raises(ConfigError, match=r"http.connections = 30000 .*ulimit -Hn"):
        make_room(30_000)
