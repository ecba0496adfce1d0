"""The decoder of a T5 as plain operations over one slot, for models that are narrow or deep.

A step of a small model costs what it takes to get to the arithmetic: of the 10.5 ms that twelve
layers of width 192 take over one token, 3 are spent in matrices. Here each layer is some twenty
operations on weights that were joined once (query, key and value; both gates), the position bias is
looked up in a table, and the source's keys are laid out as they are read. Same numbers up to
rounding: a model compares the two at start-up (`startup.py`).

Measured, two AMD EPYC cores, float32, torch 2.13, width 192, medians over one and eight tokens:
twelve layers 4.8 and 5.7 ms instead of 10.5 and 11.8, one layer 0.37 and 0.8 ms instead of 1.4 and
1.8. The norm of `parts.py` and what `packed.py` says of few rows have since taken off another eighth.

Shapes: Q ids fed, H heads, D head size, L ids with keys, S source ids, W width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import torch
from torch.nn.functional import embedding

from bild_dist.kv.cache import SlotCache
from bild_dist.model.parts import Joined, Norm, Rows, joinable, matrices

_FAMILIES: Final = ("T5ForConditionalGeneration", "MT5ForConditionalGeneration")


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer: a norm in front of each of its three parts."""

    norms: tuple[Norm, Norm, Norm]
    joined: Joined
    """Queries, keys and values side by side."""
    out: Joined
    asked: Joined
    source_keys: Joined
    source_values: Joined
    answered: Joined
    opened: Joined
    """Of a gated feed-forward part what opens and what goes through, side by side."""
    act: Rows
    closed: Joined
    inner: int
    """Numbers between the two."""


class T5Decoder:
    """Passes of one model. Immutable; keys and values of a text lie in its slot."""

    def __init__(self, model: Any) -> None:
        config, decoder = model.config, model.decoder
        self._heads, self._size = config.num_heads, config.d_kv
        self._layers = [_layer(block.layer) for block in decoder.block]
        self._embed = decoder.embed_tokens.weight.detach()
        self._model = model
        last = decoder.final_layer_norm
        self._last = Norm(last.weight, last.variance_epsilon)
        # mT5 never does. Before its own setting T5 did so where embedding and head are one.
        old = config.model_type == "t5" and config.tie_word_embeddings
        scaled = getattr(config, "scale_decoder_outputs", old)
        self._scale = config.d_model**-0.5 if scaled else 1.0
        self._attention = decoder.block[0].layer[0].SelfAttention
        self._bias = torch.empty(self._heads, 0)

    @classmethod
    def of(cls, model: Any) -> Self | None:
        """None where this is no such model."""
        if type(model).__name__ not in _FAMILIES:
            return None
        return cls(model) if joinable(model.decoder.block) else None

    @property
    def matrices(self) -> Sequence[Joined]:
        return matrices(self._layers)

    def source(self, states: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For each layer the source's keys HDS and values HSD."""
        found = []
        for layer in self._layers:
            keys, values = layer.source_keys.run(states), layer.source_values.run(states)
            split = (len(states), self._heads, self._size)
            found.append(
                (
                    keys.view(split).permute(1, 2, 0).contiguous(),
                    values.view(split).transpose(0, 1).contiguous(),
                )
            )
        return found

    def logits(
        self,
        ids: torch.Tensor,
        at: int,
        cache: SlotCache,
        source: Sequence[tuple[torch.Tensor, torch.Tensor]],
        rows: int,
    ) -> torch.Tensor:
        count, heads, size = len(ids), self._heads, self._size
        states = embedding(ids, self._embed)[:, None]
        bias = self._biases(at, count)
        for number, (layer, (far_keys, far_values)) in enumerate(
            zip(self._layers, source, strict=True)
        ):
            joined = layer.joined.run(layer.norms[0](states))
            queries, keys, values = joined.view(1, count, 3, heads, size).permute(2, 0, 3, 1, 4)
            keys, values = cache.update(keys, values, number)
            weights = torch.baddbmm(bias, queries[0], keys[0].transpose(1, 2)).softmax(-1)
            states = states + layer.out.run(_merged(weights @ values[0]))
            asked = layer.asked.run(layer.norms[1](states))
            weights = torch.bmm(asked.view(count, heads, size).transpose(0, 1), far_keys)
            states = states + layer.answered.run(_merged(weights.softmax(-1) @ far_values))
            states = states + _fed(layer, layer.norms[2](states))
        if rows == 0:
            return states[:0, 0]
        found: torch.Tensor = self._model.lm_head(self._last(states[count - rows :]) * self._scale)
        return found[:, 0]

    def _biases(self, at: int, count: int) -> torch.Tensor:
        """What each position adds to the score of each that it may look at, -inf for those behind
        it. Shapes: HQL.
        """
        end = at + count
        if self._bias.shape[1] < 2 * end:
            self._bias = self._table(2 * end)
        # A negative distance counts from the end of the table, where -inf stands.
        apart = torch.arange(at, end)[:, None] - torch.arange(end)
        return self._bias[:, apart]

    def _table(self, length: int) -> torch.Tensor:
        """Biases by distance, 0 to `length` - 1, and as many times -inf. Shapes: H by 2 `length`."""
        part = self._attention
        buckets = part._relative_position_bucket(
            -torch.arange(length), bidirectional=False,
            num_buckets=part.relative_attention_num_buckets,
            max_distance=part.relative_attention_max_distance,
        )  # fmt: skip
        known = part.relative_attention_bias.weight.detach()[buckets].t()
        return torch.cat((known, torch.full_like(known, -torch.inf)), 1)


def _layer(parts: Sequence[Any]) -> _Layer:
    own, far, feed = parts[0].SelfAttention, parts[1].EncDecAttention, parts[2].DenseReluDense
    norms = [Norm(part.layer_norm.weight, part.layer_norm.variance_epsilon) for part in parts]
    gated = hasattr(feed, "wi_0")
    return _Layer(
        norms=(norms[0], norms[1], norms[2]),
        joined=Joined(own.q, own.k, own.v), out=Joined(own.o),
        asked=Joined(far.q), source_keys=Joined(far.k), source_values=Joined(far.v), answered=Joined(far.o),
        opened=Joined(feed.wi_0, feed.wi_1) if gated else Joined(feed.wi),
        act=feed.act.forward, closed=Joined(feed.wo), inner=feed.wo.in_features,
    )  # fmt: skip


def _fed(layer: _Layer, rows: torch.Tensor) -> torch.Tensor:
    """The feed-forward part without its norm. Shapes: Q1W."""
    found = layer.opened.run(rows)
    inner = layer.act(found[..., : layer.inner])
    if found.shape[-1] > layer.inner:
        inner = inner * found[..., layer.inner :]
    return layer.closed.run(inner)


def _merged(heads: torch.Tensor) -> torch.Tensor:
    """Shapes: HQD to Q1 by H times D."""
    return heads.transpose(0, 1).reshape(heads.shape[1], 1, -1)
