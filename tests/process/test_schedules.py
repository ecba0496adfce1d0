"""The schedules over real processes: one text, whatever overlaps."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

import bild_dist
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.types import Schedule

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
