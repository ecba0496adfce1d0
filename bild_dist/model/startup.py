"""What a model shows of itself before its first request: what its layers keep, that its passes over a
slot are right, and which form of it runs.

The rows of its own cache-free forward are what everything else is held against. A plain decoder
that gives the same takes the weights; a family without one, or a release of transformers that
computes otherwise, runs by its modules. Weights are packed only then, one by one, so that at no
time more than one of them is there twice.
"""

from __future__ import annotations

from typing import Final

import torch
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache

from bild_dist.errors import ConfigError, WorkerFault
from bild_dist.kv.cache import LayerShape, SlotStore, shapes_of
from bild_dist.messages import Info
from bild_dist.model.foreign import first_line
from bild_dist.model.packed import pack, packs, reads_far
from bild_dist.model.passes import Passes
from bild_dist.model.plain import plain_of

_PROBE: Final = 7
"""Ids of the probe."""
_CLOSE: Final = 1e-3
"""Mean gap, in the spread of the logits, above which a plain decoder computes something else."""


def settle(passes: Passes, info: Info, *, plain: bool) -> tuple[list[LayerShape], int]:
    """Settles how a model runs, by plain operations only where `plain` allows it; what its layers keep,
    and how many logits it gives.

    Raises:
        ConfigError: its cache-free forward and its passes over a slot disagree, or it cannot run at
            all.
    """
    length = min(_PROBE, info.max_length)
    ids = [(7 * i + 3) % min(info.rules.vocabulary, 97) for i in range(length)]
    name, model = info.architecture, passes.model
    try:
        expected, shapes = _expected(passes, ids)
        if plain:
            _try_plain(passes, ids, shapes, expected)
        packed, far = packs(model.device, model.dtype), reads_far(model)
        taken = () if passes.plain is None else passes.plain.matrices
        # The largest first: what each needs for a moment then fits where the one before had it.
        for matrix in sorted(taken, key=lambda matrix: matrix.size, reverse=True):
            matrix.take(packed=packed, far=far)
        if packed:
            pack(model, far=far)
        gap = 0.0
        if passes.plain is None:
            gap = _gap(_found(passes, ids, shapes, expected.shape[-1]), expected)
    except (WorkerFault, MemoryError, torch.OutOfMemoryError) as error:
        raise ConfigError(f"{name} cannot run on {info.device}: {first_line(error)}") from None
    except Exception as error:
        raise ConfigError(
            f"{name} does not run over a cache that can be cut ({type(error).__name__}: {first_line(error)}): "
            "take a model whose layers all use full attention, such as Llama, Qwen, GPT-2, T5, BART or M2M100"
        ) from error
    half = shapes[0].dtype != torch.float32
    if not gap < (0.5 if half else 1e-2):
        raise ConfigError(
            f"{name} does not compute the same with and without a cache (mean gap {gap:.2g} of the "
            "logits' spread): it cannot be checked token by token. Take another family"
        )
    return shapes, expected.shape[-1]


def _try_plain(
    passes: Passes, ids: list[int], shapes: list[LayerShape], expected: torch.Tensor
) -> None:
    """Puts a plain decoder in the modules' place if there is one that computes what they do."""
    try:
        passes.plain = plain_of(passes.model)
        if passes.plain is None:
            return
        good = _gap(_found(passes, ids, shapes, expected.shape[-1]), expected) < _CLOSE
    except Exception:
        # Whatever another release of transformers has renamed or does otherwise: modules can do
        # without, and show by themselves what is wrong if anything is.
        good = False
    if not good:
        passes.plain = None


@torch.inference_mode()
def _expected(passes: Passes, ids: list[int]) -> tuple[torch.Tensor, list[LayerShape]]:
    """The rows of the cache-free forward, and what the layers keep in transformers' own cache."""
    device = passes.model.device
    whole, places = torch.tensor([ids], device=device), torch.arange(len(ids), device=device)[None]
    source = passes.encode(ids) if passes.encdec else None
    grown: Cache = DynamicCache()
    if passes.encdec:
        grown = EncoderDecoderCache(grown, DynamicCache())
    passes.before(ids, 0)
    passes.modules(whole, places, grown, source, 1)
    rows = passes.modules(whole, places, None, source, len(ids))
    return rows.float(), shapes_of(grown)


@torch.inference_mode()
def _found(passes: Passes, ids: list[int], shapes: list[LayerShape], width: int) -> torch.Tensor:
    """The same rows of passes over a slot."""
    device = passes.model.device
    whole, places = torch.tensor([ids], device=device), torch.arange(len(ids), device=device)[None]
    slot = SlotStore(shapes, 1, len(ids), device).slot(0)
    text = passes.open(slot, ids)
    found = torch.empty(len(ids), width, device=device)
    cut, last = len(ids) // 2, len(ids) - 1
    # To the end, then back: a rollback.
    for start, end in ((0, cut), (cut, len(ids)), (cut, last), (last, len(ids))):
        if start == end:
            continue
        slot.rewind(start, end - start)
        passes.before(ids[:end], start)
        part = slice(start, end)
        found[part] = passes.logits(whole[:, part], places[:, part], text, end - start).float()
    return found


def _gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    """How far two tables of logits are apart, in the spread of the second."""
    # Both -inf, from a short head: the same, but no numbers to compare.
    told = (found != -torch.inf) | (expected != -torch.inf)
    gap = (found - expected)[told].abs().mean() / expected[told].std().clamp(min=1e-6)
    return float(gap)
