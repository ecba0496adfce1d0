"""Log-probabilities of real model families against transformers' own, over every transport."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from bild_dist.config import WorkerConfig
from bild_dist.model.load import load
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.policy.rules import all_large
from bild_dist.types import Mode, Options, Result, Role, Source, TokenEvent
from bild_dist.workers.lifecycle import Worker
from tests.process.test_families import NEW, Plain
from tests.tiny import DECODER_ONLY, write_pair

WIDTH = 64
CLOSE = 1e-4
"""Nats by which passes of different shapes may differ, float32."""
SETTINGS: list[dict[str, Any]] = [
    {"mode": "large", "logprobs": 2},
    {"mode": "small", "logprobs": 2},
    {"mode": "exact", "logprobs": 20},
    {"mode": "exact", "logprobs": 1, "schedule": "overlap", "branches": 3},
    {"alpha_fb": 0.5, "alpha_rb": 1.0, "window": 3, "logprobs": 5, "schedule": "paper"},
    {"alpha_fb": 0.5, "alpha_rb": 1.0, "window": 3, "logprobs": 0, "schedule": "through"},
    {"alpha_fb": 0.5, "alpha_rb": 0.5, "logprobs": 5, "schedule": "overlap", "branches": 3},
    {"alpha_fb": 0.3, "alpha_rb": 0.2, "distance": "tv", "logprobs": 3},
    {"temperature": 1.3, "top_k": 9, "alpha_fb": 0.3, "seed": 3, "logprobs": 4},
    {"policy": "rejection", "temperature": 1.0, "window": 4, "seed": 9, "logprobs": 4},
    {"alpha_fb": 0.0, "alpha_rb": 9.0, "window": 2, "logprobs": 1},
    {"alpha_fb": 0.5, "alpha_rb": 1.0, "window": 3},
]
LISTEN = {
    "inproc": "inproc://{role}", "grpc": "grpc://127.0.0.1:0", "zmq": "zmq://127.0.0.1:0"
}  # fmt: skip


@dataclass
class Pair:
    """A tiny pair on disk, and each model without a cache."""

    folders: dict[Role, Path]
    plain: dict[Role, Plain]
    prompts: list[list[int]]
    encdec: bool


@pytest.fixture(scope="module", params=("llama", "t5"))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    family: str = request.param
    small, large = write_pair(
        tmp_path_factory.mktemp(family), family, noise=0.12, seed=3, vocabulary=WIDTH
    )
    encdec = family not in DECODER_ONLY
    torch.set_num_threads(1)
    plain = {Role.SMALL: Plain(small, large, encdec), Role.LARGE: Plain(large, large, encdec)}
    dice = torch.Generator().manual_seed(11)
    prompts = [torch.randint(3, 60, (length,), generator=dice).tolist() for length in (5, 17)]
    return Pair({Role.SMALL: small, Role.LARGE: large}, plain, prompts, encdec)


@asynccontextmanager
async def decoder(pair: Pair, transport: str) -> AsyncIterator[Decoder]:
    """Both workers in this process, behind the real transport."""
    async with AsyncExitStack() as stack:
        addresses = {}
        for role, folder in pair.folders.items():
            config = WorkerConfig(model=str(folder), max_length=90, threads=1)
            worker = Worker(partial(load, config), LISTEN[transport].format(role=role), slots=8)
            await stack.enter_async_context(worker)
            addresses[role] = worker.address
        yield await stack.enter_async_context(Decoder(addresses, concurrency=2))


def judged(pair: Pair, prompt: list[int], options: Options, events: list[TokenEvent]) -> set[str]:
    """Compares every row with the distribution from scratch. Returns the sources that occurred."""
    start = [pair.plain[Role.LARGE].generation.decoder_start_token_id] if pair.encdec else prompt
    ids = list(start)
    for event in events:
        small = event.source is Source.SMALL and not all_large(options)
        plain = pair.plain[Role.SMALL if small else Role.LARGE]
        nll = plain.predict(prompt, len(start), ids).nll
        assert event.logprob is not None
        assert abs(event.logprob + nll(event.token)) < CLOSE
        best = sorted(nll(t) for t in range(WIDTH))[: options.logprobs]
        named = [(p, -nll(t), -b) for (t, p), b in zip(event.top, best, strict=True)]
        # By value: of two that are nearly equal either may come first.
        assert all(abs(p - own) < CLOSE and abs(p - b) < CLOSE for p, own, b in named)
        ids.append(event.token)
    return {event.source.value for event in events}


@pytest.mark.parametrize("transport", ["inproc", "grpc", "zmq"])
async def test_rows_are_those_of_a_computation_without_a_cache(pair: Pair, transport: str) -> None:
    """Every mode, schedule and policy: each token's ln p and its alternatives are the deciding model's,
    behind guesses that stood and guesses that fell; who does not ask is told nothing.
    """
    found: set[str] = set()
    async with decoder(pair, transport) as running:
        for setting in SETTINGS:
            for prompt in pair.prompts:
                text = running.stream(prompt, max_new_tokens=NEW, **setting)
                events = [event async for event in text]
                result = await text.result()
                options = Options().merged(setting)
                assert told(result) == given(events, options)
                if options.logprobs is not None:
                    found |= judged(pair, prompt, options, events)
    assert {"small", "large", "fallback", "window", "rollback"} == found


def told(result: Result) -> tuple[Any, Any]:
    return result.logprobs, result.top


def given(events: list[TokenEvent], options: Options) -> tuple[Any, Any]:
    """What a result must say, by its tokens."""
    if options.logprobs is None:
        assert {(None, ())} == {(event.logprob, event.top) for event in events}
        return (), ()
    tops = tuple(event.top for event in events)
    return tuple(event.logprob for event in events), tops if options.logprobs else ()


async def test_asking_changes_no_text(pair: Pair) -> None:
    """The same tokens and sources with and without log-probabilities."""
    async with decoder(pair, "inproc") as running:
        for mode in Mode:
            plain, asked = [
                await running.generate(
                    pair.prompts[1], max_new_tokens=NEW, mode=mode, logprobs=count
                )
                for count in (None, 20)
            ]
            assert (plain.tokens, plain.sources) == (asked.tokens, asked.sources)
            assert len(asked.tokens) == len(asked.logprobs) == len(asked.top)
