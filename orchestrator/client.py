"""One connection to one worker: routes replies to requests, keeps the heartbeat, notices the end.

A worker is *dead* when its connection ends, *frozen* when its event loop does not answer a
heartbeat for `SILENT_NS`, *stuck* when one pass takes far longer than passes of its length do.
Either way every request on it is told at once, and the connection is over for good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Self, TypeAlias

from bild_dist.clock import now_ns
from bild_dist.errors import (
    BildError,
    InvalidRequest,
    RemoteProtocolError,
    WorkerUnavailable,
    revive,
)
from bild_dist.messages import (
    PROTOCOL,
    Bye,
    Chunk,
    Draft,
    Drafted,
    Encode,
    Encoded,
    Failed,
    Fetch,
    Hello,
    Info,
    Message,
    Open,
    Opened,
    Ping,
    Pong,
    Verified,
    Verify,
)
from bild_dist.transport import connect
from bild_dist.transport.base import Channel
from bild_dist.transport.outbox import Outbox
from bild_dist.types import Role

BEAT_S: Final = 0.5
SILENT_NS: Final = 2_000_000_000
"""Without an answer for so long a worker counts as frozen."""
FILE_LIMIT: Final = 256 * 1024 * 1024
"""Largest tokenizer file that is taken, bytes."""
STUCK_FACTOR: Final = 5
STUCK_FLOOR_NS: Final = 20_000_000_000
"""A pass is never called stuck before this: a busy host can slow a short one a hundredfold."""

Answer: TypeAlias = Opened | Drafted | Verified | BildError
Sink: TypeAlias = Callable[[Answer], None]


class WorkerClient:
    """The orchestrator's view of one worker. Owned by the decoder; `run` is its one long-lived
    task.

    Everything but `run` only touches queues, so a request's clean-up cannot be interrupted
    half-way.
    """

    def __init__(self, role: Role, address: str, channel: Channel, info: Info) -> None:
        self.role = role
        self.address = address
        self.info = info
        self.lost: BildError | None = None
        """Why the connection is over; None while it lives."""
        self._channel = channel
        self._outbox = Outbox(channel, self._refuse)
        self._sinks: dict[int, Sink] = {}
        self._questions: dict[int, asyncio.Future[Chunk | Encoded]] = {}
        self._pongs: dict[int, asyncio.Future[Pong]] = {}
        self._asked = 0
        self._beats = 0
        self._heard_ns = now_ns()
        self._handled = 0
        self.round_trip_ns = 0
        """Of the last heartbeat."""
        self.pong: Pong | None = None
        """That heartbeat; None before the first."""
        self._beat_sent_ns = 0

    def __repr__(self) -> str:
        state = "up" if self.lost is None else f"lost: {self.lost}"
        return f"<WorkerClient {self.role} {self.address} requests={len(self._sinks)} {state}>"

    @classmethod
    async def open(cls, role: Role, address: str, *, timeout: float) -> Self:
        """Connects and shakes hands.

        Raises:
            WorkerUnavailable: nobody answers at the address within `timeout` seconds.
            RemoteProtocolError: somebody answers who is no worker of this version.
        """
        channel = await connect(address, timeout=timeout)
        try:
            async with asyncio.timeout(timeout):
                await channel.send(Hello(protocol=PROTOCOL, client="bild-dist"))
                answer = await channel.receive()
        except TimeoutError:
            await channel.close()
            raise WorkerUnavailable(
                f"the {role} worker at {address} does not answer: is it a bild worker, and is it up?"
            ) from None
        except BaseException:
            await channel.close()
            raise
        if isinstance(answer, Info) and answer.protocol == PROTOCOL:
            return cls(role, address, channel, answer)
        await channel.close()
        if isinstance(answer, Failed):
            raise revive(answer.error, answer.message)
        raise RemoteProtocolError(
            f"{address} is no bild worker of protocol version {PROTOCOL}: install the same "
            "bild-dist on both hosts"
        )

    async def run(self) -> None:
        """Carries the connection until it is closed or lost. Never raises but for cancellation."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(part()) for part in (self._read, self._beat)]
                await self._outbox.run()
                for task in tasks:
                    task.cancel()
        except* BildError as errors:
            self._lose(_first(errors))
        finally:
            self._lose(WorkerUnavailable(f"the connection to {self._who} was closed"))
            await self._channel.close()

    @property
    def silent_ns(self) -> int:
        """For how long the worker's event loop has not answered a heartbeat."""
        return now_ns() - self._heard_ns

    def close(self) -> None:
        """Ends the connection in good order, after what is queued. `run` returns."""
        self._outbox.post(Bye(reason="done"))
        self._outbox.end()

    async def abandon(self) -> None:
        """Ends a connection whose `run` was never started."""
        if self.lost is None:
            await self._channel.close()

    def fail(self, error: BildError) -> None:
        """The worker is gone: it said so itself, or somebody who knows (the supervisor) does."""
        self._lose(error)
        self._outbox.end()

    # Requests.

    def attach(self, session: int, sink: Sink) -> None:
        """`sink` gets every answer to `session`, and at the end of the connection its error."""
        self._sinks[session] = sink

    def detach(self, session: int) -> None:
        self._sinks.pop(session, None)

    def post(self, message: Message) -> None:
        """Sends a message, or queues it; order is kept.

        Raises:
            WorkerUnavailable: the worker is lost.
        """
        if self.lost is not None:
            raise WorkerUnavailable(str(self.lost))
        self._outbox.post(message)

    async def fetch(self, name: str) -> bytes:
        """A tokenizer file of the worker. Raises InvalidRequest where it has none of that name."""
        data = b""
        while True:
            self._asked += 1
            chunk = await self._ask(Fetch(seq=self._asked, name=name, offset=len(data)))
            if not isinstance(chunk, Chunk):
                raise RemoteProtocolError(f"{self._who} answered a Fetch with something else")
            data += chunk.data
            if chunk.total > FILE_LIMIT or not (chunk.data or len(data) >= chunk.total):
                raise RemoteProtocolError(f"{self._who} sends a file {name} that is none")
            if len(data) >= chunk.total:
                return data

    async def open_slots(self) -> int:
        """How many slots the worker has given out, asked now."""
        if self.lost is not None:
            raise WorkerUnavailable(str(self.lost))
        self._ping()
        pong: asyncio.Future[Pong] = asyncio.get_running_loop().create_future()
        self._pongs[self._beats] = pong
        return (await pong).open_slots

    async def encode(self, text: str, src_lang: str, tgt_lang: str) -> Encoded:
        """Ids of a text, by a worker whose family has no fast tokenizer."""
        self._asked += 1
        encoded = await self._ask(
            Encode(seq=self._asked, text=text, src_lang=src_lang, tgt_lang=tgt_lang)
        )
        if not isinstance(encoded, Encoded):
            raise RemoteProtocolError(f"{self._who} answered an Encode with something else")
        return encoded

    async def _ask(self, message: Fetch | Encode) -> Chunk | Encoded:
        answer: asyncio.Future[Chunk | Encoded] = asyncio.get_running_loop().create_future()
        self._questions[message.seq] = answer
        try:
            self.post(message)
            return await answer
        finally:
            del self._questions[message.seq]

    # The three parts of `run`.

    def _refuse(self, message: Message, error: InvalidRequest) -> None:
        if isinstance(message, Open | Draft | Verify):
            sink = self._sinks.get(message.session)
            if sink is not None:
                sink(error)
        elif isinstance(message, Fetch | Encode):
            question = self._questions.get(message.seq)
            if question is not None and not question.done():
                question.set_exception(error)
        else:
            raise error

    async def _read(self) -> None:
        self._channel.deliver_to(self._take)
        try:
            await self._channel.receive()  # tells of the end alone
        except WorkerUnavailable as error:
            raise WorkerUnavailable(f"{self._who} is gone: {error}") from None

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        self._heard_ns = now_ns()
        while True:
            self._ping()
            planned = loop.time() + BEAT_S
            await asyncio.sleep(BEAT_S)
            if loop.time() > planned + BEAT_S:
                # It was us who stood still (a laptop's lid, SIGSTOP): the worker's answers wait in
                # the socket.
                self._heard_ns = now_ns()
            elif now_ns() - self._heard_ns > SILENT_NS:
                raise WorkerUnavailable(
                    f"{self._who} is frozen: no heartbeat for {SILENT_NS / 1e9:g} s"
                )

    def _ping(self) -> None:
        self._beats += 1
        self._beat_sent_ns = now_ns()
        self._outbox.post(Ping(count=self._beats, progress=self._handled))

    def _take(self, message: Message) -> None:
        self._handled += 1
        if isinstance(message, Opened | Drafted | Verified):
            sink = self._sinks.get(message.session)
            if sink is not None:
                sink(message)
        elif isinstance(message, Pong):
            self._on_pong(message)
        elif isinstance(message, Chunk | Encoded):
            question = self._questions.get(message.seq)
            if question is not None and not question.done():
                question.set_result(message)
        elif isinstance(message, Failed):
            self._on_failed(message)
        elif isinstance(message, Bye):
            self.fail(WorkerUnavailable(f"{self._who} has gone: {message.reason}"))
        else:
            raise RemoteProtocolError(f"{self._who} sent a {type(message).__name__}")

    def _on_pong(self, pong: Pong) -> None:
        self._heard_ns = now_ns()
        self.pong = pong
        if pong.count == self._beats:
            self.round_trip_ns = self._heard_ns - self._beat_sent_ns
        asked = self._pongs.pop(pong.count, None)
        if asked is not None and not asked.done():
            asked.set_result(pong)
        bound_ns = max(STUCK_FACTOR * pong.expected_ns, STUCK_FLOOR_NS)
        if pong.expected_ns > 0 and pong.busy_ns > bound_ns:
            self.fail(
                WorkerUnavailable(
                    f"{self._who} is stuck: one pass has taken {pong.busy_ns / 1e9:.1f} s, "
                    f"its like usually take {pong.expected_ns / 1e9:.3f} s"
                )
            )

    def _on_failed(self, failed: Failed) -> None:
        error = revive(failed.error, failed.message)
        if failed.session != 0:
            sink = self._sinks.get(failed.session)
            if sink is not None:
                sink(error)
            return
        if failed.seq == 0:
            self.fail(error)
            return
        question = self._questions.get(failed.seq)
        if question is not None and not question.done():
            question.set_exception(error)

    def _lose(self, error: BildError) -> None:
        if self.lost is not None:
            return
        self.lost = error
        for sink in list(self._sinks.values()):
            sink(error)
        waiting: list[asyncio.Future[Any]] = [*self._questions.values(), *self._pongs.values()]
        for question in waiting:
            if not question.done():
                question.set_exception(error)

    @property
    def _who(self) -> str:
        return f"the {self.role} worker at {self.address}"


def _first(errors: BaseExceptionGroup[BildError]) -> BildError:
    """The first leaf of a group that holds nothing but BildErrors."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, BildError) else WorkerUnavailable(str(error))
