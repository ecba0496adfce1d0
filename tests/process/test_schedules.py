"""The schedules over real processes: one text, whatever overlaps."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from functools import partial

import pytest

import bild_dist
from bild_dist.model.toy import ToyModel
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.types import Role, Schedule, Source
from bild_dist.workers.lifecycle import Worker

TOY = "seed=4&f=0.25&q=0.5&rho=0.05&end=0.01"
PROMPTS = [f"prompt {i}" for i in range(6)]


async def held(decoder: Decoder) -> list[int]:
    """How many slots each worker has open in the end; the last Close may wait for a pass."""
    found = [1]
    with suppress(TimeoutError):
        async with asyncio.timeout(5):
            while any(found):
                found = [await worker.open_slots() for worker in decoder.workers.values()]
                await asyncio.sleep(0.02)
    return found


@pytest.mark.process
@pytest.mark.parametrize("transport", ["zmq", "grpc"])
async def test_schedules_write_one_text(transport: str) -> None:
    """Six requests at once on four slots, two of them with a second guess: tokens and sources are
    those of `paper`, one at a time, and every slot is given back.
    """
    small, large = f"toy:small?{TOY}&ms=1", f"toy:large?{TOY}&ms=4"
    async with bild_dist.launch(small, large, transport=transport, concurrency=4) as decoder:
        expected = [
            await decoder.generate(prompt, schedule="paper", max_new_tokens=40)
            for prompt in PROMPTS
        ]
        for schedule, branches in [(s, b) for s in Schedule for b in (1, 2)]:
            texts = [
                decoder.stream(prompt, schedule=schedule, branches=branches, max_new_tokens=40)
                for prompt in PROMPTS
            ]
            for text, want in zip(texts, expected, strict=True):
                got = await text.result()
                assert (want.tokens, want.sources) == (got.tokens, got.sources), schedule
                assert got.trace.drafted >= got.trace.wasted >= 0
        assert await held(decoder) == [0, 0]


@pytest.mark.parametrize("concurrency", [4, 8, 16])
@pytest.mark.parametrize("encdec", [0, 1])
async def test_many_at_once_write_what_each_writes_alone(concurrency: int, encdec: int) -> None:
    """On every schedule, with passes that grow by the token, shared and not: the same tokens from the
    same sources, and every slot is given back.
    """
    toy = f"{TOY}&encdec={encdec}&grow=0.02&ms=1"
    prompts = [f"{i} {'a long prompt ' * (i % 5 * 12)}" for i in range(concurrency)]
    expected: list[tuple[tuple[int, ...], tuple[Source, ...]]] = []
    for batch in (0, 1):
        names = [f"toy:{role}?{toy}&batch={batch}" for role in ("small", "large")]
        workers = [
            Worker(partial(ToyModel, name), f"inproc://many-{role}", slots=concurrency)
            for name, role in zip(names, Role, strict=True)
        ]
        async with AsyncExitStack() as stack:
            for worker in workers:
                await stack.enter_async_context(worker)
            assert ("ragged" if batch else "single") == workers[0].info.batching
            addresses = dict(zip(Role, [worker.address for worker in workers], strict=True))
            decoder = await stack.enter_async_context(Decoder(addresses, concurrency=concurrency))
            if not batch:
                for prompt in prompts:
                    result = await decoder.generate(prompt, max_new_tokens=24)
                    expected.append((result.tokens, result.sources))
            for schedule in Schedule:
                texts = [
                    decoder.stream(prompt, schedule=schedule, max_new_tokens=24)
                    for prompt in prompts
                ]
                found = [await text.result() for text in texts]
                assert expected == [(r.tokens, r.sources) for r in found], (schedule, batch)
            assert await held(decoder) == [0, 0]


@pytest.mark.process
async def test_cancelled_texts_leave_nothing_behind() -> None:
    """A text that is dropped while its draft runs ahead gives its slots back, spare ones too."""
    small, large = f"toy:small?{TOY}&end=0&ms=2", f"toy:large?{TOY}&end=0&ms=8"
    async with bild_dist.launch(small, large, concurrency=4) as decoder:
        for number in range(12):
            text = decoder.stream("stop me", schedule="overlap", branches=2, max_new_tokens=200)
            for _ in range(number % 4):
                await anext(text)
            await text.aclose()
        assert await held(decoder) == [0, 0]
