"""Baselines are settings of the same decoder: each writes what its name says."""

from __future__ import annotations

from itertools import groupby

import pytest

from bild_dist.errors import InvalidRequest
from bild_dist.messages import Rules
from bild_dist.policy.baselines import BASELINES, baseline
from bild_dist.policy.events import Token
from bild_dist.policy.machine import Machine
from bild_dist.types import Options, Schedule, Source
from tests.drive import END, VOCABULARY, HandWorker, play, scripted
from tests.oracle import reference

PROMPT = [3, 1, 4]
NEW = 40


def text(options: Options, seed: int, ends: tuple[int, ...] = (END,)) -> list[Token]:
    rules = Rules(vocabulary=VOCABULARY, begin=len(PROMPT), limit=len(PROMPT) + NEW, end_ids=ends)
    large = scripted(seed)
    small = scripted(100 + seed, large)
    machine = Machine(1, PROMPT, (), rules, options)
    tokens, finish = play(machine, HandWorker(small), HandWorker(large))
    assert finish.error is None
    expected = reference(small, large, PROMPT, options, end_ids=ends, max_new_tokens=NEW)
    assert expected.tokens == [t.token for t in tokens]
    assert expected.sources == [t.source.value for t in tokens]
    return tokens


@pytest.mark.parametrize("schedule", list(Schedule))
def test_without_rollback_every_small_token_stands(schedule: Schedule) -> None:
    """An infinite alpha_rb replaces nothing, where the same setting with a finite one does."""
    setting = Options(alpha_fb=0.3, alpha_rb=1.0, schedule=schedule)
    plain = [t.source for seed in range(8) for t in text(setting, seed)]
    without = [t.source for seed in range(8) for t in text(baseline("no rollback", setting), seed)]
    assert Source.ROLLBACK in plain
    assert Source.ROLLBACK not in without
    assert {Source.SMALL, Source.FALLBACK} <= set(without)


@pytest.mark.parametrize("schedule", list(Schedule))
@pytest.mark.parametrize("window", [1, 3, 10])
def test_without_fallback_the_large_model_writes_every_nth_token(
    window: int, schedule: Schedule
) -> None:
    """With alpha_fb = 0 and nothing rolled back, n small tokens and one large one take turns."""
    setting = Options(alpha_rb=1.0, window=window, schedule=schedule)
    without = baseline("no fallback", setting)
    never = baseline("no rollback", without)
    sources = [t.source for t in text(never, 5, ends=())]
    runs = [(source, len(list(group))) for source, group in groupby(sources)]
    whole = [(Source.SMALL, window), (Source.WINDOW, 1)] * NEW
    assert runs[:-1] == whole[: len(runs) - 1]
    assert Source.FALLBACK not in {t.source for seed in range(8) for t in text(without, seed)}


def test_every_baseline_is_a_setting() -> None:
    """Each name gives options that pass their own checks, and nothing else changes."""
    odd = Options(max_new_tokens=7, seed=3, adapt=0.2, verify_tail=False).merged(
        {"distance": "kl", "confidence": "margin"}
    )
    for setting in (Options(max_new_tokens=7, seed=3), odd, baseline("rejection 3", odd)):
        for name in BASELINES:
            made = baseline(name, setting)
            assert (made.max_new_tokens, made.seed) == (7, 3)
            assert (made.policy == "rejection") == name.startswith("rejection")


def test_a_misspelt_baseline_offers_the_nearest() -> None:
    """What is not there is refused by name."""
    with pytest.raises(InvalidRequest, match="did you mean 'no rollback'"):
        baseline("no rolback", Options())
