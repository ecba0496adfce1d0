"""A connection between one orchestrator and one worker, whatever carries it.

Both ends hold a `Channel`; messages arrive whole, in order, at most once. A channel ends for good: there is no silent
reconnection, because a worker frees the slots of a connection that ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

from bild_dist.messages import Message


class Channel(Protocol):
    """One end of a connection. Owned by one task that receives; any task of the same loop may send."""

    async def send(self, message: Message) -> None:
        """Hands a message to the wire; waits while the peer is slow. Safe to cancel: it is sent whole or not at all.

        Raises:
            WorkerUnavailable: the connection has ended.
            InvalidRequest: the message is larger than MAX_FRAME.
        """
        ...

    async def receive(self) -> Message:
        """The next message. Safe to cancel: a message is either returned or still there.

        Raises:
            WorkerUnavailable: the connection has ended; every later call says so too.
            RemoteProtocolError: the peer sent something that is no message; the connection is closed.
        """
        ...

    def try_send(self, message: Message) -> bool:
        """Hands a message to the wire if the wire takes it at once; says whether it did.

        It does not wait its turn behind a `send` that waits: `Outbox` keeps the order. Raises as `send`.
        """
        ...

    def deliver_to(self, sink: Callable[[Message], None]) -> None:
        """From now on every message goes to `sink` in the turn of the loop that reads it, those that wait first.

        `receive` then only tells of the end, as it does of an error that `sink` raised, which is an end too.
        """
        ...

    async def close(self) -> None:
        """Ends the connection. Idempotent; what was sent before is still delivered if the peer lives."""
        ...


Handler: TypeAlias = Callable[[Channel], Awaitable[None]]
"""Called by a server in a task of its own for every connection; the connection ends when it returns.

It hears of the end of its connection from the channel, and is cancelled only when the server closes."""


class Server(Protocol):
    """The listening end."""

    @property
    def address(self) -> str:
        """Where it listens, with the port that the system chose where 0 was asked for."""
        ...

    async def close(self) -> None:
        """Stops listening and ends every connection. Idempotent."""
        ...
