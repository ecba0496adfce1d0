"""Sampling through the whole system: every text is the one that its seed, its options and the two
models define, whatever carries it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import bild_dist
from bild_dist.config import WorkerConfig
from bild_dist.model.load import load
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.types import Options, Role
from bild_dist.workers.lifecycle import Worker
from tests.oracle import Predictor, Reference, reference
from tests.process.test_families import NEAR, NEW, Plain
from tests.tiny import DECODER_ONLY, write_pair

FAMILIES = ("llama", "t5", "marian", "m2m100")
WIDTH = 64
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 1.0, "alpha_fb": 0.3, "alpha_rb": 2.0},
    {"temperature": 0.6, "alpha_fb": 0.5, "alpha_rb": 1.0, "window": 3, "seed": 2**63 - 1},
    {"temperature": 1.4, "top_k": 5, "alpha_fb": 0.4, "alpha_rb": 0.5, "seed": 1},
    {"temperature": 1.0, "top_p": 0.9, "alpha_fb": 0.3, "alpha_rb": 1.0, "first": "large", "seed": 2},
    {"temperature": 2.0, "top_k": 20, "top_p": 0.8, "alpha_fb": 0.3, "seed": 3, "schedule": "through"},
    {"temperature": 1.0, "alpha_fb": 0.3, "alpha_rb": 1.0, "seed": 4, "schedule": "overlap"},
    {"temperature": 0.9, "top_k": 9, "seed": 5, "schedule": "overlap", "branches": 3},
    {"temperature": 1.0, "top_p": 0.95, "seed": 6, "mode": "exact", "schedule": "overlap", "branches": 2},
    {"temperature": 1.0, "seed": 7, "mode": "exact", "window": 4},
    {"temperature": 1.0, "seed": 7, "mode": "large"},
    {"temperature": 0.8, "top_k": 10, "seed": 8, "mode": "small"},
    {"schedule": "overlap", "branches": 3, "alpha_fb": 0.5},
    {"policy": "rejection", "temperature": 1.0, "window": 4, "seed": 9},
    {"policy": "rejection", "temperature": 0.8, "top_k": 6, "top_p": 0.9, "window": 10, "seed": 10},
    {"policy": "rejection", "window": 3, "first": "large"},
    {"confidence": "product", "alpha_fb": 0.2, "alpha_rb": 1.0, "schedule": "overlap", "branches": 3},
    {"confidence": "margin", "alpha_fb": 0.3, "distance": "kl", "alpha_rb": 0.5, "schedule": "through"},
    {"confidence": "entropy", "alpha_fb": 0.3, "distance": "tv", "alpha_rb": 0.2, "temperature": 1.0,
     "schedule": "overlap", "branches": 2, "seed": 11},
    {"adapt": 0.3, "distance": "l2", "alpha_rb": 0.2, "schedule": "overlap", "branches": 3},
]  # fmt: skip
CASES = [
    (family, transport, concurrency)
    for family in FAMILIES
    for transport in ("inproc", "grpc", "zmq")
    for concurrency in (1, 4)
    # Over the sockets one at a time adds nothing but the sockets: two families will do.
    if concurrency > 1 or transport == "inproc" or family in ("llama", "t5")
]
LISTEN = {
    "inproc": "inproc://{role}", "grpc": "grpc://127.0.0.1:0", "zmq": "zmq://127.0.0.1:0"
}  # fmt: skip


@dataclass
class Pair:
    """A tiny pair on disk and what its texts must be."""

    folders: dict[Role, Path]
    prompts: list[list[int]]
    expected: dict[tuple[int, int], Reference] = field(default_factory=dict)


def predictor(plain: Plain, source: list[int], begin: int) -> Predictor:
    return lambda ids: replace(plain.predict(source, begin, ids), width=WIDTH)


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    family: str = request.param
    # A little flatter than for greedy texts, so that noise has something to choose from.
    small, large = write_pair(
        tmp_path_factory.mktemp(family), family, noise=0.12, seed=3, spread=3.0, vocabulary=WIDTH
    )
    encdec = family not in DECODER_ONLY
    torch.set_num_threads(1)
    plain = Plain(small, large, encdec), Plain(large, large, encdec)
    ends = plain[1].generation.eos_token_id
    dice = torch.Generator().manual_seed(11)
    prompts = [torch.randint(3, 60, (length,), generator=dice).tolist() for length in (6, 17)]
    made = Pair({Role.SMALL: small, Role.LARGE: large}, prompts)
    for p, ids in enumerate(prompts):
        start = [plain[1].generation.decoder_start_token_id] if encdec else ids
        for s, setting in enumerate(SETTINGS):
            made.expected[p, s] = reference(
                predictor(plain[0], ids, len(start)), predictor(plain[1], ids, len(start)), start,
                Options().merged(setting), max_new_tokens=NEW,
                end_ids=ends if isinstance(ends, list) else [ends],
            )  # fmt: skip
    return made


@asynccontextmanager
async def decoder(pair: Pair, transport: str, concurrency: int) -> AsyncIterator[Decoder]:
    """Both workers in this process, behind the real transport."""
    async with AsyncExitStack() as stack:
        addresses = {}
        for role, folder in pair.folders.items():
            config = WorkerConfig(model=str(folder), max_length=90, threads=1)
            worker = Worker(partial(load, config), LISTEN[transport].format(role=role), slots=8)
            await stack.enter_async_context(worker)
            addresses[role] = worker.address
        yield await stack.enter_async_context(Decoder(addresses, concurrency=concurrency))


async def differences(pair: Pair, decoder: Decoder) -> list[tuple[int, int]]:
    """Which texts are not those of the definition, near-ties left aside."""
    found = []
    texts = {
        (p, s): decoder.stream(pair.prompts[p], max_new_tokens=NEW, **SETTINGS[s])
        for p, s in pair.expected
    }
    for key, text in texts.items():
        result, expected = await text.result(), pair.expected[key]
        got = list(result.tokens), [source.value for source in result.sources], result.finish_reason
        if got != (expected.tokens, expected.sources, expected.reason) and expected.closest > NEAR:
            found.append(key)
    return found


@pytest.mark.parametrize(
    ("pair", "transport", "concurrency"), CASES, indirect=["pair"], scope="module"
)
async def test_sampled_texts_are_those_of_the_definition(
    pair: Pair, transport: str, concurrency: int
) -> None:
    """Two prompts at 19 settings, all modes, schedules, policies, measures and second guesses: each text
    and each source is that of the cache-free computation with the same seed.
    """
    async with decoder(pair, transport, concurrency) as running:
        assert await differences(pair, running) == []


def test_the_comparison_compares_something(pair: Pair) -> None:
    """Hardly a near-tie anywhere, every row of the table occurs, and noise changes the texts."""
    near = sum(expected.closest <= NEAR for expected in pair.expected.values())
    assert near <= 1
    sources = {source for expected in pair.expected.values() for source in expected.sources}
    assert {"small", "fallback", "rollback"} <= sources
    assert len({tuple(expected.tokens) for expected in pair.expected.values()}) > 12


TOYS = ("toy:small?seed=2&f=0.3", "toy:large?seed=2&f=0.3")


async def test_the_seed_decides() -> None:
    """Same seed, same text, as often as one asks; another seed, another text; top_k = 1 is greedy
    under any seed.
    """
    async with bild_dist.launch(*TOYS, transport="inproc", concurrency=4) as running:
        ask = partial(running.stream, "Why is the sea salty?", max_new_tokens=24)
        greedy = await ask().result()
        first = [ask(temperature=1.5, seed=seed) for seed in (1, 2, 1, 3, 1)]
        same = [tuple((await text.result()).tokens) for text in first]
        narrow = [await ask(temperature=3, top_k=1, seed=seed).result() for seed in (1, 2)]
    assert same[0] == same[2] == same[4]
    assert len({*same, greedy.tokens}) == 4
    assert [greedy.tokens] * 2 == [text.tokens for text in narrow]


@pytest.mark.process
async def test_two_processes_draw_what_one_draws() -> None:
    """Workers in processes of their own give the texts of workers in this one."""
    seeds = range(4)
    texts = []
    for transport in ("inproc", "grpc", "zmq"):
        async with bild_dist.launch(*TOYS, transport=transport, concurrency=4) as running:
            under_way = [
                running.stream("Tell me more.", max_new_tokens=24, temperature=1.1, top_p=0.9, seed=s)
                for s in seeds
            ]  # fmt: skip
            texts.append([(await text.result()).tokens for text in under_way])
    assert texts[0] == texts[1] == texts[2]
    assert len(set(texts[0])) == len(seeds)
