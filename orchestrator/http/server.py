"""One server from its first moment to its last: listens, serves, is told to stop, drains, ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import uvicorn

from bild_dist.errors import ConfigError
from bild_dist.orchestrator.http.app import application
from bild_dist.orchestrator.http.connection import BACKLOG, Connection
from bild_dist.orchestrator.http.house import House
from bild_dist.tables import HttpConfig

_UNREAD: Final = 64 * 1024
"""Bytes; the kernel takes twice as many."""
_CLOSE_S: Final = 2
"""Connections that have not closed so long after the last answer are cut."""
_KEEP_ALIVE_S: Final = 30
_WORD_S: Final = 1.0
"""Seconds that requests which are cut have to say so."""


class _Quiet(uvicorn.Server):
    """Leaves signals to whoever runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(config: HttpConfig) -> socket.socket:
    """The socket of a server; from then on clients can connect.

    Raises:
        ConfigError: the address is taken, or none of this host's.
    """
    sock = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A client that takes nothing any more, or is gone without a word, is given up by the kernel
        # too: accepted sockets inherit this.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(config.stall * 1000))
        # What the kernel keeps for a client that reads slowly, in place of megabytes.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNREAD)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        if sock is not None:
            sock.close()
        raise ConfigError(
            f"http.host = {config.host!r}, http.port = {config.port}: cannot listen there: {error}"
        ) from None
    return sock


def address_of(sock: socket.socket) -> str:
    """Where a client finds a server."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server:
    """A server at work, as an async context. Owned by the task that enters it.

    Leaving it drains: requests under way may end within `http.drain` seconds, new ones are refused;
    what is left then is cut, with an error that says so. `clean` says whether nothing was.
    """

    def __init__(self, house: House, sock: socket.socket) -> None:
        self._house = house
        self._sock = sock
        self.hurry = asyncio.Event()
        """Set by whoever does not want to wait for the drain."""
        self.clean = True
        table = house.config
        connection: Any = partial(Connection, most=table.connections, head_s=table.stall)
        config = uvicorn.Config(
            application(house), log_config=None, access_log=False, lifespan="off", ws="none",
            http=connection, loop="none", interface="asgi3", server_header=False, proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_S, timeout_graceful_shutdown=_CLOSE_S, backlog=BACKLOG,
        )  # fmt: skip
        self._server = _Quiet(config)
        self._group = asyncio.TaskGroup()

    @property
    def address(self) -> str:
        return address_of(self._sock)

    async def __aenter__(self) -> Server:
        await self._group.__aenter__()
        self._serving = self._group.create_task(self._server.serve([self._sock]))
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._drain()
        self._server.should_exit = True
        await self._group.__aexit__(None, None, None)

    async def _drain(self) -> None:
        """Waits for the requests under way, as long as they may take. The socket still listens:
        whoever comes now is told to go elsewhere.
        """
        admission = self._house.admission
        admission.drain()
        left = admission.requests
        if left == 0:
            return
        log = logging.getLogger(__name__)
        log.info("draining: %d requests under way", left)
        hurried = self._group.create_task(self.hurry.wait())
        idle = self._group.create_task(admission.idle())
        await asyncio.wait(
            (hurried, idle), timeout=self._house.config.drain, return_when=asyncio.FIRST_COMPLETED
        )
        hurried.cancel()
        idle.cancel()
        if admission.requests:
            self.clean = False
            log.warning("%d requests were cut", admission.requests)
            admission.cut()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WORD_S):
                    await admission.idle()
            for connection in list(self._server.server_state.connections):
                # Who does not even take that: a connection that goes away is what ends a request, here as ever.
                if isinstance(connection, Connection) and connection.answering:
                    connection.transport.abort()
