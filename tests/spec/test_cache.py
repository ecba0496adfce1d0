"""The slot cache: preallocated tensors, cut by an integer."""

import pytest
import torch
from transformers import DynamicCache, MambaConfig

from bild_dist.kv.cache import LayerShape, SlotCache, SlotStore, shapes_of, with_source

CPU = torch.device("cpu")
SHAPES = [LayerShape(2, 4, 4, torch.float32), LayerShape(2, 4, 6, torch.float32)]


def states(count: int, seed: int, size: int = 4) -> torch.Tensor:
    return torch.randn(1, 2, count, size, generator=torch.Generator().manual_seed(seed))


def feed(cache: SlotCache, at: int, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One pass through both layers; returns what a query of the second one sees."""
    cache.rewind(at, count)
    cache.update(states(count, seed), states(count, seed + 1), 0)
    return cache.update(states(count, seed + 2), states(count, seed + 3, 6), 1)


def test_an_update_gives_what_was_kept_and_what_is_new():
    """A query sees the keys of all earlier passes and of its own, in order, and nothing else."""
    cache = SlotStore(SHAPES, 1, 8, CPU).clean(0)
    feed(cache, 0, 3, seed=1)
    keys, values = feed(cache, 3, 2, seed=10)
    assert torch.equal(keys, torch.cat([states(3, 3), states(2, 12)], 2))
    assert torch.equal(values, torch.cat([states(3, 4, 6), states(2, 13, 6)], 2))
    assert cache.length == 5


def test_a_rollback_is_a_smaller_length():
    """After a rollback the kept part is what it was and the rest is overwritten: nothing moves,
    nothing is cleared.
    """
    cache = SlotStore(SHAPES, 1, 8, CPU).clean(0)
    before, _ = feed(cache, 0, 6, seed=1)
    keys, _ = feed(cache, 2, 1, seed=20)
    assert torch.equal(keys, torch.cat([states(6, 3)[:, :, :2], states(1, 22)], 2))
    assert keys.data_ptr() == before.data_ptr()
    # What lies past the length is garbage, and is still there.
    assert torch.equal(before[:, :, 3:], states(6, 3)[:, :, 3:])


@pytest.mark.parametrize(("at", "count"), [(4, 1), (-1, 1), (3, 6)])
def test_a_slot_refuses_what_it_does_not_hold(at: int, count: int):
    """Building on tokens that were never fed, or past the end of the slot, raises and changes
    nothing.
    """
    cache = SlotStore(SHAPES, 1, 8, CPU).clean(0)
    feed(cache, 0, 3, seed=1)
    with pytest.raises(ValueError, match=r"cannot build on|do not fit"):
        cache.rewind(at, count)
    assert cache.length == 3


def test_slots_do_not_share_memory():
    """What one slot writes, another never sees."""
    store = SlotStore(SHAPES, 2, 8, CPU)
    first, second = store.clean(0), store.clean(1)
    keys, _ = feed(first, 0, 8, seed=1)
    kept = keys.clone()
    feed(second, 0, 8, seed=50)
    assert torch.equal(keys, kept)
    assert store.slot(0).length == 8


def test_lengths_and_masks_follow_the_slot():
    """transformers sizes masks and positions by the cache: it is told the length that the pass
    builds on.
    """
    cache = SlotStore(SHAPES, 1, 8, CPU).clean(0)
    feed(cache, 0, 5, seed=1)
    cache.rewind(2, 3)
    assert cache.get_seq_length() == 2
    assert cache.get_mask_sizes(3, 0) == (5, 0)
    assert not any(cache.is_sliding)
    assert not cache.is_compileable


def test_a_slot_opened_anew_knows_no_source():
    """Whether the keys of a source are there belongs to one opening, so those of another cannot be
    taken for them.
    """
    cache = SlotStore(SHAPES, 1, 8, CPU).clean(0)
    first = with_source(cache)
    first.is_updated[0] = True
    first.cross_attention_cache.update(states(4, 1), states(4, 2), 0)
    second = with_source(cache)
    assert not any(second.is_updated.values())
    assert second.cross_attention_cache.get_seq_length() == 0
    assert second.get_seq_length() == cache.length


def test_layers_that_keep_a_running_state_have_no_shape():
    """A layer that keeps a state instead of all tokens cannot be given to slots: it is named."""
    recurrent = DynamicCache(config=MambaConfig(num_hidden_layers=1))
    with pytest.raises(TypeError, match="LinearAttention"):
        shapes_of(recurrent)
