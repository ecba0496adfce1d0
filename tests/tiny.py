"""Tiny random models of real families, written to a folder in a fraction of a second.

Their distributions are neither flat nor sure of themselves: the top probability covers about 0.1 to
0.99, and texts end now and then. The small model of a pair is the large one plus noise, so that it
agrees with it most of the time and every row of the decision table occurs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from bild_dist.config import WorkerConfig
from bild_dist.messages import Rules
from bild_dist.model.hf import HfModel
from bild_dist.model.load import load
from tests.tiny_tokenizers import TOKENIZERS

Made = tuple[type[PreTrainedModel], PreTrainedConfig, dict[str, Any]]
"""Class, config, and what the generation config says."""

# Models this small only wait for a second thread.
torch.set_num_threads(1)

_WIDTH = 32
_ENDS: dict[str, Any] = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}


def _llama_like(
    model: type[PreTrainedModel], config: Any, **more: Any
) -> Callable[[int, int, int], Made]:
    def make(vocabulary: int, layers: int, length: int) -> Made:
        return model, config(
            vocab_size=vocabulary, hidden_size=_WIDTH, intermediate_size=48, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=length, **_ENDS, **more,
        ), dict(_ENDS)  # fmt: skip

    return make


def _gpt2(vocabulary: int, layers: int, length: int) -> Made:
    return GPT2LMHeadModel, GPT2Config(
        vocab_size=vocabulary, n_embd=_WIDTH, n_layer=layers, n_head=4, n_positions=length, **_ENDS
    ), dict(_ENDS)  # fmt: skip


def _t5_like(
    model: type[PreTrainedModel], config: Any, **more: Any
) -> Callable[[int, int, int], Made]:
    ends: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}

    def make(vocabulary: int, layers: int, length: int) -> Made:
        return model, config(
            vocab_size=vocabulary, d_model=_WIDTH, d_kv=8, d_ff=48, num_heads=4, num_layers=1,
            num_decoder_layers=layers, relative_attention_num_buckets=8,
            relative_attention_max_distance=16, **ends, **more,
        ), ends  # fmt: skip

    return make


def _bart_like(
    model: type[PreTrainedModel], config: Any, **more: Any
) -> Callable[[int, int, int], Made]:
    ends = {**_ENDS, "decoder_start_token_id": 2, "forced_eos_token_id": 2, **more}

    def make(vocabulary: int, layers: int, length: int) -> Made:
        return model, config(
            vocab_size=vocabulary, d_model=_WIDTH, encoder_layers=1, decoder_layers=layers, encoder_ffn_dim=48,
            decoder_ffn_dim=48, encoder_attention_heads=4, decoder_attention_heads=4, max_position_embeddings=length,
            **{k: v for k, v in ends.items() if not k.startswith("forced")},
        ), {k: v for k, v in ends.items() if k.endswith("_id") and v is not None}  # fmt: skip

    return make


def _marian(vocabulary: int, layers: int, length: int) -> Made:
    # As published: the pad id is the last one, starts the decoder, and is a bad word.
    pad = vocabulary - 1
    ends = {
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": pad,
        "decoder_start_token_id": pad,
    }
    model, config, _ = _bart_like(MarianMTModel, MarianConfig, **ends)(vocabulary, layers, length)
    return model, config, {**ends, "forced_eos_token_id": 0, "bad_words_ids": [[pad]]}


_FAMILIES: dict[str, Callable[[int, int, int], Made]] = {
    "llama": _llama_like(LlamaForCausalLM, LlamaConfig, tie_word_embeddings=False),
    "qwen2": _llama_like(Qwen2ForCausalLM, Qwen2Config, tie_word_embeddings=True),
    "qwen3": _llama_like(Qwen3ForCausalLM, Qwen3Config, head_dim=16),
    "gpt2": _gpt2,
    "t5": _t5_like(T5ForConditionalGeneration, T5Config),
    "mt5": _t5_like(
        MT5ForConditionalGeneration, MT5Config, tie_word_embeddings=False, feed_forward_proj="gated-gelu"
    ),
    "bart": _bart_like(BartForConditionalGeneration, BartConfig, forced_bos_token_id=0),
    "mbart": _bart_like(MBartForConditionalGeneration, MBartConfig),
    "marian": _marian,
    "m2m100": _bart_like(M2M100ForConditionalGeneration, M2M100Config, forced_eos_token_id=None, scale_embedding=False),
}  # fmt: skip

FAMILIES = tuple(_FAMILIES)
DECODER_ONLY = ("llama", "qwen2", "qwen3", "gpt2")


def write_model(
    folder: Path,
    family: str,
    *,
    seed: int = 0,
    noise: float = 0.0,
    vocabulary: int = 64,
    layers: int = 3,
    max_length: int = 96,
    spread: float = 4.0,
    tokenizer: bool = False,
    generation: Mapping[str, Any] | None = None,
) -> Path:
    """Writes one model and returns its folder.

    `noise`: strength of what is added to every weight, relative to the tensor's own spread; the
    same `seed` with another noise is the other model of a pair. `spread`: of the logits, in nats.
    `tokenizer` trains one and takes its size for the vocabulary. `generation` goes into
    generation_config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer:
        vocabulary = TOKENIZERS[family](folder)
    model_class, config, ends = _FAMILIES[family](vocabulary, layers, max_length)
    model = build(model_class, config, seed=seed, spread=spread, noise=noise)
    model.generation_config = GenerationConfig()
    model.save_pretrained(folder)
    said = {**ends, **(generation or {})}
    (folder / "generation_config.json").write_text(json.dumps(said))
    return folder


def write_pair(
    folder: Path, family: str, *, noise: float = 0.05, **options: Any
) -> tuple[Path, Path]:
    """Writes a small and a large model and returns their folders. Options as for `write_model`."""
    small = write_model(folder / "small", family, noise=noise, **options)
    return small, write_model(folder / "large", family, **options)


@torch.no_grad()
def build(
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    *,
    seed: int = 0,
    spread: float = 4.0,
    noise: float = 0.0,
) -> PreTrainedModel:
    """A model with random weights, a function of the arguments alone."""
    random = torch.Generator().manual_seed(seed)
    model: Any = model_class(config).eval()
    weights: dict[int, nn.Parameter] = {id(p): p for p in model.parameters()}
    for parameter in weights.values():
        if parameter.dim() > 1:
            scale = min(parameter.shape) ** -0.5 * 1.5
            parameter.copy_(torch.randn(parameter.shape, generator=random) * scale)
        else:
            # Norms near one, biases near nought: told apart by what they start with.
            parameter.add_(torch.randn(parameter.shape, generator=random) * 0.1)
    norm = _last_norm(model)
    factor = spread / _logits(model, config).std()
    norm.weight.mul_(factor)
    if getattr(norm, "bias", None) is not None:
        norm.bias.mul_(factor)
    if noise:
        other = torch.Generator().manual_seed(seed + 1)
        for parameter in weights.values():
            width = parameter.std() if parameter.numel() > 1 else parameter.abs()
            parameter.add_(torch.randn(parameter.shape, generator=other) * noise * width)
    return model  # type: ignore[no-any-return]


def _last_norm(model: Any) -> Any:
    """The norm before the head: scaling it scales the logits."""
    for path in (
        "model.norm",
        "transformer.ln_f",
        "decoder.final_layer_norm",
        "model.decoder.layer_norm",
    ):
        try:
            return model.get_submodule(path)
        except AttributeError:
            continue
    return model.get_submodule("model.decoder.layers")[-1].final_layer_norm


def _logits(model: Any, config: Any) -> torch.Tensor:
    ids = (torch.arange(24) * 5 % (config.vocab_size - 4) + 3)[None]
    if config.is_encoder_decoder:
        return model(input_ids=ids, decoder_input_ids=ids).logits  # type: ignore[no-any-return]
    return model(input_ids=ids).logits  # type: ignore[no-any-return]


def load_model(folder: Path, **options: Any) -> HfModel:
    """Our model over a folder, with two slots."""
    model = load(WorkerConfig(model=str(folder), **options))
    model.allocate(2)
    return model


def load_reference(folder: Path) -> Any:
    """transformers' own model over the same folder: what ours is compared with."""
    plan: Any = AutoConfig.from_pretrained(folder)
    auto: Any = AutoModelForSeq2SeqLM if plan.is_encoder_decoder else AutoModelForCausalLM
    return auto.from_pretrained(folder).eval()


@torch.no_grad()
def reference_logits(model: Any, ids: Sequence[int], source: Sequence[int] = ()) -> torch.Tensor:
    """The definition: the cache-free forward of the whole prefix. Shapes: one row for each of
    `ids`.
    """
    fed = torch.tensor([list(ids)])
    if model.config.is_encoder_decoder:
        encoded = torch.tensor([list(source)])
        return model(input_ids=encoded, decoder_input_ids=fed).logits[0]  # type: ignore[no-any-return]
    return model(input_ids=fed).logits[0]  # type: ignore[no-any-return]


def rules_for(model: HfModel, begin: int, new_tokens: int, **changes: Any) -> Rules:
    """The model's own rules for a text behind `begin` ids."""
    return replace(model.info.rules, begin=begin, limit=begin + new_tokens, **changes)
