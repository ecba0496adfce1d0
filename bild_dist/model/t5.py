"""The decoder of a T5 as plain operations over slots, for models that are narrow or deep.

A step of a small model costs what it takes to get to the arithmetic: of the 10.5 ms that twelve
layers of width 192 take over one token, 3 are spent in matrices. Here each layer is some twenty
operations on weights that were joined once (query, key and value; both gates), the position bias is
looked up in a table, and the source's keys are laid out as they are read. Same numbers up to
rounding: a model compares the two at start-up (`startup.py`). Texts that share a pass share its
matrices and look each at its own keys and source.

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

from bild_dist.model.parts import Fed, Joined, Norm, Source, cut, joinable, last, matrices, stacked
from bild_dist.model.t5_encoder import Layer, T5Encoder, attended, biases, merged

_FAMILIES: Final = ("T5ForConditionalGeneration", "MT5ForConditionalGeneration")


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer, and between its two parts attention to the source, with a norm of its own."""

    own: Layer
    norm: Norm
    asked: Joined
    answered: Joined


class T5Decoder:
    """Passes of one model. Immutable but for its table of biases, which grows; keys and values of a text
    lie in its slot.
    """

    def __init__(self, model: Any) -> None:
        config, decoder = model.config, model.decoder
        self._heads, self._size = config.num_heads, config.d_kv
        self._encoder = T5Encoder(model.encoder, self._heads, self._size)
        self._layers = [_layer(*block.layer) for block in decoder.block]
        far = [block.layer[1].EncDecAttention for block in decoder.block]
        self._far = Joined(*(part for each in far for part in (each.k, each.v)))
        self._embed = decoder.embed_tokens.weight.detach()
        self._model = model
        self._last = Norm.of(decoder.final_layer_norm)
        # mT5 never does, and has no such setting.
        scaled = getattr(config, "scale_decoder_outputs", False)
        self._scale = config.d_model**-0.5 if scaled else 1.0
        self._attention = decoder.block[0].layer[0].SelfAttention
        self._bias = torch.empty(self._heads, 0)

    @classmethod
    def of(cls, model: Any) -> Self | None:
        """None where this is no such model."""
        if type(model).__name__ not in _FAMILIES:
            return None
        good = joinable(model.encoder.block) and joinable(model.decoder.block)
        return cls(model) if good else None

    @property
    def matrices(self) -> Sequence[Joined]:
        own = matrices([layer.own for layer in self._layers])
        return (*self._encoder.matrices, self._far, *own, *matrices(self._layers))

    def source(self, ids: torch.Tensor) -> Source:
        """For each layer the source's keys HDS and values HSD."""
        rows = self._far.run(self._encoder.states(ids))
        # One copy for all layers, into the order in which they are read.
        split = rows.view(len(ids), -1, 2, self._heads, self._size)
        keys = split[:, :, 0].permute(1, 2, 3, 0).contiguous()
        values = split[:, :, 1].permute(1, 2, 0, 3).contiguous()
        return list(zip(keys.unbind(), values.unbind(), strict=True))

    def logits(self, texts: Sequence[Fed]) -> Sequence[torch.Tensor]:
        counts, read = [len(text.ids) for text in texts], [text.rows for text in texts]
        total, heads, size = sum(counts), self._heads, self._size
        states = embedding(stacked([text.ids for text in texts]), self._embed)[:, None]
        bias = [self._biases(text.at, count) for text, count in zip(texts, counts, strict=True)]
        for number, layer in enumerate(self._layers):
            own = layer.own
            made = own.joined.run(own.first(states)).view(total, 3, heads, size)
            found = []
            for text, part, behind in zip(texts, cut(made, counts), bias, strict=True):
                queries, keys, values = part[None].permute(2, 0, 3, 1, 4)
                keys, values = text.cache.update(keys, values, number)
                found.append(attended(queries[0], keys[0], values[0], behind))
            states = states + own.out.run(stacked(found))
            asked = layer.asked.run(layer.norm(states)).view(total, heads, size).transpose(0, 1)
            found = []
            for text, wanted in zip(texts, cut(asked, counts, 1), strict=True):
                far_keys, far_values = text.source[number]
                weights = torch.bmm(wanted, far_keys).softmax(-1)
                found.append(merged(weights @ far_values))
            states = own.fed(states + layer.answered.run(stacked(found)))
        if sum(read) == 0:
            return [states[:0, 0] for _ in texts]
        states = last(states, counts, read)
        logits: torch.Tensor = self._model.lm_head(self._last(states) * self._scale)
        return cut(logits[:, 0], read)

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
        known = biases(self._attention, -torch.arange(length), both=False)
        return torch.cat((known, torch.full_like(known, -torch.inf)), 1)


def _layer(attention: Any, far: Any, feed: Any) -> _Layer:
    answers = far.EncDecAttention
    return _Layer(
        Layer.of(attention, feed), Norm.of(far.layer_norm), Joined(answers.q), Joined(answers.o)
    )
