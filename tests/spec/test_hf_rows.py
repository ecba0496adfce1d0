"""What a transformers model says of a position does not depend on how the ids before it were cut
into passes.
"""

import math
import random
from pathlib import Path

import pytest
import torch

from bild_dist.errors import InvalidRequest, WorkerFault
from bild_dist.model.base import Choice, Pass
from bild_dist.model.hf import HfModel
from tests.tiny import (
    DECODER_ONLY,
    FAMILIES,
    load_model,
    load_reference,
    reference_logits,
    rules_for,
    write_model,
)

CLOSE = 1e-4
"""Probabilities of two float32 computations of different shapes."""


def check(choice: Choice, logits: torch.Tensor, judged: int | None) -> None:
    """Compares one row with the cache-free logits."""
    p = torch.log_softmax(logits.double(), -1)
    assert abs(choice.confidence - p.max().exp().item()) < CLOSE
    assert p.max() - p[choice.token] < CLOSE
    if judged is None:
        assert math.isnan(choice.distance)
    else:
        assert abs(choice.distance + p[judged].item()) < 10 * CLOSE


def start(model: HfModel, slot: int, source: list[int]) -> list[int]:
    """Opens a slot without constraints; returns the ids that every text of it starts with."""
    prompt = list(model.info.decoder_prompt) or [3]
    free = rules_for(model, 1, 90, suppress=(), forced_begin=None, forced_end=())
    model.open(slot, source if model.info.max_source else [], free)
    return prompt


@pytest.mark.parametrize("family", FAMILIES)
def test_any_cut_gives_the_cache_free_rows(family: str, tmp_path: Path):
    """Random chunks and random rollbacks, pad ids among them: every row is the one that the whole
    prefix gives.
    """
    model = load_model(write_model(tmp_path, family))
    reference = load_reference(tmp_path)
    die = random.Random(family)
    pads = [model.info.rules.vocabulary - 1, 0, 1]
    for _ in range(3):
        source = [die.randrange(64) for _ in range(die.randint(1, 9))]
        ids = start(model, 0, source)
        held = 0
        for _ in range(12):
            at = die.randint(max(0, held - 6), held)
            fed = [die.choice([die.randrange(64), *pads]) for _ in range(die.randint(1, 7))]
            # The first id is the decoder's own.
            ids = [*ids[: max(at, 1)], *fed[: 90 - at]]
            rows = die.randint(0, len(ids) - at)
            judge = tuple(die.randrange(64) for _ in range(die.randint(0, rows)))
            choices = model.forward(Pass(0, at, ids, rows, judge))
            held = len(ids)
            assert len(choices) == rows
            if rows:
                logits = reference_logits(reference, ids, source)[-rows:]
                for row, choice in enumerate(choices):
                    check(choice, logits[row], judge[row] if row < len(judge) else None)


@pytest.mark.parametrize("family", ["llama", "t5", "m2m100"])
def test_slots_do_not_disturb_each_other(family: str, tmp_path: Path):
    """Two texts written in turns, pass by pass, are those that each slot writes alone."""
    model = load_model(write_model(tmp_path, family))
    sources = [[5, 9, 12], [30, 7, 7, 21]]

    def step(slot: int, ids: list[int], at: int) -> int:
        ids.append(model.forward(Pass(slot, at, ids, 1))[0].token)
        return len(ids) - 1

    alone = []
    for slot, source in enumerate(sources):
        ids, at = [*start(model, slot, source), slot + 4], 0
        for _ in range(12):
            at = step(slot, ids, at)
        alone.append(ids)
    turns = [[*start(model, slot, source), slot + 4] for slot, source in enumerate(sources)]
    places = [0, 0]
    for _ in range(12):
        for slot in (0, 1):
            places[slot] = step(slot, turns[slot], places[slot])
    assert turns == alone


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in DECODER_ONLY])
def test_a_slot_opened_with_another_source_forgets_the_first(family: str, tmp_path: Path):
    """The keys of the source are computed anew at each opening: stale ones would give another
    request's text.
    """
    model = load_model(write_model(tmp_path, family))
    reference = load_reference(tmp_path)
    seen = []
    for source in ([5, 9, 12, 40], [33, 20]):
        ids = [*start(model, 0, source), 17, 25]
        choice = model.forward(Pass(0, 0, ids, 1, (50,)))[0]
        check(choice, reference_logits(reference, ids, source)[-1], 50)
        seen.append(choice.distance)
    assert abs(seen[0] - seen[1]) > 100 * CLOSE


def test_half_precision_is_judged_in_float32(tmp_path: Path):
    """bfloat16 weights give rows near the float32 ones, and probabilities that still sum up in
    float32.
    """
    write_model(tmp_path, "llama")
    model, exact = load_model(tmp_path, dtype="bfloat16"), load_model(tmp_path)
    assert model.info.dtype == "bfloat16"
    ids = [*start(model, 0, []), 9, 30, 12]
    start(exact, 0, [])
    rough, true = (m.forward(Pass(0, 0, ids, 1, (40,)))[0] for m in (model, exact))
    assert abs(rough.distance - true.distance) < 0.5
    assert rough.distance != true.distance


def test_equal_logits_go_to_the_lowest_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A tie is decided by the id, on every worker alike."""
    model = load_model(write_model(tmp_path, "llama"))
    monkeypatch.setattr(
        model._model.lm_head, "forward", lambda rows: torch.zeros(*rows.shape[:-1], 64)
    )
    ids = start(model, 0, [])
    choice = model.forward(Pass(0, 0, ids, 1))[0]
    assert choice.token == 0
    assert choice.confidence == pytest.approx(1 / 64)


def test_rows_that_are_no_numbers_fail_their_request_alone(tmp_path: Path):
    """Overflow, or rules that leave no token, is an error of the request and not of the worker."""
    model = load_model(write_model(tmp_path, "llama"))
    model.open(0, [], rules_for(model, 1, 9, suppress=tuple(range(64))))
    with pytest.raises(InvalidRequest, match="leave no token"):
        model.forward(Pass(0, 0, [3], 1))


def test_a_failing_device_is_a_worker_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What torch raises in a pass (out of memory, a CUDA error) says that the device failed, in one
    line.
    """
    model = load_model(write_model(tmp_path, "llama"))
    ids = start(model, 0, [])

    def fail(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    monkeypatch.setattr(model._model.lm_head, "forward", fail)
    with pytest.raises(WorkerFault, match=r"^cpu: CUDA out of memory\. Tried to allocate 2 GiB\.$"):
        model.forward(Pass(0, 0, ids, 1))
