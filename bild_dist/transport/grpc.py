"""gRPC: one bidirectional stream per connection, raw frames, our own codec.

The settings answer to measured behaviour: keepalive alone never notices a frozen peer, the HTTP/2 ping timeout does;
pings need permission on both sides or a healthy call is killed; an abandoned call lives on, so every call is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any, Final

# gRPC's fork handlers are useless here (workers are executed, never forked) and stall some processes.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc  # noqa: E402

from bild_dist.errors import (  # noqa: E402
    ConfigError,
    RemoteProtocolError,
    WorkerUnavailable,
)
from bild_dist.messages import MAX_FRAME, Message  # noqa: E402
from bild_dist.tasks import TaskSet  # noqa: E402
from bild_dist.transport.address import Address  # noqa: E402
from bild_dist.transport.base import Handler  # noqa: E402
from bild_dist.transport.inbox import Inbox  # noqa: E402
from bild_dist.wire.codec import Protobuf  # noqa: E402

METHOD: Final = "/bild.v1.Worker/Session"
INBOX: Final = 64
"""Messages read ahead of whoever receives; beyond it HTTP/2 flow control holds the peer back."""
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
    ("grpc.max_concurrent_streams", 256),
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


class ClientChannel:
    """The orchestrator's end. Owns the gRPC channel, its one call, and the task that reads it."""

    def __init__(self, channel: grpc.aio.Channel, where: Address) -> None:
        self._channel = channel
        self._where = where
        self._codec = Protobuf()
        self._call = channel.stream_stream(METHOD)()
        self._inbox = Inbox(INBOX)
        self._writing = asyncio.Lock()
        self._tasks = TaskSet()
        self._reader = self._tasks.start(self._read())
        self._closed = False

    async def send(self, message: Message) -> None:
        frame = self._codec.request(message)
        if self._closed:
            raise self._ended()
        try:
            async with self._writing:
                await self._call.write(frame)
        except grpc.aio.AioRpcError as error:
            raise self._ended(error.details()) from None
        except (grpc.RpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
            raise self._ended() from None

    async def receive(self) -> Message:
        return await self._inbox.get()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError, TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._call.done_writing()
                    # The worker answers the end of our messages with the end of its own.
                    await asyncio.wait([self._reader])
        finally:
            self._call.cancel()
            await self._tasks.close()
            self._inbox.end(self._ended())
            await self._channel.close()

    async def _read(self) -> None:
        try:
            while (frame := await self._call.read()) is not grpc.aio.EOF:
                self._inbox.put(self._codec.read_reply(frame))
                await self._inbox.room()
            # The status says why the stream ended: in order, or by the peer's death.
            why = await self._call.details()
            self._inbox.end(self._ended(why))
        except RemoteProtocolError as error:
            self._inbox.end(error)
            self._call.cancel()
        except grpc.aio.AioRpcError as error:
            self._inbox.end(self._ended(error.details()))
        except (grpc.RpcError, asyncio.InvalidStateError):
            self._inbox.end(self._ended())

    def _ended(self, why: str | None = None) -> WorkerUnavailable:
        reason = f": {why}" if why else ""
        return WorkerUnavailable(f"the connection to {self._where} has ended{reason}")


class ServerChannel:
    """The worker's end of one stream. Its frames leave through the handler's generator."""

    def __init__(self, requests: AsyncIterator[bytes], codec: Protobuf) -> None:
        self._requests = requests
        self._codec = codec
        self._inbox = Inbox(INBOX)
        self.outbox: asyncio.Queue[bytes | None] = asyncio.Queue(INBOX)
        self._closed = False

    async def send(self, message: Message) -> None:
        frame = self._codec.reply(message)
        if self._closed:
            raise _gone()
        await self.outbox.put(frame)

    async def receive(self) -> Message:
        return await self._inbox.get()

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self.outbox.put(None)

    def drop(self) -> None:
        """The stream has ended: nobody takes the outbox any more."""
        self._closed = True
        self._inbox.end(_gone())
        while not self.outbox.empty():
            self.outbox.get_nowait()

    async def read(self) -> None:
        """Moves what arrives into the inbox."""
        try:
            async for frame in self._requests:
                self._inbox.put(self._codec.read_request(frame))
                await self._inbox.room()
            self._inbox.end(_gone())
        except RemoteProtocolError as error:
            self._inbox.end(error)
        except (grpc.RpcError, grpc.aio.UsageError):
            self._inbox.end(_gone())


class GrpcServer:
    """The listening end. Owns the gRPC server."""

    def __init__(self, where: Address, handler: Handler) -> None:
        self._where = where
        self._handler = handler
        self._codec = Protobuf()
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
        try:
            port = self._server.add_insecure_port(self._where.host_port)
        except RuntimeError:
            port = 0
        if port == 0:
            raise ConfigError(f"{self._where} cannot be listened on: is the port in use? Choose another")
        self._where = Address(self._where.scheme, self._where.host, port)
        await self._server.start()

    async def close(self) -> None:
        await self._server.stop(CLOSE_S)

    async def _session(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        channel = ServerChannel(requests, self._codec)
        tasks = TaskSet()
        tasks.start(channel.read())
        tasks.start(self._serve(channel))
        try:
            while (frame := await channel.outbox.get()) is not None:
                yield frame
        finally:
            channel.drop()
            await tasks.close()

    async def _serve(self, channel: ServerChannel) -> None:
        try:
            await self._handler(channel)
        finally:
            await channel.close()


async def connect(where: Address, timeout: float) -> ClientChannel:
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
    server = GrpcServer(where, handler)
    try:
        await server.start()
    except BaseException:
        await server.close()
        raise
    return server


def _gone() -> WorkerUnavailable:
    return WorkerUnavailable("the orchestrator has gone")
