"""One connection carries many requests: what is wrong with one of them is told to that one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from bild_dist.errors import BildError, InvalidRequest, RemoteProtocolError
from bild_dist.messages import PROTOCOL, Chunk, Draft, Encode, Failed, Fetch, Info, Message, Rules
from bild_dist.orchestrator.client import Answer, WorkerClient
from bild_dist.transport.mailbox import Mailbox
from bild_dist.types import Role

INFO = Info(
    protocol=PROTOCOL, model="fake", architecture="fake", kind="decoder", generation="", pid=0,
    device="cpu", dtype="float32", threads=1, slots=1, max_length=9, max_source=0, tokenizer="",
    tokenizer_size=0, encodes=True, decoder_prompt=(), rules=Rules(vocabulary=9, begin=0, limit=0),
)  # fmt: skip


class FakeChannel:
    """A wire without anything behind it: `answer` says what comes back for each message."""

    def __init__(self, answer: Callable[[Message], Message | None]) -> None:
        self._answer = answer
        self.arrived = Mailbox[Message](64, 1 << 20)

    async def send(self, message: Message) -> None:
        reply = self._answer(message)
        if reply is not None:
            self.arrived.put(reply, 1)

    def try_send(self, message: Message) -> bool:
        return False

    async def receive(self) -> Message:
        return await self.arrived.get()

    def deliver_to(self, sink: Callable[[Message], None]) -> None:
        self.arrived.pour(sink)

    async def close(self) -> None:
        pass


@asynccontextmanager
async def client(channel: FakeChannel) -> AsyncIterator[WorkerClient]:
    made = WorkerClient(Role.LARGE, "fake://", channel, INFO)
    async with asyncio.TaskGroup() as group:
        group.create_task(made.run())
        await asyncio.sleep(0)
        yield made
        made.close()


DRAFT = Draft(session=1, epoch=0, seq=1, at=0, digest=1, tokens=(1,), limit=1, stops=False, piece=0)


async def test_a_message_that_no_wire_carries_fails_its_own_request() -> None:
    """Too large, or half a character: the connection and the other requests on it go on."""

    def answer(message: Message) -> Message | None:
        if isinstance(message, Draft | Encode):
            raise InvalidRequest("larger than a wire takes")
        return None

    told: dict[int, list[Answer]] = {1: [], 2: []}
    async with client(FakeChannel(answer)) as worker:
        for session, answers in told.items():
            worker.attach(session, answers.append)
        worker.post(DRAFT)
        with pytest.raises(InvalidRequest):
            await worker.encode("\ud800", "", "")
        assert worker.lost is None
        assert isinstance(told[1][0], BildError)
        assert [] == told[2]


async def test_a_late_answer_to_nobody_is_ignored() -> None:
    """A Failed to a question that was given up speaks of that question, not of the connection."""
    channel = FakeChannel(lambda message: None)
    async with client(channel) as worker:
        channel.arrived.put(
            Failed(session=0, epoch=0, seq=7, error="InvalidRequest", message="no such language"),
            1,
        )
        await asyncio.sleep(0.01)
        assert worker.lost is None
        channel.arrived.put(
            Failed(session=0, epoch=0, seq=0, error="WorkerFault", message="device lost"),
            1,
        )
        await asyncio.sleep(0.01)
        assert worker.lost is not None


@pytest.mark.parametrize("total", [1 << 60, 5])
async def test_a_file_that_does_not_end_is_refused(total: int) -> None:
    """Neither a file without bound nor one that stops short is taken."""

    def answer(message: Message) -> Message | None:
        if isinstance(message, Fetch):
            data = b"abc" if message.offset == 0 else b""
            return Chunk(seq=message.seq, total=total, data=data)
        return None

    async with client(FakeChannel(answer)) as worker:
        with pytest.raises(RemoteProtocolError):
            await worker.fetch("tokenizer.json")
