"""The transport within one process: two queues. The model of what the others must do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias
from weakref import WeakValueDictionary

from bild_dist.errors import ConfigError, WorkerUnavailable
from bild_dist.messages import Message
from bild_dist.tasks import TaskSet
from bild_dist.transport.address import Address
from bild_dist.transport.base import Handler
from bild_dist.transport.mailbox import Mailbox
from bild_dist.transport.serving import PEERS, carry, crowded
from bild_dist.wire.codec import to_msgpack

WAITING: Final = 64
"""Messages that wait for whoever receives them; beyond it a sender waits, as over gRPC."""
WAITING_BYTES: Final = 8 * 1024 * 1024

_Box: TypeAlias = Mailbox[Message]

# The process's own name service: the one place where an address of this kind can be looked up.
_servers: Final[WeakValueDictionary[str, InprocServer]] = WeakValueDictionary()


class InprocChannel:
    """One end. `outbox` is the other end's `inbox`."""

    def __init__(self, inbox: _Box, outbox: _Box) -> None:
        self._inbox = inbox
        self._outbox = outbox

    async def send(self, message: Message) -> None:
        # The size limit and the field types are those of the real wires.
        size = len(to_msgpack(message))
        await self._outbox.offer(message, size)

    def try_send(self, message: Message) -> bool:
        # What is put is taken at once: whoever posts would find itself inside the receiver.
        return False

    async def receive(self) -> Message:
        return await self._inbox.get()

    def deliver_to(self, sink: Callable[[Message], None]) -> None:
        self._inbox.pour(sink)

    async def close(self) -> None:
        """What was sent before stays for the peer to take; what it sent is forgotten."""
        self._outbox.end(_ended())
        self._inbox.end(_ended(), clear=True)


class InprocServer:
    """The listening end. Owns the tasks of its connections."""

    def __init__(self, address: Address, handler: Handler) -> None:
        self._address = address
        self._handler = handler
        self._tasks = TaskSet()
        self._channels: set[InprocChannel] = set()

    @property
    def address(self) -> str:
        return str(self._address)

    def accept(self) -> InprocChannel:
        """The client's end of a new connection. Raises Overloaded when there are too many."""
        if len(self._channels) >= PEERS:
            raise crowded()
        there, back = _Box(WAITING, WAITING_BYTES), _Box(WAITING, WAITING_BYTES)
        channel = InprocChannel(there, back)
        self._channels.add(channel)
        self._tasks.start(self._serve(channel))
        return InprocChannel(back, there)

    async def close(self) -> None:
        if _servers.get(self._address.host) is self:
            del _servers[self._address.host]
        for channel in list(self._channels):
            await channel.close()
        await self._tasks.close()

    async def _serve(self, channel: InprocChannel) -> None:
        try:
            await carry(self._handler, channel)
        finally:
            self._channels.discard(channel)


async def connect(where: Address) -> InprocChannel:
    """Connects to a server of this process. Raises WorkerUnavailable where there is none."""
    server = _servers.get(where.host)
    if server is None:
        raise WorkerUnavailable(f"nobody listens at {where} in this process: serve there first")
    return server.accept()


async def serve(where: Address, handler: Handler) -> InprocServer:
    """Listens under a name. Raises ConfigError where it is taken."""
    if where.host in _servers:
        raise ConfigError(f"{where} is taken in this process: choose another name")
    server = _servers[where.host] = InprocServer(where, handler)
    return server


def _ended() -> WorkerUnavailable:
    return WorkerUnavailable("the connection has ended")
