"""The worker's side of a connection: greets, answers heartbeats, hands commands to the engine and
replies back.

Runs on the event loop and never computes, so a heartbeat is answered while a pass runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from bild_dist.errors import (
    BildError,
    InvalidRequest,
    Overloaded,
    RemoteProtocolError,
    WorkerUnavailable,
)
from bild_dist.messages import (
    PROTOCOL,
    Bye,
    Chunk,
    Close,
    Draft,
    Drafted,
    Encode,
    Failed,
    Fetch,
    Hello,
    Info,
    Message,
    Open,
    Opened,
    Ping,
    Pong,
    Reply,
    Steer,
    Verified,
    Verify,
)
from bild_dist.model.base import Model
from bild_dist.transport.base import Channel
from bild_dist.transport.outbox import Outbox
from bild_dist.transport.serving import complaint
from bild_dist.workers.engine import Engine

SILENCE_S: Final = 10.0
"""A peer of which nothing was heard for so long has gone: its slots are freed."""

FAREWELL_S: Final = 0.5
"""How long a worker that ends waits for its last words to leave."""

CHUNK: Final = 1 << 20
"""Bytes of a tokenizer file per message."""


@dataclass(eq=False, slots=True)
class Connection:
    """One orchestrator. Owned by the task that serves it; compared by identity."""

    channel: Channel
    outbox: Outbox
    heard: float
    """When its last message came, time of the event loop, seconds."""
    written: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the last message has left."""


class Service:
    """All connections of one worker. Owned by the event loop."""

    def __init__(self, model: Model, engine: Engine, info: Info) -> None:
        self._engine = engine
        self._info = info
        self._files = model.files()
        self._connections: set[Connection] = set()

    async def serve(self, channel: Channel) -> None:
        """Carries one connection to its end. A bad peer ends its own connection and nothing
        else.
        """
        heard = asyncio.get_running_loop().time()
        outbox = Outbox(channel, lambda message, error: self._refused(connection, message, error))
        connection = Connection(channel, outbox, heard)
        self._connections.add(connection)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write(connection))
                try:
                    await self._read(connection)
                except BildError as error:
                    connection.outbox.post(complaint(error))
                finally:
                    connection.outbox.end()
        finally:
            self._connections.discard(connection)
            self._engine.disconnect(connection)
            await channel.close()

    def deliver(self, connection: Connection, reply: Reply) -> None:
        """A reply of the engine. On the event loop."""
        if connection in self._connections:
            connection.outbox.post(reply)

    def tell(self, message: Bye | Failed) -> None:
        """Last words to every orchestrator."""
        for connection in self._connections:
            connection.outbox.post(message)
            connection.outbox.end()

    async def farewell(self, reason: str) -> None:
        """Says goodbye, and waits a moment until it was heard."""
        self.tell(Bye(reason=reason))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                for connection in list(self._connections):
                    await connection.written.wait()

    async def _write(self, connection: Connection) -> None:
        try:
            await connection.outbox.run()
        except WorkerUnavailable:
            pass  # the reader hears of it too, and ends the connection
        finally:
            connection.written.set()

    async def _read(self, connection: Connection) -> None:
        channel, loop = connection.channel, asyncio.get_running_loop()
        try:
            async with asyncio.timeout(SILENCE_S):
                self._greet(connection, await channel.receive())
            connection.heard = loop.time()
            channel.deliver_to(partial(self._hear, connection))
            while connection.heard + SILENCE_S > loop.time():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(connection.heard + SILENCE_S):
                        await channel.receive()  # tells of the end alone
            raise TimeoutError
        except TimeoutError:
            raise WorkerUnavailable(
                f"the worker heard nothing of this orchestrator for {SILENCE_S:g} s: one of the two stood still"
            ) from None
        except WorkerUnavailable:
            return

    def _hear(self, connection: Connection, message: Message) -> None:
        connection.heard = asyncio.get_running_loop().time()
        if connection.outbox.full:
            raise Overloaded("answers wait to be read: read them, and send slower")
        if isinstance(message, Bye):
            raise WorkerUnavailable("the orchestrator said goodbye")
        self._take(connection, message)

    def _refused(self, connection: Connection, message: Message, error: InvalidRequest) -> None:
        """An answer that no wire takes is a bug of ours: its request hears so, and no other."""
        logging.getLogger(__name__).error("an answer cannot be sent: %s", error)
        if isinstance(message, Opened | Drafted | Verified):
            failed = Failed(
                session=message.session, epoch=message.epoch, seq=message.seq,
                error=RemoteProtocolError.__name__, message=f"an answer cannot be sent: {error}",
            )  # fmt: skip
            connection.outbox.post(failed)
        else:
            connection.outbox.end()

    def _greet(self, connection: Connection, message: Message) -> None:
        if not isinstance(message, Hello):
            raise RemoteProtocolError("the first message of a connection must be Hello")
        if message.protocol != PROTOCOL:
            raise RemoteProtocolError(
                f"the orchestrator speaks version {message.protocol} of the protocol and this worker "
                f"version {PROTOCOL}: install the same bild-dist on both hosts"
            )
        connection.outbox.post(self._info)

    def _take(self, connection: Connection, message: Message) -> None:
        if isinstance(message, Ping):
            busy_ns, expected_ns = self._engine.busy()
            connection.outbox.post(
                Pong(
                    count=message.count,
                    progress=self._engine.progress,
                    busy_ns=busy_ns,
                    expected_ns=expected_ns,
                    open_slots=self._engine.open_slots,
                )
            )
        elif isinstance(message, Open | Draft | Verify | Steer | Close | Encode):
            self._engine.submit(connection, message)
        elif isinstance(message, Fetch):
            connection.outbox.post(self._fetch(message))
        else:
            raise RemoteProtocolError(f"a worker does not take {type(message).__name__}")

    def _fetch(self, message: Fetch) -> Chunk | Failed:
        data = self._files.get(message.name)
        if data is None or not 0 <= message.offset <= len(data):
            error = InvalidRequest(f"this worker has no file {message.name!r} at {message.offset}")
            return replace(complaint(error), seq=message.seq)
        piece = data[message.offset : message.offset + CHUNK]
        return Chunk(seq=message.seq, total=len(data), data=piece)
