"""ZeroMQ: DEALER to ROUTER, one msgpack frame a message, over TCP or a Unix socket. This side is the DEALER.

ZeroMQ alone would queue messages to the dead and drop them for strangers without a word. So: nothing is queued before
the handshake, the socket's monitor tells of a lost peer, and there is no silent reconnection. An empty frame ends a
connection in good order and is answered by another, so that a close knows that everything before it has arrived.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from bild_dist.errors import BildError, ConfigError, RemoteProtocolError, WorkerUnavailable
from bild_dist.messages import MAX_FRAME, Message
from bild_dist.tasks import TaskSet
from bild_dist.transport.address import Address
from bild_dist.transport.mailbox import Mailbox
from bild_dist.transport.zmq_reader import Reader
from bild_dist.wire.codec import from_msgpack, to_msgpack

WAITING: Final = 1024
"""Messages that may wait for whoever receives. Who lets more of them wait loses the connection."""
WAITING_BYTES: Final = 8 * 1024 * 1024
RETRY_S: Final = 0.05
"""Between two attempts to connect."""
CLOSE_S: Final = 0.5
"""How long a close waits for the peer's answer."""
STALL_S: Final = 2.0
"""A peer that takes no message for so long has gone."""
PAUSE_S: Final = 0.001
"""Between two attempts to send to a full queue."""
END: Final = b""

_OPTIONS: Final = {
    zmq.LINGER: 0,
    # Only what the network has not taken yet: the mailboxes hold the rest. Each message may have MAX_FRAME bytes.
    zmq.SNDHWM: 32,
    zmq.MAXMSGSIZE: MAX_FRAME,
    zmq.IPV6: 1,
}
# libzmq 4.3.5 aborts the process (`!_io_error`) when a heartbeat falls due on a connection whose peer has gone while
# the receive queue was full. So only this side sends heartbeats (the other answers them unasked), and only this side's
# receive queue has no limit: the reader empties it all the time, and leaves when nobody takes the messages.
_CLIENT: Final = {
    zmq.RCVHWM: 0,
    zmq.HEARTBEAT_IVL: 500,
    zmq.HEARTBEAT_TIMEOUT: 1500,
    zmq.IMMEDIATE: 1,
    zmq.RECONNECT_IVL: -1,
}
_NO_HANDSHAKE: Final = (
    zmq.EVENT_CLOSED,
    zmq.EVENT_DISCONNECTED,
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
)


class ClientChannel:
    """The orchestrator's end. Owns a DEALER and its monitor.

    The DEALER is read in the turn of the loop that finds it readable, and written in the turn of whoever sends:
    pyzmq's asyncio sockets cost two thirds more time a round trip (160 against 106 us, two processes on two cores).
    """

    def __init__(self, dealer: zmq.Socket[bytes], monitor: Any, where: Address) -> None:
        self._dealer = dealer
        self._monitor = monitor
        self._where = where
        self._inbox = Mailbox[Message](WAITING, WAITING_BYTES)
        self._sending = asyncio.Lock()
        self._over: WorkerUnavailable | None = None
        self._closed = False
        self._reader = Reader(dealer, self._take, self._failed)
        self._tasks = TaskSet()
        self._tasks.start(self._watch())

    async def send(self, message: Message) -> None:
        frame = to_msgpack(message)
        async with self._sending:  # one that waits must not be overtaken
            waited = 0.0
            while waited < STALL_S:
                if self._send(frame):
                    return
                await asyncio.sleep(PAUSE_S)
                waited += PAUSE_S
            self._finish(self._ended("the worker takes no messages"))
            raise self._ended("the worker takes no messages")

    def try_send(self, message: Message) -> bool:
        return self._send(to_msgpack(message))

    def _send(self, frame: bytes) -> bool:
        """Whether the queue had room. Raises WorkerUnavailable when the connection is over."""
        if self._over is not None:
            raise self._over.with_traceback(None)
        try:
            self._dealer.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError:
            self._finish(self._ended("the worker takes no messages"))
            raise self._ended("the worker takes no messages") from None
        finally:
            self._reader.look()
        return True

    async def receive(self) -> Message:
        return await self._inbox.get()

    def deliver_to(self, sink: Callable[[Message], None]) -> None:
        self._inbox.pour(sink)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        lost = self._over is not None
        self._over = self._over or self._ended()
        self._inbox.end(self._over, clear=True)
        try:
            with contextlib.suppress(zmq.ZMQError, TimeoutError):
                if not lost:
                    try:
                        self._dealer.send(END, zmq.NOBLOCK)
                    finally:
                        self._reader.look()
                    async with asyncio.timeout(CLOSE_S):
                        await self._reader.ended.wait()
        finally:
            try:
                await self._tasks.close()
            finally:
                self._reader.stop()
                _discard(self._dealer, self._monitor)

    async def _watch(self) -> None:
        while (await recv_monitor_message(self._monitor))["event"] != zmq.EVENT_DISCONNECTED:
            pass
        # Nothing more will come. What came before the end is still taken, in order.
        self._reader.drain()
        self._finish(self._ended("the worker is dead or frozen"))

    def _take(self, frames: list[bytes]) -> None:
        if frames == [END]:
            raise self._ended()
        if self._inbox.full:
            raise self._ended(f"{WAITING} messages of the worker wait and nobody receives them")
        self._inbox.put(read(frames), len(frames[0]))

    def _failed(self, error: BildError | None) -> None:
        self._finish(self._ended() if error is None else error)

    def _finish(self, error: BildError) -> None:
        """Nothing more is sent or taken; what came before `error` can still be received."""
        if self._over is None:
            self._over = error if isinstance(error, WorkerUnavailable) else self._ended(str(error))
            # Nobody reads any more, so nothing may arrive any more.
            with contextlib.suppress(zmq.ZMQError):
                self._dealer.disconnect(endpoint(self._where))
        self._reader.stop()
        self._inbox.end(error)

    def _ended(self, why: str = "") -> WorkerUnavailable:
        reason = f": {why}" if why else ""
        return WorkerUnavailable(f"the connection to {self._where} has ended{reason}")


async def connect(where: Address, timeout: float) -> ClientChannel:
    """Connects within `timeout` seconds, or raises WorkerUnavailable."""
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
    dealer = make_socket(zmq.asyncio.Context.instance(), zmq.DEALER, _CLIENT)
    # Of the kind that its context makes: one to be awaited.
    monitor: Any = dealer.get_monitor_socket()
    try:
        dealer.connect(endpoint(where))
        while (event := (await recv_monitor_message(monitor))["event"]) not in _NO_HANDSHAKE:
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return ClientChannel(dealer, monitor, where)
    except zmq.ZMQError as error:
        _discard(dealer, monitor)
        _refuse(where, error)
    except BaseException:
        _discard(dealer, monitor)
        raise
    _discard(dealer, monitor)
    return None


def _refuse(where: Address, error: zmq.ZMQError) -> NoReturn:
    raise ConfigError(
        f"{where} cannot be connected to ({zmq.strerror(error.errno or 0)}): correct the address"
    )


def _discard(dealer: zmq.Socket[bytes], monitor: Any) -> None:
    dealer.disable_monitor()
    monitor.close(linger=0)
    dealer.close(linger=0)


def make_socket(
    context: zmq.asyncio.Context, kind: int, options: Mapping[zmq.SocketOption, int]
) -> zmq.Socket[bytes]:
    """A socket with the settings of both sides, and some of its own. A plain one: see `Reader`."""
    made: zmq.Socket[bytes] = zmq.Socket(context, kind)
    for option, value in (_OPTIONS | dict(options)).items():
        made.setsockopt(option, value)
    return made


def endpoint(where: Address) -> str:
    """The address as libzmq writes it."""
    if where.scheme == "zmq+ipc":
        return f"ipc://{Path(where.host)}"
    return f"tcp://{where.host_port}"


def read(frames: list[bytes]) -> Message:
    """The message in the frames that arrived together. Raises RemoteProtocolError where there is none."""
    if len(frames) != 1:
        raise RemoteProtocolError(f"a message is one frame, not {len(frames)}")
    return from_msgpack(frames[0])
