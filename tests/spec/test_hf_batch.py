"""Passes of several texts as one: each text's rows are those of a pass of its own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bild_dist.config import WorkerConfig
from bild_dist.errors import InvalidRequest
from bild_dist.model.base import Choice, Pass
from bild_dist.model.hf import HfModel
from bild_dist.model.load import load
from tests.tiny import FAMILIES, load_model, rules_for, write_model

PLAIN = ("llama", "qwen2", "qwen3", "t5", "mt5")
TEXTS = 5
NEAR = 1e-4
"""Passes of different shapes round differently: a draw closer than this may fall either way."""


class Both:
    """Some texts twice: in slots that share their passes, and in as many that run alone."""

    def __init__(self, model: HfModel, seed: int) -> None:
        self.model, self.die = model, random.Random(seed)
        self.lines: list[list[int]] = [[] for _ in range(TEXTS)]
        model.allocate(2 * TEXTS)
        for slot in range(TEXTS):
            source = [self.die.randrange(60) for _ in range(self.die.randint(1, 30))]
            for each in (slot, slot + TEXTS):
                rules = rules_for(model, 1, 85, no_repeat_ngram=slot % 2 * 3)
                model.open(each, source if model.info.max_source else [], rules)

    def works(self) -> list[Pass]:
        """What a random few of the texts feed next: a step, a check or a piece of a prompt, behind a
        rollback or not. Pads and ends stand in them too.
        """
        die, works = self.die, []
        for slot in die.sample(range(TEXTS), die.randint(2, TEXTS)):
            line = self.lines[slot]
            at = die.randint(max(0, len(line) - 4), len(line))
            fed = [die.randrange(60) for _ in range(die.choice((1, 1, 1, 2, 5, 9, 20)))]
            self.lines[slot] = ids = [*line[:at], *fed] if at + len(fed) <= 85 else fed
            at = min(at, len(ids) - len(fed))
            rows = die.randint(0, len(fed))
            judge = tuple(die.randrange(60) for _ in range(die.randint(0, rows)))
            others = die.choice((0, 3)) if rows else 0
            works.append(Pass(slot, at, ids, rows, judge=judge, others=others))
        return works

    def differing(self) -> int:
        """Runs a batch and its passes one by one; how many draws differ, each of them a near tie."""
        works = self.works()
        found = self.model.forward_batch(works)
        count = 0
        for work, shared in zip(works, found, strict=True):
            assert not isinstance(shared, InvalidRequest)
            lone = self.model.forward(replace(work, slot=work.slot + TEXTS))
            assert work.rows == len(shared) == len(lone)
            count += sum(not alike(a, b) for a, b in zip(shared, lone, strict=True))
        return count


def alike(a: Choice, b: Choice) -> bool:
    assert a.confidence == pytest.approx(b.confidence, abs=NEAR)
    assert a.distance == pytest.approx(b.distance, abs=1e-3, rel=1e-4, nan_ok=True)
    return (a.token, a.others) == (b.token, b.others)


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_passes_say_what_lone_ones_say(family: str, tmp_path: Path) -> None:
    """Steps, checks and pieces of prompts of texts and sources of any length, whose caches were filled
    by such passes: no draw differs but near ties, which are one in a thousand at most.
    """
    model = load_model(write_model(tmp_path, family))
    assert model.info.batching == ("ragged" if family in PLAIN else "groups")
    both = Both(model, seed=len(family))
    assert sum(both.differing() for _ in range(25)) <= 1


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_modules_share_passes_too(family: str, tmp_path: Path) -> None:
    """Where the plain operations of a family do not run its modules take a padded batch: relative
    positions and turned ones need no help.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bild_dist.model.startup.plain_of", lambda model: None)
        model = load_model(write_model(tmp_path, family))
    assert "groups" == model.info.batching
    both = Both(model, seed=7)
    assert sum(both.differing() for _ in range(15)) <= 1


def test_half_precision_shares_passes(tmp_path: Path) -> None:
    """bfloat16 rounds each shape of a pass in its own way, coarsely; what it says stays close."""
    model = load_model(write_model(tmp_path, "llama"), dtype="bfloat16")
    assert "groups" == model.info.batching
    model.allocate(4)
    line = [3, 9, 27, 40, 11]
    for slot in range(4):
        model.open(slot, [], rules_for(model, 1, 50))
    works = [Pass(0, 0, line, rows=1), Pass(1, 0, line[:3], rows=2)]
    lone = [model.forward(replace(work, slot=work.slot + 2)) for work in works]
    for shared, alone in zip(model.forward_batch(works), lone, strict=True):
        assert not isinstance(shared, InvalidRequest)
        for a, b in zip(shared, alone, strict=True):
            assert a.confidence == pytest.approx(b.confidence, abs=0.1)


@pytest.mark.parametrize("family", ["gpt2", "llama", "bart"])
def test_rules_that_leave_no_token_fail_one_pass_of_a_batch(family: str, tmp_path: Path) -> None:
    """The others get their rows; the slot is as usable as before."""
    model = load_model(write_model(tmp_path, family))
    rules = rules_for(model, 1, 20)
    for slot, suppress in enumerate(((), tuple(range(64)))):
        model.open(slot, [5, 6] if model.info.max_source else [], replace(rules, suppress=suppress))
    works = [Pass(slot, 0, [2, 3 + slot], rows=1) for slot in range(2)]
    good, bad = model.forward_batch(works)
    assert isinstance(bad, InvalidRequest)
    assert "leave no token" in str(bad)
    assert isinstance(good, list)
    assert good[0].token == model.forward(works[0])[0].token


def broken(*args: Any, **kwargs: Any) -> Any:
    raise AttributeError("renamed")


def as_if_alone(self: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
    return forward(*args, **kwargs)


@pytest.mark.parametrize(
    ("family", "place", "change"),
    [
        ("bart", "model.together.RowPositions._run", as_if_alone),
        ("m2m100", "model.together.RowPositions._run", as_if_alone),
        ("gpt2", "model.passes.BatchCache", broken),
        ("llama", "model.passes.Passes.together", broken),
    ],
)
def test_what_cannot_share_a_pass_is_served_one_by_one(
    family: str, place: str, change: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A family, or a release of transformers, that computes otherwise in a batch costs speed and nothing
    else: the model says so at start-up and serves.
    """
    monkeypatch.setattr(f"bild_dist.{place}", change)
    model = load_model(write_model(tmp_path, family))
    assert "single" == model.info.batching
    model.open(0, [5] if model.info.max_source else [], rules_for(model, 1, 20))
    assert 1 == len(model.forward(Pass(0, 0, [2, 3], rows=1)))


def test_a_model_that_leaves_its_layers_early_is_served_one_by_one(tmp_path: Path) -> None:
    """Each text leaves them where it likes."""
    folder = write_model(tmp_path, "llama", layers=4)
    assert "single" == load(WorkerConfig(model=str(folder), calm=0.9)).info.batching


def rollback(model: HfModel, slots: Sequence[int]) -> list[int]:
    """Lengths that the slots' caches hold."""
    return [model._slots[slot].text.cache.length for slot in slots]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_batch_moves_only_the_slots_that_it_feeds(family: str, tmp_path: Path) -> None:
    """Each by its own count; a slot that sits out keeps its length and its keys."""
    model = load_model(write_model(tmp_path, family))
    model.allocate(3)
    for slot in range(3):
        model.open(slot, [], rules_for(model, 1, 50))
        model.forward(Pass(slot, 0, [3, 4, 5], rows=0))
    before = model._slots[1].text.cache.slot_layers[0].keys.clone()
    model.forward_batch([Pass(0, 3, [3, 4, 5, 6], rows=1), Pass(2, 1, [3, 9, 9, 9, 9], rows=0)])
    assert [4, 3, 5] == rollback(model, range(3))
    assert bool(
        (before[:, :, :3] == model._slots[1].text.cache.slot_layers[0].keys[:, :, :3]).all()
    )
