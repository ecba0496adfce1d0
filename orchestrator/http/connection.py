"""The connections of a server: how many there may be, and how long one may take to say what it wants."""

from __future__ import annotations

import asyncio
import resource
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from bild_dist.errors import ConfigError

BACKLOG: Final = 1024
"""Connections that wait in the kernel until the event loop takes them, all in one turn of it."""
_REST: Final = 256
"""Files that a server has open beside its connections: sockets and pipes of workers, logs, libraries."""


class Connection(H11Protocol):
    """One connection. Owned by the event loop, which calls it.

    What uvicorn does not do: one beyond `most` is closed at once, and one whose request has no whole head
    `head_s` seconds after its first byte, or after the connection was made, is closed too. So neither
    silence nor a drop now and then keeps a file open.
    """

    def __init__(self, *, most: int, head_s: float, **rest: Any) -> None:
        super().__init__(**rest)
        self._most = most
        self._head_s = head_s
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._most:
            transport.abort()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # Between two requests that are done uvicorn's own clock runs, until the first byte of the next.
        if self.conn.their_state is h11.IDLE:
            self._await_head()
        else:
            self._head_is_there()

    @property
    def answering(self) -> bool:
        """Whether somebody waits for the rest of an answer."""
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        if self._late is None and not self.transport.is_closing():
            self._late = self.loop.call_later(self._head_s, self.transport.close)

    def _head_is_there(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def make_room(connections: int) -> None:
    """Lets this process open as many files as its connections need, beside its other ones.

    Raises:
        ConfigError: the system does not let it.
    """
    # Whatever waits in the kernel is accepted first, and closed then where it is too many.
    needed = connections + BACKLOG + _REST
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            f"http.connections = {connections} takes {needed} open files, and this process may have {hard}: "
            "lower it, or raise the hard limit (ulimit -Hn)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
