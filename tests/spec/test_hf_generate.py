"""Greedy texts are transformers' own, constraint by constraint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from bild_dist.errors import InvalidRequest
from bild_dist.model.base import Pass
from bild_dist.model.hf import HfModel
from tests.tiny import (
    DECODER_ONLY,
    FAMILIES,
    load_model,
    load_reference,
    rules_for,
    write_model,
)

NEW = 24
PROMPTS = ([3, 9, 27, 40], [11, 60, 5, 5, 32, 18, 44], [50])

CONSTRAINTS: dict[str, dict[str, Any]] = {
    "none": {},
    "forced first token": {"forced_bos_token_id": 7},
    "forced last token": {"forced_eos_token_id": 2},
    "several end tokens": {"eos_token_id": [2, 8, 9, 10, 11], "forced_eos_token_id": [9, 8]},
    "minimum length": {"eos_token_id": [2, *range(20, 40)], "min_length": 12},
    "minimum of new tokens": {"eos_token_id": [2, *range(20, 40)], "min_new_tokens": 12},
    "no repeated n-gram": {"no_repeat_ngram_size": 2},
    "repetition penalty": {"repetition_penalty": 1.4},
    "suppressed": {"suppress_tokens": [4, *range(20, 45)], "begin_suppress_tokens": [5, *range(45, 60)]},
    "suppressed at the beginning, forced first": {
        "begin_suppress_tokens": [5, *range(45, 60)], "forced_bos_token_id": 7,
    },
    "bad words": {"bad_words_ids": [[n] for n in range(3, 30)]},
    "all at once": {
        "eos_token_id": [2, 30, 31], "forced_bos_token_id": 7, "forced_eos_token_id": 2, "min_length": 9,
        "no_repeat_ngram_size": 3, "repetition_penalty": 1.2, "suppress_tokens": [33, 34],
        "begin_suppress_tokens": [35, 36], "bad_words_ids": [[37], [38]],
    },
}  # fmt: skip


def write_text(model: HfModel, prompt: Sequence[int], new_tokens: int) -> list[int]:
    """Token by token, as a worker does alone; returns the new ids."""
    begin = list(model.info.decoder_prompt or prompt)
    rules = rules_for(model, len(begin), new_tokens)
    model.open(0, prompt if model.info.decoder_prompt else [], rules)
    ids, at = list(begin), 0
    while len(ids) < rules.limit:
        choice = model.forward(Pass(0, at, ids, 1))[0]
        at = len(ids)
        ids.append(choice.token)
        if choice.token in rules.end_ids:
            break
    return ids[len(begin) :]


def generated(reference: Any, prompt: Sequence[int], new_tokens: int) -> list[int]:
    """What transformers writes. Without its cache, because with it M2M100 gives pad ids inside a
    text a position.
    """
    fed = torch.tensor([list(prompt)])
    given: list[int] = reference.generate(
        fed, attention_mask=torch.ones_like(fed), do_sample=False, max_new_tokens=new_tokens, use_cache=False
    )[0].tolist()  # fmt: skip
    start = 1 if reference.config.is_encoder_decoder else len(prompt)
    return given[start:]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_is_the_one_that_generate_writes(family: str, tmp_path: Path):
    """Every family, with what its published models constrain: forced ends for BART, a banned pad
    for Marian.
    """
    model, reference = load_model(write_model(tmp_path, family)), load_reference(tmp_path)
    for prompt in PROMPTS:
        assert write_text(model, prompt, NEW) == generated(reference, prompt, NEW)


@pytest.mark.parametrize("family", ["qwen2", "bart", "t5"])
@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_constraints_are_those_of_generate(family: str, constraint: str, tmp_path: Path):
    """Each constraint of a generation config changes the text exactly as it does in transformers."""
    write_model(tmp_path, family, generation=CONSTRAINTS[constraint])
    model, reference = load_model(tmp_path), load_reference(tmp_path)
    # To a decoder-only model generate applies a forced first token only behind a prompt of one id: never.
    prompts = [p for p in PROMPTS if len(p) > 1 or family not in DECODER_ONLY]
    texts = [write_text(model, prompt, NEW) for prompt in prompts]
    assert texts == [generated(reference, prompt, NEW) for prompt in prompts]


def test_constraints_do_not_depend_on_the_cut(tmp_path: Path):
    """A row judged among others in one pass is constrained as it is alone."""
    model = load_model(write_model(tmp_path, "bart", generation=CONSTRAINTS["all at once"]))
    text = write_text(model, PROMPTS[1], NEW)
    ids = [*model.info.decoder_prompt, *text]
    model.open(0, PROMPTS[1], rules_for(model, 1, NEW))
    choices = model.forward(Pass(0, 0, ids[:-1], len(text), tuple(text)))
    assert [choice.token for choice in choices] == text
    assert choices[0].distance == choices[-1].distance == 0
    assert all(choice.confidence > 0 for choice in choices)


def test_a_forced_token_must_exist(tmp_path: Path):
    """A language or end id that the models do not share is refused, not passed over in silence."""
    model = load_model(write_model(tmp_path, "t5"))
    with pytest.raises(InvalidRequest, match="forced token"):
        model.open(0, [5], rules_for(model, 1, NEW, vocabulary=60, forced_begin=62))


def test_a_forbidden_token_is_infinitely_far(tmp_path: Path):
    """A token that the rules forbid has probability 0, so its distance is infinite."""
    model = load_model(write_model(tmp_path, "llama"))
    model.open(0, [], rules_for(model, 1, NEW, vocabulary=60, suppress=(9,)))
    choices = model.forward(Pass(0, 0, [3, 4, 5], 3, (9, 61, 10)))
    assert [choice.distance == float("inf") for choice in choices] == [True, True, False]
    assert all(choice.token < 60 for choice in choices)
