"""ZeroMQ: DEALER to ROUTER, one msgpack frame a message, over TCP or a Unix socket.

ZeroMQ alone would queue messages to the dead and drop them for strangers without a word. So: nothing is queued before the
handshake, the socket's monitor tells of a lost peer, a send that cannot be taken ends that peer's connection, and
there is no silent reconnection. An empty frame says in both directions that the connection ends in good order.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from pathlib import Path
from typing import Any, Final

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from bild_dist.errors import (
    BildError,
    ConfigError,
    Overloaded,
    RemoteProtocolError,
    WorkerUnavailable,
)
from bild_dist.messages import MAX_FRAME, Failed, Hello, Message
from bild_dist.tasks import TaskSet
from bild_dist.transport.address import Address
from bild_dist.transport.base import Handler
from bild_dist.transport.inbox import Inbox
from bild_dist.wire.codec import from_msgpack, to_msgpack

INBOX: Final = 1024
"""Messages that may wait for whoever receives. A peer that sends more without being read is dropped."""
PEERS: Final = 256
RETRY_S: Final = 0.05
END: Final = b""

_OPTIONS: Final = {
    zmq.LINGER: 500,
    zmq.SNDHWM: 1024,
    zmq.RCVHWM: 1024,
    zmq.MAXMSGSIZE: MAX_FRAME,
    zmq.HEARTBEAT_IVL: 500,
    zmq.HEARTBEAT_TIMEOUT: 1500,
    zmq.IPV6: 1,
}


class ClientChannel:
    """The orchestrator's end. Owns a DEALER, its monitor, and the two tasks that read them."""

    def __init__(self, dealer: zmq.asyncio.Socket, monitor: Any, where: Address) -> None:
        self._dealer = dealer
        self._monitor = monitor
        self._where = where
        self._inbox = Inbox(INBOX)
        self._tasks = TaskSet()
        self._tasks.start(self._read())
        self._tasks.start(self._watch())
        self._over = False
        self._closed = False

    async def send(self, message: Message) -> None:
        frame = to_msgpack(message)
        if self._over:
            raise self._ended()
        try:
            # Without waiting: a full queue means that the worker takes nothing any more.
            await self._dealer.send(frame, flags=zmq.NOBLOCK)
        except zmq.ZMQError:
            raise self._ended("the worker takes no messages") from None

    async def receive(self) -> Message:
        return await self._inbox.get()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = self._over = True
        with contextlib.suppress(zmq.ZMQError):
            await self._dealer.send(END, flags=zmq.NOBLOCK)
        await self._tasks.close()
        self._dealer.disable_monitor()
        self._monitor.close(linger=0)
        self._dealer.close()  # what was sent still leaves, for as long as LINGER says
        self._inbox.end(self._ended())

    async def _read(self) -> None:
        """The socket's one reader: cancelling a receive elsewhere cannot lose a message."""
        try:
            while True:
                frames = await self._dealer.recv_multipart()
                if frames == [END]:
                    self._end(self._ended())
                    return
                self._inbox.put(_message(frames))
                await self._inbox.room()
        except RemoteProtocolError as error:
            self._end(error)
        except zmq.ZMQError:
            self._end(self._ended())

    async def _watch(self) -> None:
        while (await recv_monitor_message(self._monitor))["event"] != zmq.EVENT_DISCONNECTED:
            pass
        while await self._dealer.poll(0):
            await asyncio.sleep(0)  # the reader takes what came before the end
        self._end(self._ended("the worker is dead or frozen"))

    def _end(self, error: BildError) -> None:
        self._over = True
        self._inbox.end(error)

    def _ended(self, why: str = "") -> WorkerUnavailable:
        reason = f": {why}" if why else ""
        return WorkerUnavailable(f"the connection to {self._where} has ended{reason}")


class ServerChannel:
    """The worker's end of one peer. Owned by the server, which holds the socket."""

    def __init__(self, server: ZmqServer, identity: bytes) -> None:
        self._server = server
        self._identity = identity
        self.inbox = Inbox(INBOX)

    async def send(self, message: Message) -> None:
        await self._server.send(self._identity, to_msgpack(message))

    async def receive(self) -> Message:
        return await self.inbox.get()

    async def close(self) -> None:
        await self._server.forget(self._identity)


class ZmqServer:
    """The listening end. Owns a ROUTER, the task that reads it, and all peers."""

    def __init__(self, where: Address, router: zmq.asyncio.Socket, handler: Handler) -> None:
        self._where = where
        self._router = router
        self._handler = handler
        self._peers: dict[bytes, ServerChannel] = {}
        self._handlers = TaskSet()
        self._reader = TaskSet()
        self._reader.start(self._read())

    @property
    def address(self) -> str:
        return str(self._where)

    async def send(self, identity: bytes, frame: bytes) -> None:
        """Sends to a peer that is known. Never waits: one slow peer must not hold up the others."""
        if identity not in self._peers:
            raise _gone()
        try:
            await self._router.send_multipart([identity, frame], flags=zmq.NOBLOCK)
        except zmq.ZMQError:
            # Gone (EHOSTUNREACH), or its queue is full because it does not read.
            self._drop(identity, _gone())
            raise _gone() from None

    async def forget(self, identity: bytes) -> None:
        """Ends a connection in good order. Idempotent."""
        if identity in self._peers:
            with contextlib.suppress(WorkerUnavailable):
                await self.send(identity, END)
            self._drop(identity, _gone())

    async def close(self) -> None:
        for identity in list(self._peers):
            await self.forget(identity)
        await self._handlers.close()
        await self._reader.close()
        self._router.close()
        if self._where.scheme == "zmq+ipc":
            Path(self._where.host).unlink(missing_ok=True)

    def _drop(self, identity: bytes, error: BildError) -> None:
        peer = self._peers.pop(identity, None)
        if peer is not None:
            peer.inbox.end(error)

    async def _read(self) -> None:
        while True:
            identity, *frames = await self._router.recv_multipart()
            try:
                await self._take(identity, frames)
            except BildError as error:
                await self._refuse(identity, error)

    async def _take(self, identity: bytes, frames: list[bytes]) -> None:
        peer = self._peers.get(identity)
        if frames == [END]:
            self._drop(identity, _gone())
            return
        message = _message(frames)
        if peer is None:
            if not isinstance(message, Hello):
                raise RemoteProtocolError("the first message of a connection must be Hello")
            if len(self._peers) >= PEERS:
                raise Overloaded(f"the worker has {PEERS} connections: close some")
            peer = self._peers[identity] = ServerChannel(self, identity)
            self._handlers.start(self._serve(peer))
        if peer.inbox.full:
            raise Overloaded(f"{INBOX} messages wait to be read: send slower")
        peer.inbox.put(message)

    async def _refuse(self, identity: bytes, error: BildError) -> None:
        """Tells a peer what it did wrong and ends its connection; the others never notice."""
        name = type(error).__name__
        failed = Failed(session=0, epoch=0, seq=0, error=name, message=str(error))
        for frame in (to_msgpack(failed), END):
            with contextlib.suppress(zmq.ZMQError):
                await self._router.send_multipart([identity, frame], flags=zmq.NOBLOCK)
        self._drop(identity, error)

    async def _serve(self, peer: ServerChannel) -> None:
        try:
            await self._handler(peer)
        finally:
            await peer.close()


async def connect(where: Address, timeout: float) -> ClientChannel:
    try:
        async with asyncio.timeout(timeout):
            while True:
                channel = await _try(where)
                if channel is not None:
                    return channel
                await asyncio.sleep(RETRY_S)
    except TimeoutError:
        raise WorkerUnavailable(
            f"nobody accepts connections at {where}: start the worker there, or correct the address"
        ) from None


async def _try(where: Address) -> ClientChannel | None:
    """One attempt: a socket that has shaken hands, or None."""
    dealer = _socket(zmq.DEALER)
    dealer.setsockopt(zmq.IMMEDIATE, 1)
    dealer.setsockopt(zmq.RECONNECT_IVL, -1)
    monitor = dealer.get_monitor_socket()
    try:
        dealer.connect(_endpoint(where))
        over = (zmq.EVENT_CLOSED, zmq.EVENT_DISCONNECTED, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
        while (event := (await recv_monitor_message(monitor))["event"]) not in over:
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return ClientChannel(dealer, monitor, where)
    except BaseException:
        _discard(dealer, monitor)
        raise
    _discard(dealer, monitor)
    return None


def _discard(dealer: zmq.asyncio.Socket, monitor: Any) -> None:
    dealer.disable_monitor()
    monitor.close(linger=0)
    dealer.close(linger=0)


async def serve(where: Address, handler: Handler) -> ZmqServer:
    if where.scheme == "zmq+ipc":
        _claim(where)
    router = _socket(zmq.ROUTER)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    try:
        router.bind(_endpoint(where))
    except zmq.ZMQError as error:
        router.close(linger=0)
        hint = ": is it in use? Choose another" if error.errno == errno.EADDRINUSE else f": {error}"
        raise ConfigError(f"{where} cannot be listened on{hint}") from None
    if where.scheme == "zmq":
        bound = router.getsockopt_string(zmq.LAST_ENDPOINT)
        where = Address(where.scheme, where.host, int(bound.rpartition(":")[2]))
    return ZmqServer(where, router, handler)


def _claim(where: Address) -> None:
    """Makes room for a Unix socket: a dead one is removed, a living one is not taken over."""
    path = Path(where.host)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{where} cannot be listened on: {error.strerror}") from None
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise ConfigError(f"{where} cannot be listened on: is it in use? Choose another")


def _socket(kind: int) -> zmq.asyncio.Socket:
    made = zmq.asyncio.Context.instance().socket(kind)
    for option, value in _OPTIONS.items():
        made.setsockopt(option, value)
    return made


def _endpoint(where: Address) -> str:
    return f"ipc://{where.host}" if where.scheme == "zmq+ipc" else f"tcp://{where.host_port}"


def _message(frames: list[bytes]) -> Message:
    if len(frames) != 1:
        raise RemoteProtocolError(f"a message is one frame, not {len(frames)}")
    return from_msgpack(frames[0])


def _gone() -> WorkerUnavailable:
    return WorkerUnavailable("the orchestrator has gone")
