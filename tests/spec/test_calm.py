"""CALM against its definition: no cache, every layer called by hand on all positions so far."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from bild_dist.config import WorkerConfig
from bild_dist.errors import ConfigError, InvalidRequest
from bild_dist.model.base import Pass
from bild_dist.model.calm import CalmModel, threshold
from bild_dist.model.load import load
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.types import Role
from bild_dist.workers.lifecycle import Worker
from tests.tiny import load_reference, rules_for, write_model

LAYERS = 6
NEW = 12
PROMPT = [5, 9, 21, 7]
Layer = Callable[[int, torch.Tensor], torch.Tensor]
"""Number of a layer from 0 and the states before it at all positions, TD, to those behind it."""


def llama(model: Any) -> tuple[Layer, Any, Any]:
    def layer(number: int, states: torch.Tensor) -> torch.Tensor:
        count = len(states)
        places = torch.arange(count)[None]
        mask = torch.full((count, count), -torch.inf).triu(1)[None, None]
        angles = model.model.rotary_emb(states[None], position_ids=places)
        out: torch.Tensor = model.model.layers[number](
            states[None], attention_mask=mask, position_ids=places, position_embeddings=angles
        )
        return out[0]

    return layer, model.model.embed_tokens, lambda x: model.lm_head(model.model.norm(x))


def t5(model: Any) -> tuple[Layer, Any, Any]:
    source = model.encoder(input_ids=torch.tensor([PROMPT])).last_hidden_state
    blocks = model.decoder.block

    def layer(number: int, states: torch.Tensor) -> torch.Tensor:
        count = len(states)
        own = blocks[0].layer[0].SelfAttention
        bias = own.compute_bias(count, count, device=states.device, past_seen_tokens=0)
        bias = bias + torch.full((count, count), -torch.inf).triu(1)
        out: torch.Tensor = blocks[number](
            states[None], position_bias=bias, encoder_hidden_states=source
        )[0]
        return out[0]

    def head(states: torch.Tensor) -> torch.Tensor:
        states = model.decoder.final_layer_norm(states)
        if getattr(model.config, "scale_decoder_outputs", model.config.tie_word_embeddings):
            states = states * model.model_dim**-0.5
        logits: torch.Tensor = model.lm_head(states)
        return logits

    return layer, model.decoder.embed_tokens, head


@torch.inference_mode()
def definition(
    family: Callable[[Any], tuple[Layer, Any, Any]], model: Any, begin: list[int], wanted: float,
    decay: float, ends: list[int],
) -> tuple[list[int], list[int], float]:  # fmt: skip
    """Tokens, exits (layers from 1), and how close any decision was. Before each layer stands one
    state for every position: for what lies above an exit, that of the exit.
    """
    layer, embed, head = family(model)
    before: list[list[torch.Tensor]] = [[] for _ in range(LAYERS)]
    tokens: list[int] = []
    exits: list[int] = []
    close = 1.0
    for index in range(len(begin) + NEW - 1):
        token = [*begin, *tokens][index]
        if tokens and token in ends:
            break
        position = index - len(begin) + 1
        level = min(max(0.9 * wanted + 0.1 * 2.718281828459045 ** (-decay * position / NEW), 0), 1)
        state, gone = embed(torch.tensor([token]))[0], 0
        for number in range(LAYERS):
            before[number].append(state)
            if gone:
                continue
            behind = layer(number, torch.stack(before[number]))[-1]
            alike = float(torch.cosine_similarity(behind, state, dim=0))
            state = behind
            if position >= 0 and 1 <= number < LAYERS - 1:
                close = min(close, abs(alike - level))
                gone = number + 1 if alike >= level else 0
        if position >= 0:
            logits = head(state)
            best = logits.topk(2).values
            close = min(close, float(best[0] - best[1]))
            tokens.append(int(logits.argmax()))
            exits.append(gone or LAYERS)
    return tokens, exits, close


def written(
    model: CalmModel, begin: list[int], source: tuple[int, ...]
) -> tuple[list[int], list[int]]:
    """What the engine's passes write: the prompt but its last id, then one id at a time."""
    model.open(0, source, rules_for(model, len(begin), NEW))
    if len(begin) > 1:
        model.forward(Pass(0, 0, begin[:-1], rows=0))
    line, exits = list(begin), []
    while len(line) < len(begin) + NEW and (
        len(line) == len(begin) or line[-1] not in model.info.rules.end_ids
    ):
        (choice,) = model.forward(Pass(0, len(line) - 1, line, rows=1))
        line.append(choice.token)
        exits.append(model.exit_layer)
    return line[len(begin) :], exits


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_texts_and_exits_are_those_of_the_definition(name: str, tmp_path: Path) -> None:
    """Tokens and exit layers of texts with a cache are those of a computation without one, over
    thresholds that let tokens leave early, late and in between.
    """
    # Seeds whose every decision is clear.
    seed = {"llama": 4, "t5": 6}[name]
    folder = write_model(tmp_path, name, layers=LAYERS, seed=seed, spread=3.0)
    reference = load_reference(folder)
    seen: set[int] = set()
    for wanted, decay in ((0.2, 4.0), (0.6, 0.0), (0.8, 4.0), (0.9, 8.0), (1.0, 0.0)):
        config = WorkerConfig(
            model=str(folder), threads=1, max_length=64, calm=wanted, calm_decay=decay
        )
        model = load(config)
        assert isinstance(model, CalmModel)
        assert model._passes.plain is None
        model.allocate(1)
        begin = list(model.info.decoder_prompt) or PROMPT
        source = tuple(PROMPT) if model.info.max_source else ()
        tokens, exits = written(model, begin, source)
        family = {"llama": llama, "t5": t5}[name]
        expected, gone, close = definition(
            family, reference, begin, wanted, decay, list(model.info.rules.end_ids)
        )
        assert close > 1e-4, "the seed makes a decision too close to call: take another"
        assert (tokens, exits) == (expected, gone)
        seen |= set(exits)
        # A slot that was used before holds nothing of it.
        assert written(model, begin, source) == (tokens, exits)
    assert len(seen) > 2
    assert LAYERS in seen


def test_how_ids_are_cut_into_passes_changes_nothing(tmp_path: Path) -> None:
    """A draft behind a check feeds several ids at once; each leaves its layers where it would
    alone.
    """
    folder = write_model(tmp_path, "llama", layers=LAYERS, seed=4, spread=3.0)
    model = load(WorkerConfig(model=str(folder), threads=1, max_length=64, calm=0.6))
    assert isinstance(model, CalmModel)
    model.allocate(2)
    line = [*PROMPT, *range(3, 3 + NEW)]
    for slot in (0, 1):
        model.open(slot, (), rules_for(model, len(PROMPT), NEW + 1))
        model.forward(Pass(slot, 0, PROMPT[:-1], rows=0))
    at, exits = len(PROMPT) - 1, set()
    for end in range(len(PROMPT), len(line) + 1):
        (alone,) = model.forward(Pass(0, end - 1, line[:end], rows=1))
        exits.add(model.exit_layer)
        if end % 3 == 0:
            (together,) = model.forward(Pass(1, at, line[:end], rows=1))
            assert (together.token, together.confidence) == (alone.token, alone.confidence)
            at = end
    assert len(exits) > 1


def test_the_threshold_decays_from_its_height() -> None:
    """0.9 lambda + 0.1 exp(-decay t / N), within 0 and 1."""
    assert threshold(0.9, 4.0, 0, 10) == pytest.approx(0.91)
    assert threshold(0.9, 4.0, 10, 10) == pytest.approx(0.81 + 0.1 * 0.0183156, abs=1e-6)
    assert threshold(1.0, 0.0, 5, 10) == 1.0


def test_a_worker_that_leaves_early_checks_nothing(tmp_path: Path) -> None:
    """A check is refused by name, and so is a model without layers to leave."""
    folder = write_model(tmp_path / "six", "llama", layers=LAYERS)
    model = load(WorkerConfig(model=str(folder), threads=1, calm=0.9))
    model.allocate(1)
    model.open(0, (), rules_for(model, 2, 4))
    with pytest.raises(InvalidRequest, match="a worker with calm writes alone"):
        model.forward(Pass(0, 0, [3, 4, 5], rows=2, judge=(5,)))
    shallow = write_model(tmp_path / "two", "llama", layers=2)
    with pytest.raises(ConfigError, match="takes 3 or more"):
        load(WorkerConfig(model=str(shallow), threads=1, calm=0.9))
    with pytest.raises(ConfigError, match=r"calm = 1\.5"):
        WorkerConfig(calm=1.5)


async def test_it_runs_behind_the_engine(tmp_path: Path) -> None:
    """Mode `large` over a worker with `calm` gives the text of its definition; a mode that would have
    it check something is refused by name, and the worker goes on.
    """
    folder = write_model(tmp_path, "llama", layers=LAYERS, seed=4, spread=3.0)
    async with AsyncExitStack() as stack:
        addresses = {}
        for role, calm in ((Role.SMALL, 0.0), (Role.LARGE, 0.6)):
            config = WorkerConfig(
                model=str(folder), threads=1, max_length=64, calm=calm, calm_decay=0.0
            )
            worker = Worker(partial(load, config), f"inproc://calm-{role}", slots=1)
            await stack.enter_async_context(worker)
            addresses[role] = worker.address
        decoder = await stack.enter_async_context(Decoder(addresses))
        with pytest.raises(InvalidRequest, match="a worker with calm writes alone"):
            await decoder.generate(PROMPT, mode="bild", alpha_fb=0.0, max_new_tokens=NEW)
        text = await decoder.generate(PROMPT, mode="large", max_new_tokens=NEW, logprobs=1)
        ends = list(decoder.workers[Role.LARGE].info.rules.end_ids)
    tokens, _, _ = definition(llama, load_reference(folder), PROMPT, 0.6, 0.0, ends)
    assert list(text.tokens) == tokens
    # Of the layer that was left, as the token is.
    assert list(text.top) == [((t, p),) for t, p in zip(tokens, text.logprobs, strict=True)]
