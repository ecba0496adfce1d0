"""Decoder-only models of Llama's kind as plain operations over slots.

Llama, Mistral, Qwen2 and Qwen3 differ in biases and in a norm of queries and keys. Each layer is some
twenty-five operations: queries, keys and values come of one matrix and are turned together by a
table of angles; heads that share keys are rows of one product, so that no key is copied; few rows are
attended to by two products and a softmax, many by torch's own attention; and the last layer goes on
with those positions only that somebody asked for. Same numbers up to rounding: a model compares the
two at start-up (`startup.py`). Texts that share a pass share its matrices, which read their weights once
for all of them, and look each at its own keys.

Measured on SmolLM2-135M, one thread of an AMD EPYC beside a busy core, float32, torch 2.13, time of the
thread, medians, packed modules as they were before in brackets: one, four and eight tokens behind 100
take 43, 41 and 58 ms (66, 58, 78), of which the matrices are nine tenths. A prompt of 200 takes 495 ms
(537), with the first four layers alone 54 (72). An operation less in each layer is worth less than a
hundredth. docs/alignment.md has what a draft of four layers takes.

Shapes: Q ids fed, R of them read, L ids with keys, H heads, K of them with keys, D head size, W width,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import torch
from torch.nn.functional import embedding, scaled_dot_product_attention

from bild_dist.model.parts import (
    Fed,
    Joined,
    Norm,
    Rows,
    Source,
    cut,
    joinable,
    last,
    matrices,
    stacked,
)

_FAMILIES: Final = (
    "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM",
)  # fmt: skip
_TURNS: Final = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary positions whose angles do not depend on the length of the text."""
_FEW: Final = 16
"""Rows up to which two products are faster than torch's own attention."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer: a norm in front of each of its two parts."""

    norms: tuple[Norm, Norm]
    joined: Joined
    """Queries, keys and values side by side."""
    even: tuple[Norm, torch.Tensor] | None
    """The norm of queries and keys, and its weights for all of them, H + K by D."""
    out: Joined
    opened: Joined
    """What opens and what goes through, side by side."""
    act: Rows
    closed: Joined


class LlamaDecoder:
    """Passes of one model. Immutable but for its table of angles, which grows; keys and values of a text
    lie in its slot.
    """

    def __init__(self, model: Any) -> None:
        config, decoder = model.config, model.model
        own = decoder.layers[0].self_attn
        self._heads, self._keyed = config.num_attention_heads, config.num_key_value_heads
        self._size, self._scale = own.head_dim, own.scaling
        self._inner = config.intermediate_size
        self._model, self._angles = model, decoder.rotary_emb
        self._layers = [_layer(layer, self._heads, self._keyed) for layer in decoder.layers]
        self._embed = decoder.embed_tokens.weight.detach()
        self._last = Norm.of(decoder.norm)
        self._near = self._far = torch.empty(0, 1, self._size)
        self._nothing = torch.zeros(1, 1, 1)

    @classmethod
    def of(cls, model: Any) -> Self | None:
        """None where this is no such model, or one that does more than is done here."""
        if type(model).__name__ not in _FAMILIES:
            return None
        config, decoder = model.config, model.model
        good = (
            joinable(decoder.layers)
            and set(getattr(config, "layer_types", None) or ["full_attention"])
            == {"full_attention"}
            and getattr(config, "sliding_window", None) is None
            and getattr(config, "pretraining_tp", 1) == 1
            and config.rope_parameters.get("rope_type", "default") in _TURNS
            and 2 * len(decoder.rotary_emb.inv_freq) == decoder.layers[0].self_attn.head_dim
        )
        return cls(model) if good else None

    @property
    def matrices(self) -> Sequence[Joined]:
        return matrices(self._layers)

    def source(self, ids: torch.Tensor) -> Source:
        """Nothing: there is no source."""
        return ()

    def logits(self, texts: Sequence[Fed]) -> Sequence[torch.Tensor]:
        counts, read = [len(text.ids) for text in texts], [text.rows for text in texts]
        total, size, inner = sum(counts), self._size, self._inner
        turned, half, final = self._heads + self._keyed, self._size // 2, len(self._layers) - 1
        ends = [text.at + count for text, count in zip(texts, counts, strict=True)]
        turns = [self._turns(text.at, end) for text, end in zip(texts, ends, strict=True)]
        near, far = (stacked(parts) for parts in zip(*turns, strict=True))
        masks = [self._mask(count, end) for count, end in zip(counts, ends, strict=True)]
        states = embedding(stacked([text.ids for text in texts]), self._embed)[:, None]
        for number, layer in enumerate(self._layers):
            made = layer.joined.run(layer.norms[0](states)).view(total, -1, size)
            asked = made[:, :turned]
            if layer.even is not None:
                norm, weights = layer.even
                asked = norm(asked.reshape(-1, 1, size)).view(total, -1, size) * weights
            asked = torch.addcmul(asked * near, asked.roll(half, -1), far)
            if number == final and sum(read) < total:
                # Nobody reads what the last layer gives at the other positions.
                states = last(states, counts, read)
                masks = [self._mask(rows, end) for rows, end in zip(read, ends, strict=True)]
            found = self._looked(texts, cut(asked, counts), cut(made, counts), masks, number)
            if not found:
                return [states[:0, 0] for _ in texts]
            states = states + layer.out.run(stacked(found))
            gates = layer.opened.run(layer.norms[1](states))
            states = states + layer.closed.run(layer.act(gates[..., :inner]) * gates[..., inner:])
        logits: torch.Tensor = self._model.lm_head(self._last(states))
        return cut(logits[:, 0], read)

    def _looked(
        self,
        texts: Sequence[Fed],
        asked: Sequence[torch.Tensor],
        made: Sequence[torch.Tensor],
        masks: Sequence[torch.Tensor | None],
        number: int,
    ) -> list[torch.Tensor]:
        """One layer's attention, each text over its own keys; in the last layer nothing of the texts of
        which no row is read. Shapes: `asked` QH+KD, `made` as `_Layer.joined` gives it, QHD in all.
        """
        found, heads, turned = [], self._heads, self._heads + self._keyed
        final = number == len(self._layers) - 1
        for text, own, other, mask in zip(texts, asked, made, masks, strict=True):
            keys, values = text.cache.update(
                own[:, heads:].transpose(0, 1)[None], other[:, turned:].transpose(0, 1)[None], number
            )  # fmt: skip
            queries = own[:, :heads]
            if final and text.rows < len(queries):
                if text.rows == 0:
                    continue
                queries = queries[len(queries) - text.rows :]
            found.append(self._attended(queries, keys, values, mask))
        return found

    def _attended(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Shapes: `queries` RHD, `keys` and `values` 1KLD; result R1 by H times D."""
        count = len(queries)
        if count > _FEW:
            found = scaled_dot_product_attention(
                queries.transpose(0, 1)[None], keys, values, attn_mask=mask, is_causal=mask is None,
                scale=self._scale, enable_gqa=self._keyed < self._heads,
            )  # fmt: skip
            return found[0].transpose(0, 1).reshape(count, 1, -1)
        split = (count, self._keyed, -1, self._size)
        grouped = queries.view(split).permute(1, 2, 0, 3).reshape(self._keyed, -1, self._size)
        scores = torch.baddbmm(
            self._nothing if mask is None else mask, grouped, keys[0].transpose(1, 2), alpha=self._scale
        )  # fmt: skip
        found = torch.bmm(scores.softmax(-1), values[0])
        parts = found.view(self._keyed, -1, count, self._size)
        return parts.permute(2, 0, 1, 3).reshape(count, 1, -1)

    def _mask(self, rows: int, end: int) -> torch.Tensor | None:
        """What the last `rows` of `end` positions add to the scores of those that they may look at,
        -inf behind them; None where nothing lies behind, or torch's own attention knows. Shapes:
        RL, for few rows as often as heads share keys.
        """
        if rows == 1 or (rows > _FEW and rows == end):
            return None
        mask = torch.full((rows, end), -torch.inf).triu_(end - rows + 1)
        return mask if rows > _FEW else mask.repeat(self._heads // self._keyed, 1)

    def _turns(self, at: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """By what each number of a head is multiplied, and by what the one half a head away, so that it
        is turned to its position. Shapes: Q1D each.
        """
        if len(self._near) < end:
            # At least doubled, so that a long text does not make it anew at each step.
            near, far = self._angles(self._embed, torch.arange(2 * end)[None])
            half = self._size // 2
            self._near = near[0, :, None].clone()
            self._far = torch.cat((-far[0, :, None, :half], far[0, :, None, half:]), -1)
        return self._near[at:end], self._far[at:end]


def _layer(layer: Any, heads: int, keyed: int) -> _Layer:
    own, feed = layer.self_attn, layer.mlp
    return _Layer(
        norms=(Norm.of(layer.input_layernorm), Norm.of(layer.post_attention_layernorm)),
        joined=Joined(own.q_proj, own.k_proj, own.v_proj),
        even=_even(own, heads, keyed) if hasattr(own, "q_norm") else None,
        out=Joined(own.o_proj), opened=Joined(feed.gate_proj, feed.up_proj),
        act=feed.act_fn.forward, closed=Joined(feed.down_proj),
    )  # fmt: skip


def _even(own: Any, heads: int, keyed: int) -> tuple[Norm, torch.Tensor]:
    weights = [own.q_norm.weight.detach()] * heads + [own.k_norm.weight.detach()] * keyed
    return Norm(torch.ones_like(weights[0]), own.q_norm.variance_epsilon), torch.stack(weights)
