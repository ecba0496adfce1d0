"""gRPC: one bidirectional stream per connection, raw frames, our own codec.

The settings answer to measured behaviour: keepalive alone never notices a frozen peer, the HTTP/2 ping timeout does;
pings need permission on both sides or a healthy call is killed; an abandoned call lives on, so every call is cancelled;
a write or read that is cancelled cancels the whole call, so only the channel's own two tasks touch it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

# gRPC's fork handlers are useless here (workers are executed, never forked) and stall some processes.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc

from bild_dist.errors import BildError, ConfigError, RemoteProtocolError, WorkerUnavailable
from bild_dist.messages import MAX_FRAME, Message
from bild_dist.tasks import TaskSet
from bild_dist.transport.address import Address
from bild_dist.transport.base import Handler
from bild_dist.transport.mailbox import Mailbox
from bild_dist.transport.serving import PEERS, carry, complaint, crowded
from bild_dist.wire.codec import Protobuf

METHOD: Final = "/bild.v1.Worker/Session"
WAITING: Final = 64
"""Messages that wait in each direction; beyond it HTTP/2 flow control holds the sender back."""
WAITING_BYTES: Final = 8 * 1024 * 1024
CLOSE_S: Final = 1.0
"""How long a close waits for the peer to take what was sent before."""

_BOTH: Final = (
    ("grpc.keepalive_time_ms", 3000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.http2.ping_timeout_ms", 2000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MAX_FRAME),
    ("grpc.max_send_message_length", MAX_FRAME),
)
_SERVER: Final = (
    *_BOTH,
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_concurrent_streams", PEERS),
    ("grpc.so_reuseport", 0),
)
_CLIENT: Final = (
    *_BOTH,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Each connection stands alone: a shared subchannel would let one stream's end disturb another's.
    ("grpc.use_local_subchannel_pool", 1),
)
# What gRPC raises when a call is over; the call's status says why.
_OVER: Final = (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError)


class ClientChannel:
    """The orchestrator's end. Owns the gRPC channel, its one call, and the two tasks that use it."""

    def __init__(self, channel: grpc.aio.Channel, where: Address) -> None:
        self._channel = channel
        self._where = where
        self._codec = Protobuf()
        self._call = channel.stream_stream(METHOD)()
        self._inbox = Mailbox[Message](WAITING, WAITING_BYTES)
        self._outbox = Mailbox[bytes](WAITING, WAITING_BYTES)
        self._tasks = TaskSet()
        self._parts = (self._tasks.start(self._read()), self._tasks.start(self._write()))
        self._closed = False

    async def send(self, message: Message) -> None:
        frame = self._codec.request(message)
        await self._outbox.offer(frame, len(frame))

    def try_send(self, message: Message) -> bool:
        return _put(self._outbox, self._codec.request, message)

    async def receive(self) -> Message:
        return await self._inbox.get()

    def deliver_to(self, sink: Callable[[Message], None]) -> None:
        self._inbox.pour(sink)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._outbox.end(self._ended())
        self._inbox.end(self._ended(), clear=True)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    # The worker answers the end of our messages with the end of its own.
                    await asyncio.wait(self._parts)
        finally:
            self._call.cancel()
            try:
                await self._tasks.close()
            finally:
                await self._channel.close()

    async def _read(self) -> None:
        end: BildError = self._ended()
        try:
            while (frame := await self._call.read()) is not grpc.aio.EOF:
                self._inbox.put(self._codec.read_reply(frame), len(frame))
                await self._inbox.room()
            # The status says why the stream ended: in order, or by the peer's death.
            end = self._ended(await self._call.details())
        except RemoteProtocolError as error:
            end = error
            self._call.cancel()
        except grpc.aio.AioRpcError as error:
            end = self._ended(error.details())
        except _OVER:
            pass
        finally:
            self._inbox.end(end)
            self._outbox.end(end if isinstance(end, WorkerUnavailable) else self._ended(str(end)))

    async def _write(self) -> None:
        try:
            while True:
                await self._call.write(await self._outbox.get())
        except WorkerUnavailable:
            # The outbox has ended and all that was in it is written.
            with contextlib.suppress(*_OVER):
                await self._call.done_writing()
        except _OVER:
            pass  # the reader finds out why

    def _ended(self, why: str | None = None) -> WorkerUnavailable:
        reason = f": {why}" if why else ""
        return WorkerUnavailable(f"the connection to {self._where} has ended{reason}")


class ServerChannel:
    """The worker's end of one stream. Its frames leave through the generator of `GrpcServer`."""

    def __init__(self, requests: AsyncIterator[bytes], codec: Protobuf) -> None:
        self._requests = requests
        self._codec = codec
        self._inbox = Mailbox[Message](WAITING, WAITING_BYTES)
        self.outbox = Mailbox[bytes](WAITING, WAITING_BYTES)

    async def send(self, message: Message) -> None:
        frame = self._codec.reply(message)
        await self.outbox.offer(frame, len(frame))

    def try_send(self, message: Message) -> bool:
        return _put(self.outbox, self._codec.reply, message)

    async def receive(self) -> Message:
        return await self._inbox.get()

    def deliver_to(self, sink: Callable[[Message], None]) -> None:
        self._inbox.pour(sink)

    async def close(self) -> None:
        """The generator still sends what was put before, then ends the stream."""
        self.outbox.end(_gone())
        self._inbox.end(_gone(), clear=True)

    def drop(self) -> None:
        """The stream has ended: nobody takes the outbox any more."""
        self.outbox.end(_gone(), clear=True)
        self._inbox.end(_gone())

    async def read(self) -> None:
        """Moves what arrives into the inbox; while that is full, nothing is read."""
        end: BildError = (gone := _gone())
        try:
            async for frame in self._requests:
                self._inbox.put(self._codec.read_request(frame), len(frame))
                await self._inbox.room()
        except RemoteProtocolError as error:
            end = error  # the handler may still answer it
        except _OVER:
            pass
        finally:
            self._inbox.end(end)
            if end is gone:
                self.outbox.end(gone)


class GrpcServer:
    """The listening end. Owns the gRPC server, the channels of its streams and their handlers."""

    def __init__(self, where: Address, handler: Handler) -> None:
        self._where = where
        self._handler = handler
        self._codec = Protobuf()
        self._channels: set[ServerChannel] = set()
        self._handlers = TaskSet()
        self._closed = False
        self._server = grpc.aio.server(options=_SERVER)
        rpc = grpc.stream_stream_rpc_method_handler(self._session)
        service, _, method = METHOD[1:].partition("/")
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {method: rpc}),)
        )

    @property
    def address(self) -> str:
        return str(self._where)

    async def start(self) -> None:
        """Listens. Raises ConfigError where the port cannot be had."""
        try:
            port = self._server.add_insecure_port(self._where.host_port)
        except RuntimeError:
            port = 0
        if port == 0:
            raise ConfigError(
                f"{self._where} cannot be listened on: is it in use? Choose another port"
            )
        self._where = Address(self._where.scheme, self._where.host, port)
        await self._server.start()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        # In good order first; whoever does not take the end of its stream in time is cut off.
        for channel in list(self._channels):
            await channel.close()
        await self._handlers.close()
        await self._server.stop(CLOSE_S)

    async def _session(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        if self._closed or len(self._channels) >= PEERS:
            yield self._codec.reply(complaint(crowded()))
            return
        channel = ServerChannel(requests, self._codec)
        self._channels.add(channel)
        reading = TaskSet()
        reading.start(channel.read())
        # Not a part of this call, whose end it hears of as on the other transports: from its channel.
        self._handlers.start(carry(self._handler, channel))
        try:
            with contextlib.suppress(WorkerUnavailable):  # the outbox's end
                while True:
                    yield await channel.outbox.get()
        finally:
            self._channels.discard(channel)
            channel.drop()
            await reading.close()


async def connect(where: Address, timeout: float) -> ClientChannel:
    """Connects within `timeout` seconds, or raises WorkerUnavailable."""
    channel = grpc.aio.insecure_channel(where.host_port, options=_CLIENT)
    try:
        async with asyncio.timeout(timeout):
            await channel.channel_ready()
    except TimeoutError:
        await channel.close()
        raise WorkerUnavailable(
            f"nobody accepts connections at {where}: start the worker there, or correct the address"
        ) from None
    except BaseException:
        await channel.close()
        raise
    return ClientChannel(channel, where)


async def serve(where: Address, handler: Handler) -> GrpcServer:
    """Listens on a TCP port. Raises ConfigError where it cannot be had."""
    server = GrpcServer(where, handler)
    try:
        await server.start()
    except BaseException:
        await server.close()
        raise
    return server


def _put(outbox: Mailbox[bytes], coded: Callable[[Message], bytes], message: Message) -> bool:
    """Puts a message where it can leave; says whether there was room."""
    if outbox.full or outbox.ended:
        return False
    frame = coded(message)
    outbox.put(frame, len(frame))
    return True


def _gone() -> WorkerUnavailable:
    return WorkerUnavailable("the orchestrator has gone")
