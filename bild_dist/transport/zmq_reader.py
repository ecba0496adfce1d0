"""Reads a ZeroMQ socket in the turn of the event loop that finds it readable: no task, no future."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

from bild_dist.errors import BildError


class Reader:
    """Gives what arrives at a socket to `take`, in order. Owned by the socket's owner, on its loop.

    Ends when `take` raises a BildError or the socket fails: `failed` is told, with the error of the first. The file
    descriptor of a ZeroMQ socket speaks only once about any number of messages, and may do so during any call on the
    socket: so it is read until nothing is there, and whoever has tried to send must call `look`, in vain or not.
    """

    def __init__(
        self,
        source: zmq.Socket[bytes],
        take: Callable[[list[bytes]], None],
        failed: Callable[[BildError | None], None],
    ) -> None:
        self.ended = asyncio.Event()
        self._source = source
        self._take = take
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._due = False
        """Whether a turn is planned already."""
        self._descriptor = int(source.get(zmq.FD))
        self._loop.add_reader(self._descriptor, self._read)
        self.look()

    def look(self) -> None:
        """Plans a turn if something is there. To be called after every attempt to send."""
        if not (self._due or self._source.closed) and self._arrived():
            self._due = True
            self._loop.call_soon(self._read)

    def drain(self) -> None:
        """Reads all that is there, now."""
        while self._arrived():
            self._read()

    def stop(self) -> None:
        """Reads no more. Idempotent."""
        if not self.ended.is_set():
            self.ended.set()
            self._loop.remove_reader(self._descriptor)

    def _read(self) -> None:
        self._due = False
        try:
            if self._arrived():
                self._take(self._source.recv_multipart(zmq.NOBLOCK))
                # One message a turn: a flood must leave the others theirs, first of all who takes the messages.
                self.look()
        except BildError as error:
            self._end(error)
        except zmq.ZMQError:
            self._end(None)

    def _arrived(self) -> bool:
        return not self.ended.is_set() and bool(int(self._source.get(zmq.EVENTS)) & zmq.POLLIN)

    def _end(self, error: BildError | None) -> None:
        self.stop()
        self._failed(error)
