"""The KV cache as tensors: preallocated, cut by an integer.

One pair of tensors per layer holds all slots. A slot's cache is a set of views into them, given to
transformers as a `Cache` of our own, because transformers' classes grow by copying and change
between releases. A pass over a slot starts with `rewind(at)`; that is all a rollback is.

    index of a slot's views:  0 ........ at ......... at + q ........ max_length
                              | kept     | written by  | garbage,      |
                              |          | this pass   | never read    |

Shapes: S slots, H key-value heads, L max_length, D head size, Q ids fed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, EncoderDecoderCache


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer keeps for one token: H heads of so many numbers, as keys and as values."""

    heads: int
    key_size: int
    value_size: int
    dtype: torch.dtype


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer of one slot. Owned by its SlotCache.

    Shapes: `keys` and `values` are views 1HLD into the store, `all_keys` and `all_values`, SHLD, at
    `index`; rows from `length` on are garbage.
    """

    is_sliding = False
    is_compileable = False
    is_croppable = True

    def __init__(self, all_keys: torch.Tensor, all_values: torch.Tensor, index: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.all_keys, self.all_values, self.index = all_keys, all_values, index
        self.keys: torch.Tensor = all_keys[index : index + 1]
        self.values: torch.Tensor = all_values[index : index + 1]
        self.is_initialized = True
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing is lazy here: the store was allocated before."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes Q tokens behind the length and gives all that a query may look at."""
        start, count = self.length, key_states.shape[-2]
        end = self.length = start + count
        self.keys.narrow(2, start, count).copy_(key_states)
        self.values.narrow(2, start, count).copy_(value_states)
        return self.keys.narrow(2, 0, end), self.values.narrow(2, 0, end)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        # As a cache that grows: a maximum would mean that `update` returns the whole length.
        return -1


class SlotCache(Cache):
    """All layers of one slot. Owned by the engine thread.

    Raises:
        ValueError: `rewind` asks for more than the slot holds or ever can; a bug of the caller.
    """

    def __init__(self, layers: list[SlotLayer], max_length: int) -> None:
        super().__init__(layers=[*layers])
        self.slot_layers = layers
        self.stored: Callable[[], None] | None = None
        """Called when a layer has stored what it keeps of a pass; whoever sets it takes it back."""
        self._max_length = max_length

    @property
    def length(self) -> int:
        """Tokens whose keys and values are there."""
        return self.slot_layers[-1].length

    def rewind(self, at: int, count: int) -> None:
        """Lets the next pass write `count` tokens behind the first `at`. O(1): nothing is copied or
        cleared.
        """
        if not 0 <= at <= self.length:
            raise ValueError(f"cannot build on {at} tokens: the slot holds {self.length}")
        if at + count > self._max_length:
            raise ValueError(f"{at + count} tokens do not fit a slot of {self._max_length}")
        for layer in self.slot_layers:
            layer.length = at

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        result = self.slot_layers[layer_idx].update(key_states, value_states)
        if self.stored is not None:
            self.stored()
        return result


class SlotStore:
    """The tensors of all slots. Owned by the engine thread.

    Untouched pages cost nothing on a CPU: the memory is asked for and never cleared.

    Shapes: two tensors SHLD per layer.
    """

    def __init__(
        self, shapes: Sequence[LayerShape], slots: int, max_length: int, device: torch.device
    ) -> None:
        def empty(shape: LayerShape, size: int) -> torch.Tensor:
            return torch.empty(
                slots, shape.heads, max_length, size, dtype=shape.dtype, device=device
            )

        pairs = [(empty(shape, shape.key_size), empty(shape, shape.value_size)) for shape in shapes]
        self._caches = [
            SlotCache(
                [SlotLayer(keys, values, i) for keys, values in pairs],
                max_length,
            )
            for i in range(slots)
        ]

    def slot(self, index: int) -> SlotCache:
        """The cache of one slot, as the last pass left it."""
        return self._caches[index]

    def clean(self, index: int) -> SlotCache:
        """The cache of one slot, made to hold nothing."""
        cache = self._caches[index]
        cache.rewind(0, 0)
        return cache


def with_source(cache: SlotCache) -> EncoderDecoderCache:
    """A slot's cache together with room for the keys of a source that no pass has seen yet.

    Made anew whenever a slot is opened: whether the source's keys are there is part of this object,
    so those of the request before cannot be taken for them.
    """
    return EncoderDecoderCache(cache, DynamicCache())


def shapes_of(cache: Cache) -> list[LayerShape]:
    """What the layers of a used cache keep.

    Raises:
        TypeError: a layer keeps something else than keys and values of all tokens; names it.
    """
    if isinstance(cache, EncoderDecoderCache):
        cache = cache.self_attention_cache
    shapes = []
    for layer in cache.layers:
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if not isinstance(keys, torch.Tensor) or not isinstance(values, torch.Tensor):
            raise TypeError(type(layer).__name__)
        shapes.append(LayerShape(keys.shape[1], keys.shape[3], values.shape[3], keys.dtype))
    return shapes
