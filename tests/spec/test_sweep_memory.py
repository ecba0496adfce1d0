"""The memory of passes: the same texts as without it, and nothing computed twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bild_dist.app import inproc
from bild_dist.config import Config
from bild_dist.errors import ConfigError
from bild_dist.evaluation.sweep.memory import Memory, Remembered
from bild_dist.evaluation.sweep.pair import remembered
from bild_dist.evaluation.sweep.reading import read
from bild_dist.messages import Rules
from bild_dist.model.base import Pass
from bild_dist.orchestrator.prompt import prepare
from bild_dist.types import Options, Role, Schedule
from tests.drive import PredictorModel, scripted
from tests.tiny import write_pair

PROMPTS = ([5, 9, 17, 30], [8, 8, 21])
SETTINGS: list[dict[str, Any]] = [
    {"alpha_fb": fb, "alpha_rb": rb, "window": window, "schedule": schedule}
    for fb, rb, window, schedule in (
        (0.3, 1.0, 10, "paper"), (0.6, 4.0, 3, "through"), (0.9, 0.0, 10, "overlap"),
    )
]  # fmt: skip


def config(folder: Path, family: str) -> Config:
    torch.set_num_threads(1)
    small, large = write_pair(folder, family, noise=0.2)
    return Config().overlaid(
        small={"model": str(small), "threads": 1}, large={"model": str(large), "threads": 1},
        orchestrator={"transport": "inproc"}, generate={"max_new_tokens": 12},
    )  # fmt: skip


@pytest.mark.parametrize("family", ["llama", "t5"])
async def test_texts_over_a_memory_are_the_texts(tmp_path: Path, family: str) -> None:
    """Token by token, source by source, for every setting and schedule, with an encoder and without:
    otherwise the quality of a sweep would be that of another decoder.
    """
    pair = config(tmp_path, family)
    memory = Memory()
    async with inproc(pair) as plain, remembered(pair, memory) as known:
        for prompt in PROMPTS:
            for options in (*SETTINGS, {"mode": "exact"}):
                expected = await plain.generate(prompt, **options)
                found = await known.decoder.generate(prompt, **options)
                assert (found.tokens, found.sources) == (expected.tokens, expected.sources)
                assert found.text == expected.text
                assert found.finish_reason is expected.finish_reason
    assert all(memory.known[role] > 0 for role in Role)


async def test_a_text_that_is_known_runs_no_model(tmp_path: Path) -> None:
    """Written a second time it costs no pass of either model, not even the encoder's."""
    memory = Memory()
    async with remembered(config(tmp_path, "t5"), memory) as known:
        first = await known.decoder.generate(PROMPTS[0], **SETTINGS[0])
        computed = dict(memory.computed)
        again = await known.decoder.generate(PROMPTS[0], **SETTINGS[0])
    assert again.tokens == first.tokens
    assert memory.computed == computed


async def test_a_reading_says_what_both_models_would_write(tmp_path: Path) -> None:
    """Read behind the large model's own text, its draws are that text, whatever the small one says:
    a recording is what the models said, position by position.
    """
    pair = config(tmp_path, "llama")
    async with remembered(pair, Memory()) as known:
        decoder = known.decoder
        assert decoder.text is not None
        own = await decoder.generate(PROMPTS[1], mode="large")
        small = await decoder.generate(PROMPTS[1], mode="small")
        work = await prepare(PROMPTS[1], pair.generate, decoder.workers, decoder.text)
        reading = read("a", work, own.tokens, known.models)
        other = read("b", work, small.tokens, known.models)
    assert reading.large == own.tokens
    assert other.small == small.tokens
    for at in range(len(reading)):
        assert 0 <= reading.margin[at] <= reading.confidence[at] <= 1
        assert reading.distance[at] >= reading.top[at] - 1e-4
        if reading.small[at] == reading.large[at]:
            assert reading.distance[at] == pytest.approx(reading.top[at], abs=1e-4)


def rules(limit: int = 20, **changes: float) -> Rules:
    return Rules(vocabulary=12, begin=1, limit=limit, end_ids=(0,), **changes)  # type: ignore[arg-type]


def test_rules_are_part_of_the_key() -> None:
    """What was said under other rules is no answer: a suppressed token must not come back."""
    memory = Memory()
    model = Remembered(PredictorModel(scripted(1)), Role.SMALL, memory)
    model.allocate(1)
    for limit in (20, 21, 20):
        model.open(0, (), rules(limit))
        model.forward(Pass(0, 0, [3, 4], 1))
    assert (memory.computed[Role.SMALL], memory.known[Role.SMALL]) == (2, 1)


def test_what_was_not_asked_before_goes_to_the_model() -> None:
    """A judged token of which nothing is known, or more candidates than were named, are computed."""
    memory = Memory()
    plain = PredictorModel(scripted(1))
    plain.allocate(1)
    plain.open(0, (), rules())
    model = Remembered(PredictorModel(scripted(1)), Role.LARGE, memory)
    model.allocate(1)
    model.open(0, (), rules())
    for judged in (5, 7, 5):
        expected = plain.forward(Pass(0, 0, [3, 4, 6], 2, judge=(judged,)))
        assert model.forward(Pass(0, 0, [3, 4, 6], 2, judge=(judged,)))[0] == expected[0]
    assert (memory.computed[Role.LARGE], memory.known[Role.LARGE]) == (2, 1)


def test_draws_with_noise_are_refused() -> None:
    """A sweep compares thresholds, not luck."""
    model = Remembered(PredictorModel(scripted(1)), Role.SMALL, Memory())
    with pytest.raises(ConfigError, match="temperature"):
        model.open(0, (), rules(temperature=1.0))


def test_the_options_of_these_tests_differ() -> None:
    """All three schedules take part."""
    assert {Options().merged(options).schedule for options in SETTINGS} == set(Schedule)
