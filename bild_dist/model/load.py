"""From a name to a model that can run: a folder, a GGUF file, a hub id, or this project's own pair.

Everything ends in a local folder with safetensors. What cannot be decoded token by token with two
models, or cannot be loaded safely, is refused here, before any request, with the remedy in the
message.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from bild_dist.config import DEFAULT_SMALL, WorkerConfig, where_given
from bild_dist.errors import ConfigError
from bild_dist.messages import PROTOCOL, Info
from bild_dist.model import checkpoint, draft, hub, tokenizer
from bild_dist.model.calm import CalmModel
from bild_dist.model.default_pair import EXIT_LAYER
from bild_dist.model.foreign import quiet
from bild_dist.model.hf import HfModel
from bild_dist.model.rules import rules_of


def load(config: WorkerConfig) -> HfModel:
    """The model that a configuration names, ready for `allocate`. Sets torch's threads if they are
    given.

    To be called on the thread that will run the model: OpenMP keeps a pool for each thread that
    computes, and where their sum exceeds the cores its workers sleep between operations (measured
    on two cores: 37 ms a step where one thread does both, 55 ms where another one loads).

    Raises:
        ConfigError: it is not there, is no language model that can be checked token by token, or
            the device is absent.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    device = _device(config.device)
    trusted = config.trust_remote_code
    folder = hub.folder_for(config)
    own = draft.read(folder)
    if own is not None:
        if config.exit_layer:
            raise ConfigError(f"{config.model} is a draft, whose layers are set: no exit_layer")
        folder = own.base_folder(trust_remote_code=trusted)
    plan: Any = checkpoint.plan_of(folder, config.model, trust_remote_code=trusted)
    encdec = bool(plan.is_encoder_decoder)
    text: Any = plan.get_text_config(decoder=True)
    layers = own.layers if own is not None else config.exit_layer
    layers = layers or (EXIT_LAYER if config.model == DEFAULT_SMALL else 0)
    checkpoint.cut(plan, text, layers, encdec)
    length = length_of(config.model, text, config.max_length)
    model = checkpoint.weights_of(
        folder, plan, config.model, checkpoint.DTYPES[config.dtype], trust_remote_code=trusted
    )
    if own is not None:
        own.fill(model)
    model.to(device)  # type: ignore[arg-type]
    if getattr(model, "_is_stateful", False):
        raise _uncuttable(config.model, "recurrent layers")
    tokens = _tokens(folder, config, plan)
    generation: Any = model.generation_config
    width = int(text.vocab_size)
    positions = getattr(plan, "max_encoder_position_embeddings", None) or _positions(text)
    info = Info(
        protocol=PROTOCOL, model=hub.title_of(config.model, layers, draft=own is not None),
        architecture=type(model).__name__,
        kind="encoder-decoder" if encdec else "decoder", generation="", pid=0,
        device=str(device), dtype=config.dtype, threads=torch.get_num_threads(), slots=0,
        max_length=length, max_source=min(positions or config.max_length, config.max_length) if encdec else 0,
        tokenizer=tokens.fingerprint, tokenizer_size=tokens.size, encodes=tokens.encodes,
        decoder_prompt=_decoder_prompt(config.model, generation, plan) if encdec else (),
        rules=rules_of(generation, width, config.ignore_generation, decoder_only=not encdec),
    )  # fmt: skip
    if config.calm:
        return CalmModel(model, info, tokens, config.calm, config.calm_decay)
    return HfModel(model, info, tokens)


def _device(name: str) -> torch.device:
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not (kind == "cuda" and index.isdecimal())):
        raise ConfigError(f"device = {name!r} must be cpu, cuda or cuda:N")
    if kind == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise ConfigError(
            f"device = {name!r}: this machine has no CUDA device that torch can use. Take --device cpu"
        )
    if int(index or 0) >= count:
        raise ConfigError(f"device = {name!r}: this machine has CUDA devices 0 to {count - 1}")
    return torch.device("cuda", int(index or 0))


def _positions(text: Any) -> int | None:
    """How many positions a model knows; None where positions are relative without end."""
    for name in ("max_decoder_position_embeddings", "max_position_embeddings", "max_seq_len"):
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _uncuttable(name: str, what: str) -> ConfigError:
    return ConfigError(
        f"{name} has {what}, whose state cannot be cut back to an earlier token: take a model "
        "whose layers all use full attention"
    )


def length_of(name: str, text: Any, asked: int) -> int:
    """How many tokens a text of a model may have, at most as many as asked for. `text`: the config of its
    decoder.

    Raises:
        ConfigError: it has layers that forget, or positions that change, within that length.
    """
    length = min(_positions(text) or asked, asked)
    for layer in DynamicCache(config=text).layers:
        window = getattr(layer, "sliding_window", None)
        kind = type(layer).__name__
        if getattr(layer, "is_sliding", False) and isinstance(window, int):
            if length > window:
                raise ConfigError(
                    f"{name} has sliding-window attention over {window} tokens, which cannot be cut back once it has "
                    f"slid: max_length must be {window} or less, not {asked} {where_given('max_length')}"
                )
        elif kind != "DynamicLayer":
            kinds = sorted(set(getattr(text, "layer_types", None) or [kind]) - {"full_attention"})
            raise _uncuttable(name, f"{' and '.join(kinds)} layers")
    switch = _switch(text)
    if switch is not None and length > switch:
        # One pass turns all its ids by one set: earlier keys keep the other, as the passes happened to be cut.
        raise ConfigError(
            f"{name} turns its positions otherwise from token {switch + 1} on (longrope), and what was written before "
            f"would depend on the passes: max_length must be {switch} or less, not {asked} {where_given('max_length')}"
        )
    return length


def _switch(text: Any) -> int | None:
    """Behind how many tokens a model's rotary positions change to another set; None where they never do."""
    said = getattr(text, "rope_parameters", None) or {}
    # One for all layers, or one for each kind of them.
    each = [said, *(value for value in said.values() if isinstance(value, dict))]
    found = [
        int(one["original_max_position_embeddings"])
        for one in each
        if one.get("rope_type") == "longrope"
    ]
    return min(found, default=None)


def _tokens(folder: Path, config: WorkerConfig, plan: Any) -> tokenizer.Tokens:
    where = folder
    if config.tokenizer:
        where = hub.folder_of(config.tokenizer, weights=False)
    with quiet():
        tokens = tokenizer.read(
            where,
            encdec=bool(plan.is_encoder_decoder),
            trust_remote_code=config.trust_remote_code,
        )
    if config.tokenizer and not tokens.fingerprint:
        raise ConfigError(
            f"tokenizer = {config.tokenizer!r}: there are no tokenizer files in {where}"
        )
    return tokens


def _decoder_prompt(name: str, generation: Any, plan: Any) -> tuple[int, ...]:
    for holder, field in (
        (generation, "decoder_start_token_id"), (plan, "decoder_start_token_id"), (generation, "bos_token_id"),
    ):  # fmt: skip
        value = getattr(holder, field, None)
        if isinstance(value, int):
            return (value,)
    raise ConfigError(f"{name} names no decoder_start_token_id: put it into generation_config.json")
