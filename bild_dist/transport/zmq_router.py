"""The listening side of `zmq.py`: one ROUTER for all peers of a worker.

A ROUTER has no connections, only identities. A Hello from a new one opens a connection, an empty frame ends it, and so
does silence, since a ROUTER is not told when a peer dies. A peer that breaks the rules hears why and is forgotten; the
others never notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import zmq
import zmq.asyncio

from bild_dist.errors import (
    BildError,
    ConfigError,
    Overloaded,
    RemoteProtocolError,
    WorkerUnavailable,
)
from bild_dist.messages import Bye, Hello, Message
from bild_dist.tasks import TaskSet
from bild_dist.transport.address import Address
from bild_dist.transport.base import Handler
from bild_dist.transport.mailbox import Mailbox
from bild_dist.transport.serving import PEERS, carry, complaint, crowded
from bild_dist.transport.zmq import (
    END,
    PAUSE_S,
    STALL_S,
    WAITING,
    WAITING_BYTES,
    endpoint,
    make_socket,
    read,
)
from bild_dist.transport.zmq_reader import Reader
from bild_dist.wire.codec import to_msgpack

SILENCE_S: Final = 10.0
"""A peer of which nothing was heard for so long has gone; orchestrators send a heartbeat twice a second."""
# No heartbeats on this side: see `_CLIENT` in zmq.py.
_SERVER: Final = {zmq.RCVHWM: 32, zmq.ROUTER_MANDATORY: 1}
SWEEP_S: Final = 1.0
LINGER_MS: Final = 500
"""How long a server that closes waits for its last words to leave."""


class ServerChannel:
    """The worker's end of one peer. Owned by the server, which holds the socket."""

    def __init__(self, server: ZmqServer, identity: bytes, now: float) -> None:
        self._server = server
        self.identity = identity
        self.heard = now
        """Time of the event loop, seconds."""
        self.inbox = Mailbox[Message](WAITING, WAITING_BYTES)
        self._sending = asyncio.Lock()

    async def send(self, message: Message) -> None:
        frame = to_msgpack(message)
        async with self._sending:  # one that waits must not be overtaken
            await self._server.send(self, frame)

    def try_send(self, message: Message) -> bool:
        return self._server.try_send(self, to_msgpack(message))

    async def receive(self) -> Message:
        return await self.inbox.get()

    def deliver_to(self, sink: Callable[[Message], None]) -> None:
        self.inbox.pour(sink)

    async def close(self) -> None:
        self._server.forget(self)


class ZmqServer:
    """The listening end. Owns a context with a ROUTER, the tasks that serve it, and all peers."""

    def __init__(
        self, where: Address, context: zmq.asyncio.Context, router: zmq.Socket[bytes], handler: Handler
    ) -> None:  # fmt: skip
        self._where = where
        self._context = context
        self._router = router
        self._handler = handler
        self._peers: dict[bytes, ServerChannel] = {}
        self._closed = False
        self._handlers = TaskSet()
        self._own = TaskSet()
        self._reader = Reader(router, self._read, _failed)
        self._own.start(self._sweep())

    @property
    def address(self) -> str:
        return str(self._where)

    async def send(self, peer: ServerChannel, frame: bytes) -> None:
        """Sends to a peer; waits for it alone while its queue is full, but not for ever."""
        loop = asyncio.get_running_loop()
        patience = loop.time() + STALL_S
        # A ROUTER does not tell when one peer has room again, so it is asked now and then.
        while not self.try_send(peer, frame):
            if loop.time() > patience:
                self._drop(peer, _gone())
                raise _gone()
            await asyncio.sleep(PAUSE_S)

    def try_send(self, peer: ServerChannel, frame: bytes) -> bool:
        """Whether the peer's queue had room. Raises WorkerUnavailable where there is no such peer."""
        if self._knows(peer):
            try:
                self._router.send_multipart([peer.identity, frame], zmq.NOBLOCK)
                return True
            except zmq.Again:
                return False
            except zmq.ZMQError:  # EHOSTUNREACH
                pass
            finally:
                self._reader.look()
        self._drop(peer, _gone())
        raise _gone()

    def forget(self, peer: ServerChannel) -> None:
        """Ends a connection in good order. Idempotent."""
        if self._knows(peer):
            self._post(peer.identity, END)
            self._drop(peer, _gone(), clear=True)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for peer in list(self._peers.values()):
            self.forget(peer)
        try:
            await self._handlers.close()
            await self._own.close()
        finally:
            self._reader.stop()
            self._router.close(linger=LINGER_MS)
        # Returns when the last words have left and nothing listens any more: the address is free again.
        await asyncio.to_thread(self._context.term)
        _release(self._where)

    def _knows(self, peer: ServerChannel) -> bool:
        return self._peers.get(peer.identity) is peer

    def _drop(self, peer: ServerChannel, error: BildError, *, clear: bool = False) -> None:
        if self._knows(peer):
            del self._peers[peer.identity]
        peer.inbox.end(error, clear=clear)

    def _post(self, identity: bytes, frame: bytes) -> None:
        """Sends if it can be done at once; a peer that cannot take it finds out by itself."""
        with contextlib.suppress(zmq.ZMQError):
            self._router.send_multipart([identity, frame], zmq.NOBLOCK)
        self._reader.look()

    def _read(self, parts: list[bytes]) -> None:
        identity, *frames = parts
        try:
            self._take(identity, frames)
        except BildError as error:
            self._refuse(identity, error)

    def _take(self, identity: bytes, frames: list[bytes]) -> None:
        peer = self._peers.get(identity)
        if frames == [END]:
            if peer is not None:
                self._post(identity, END)
                self._drop(peer, _gone())
            return
        message = read(frames)
        if peer is None:
            peer = self._welcome(identity, message)
        peer.heard = asyncio.get_running_loop().time()
        if peer.inbox.full:
            raise Overloaded(f"{WAITING} messages wait to be read: send slower")
        peer.inbox.put(message, len(frames[0]))
        if isinstance(message, Bye):
            peer.inbox.end(_gone())

    def _welcome(self, identity: bytes, message: Message) -> ServerChannel:
        if not isinstance(message, Hello):
            raise RemoteProtocolError("the first message of a connection must be Hello")
        if len(self._peers) >= PEERS:
            raise crowded()
        peer = ServerChannel(self, identity, asyncio.get_running_loop().time())
        self._peers[identity] = peer
        self._handlers.start(carry(self._handler, peer))
        return peer

    def _refuse(self, identity: bytes, error: BildError) -> None:
        """Tells a peer what it did wrong and ends its connection."""
        for frame in (to_msgpack(complaint(error)), END):
            self._post(identity, frame)
        peer = self._peers.get(identity)
        if peer is not None:
            flood = isinstance(error, Overloaded)
            end = _gone("it sent faster than it was read") if flood else error
            self._drop(peer, end, clear=flood)

    async def _sweep(self) -> None:
        """Drops the silent."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            for peer in list(self._peers.values()):
                if peer.heard < loop.time() - SILENCE_S:
                    self._post(peer.identity, END)
                    self._drop(peer, _gone(f"nothing was heard for {SILENCE_S:g} s"))


async def serve(where: Address, handler: Handler) -> ZmqServer:
    """Listens on a TCP port or a path. Raises ConfigError where it cannot be had."""
    if where.scheme == "zmq+ipc":
        _claim(where)
    context = zmq.asyncio.Context()
    router = make_socket(context, zmq.ROUTER, _SERVER)
    try:
        router.bind(endpoint(where))
    except zmq.ZMQError as error:
        router.close(linger=0)
        context.term()
        if error.errno == errno.EADDRINUSE:
            raise _in_use(where) from None
        why = zmq.strerror(error.errno or 0)
        raise ConfigError(
            f"{where} cannot be listened on ({why}): choose another address"
        ) from None
    if where.scheme == "zmq":
        bound = router.getsockopt_string(zmq.LAST_ENDPOINT)
        where = Address(where.scheme, where.host, int(bound.rpartition(":")[2]))
    return ZmqServer(where, context, router, handler)


def _claim(where: Address) -> None:
    """Makes room for a Unix socket: that of a dead process is removed; nothing else is, since libzmq would."""
    path = Path(where.host)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(
                f"{where} cannot be listened on: a file is there; choose another path"
            )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            # Not waiting: a listener whose queue is full is alive too.
            probe.setblocking(False)
            probe.connect(os.fspath(path))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
        return
    except BlockingIOError:
        pass
    except OSError as error:
        why = error.strerror
        raise ConfigError(f"{where} cannot be listened on ({why}): choose another path") from None
    raise _in_use(where)


def _release(where: Address) -> None:
    # libzmq leaves the file.
    if where.scheme == "zmq+ipc":
        Path(where.host).unlink(missing_ok=True)


def _failed(error: BildError | None) -> None:
    """A ROUTER that cannot be read has been closed: its peers have heard."""


def _in_use(where: Address) -> ConfigError:
    return ConfigError(f"{where} cannot be listened on: is it in use? Choose another")


def _gone(why: str = "") -> WorkerUnavailable:
    return WorkerUnavailable(f"the orchestrator has gone{': ' if why else ''}{why}")
