"""The transport within one process: two queues. The model of what the others must do."""

from __future__ import annotations

import asyncio
from typing import Final
from weakref import WeakValueDictionary

from bild_dist.errors import ConfigError, WorkerUnavailable
from bild_dist.messages import Message
from bild_dist.tasks import TaskSet
from bild_dist.transport.address import Address
from bild_dist.transport.base import Handler
from bild_dist.wire.codec import to_msgpack

# The process's own name service: the one place where an address of this kind can be looked up.
_servers: Final[WeakValueDictionary[str, InprocServer]] = WeakValueDictionary()


class InprocChannel:
    """One end. `outbox` is the other end's `inbox`; None in it is the end of the connection."""

    def __init__(
        self, inbox: asyncio.Queue[Message | None], outbox: asyncio.Queue[Message | None]
    ) -> None:
        self._inbox = inbox
        self._outbox = outbox
        self._closed = False

    async def send(self, message: Message) -> None:
        if self._closed:
            raise _ended()
        to_msgpack(message)  # the size limit and the field types are those of the real wires
        self._outbox.put_nowait(message)

    async def receive(self) -> Message:
        if self._closed:
            raise _ended()
        message = await self._inbox.get()
        if message is None:
            self._closed = True
            raise _ended()
        return message

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._outbox.put_nowait(None)
            self._inbox.put_nowait(None)


class InprocServer:
    """The listening end. Owns the tasks of its connections."""

    def __init__(self, address: Address, handler: Handler) -> None:
        self._address = address
        self._handler = handler
        self._tasks = TaskSet()
        self._channels: list[InprocChannel] = []

    @property
    def address(self) -> str:
        return str(self._address)

    def accept(self) -> InprocChannel:
        there: asyncio.Queue[Message | None] = asyncio.Queue()
        back: asyncio.Queue[Message | None] = asyncio.Queue()
        channel = InprocChannel(there, back)
        self._channels.append(channel)
        self._tasks.start(self._serve(channel))
        return InprocChannel(back, there)

    async def close(self) -> None:
        _servers.pop(self._address.host, None)
        for channel in self._channels:
            await channel.close()
        await self._tasks.close()

    async def _serve(self, channel: InprocChannel) -> None:
        try:
            await self._handler(channel)
        finally:
            await channel.close()
            self._channels.remove(channel)


async def connect(address: Address) -> InprocChannel:
    server = _servers.get(address.host)
    if server is None:
        raise WorkerUnavailable(f"nobody listens at {address} in this process")
    return server.accept()


async def serve(address: Address, handler: Handler) -> InprocServer:
    if address.host in _servers:
        raise ConfigError(f"{address} is taken in this process: choose another name")
    server = _servers[address.host] = InprocServer(address, handler)
    return server


def _ended() -> WorkerUnavailable:
    return WorkerUnavailable("the connection has ended")
