"""A worker's side of a connection: greetings, heartbeats, files, silence, and peers that break the
rules.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bild_dist.clock import now_ns
from bild_dist.errors import WorkerUnavailable
from bild_dist.messages import (
    PROTOCOL,
    Bye,
    Chunk,
    Failed,
    Fetch,
    Hello,
    Info,
    Message,
    Open,
    Opened,
    Ping,
    Pong,
)
from bild_dist.model.toy import ToyModel
from bild_dist.transport import connect
from bild_dist.transport.base import Channel
from bild_dist.workers import service
from bild_dist.workers.lifecycle import Worker

HELLO = Hello(protocol=PROTOCOL, client="test")


@asynccontextmanager
async def worker(tmp_path: Path, spec: str = "toy:large") -> AsyncIterator[Worker]:
    async with Worker(lambda: ToyModel(spec), f"inproc://{tmp_path}", slots=2) as running:
        yield running


async def greeted(running: Worker) -> tuple[Channel, Info]:
    channel = await connect(running.address, timeout=1)
    await channel.send(HELLO)
    info = await channel.receive()
    assert isinstance(info, Info)
    return channel, info


async def test_the_greeting_says_who_the_worker_is(tmp_path: Path) -> None:
    """Info has the model's own facts and those of this start: slots, process, generation."""
    async with worker(tmp_path) as running:
        channel, info = await greeted(running)
        again, other = await greeted(running)
        assert (PROTOCOL, "decoder", 2) == (info.protocol, info.kind, info.slots)
        assert info.generation
        assert info == other
        await channel.close()
        await again.close()


@pytest.mark.parametrize(
    ("first", "needle"),
    [
        (Ping(count=1, progress=0), "must be Hello"),
        (Hello(protocol=PROTOCOL + 1, client="newer"), "install the same bild-dist"),
    ],
)
async def test_a_wrong_greeting_ends_the_connection(
    tmp_path: Path, first: Message, needle: str
) -> None:
    """No Hello, or one of another version: Failed says so in plain words, and the connection
    ends.
    """
    async with worker(tmp_path) as running:
        channel = await connect(running.address, timeout=1)
        await channel.send(first)
        answer = await channel.receive()
        assert isinstance(answer, Failed)
        assert "RemoteProtocolError" == answer.error
        assert needle in answer.message
        with pytest.raises(WorkerUnavailable):
            await channel.receive()
        healthy, _ = await greeted(running)
        await healthy.close()


async def test_a_message_that_workers_do_not_take_ends_the_connection(tmp_path: Path) -> None:
    """An answer where a question belongs is a bug of the peer; others are not disturbed."""
    async with worker(tmp_path) as running:
        healthy, _ = await greeted(running)
        channel, _ = await greeted(running)
        await channel.send(Opened(session=1, epoch=0, seq=1))
        assert isinstance(await channel.receive(), Failed)
        with pytest.raises(WorkerUnavailable):
            await channel.receive()
        await healthy.send(Ping(count=1, progress=0))
        assert isinstance(await healthy.receive(), Pong)
        await healthy.close()


async def test_heartbeats_are_answered_while_a_pass_runs(tmp_path: Path) -> None:
    """The answer comes during the pass, says how long it has run, and progress grows behind it."""
    async with worker(tmp_path, "toy:large?ms=300") as running:
        channel, info = await greeted(running)
        rules = info.rules
        ids = tuple(range(65, 70))
        await channel.send(
            Open(
                session=1,
                epoch=0,
                seq=1,
                ids=ids,
                source=(),
                rules=type(rules)(vocabulary=rules.vocabulary, begin=5, limit=20),
            )
        )
        assert isinstance(await channel.receive(), Opened)
        asked_ns = now_ns()
        for count in range(1, 200):
            await channel.send(Ping(count=count, progress=0))
            pong = await channel.receive()
            assert isinstance(pong, Pong)
            if pong.busy_ns > 0:
                break
        assert isinstance(pong, Pong)
        assert 0 < pong.busy_ns < 300_000_000
        assert now_ns() - asked_ns < 300_000_000
        assert 1 == pong.open_slots
        await channel.close()


async def test_files_come_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer file is fetched piece by piece; the last piece is where the total says."""
    monkeypatch.setattr(service, "CHUNK", 100)
    async with worker(tmp_path) as running:
        channel, _ = await greeted(running)
        data, total = b"", 1
        while len(data) < total:
            await channel.send(Fetch(seq=len(data) + 1, name="tokenizer.json", offset=len(data)))
            chunk = await channel.receive()
            assert isinstance(chunk, Chunk)
            assert len(data) + 1 == chunk.seq
            assert len(chunk.data) <= 100
            data, total = data + chunk.data, chunk.total
        assert "model" in json.loads(data)
        for name, offset in (
            ("../secret", 0),
            ("tokenizer.json", -1),
            ("tokenizer.json", total + 1),
        ):
            await channel.send(Fetch(seq=9, name=name, offset=offset))
            answer = await channel.receive()
            assert isinstance(answer, Failed)
            assert ("InvalidRequest", 9) == (answer.error, answer.seq)
        await channel.close()


async def test_silence_frees_the_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer of which nothing is heard loses its connection, and its slots serve others."""
    monkeypatch.setattr(service, "SILENCE_S", 0.05)
    async with worker(tmp_path) as running:
        channel, info = await greeted(running)
        rules = type(info.rules)(vocabulary=257, begin=1, limit=9)
        await channel.send(Open(session=1, epoch=0, seq=1, ids=(65,), source=(), rules=rules))
        assert isinstance(await channel.receive(), Opened)
        answer = await channel.receive()
        assert isinstance(answer, Failed)
        assert "heard nothing of this orchestrator" in answer.message
        monkeypatch.setattr(service, "SILENCE_S", 10)
        other, _ = await greeted(running)
        pong: Message | None = None
        while not (isinstance(pong, Pong) and pong.open_slots == 0):
            await other.send(Ping(count=1, progress=0))
            pong = await other.receive()
        await other.close()


async def test_a_worker_that_stops_says_goodbye(tmp_path: Path) -> None:
    """Every orchestrator gets a Bye with the reason before its connection ends."""
    async with worker(tmp_path) as running:
        channel, _ = await greeted(running)
    assert Bye(reason="the worker was stopped") == await channel.receive()
    with pytest.raises(WorkerUnavailable):
        await channel.receive()


async def test_a_failed_engine_is_told_to_everybody(tmp_path: Path) -> None:
    """A device that fails ends every connection with a WorkerFault, and the worker wants to go."""
    model = ToyModel("toy:large")

    async with Worker(lambda: model, f"inproc://{tmp_path}", slots=2) as running:
        channel, _ = await greeted(running)

        def broken(*_: object) -> None:
            raise RuntimeError("device lost")

        model.open = broken  # type: ignore[method-assign, assignment]
        rules = type(running.info.rules)(vocabulary=257, begin=1, limit=9)
        await channel.send(Open(session=1, epoch=0, seq=1, ids=(65,), source=(), rules=rules))
        assert isinstance(await channel.receive(), Opened)
        answer = await channel.receive()
        assert isinstance(answer, Failed)
        assert ("WorkerFault", 0) == (answer.error, answer.session)
        async with asyncio.timeout(5):
            await running.over.wait()
