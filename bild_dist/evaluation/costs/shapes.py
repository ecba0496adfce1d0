"""The shape of a model, as its config.json gives it: what its cost is worked out from, without its weights.

A transformer is counted in numbers: those of the matrices that each fed token is multiplied with, those
of norms and biases, the rows of the embedding and of the head, and what a layer keeps of each token as
keys and values. `tests/spec/test_costs.py` holds every family against the parameters of a real model.

Symbols: d the width, q the numbers of all query heads, k those of all key heads, f of the feed-forward.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from bild_dist.errors import ConfigError
from bild_dist.model import hub
from bild_dist.types import nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The layers of an encoder or of a decoder.

    `loose` are the norms and biases of a layer, `once` what the stack has beside its layers (the last
    norm, the table of relative positions) and reads in every pass, in numbers.
    """

    layers: int
    width: int
    query: int
    keys: int
    inner: int
    gated: bool
    cross: bool = False
    loose: int = 0
    once: int = 0

    @property
    def attention(self) -> int:
        """Numbers of the four matrices of one attention."""
        return 2 * self.width * (self.query + self.keys)

    @property
    def feed_forward(self) -> int:
        """Numbers of the matrices of one feed-forward, gated ones have three."""
        return (3 if self.gated else 2) * self.width * self.inner

    @property
    def parameters(self) -> int:
        """Numbers of all its weights."""
        layer = self.attention * (2 if self.cross else 1) + self.feed_forward + self.loose
        return self.layers * layer + self.once


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model. `vocabulary` rows of an embedding, `head` rows of an output head, which is the embedding
    itself where they are `tied`; `tables` are numbers of position embeddings, of which a pass reads a
    row a token. `every_row`: the family computes the head for all fed tokens, not only for those asked for.
    """

    family: str
    encoder: Stack | None
    decoder: Stack
    vocabulary: int
    head: int
    tied: bool
    tables: int = 0
    every_row: bool = False

    @property
    def parameters(self) -> int:
        """Numbers of all weights."""
        own = 0 if self.tied else self.head * self.decoder.width
        encoder = self.encoder.parameters if self.encoder else 0
        embedding = self.vocabulary * self.decoder.width
        return encoder + self.decoder.parameters + embedding + own + self.tables

    @property
    def size(self) -> str:
        """In a few words: `T5, 4+3 layers, width 192, feed-forward 384, 4.2 M weights`."""
        stacks = [self.encoder, self.decoder] if self.encoder else [self.decoder]
        layers = "+".join(str(stack.layers) for stack in stacks)
        return (
            f"{self.family}, {layers} layers, width {self.decoder.width}, feed-forward {self.decoder.inner}, "
            f"{self.parameters / 1e6:.1f} M weights"
        )


def shape_of(config: Mapping[str, Any], name: str = "the model") -> Shape:
    """The shape that a config.json describes. `name` is what messages call the model.

    Raises:
        ConfigError: a family whose cost is not known here, or a config that lacks a size.
    """
    family = str(config.get("model_type", ""))
    known = _READERS.get(family)
    if known is None:
        raise ConfigError(
            f"{name}: the cost of family {family!r} is not known{nearest(family, sorted(_READERS))}"
        )
    try:
        return known(config)
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{name}: its config.json gives no {error}") from None


def shape_at(model: str, exit_layer: int = 0) -> Shape:
    """The shape of what a worker's `--model` may be: a folder, a draft folder, a hub id.

    `exit_layer`: how many first layers are kept, 0 for all.

    Raises:
        ConfigError: it is not there, or no shape can be read off it.
    """
    folder = hub.folder_of(model, weights=False)
    head: int | None = None
    if hub.is_draft(folder):
        said = _json(folder / hub.DRAFT)
        exit_layer, head = int(said["layers"]), said["head"] and len(said["head"])
        base = str(said["base"])
        folder = hub.folder_of(str(folder / base) if base.startswith(".") else base, weights=False)
    shape = shape_of(_json(folder / "config.json"), model)
    if exit_layer:
        shape = replace(shape, decoder=replace(shape.decoder, layers=exit_layer))
    if head:
        shape = replace(shape, head=head, tied=False)
    return shape


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{file} must be an object")
    return found


def _t5(config: Mapping[str, Any]) -> Shape:
    width, inner = config["d_model"], config["num_heads"] * config["d_kv"]
    gated = str(config.get("feed_forward_proj", "relu")).startswith("gated")
    buckets = config.get("relative_attention_num_buckets", 32) * config["num_heads"]
    layers = config["num_layers"]

    def stack(layers: int, *, cross: bool) -> Stack:
        return Stack(
            layers=layers, width=width, query=inner, keys=inner, inner=config["d_ff"], gated=gated,
            cross=cross, loose=(3 if cross else 2) * width, once=width + buckets,
        )  # fmt: skip

    return Shape(
        family=config["model_type"],
        encoder=stack(layers, cross=False),
        decoder=stack(config.get("num_decoder_layers") or layers, cross=True),
        vocabulary=config["vocab_size"],
        head=config["vocab_size"],
        tied=config.get("tie_word_embeddings", True),
        every_row=True,
    )


def _bart(config: Mapping[str, Any]) -> Shape:
    """BART and its kin: biases everywhere, two numbers a norm, and a table of positions each side."""
    family, width = config["model_type"], config["d_model"]
    last = family in ("mbart", "m2m_100")
    first = family in ("bart", "mbart")

    def stack(name: str, *, cross: bool) -> Stack:
        inner = config[f"{name}_ffn_dim"]
        norms, biases = (3, 8) if cross else (2, 4)
        return Stack(
            layers=config[f"{name}_layers"], width=width, query=width, keys=width, inner=inner,
            gated=False, cross=cross, loose=norms * 2 * width + biases * width + inner + width,
            once=2 * width * (last + first),
        )  # fmt: skip

    # Positions by formula are no weights in M2M100; Marian keeps them as a table.
    rows = config["max_position_embeddings"] + (2 if first else 0)
    return Shape(
        family=family,
        encoder=stack("encoder", cross=False),
        decoder=stack("decoder", cross=True),
        vocabulary=config["vocab_size"],
        head=config["vocab_size"],
        tied=config.get("tie_word_embeddings", True),
        tables=0 if family == "m2m_100" else 2 * rows * width,
        every_row=True,
    )


def _llama(config: Mapping[str, Any]) -> Shape:
    """Llama and its kin. Qwen2 has biases on queries, keys and values, Qwen3 norms on the first two."""
    family, width, heads = (
        config["model_type"],
        config["hidden_size"],
        config["num_attention_heads"],
    )
    size = config.get("head_dim") or width // heads
    query, keys = heads * size, (config.get("num_key_value_heads") or heads) * size
    loose = 2 * width
    if family == "qwen2":
        loose += query + 2 * keys
    elif config.get("attention_bias"):
        loose += query + 2 * keys + width
    if family == "qwen3":
        loose += 2 * size
    if config.get("mlp_bias"):
        loose += 2 * config["intermediate_size"] + width
    return Shape(
        family=family,
        encoder=None,
        decoder=Stack(
            layers=config["num_hidden_layers"], width=width, query=query, keys=keys,
            inner=config["intermediate_size"], gated=True, loose=loose, once=width,
        ),
        vocabulary=config["vocab_size"],
        head=config["vocab_size"],
        tied=config.get("tie_word_embeddings", False),
    )  # fmt: skip


def _gpt2(config: Mapping[str, Any]) -> Shape:
    width = config["n_embd"]
    inner = config.get("n_inner") or 4 * width
    return Shape(
        family="gpt2",
        encoder=None,
        decoder=Stack(
            layers=config["n_layer"], width=width, query=width, keys=width, inner=inner, gated=False,
            loose=2 * 2 * width + 4 * width + inner + width, once=2 * width,
        ),
        vocabulary=config["vocab_size"],
        head=config["vocab_size"],
        tied=config.get("tie_word_embeddings", True),
        tables=config["n_positions"] * width,
    )  # fmt: skip


_READERS: Final[Mapping[str, Callable[[Mapping[str, Any]], Shape]]] = {
    **dict.fromkeys(("t5", "mt5"), _t5),
    **dict.fromkeys(("bart", "mbart", "marian", "m2m_100"), _bart),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), _llama),
    "gpt2": _gpt2,
}
"""What reads which `model_type`."""
