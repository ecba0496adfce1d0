"""Several slots as one cache of transformers: a padded batch whose rows end together.

    columns   0 ...................................... L
    slot a    | padding     | kept             | fed   |
    slot b    | kept                               |fed|
    slot c    | padding | kept       | fed             |
                                     Q columns are fed |

So two columns are as far apart as the two positions that stand there, in every row: families with
relative positions need not know that rows differ. What is padding is never written to a slot, and no
query of a text looks at it.

Shapes: B slots of a batch, L columns, Q fed columns, T ids fed in all, H key-value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from bild_dist.kv.cache import SlotCache, SlotLayer


class Layout:
    """Which position of which slot stands in which column. Immutable.

    `ids` is what each slot is fed, behind what it holds: a pass has set its length. `fed` BQ are those
    ids in their columns, `places` BQ their positions, `looks` B1QL which columns each may look at.
    """

    def __init__(
        self, caches: Sequence[SlotCache], ids: Sequence[Sequence[int]], device: torch.device
    ) -> None:
        self.counts = [len(part) for part in ids]
        self.starts = [cache.length for cache in caches]
        ends = [start + count for start, count in zip(self.starts, self.counts, strict=True)]
        self.width, self.length = width, length = max(self.counts), max(ends)
        rows = len(ids)
        slots = [cache.slot_layers[0].index for cache in caches]
        told = [(row, place) for row, count in enumerate(self.counts) for place in range(count)]
        # One copy to the device for everything that is small.
        numbers = [
            *(n for part in ids for n in (*[0] * (width - len(part)), *part)),
            *ends, *slots,
            *(row for row, _ in told), *(width - self.counts[row] + place for row, place in told),
            *(slots[row] for row, _ in told), *(self.starts[row] + place for row, place in told),
        ]  # fmt: skip
        sizes = [rows * width, rows, rows, *[len(told)] * 4]
        fed, last, self.slots, *rest = torch.tensor(numbers).to(device).split_with_sizes(sizes)
        self.fed = fed.view(rows, width)
        self.row, self.column, self.slot, self.position = rest
        columns = torch.arange(length, device=device)
        there = columns - (length - last)[:, None]
        behind = columns <= columns[length - width :, None]
        self.looks = ((there >= 0)[:, None] & behind)[:, None]
        # A column of padding shows the first position of its slot, which every pass has written.
        self.shown = there.clamp_(min=0)
        self.places = self.shown[:, length - width :]


class BatchLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer of several slots. Owned by its BatchCache."""

    is_sliding = False
    is_compileable = False
    is_croppable = False

    def __init__(self, layers: Sequence[SlotLayer], layout: Layout) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_initialized = True
        self._layers = layers
        self._layout = layout
        self._length = layout.length - layout.width

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing is lazy here: the slots were allocated before."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes what each slot is fed, and gives all columns. Shapes: BHQD to BHLD."""
        for layer, count in zip(self._layers, self._layout.counts, strict=True):
            layer.length += count
        self._length = self._layout.length
        first = self._layers[0]
        return self._through(first.all_keys, key_states), self._through(
            first.all_values, value_states
        )

    def _through(self, store: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
        at = self._layout
        store[at.slot, :, at.position] = made[at.row, :, at.column]
        return store[at.slots[:, None], :, at.shown].transpose(1, 2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._layout.length, 0

    def get_seq_length(self) -> int:
        return self._length

    def get_max_length(self) -> int:
        return -1


class BatchCache(Cache):
    """All layers of several slots, for one pass over them. Owned by that pass."""

    def __init__(self, caches: Sequence[SlotCache], layout: Layout) -> None:
        numbers = range(len(caches[0].slot_layers))
        super().__init__(
            layers=[BatchLayer([cache.slot_layers[n] for cache in caches], layout) for n in numbers]
        )
