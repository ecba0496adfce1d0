"""Passes of several texts by a model's own modules: one padded batch over their slots.

What a row must be is what a pass over its text alone gives. Positions are told, row by row: as
`position_ids` where the model takes them, else by asking the module that embeds them for each row as
a pass of its own would. Relative positions hold as they are (`kv/batch.py`).

Shapes: B texts, Q columns fed, L columns, S source columns, H heads, D head size, W width, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from bild_dist.kv.batch import BatchCache, Layout


class RowPositions:
    """Embeds the positions of a batch row by row, for decoders that take them from the cache's length.
    Owned by its model.
    """

    def __init__(self, embedding: Any, *, by_ids: bool) -> None:
        """`by_ids`: the module counts ids that are no pads (M2M100's), not all."""
        self._by_ids = by_ids
        self._rows: list[tuple[int, int]] = []
        embedding.forward = partial(self._run, embedding.forward)

    @classmethod
    def of(cls, model: Any, *, by_ids: bool) -> RowPositions | None:
        embedding = getattr(model.get_decoder(), "embed_positions", None)
        return cls(embedding, by_ids=by_ids) if isinstance(embedding, nn.Module) else None

    def before(self, rows: Iterable[tuple[int, int]]) -> None:
        """Announces a batch: how many ids each row is fed, and how many positions are before them."""
        self._rows = list(rows)

    def after(self) -> None:
        """The batch has run, or failed."""
        self._rows = []

    def _run(
        self, forward: Callable[..., torch.Tensor], given: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if not self._rows:
            return forward(given, *args, **kwargs)
        width = given.shape[1] if isinstance(given, torch.Tensor) else given[1]
        found = []
        for row, (count, before) in enumerate(self._rows):
            part: Any = (1, count)
            if isinstance(given, torch.Tensor):
                part = given[row : row + 1, width - count :]
            made = forward(part, None, before) if self._by_ids else forward(part, before)
            found.append(made.reshape(count, -1))
        return pad_sequence(found, batch_first=True, padding_side="left")


def answered(
    model: Any, layout: Layout, cache: BatchCache, both: Sequence[EncoderDecoderCache],
    source: Sequence[BaseModelOutput], **arguments: Any,
) -> torch.Tensor:  # fmt: skip
    """Logits of all columns that the model keeps. `both` and `source`: of texts that have a source, and
    whose keys are there. Shapes: BQV, or of fewer columns.
    """
    dtype = model.dtype
    # Finite, so that a row of padding, which looks at nothing, gives no nan.
    mask = torch.zeros(layout.looks.shape, dtype=dtype, device=layout.looks.device)
    mask.masked_fill_(~layout.looks, torch.finfo(dtype).min)
    if not both:
        found = model(
            input_ids=layout.fed, attention_mask=mask, past_key_values=cache, use_cache=True, **arguments
        )  # fmt: skip
    else:
        states: list[Any] = [one.last_hidden_state for one in source]
        lengths = torch.tensor([state.shape[1] for state in states])
        columns = torch.arange(int(lengths.max()))
        known = (columns < lengths[:, None]).to(mask.device)
        # Their keys are known: all that is read of the states is their shape.
        blank = states[0].new_zeros(()).expand(len(states), len(columns), states[0].shape[2])
        found = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=blank), attention_mask=known.long(),
            decoder_input_ids=layout.fed, decoder_attention_mask=mask,
            past_key_values=EncoderDecoderCache(cache, _sources(both)), use_cache=True, **arguments,
        )  # fmt: skip
    logits: torch.Tensor = found.logits
    return logits


def _sources(both: Sequence[EncoderDecoderCache]) -> DynamicCache:
    """Keys of several sources, shorter ones padded behind. Shapes: BHSD a layer."""
    whole = DynamicCache()
    caches: list[Any] = [one.cross_attention_cache for one in both]
    for number in range(len(caches[0])):
        layers = [cache.layers[number] for cache in caches]
        keys, values = (
            pad_sequence([part[0].transpose(0, 1) for part in parts], batch_first=True).transpose(
                1, 2
            )
            for parts in ([layer.keys for layer in layers], [layer.values for layer in layers])
        )
        whole.update(keys, values, number)
    return whole
