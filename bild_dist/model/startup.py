"""What a model shows of itself before its first request: what its layers keep, that its passes over a
slot are right, which form of it runs, and which of its passes may run together.

The rows of its own cache-free forward are what everything else is held against. A plain decoder
that gives the same takes the weights; a family without one, or a release of transformers that
computes otherwise, runs by its modules. Weights are packed only then, one by one, so that at no
time more than one of them is there twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache

from bild_dist.errors import ConfigError, WorkerFault
from bild_dist.kv.cache import LayerShape, SlotStore, shapes_of
from bild_dist.messages import Info
from bild_dist.model.foreign import first_line
from bild_dist.model.packed import pack, packs, reads_far
from bild_dist.model.passes import Line, Passes, Text
from bild_dist.model.plain import plain_of

_PROBE: Final = 7
"""Ids of the probe."""
_CLOSE: Final = 1e-3
"""Mean gap, in the spread of the logits, above which a plain decoder computes something else."""


@dataclass(frozen=True, slots=True)
class Settled:
    """How a model runs: what its layers keep, how many logits it gives, and which of its passes may run
    together (`messages.Info`).
    """

    shapes: list[LayerShape]
    width: int
    batching: str


def settle(passes: Passes, info: Info, *, plain: bool) -> Settled:
    """Settles how a model runs, by plain operations only where `plain` allows it.

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
    return Settled(
        shapes, expected.shape[-1], _batching(passes, ids, shapes, 0.1 if half else _CLOSE)
    )


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


def _batching(passes: Passes, ids: list[int], shapes: list[LayerShape], close: float) -> str:
    """Whether passes of several texts run as one give what each gives by itself: texts, and sources, of
    different lengths, that feed different numbers of ids.
    """
    try:
        gap = _gap_together(passes, ids, shapes)
    except Exception:
        # As with a plain decoder: what a family or a release cannot do costs speed and nothing else.
        return "single"
    if not gap < close:
        return "single"
    return "groups" if passes.plain is None else "ragged"


@torch.inference_mode()
def _gap_together(passes: Passes, ids: list[int], shapes: list[LayerShape]) -> float:
    """How far the rows of shared passes are from those of lone ones."""
    device, count = passes.model.device, len(ids)
    store = SlotStore(shapes, 3, count, device)
    texts = [passes.open(store.slot(n), ids[: max(1, count - 2 * n)]) for n in range(3)]
    lines = [
        Line(text, ids[:end], at, min(end - at, 1 + n % 2))
        for n, (text, at) in enumerate(zip(texts, (count - 1, count // 2, 1), strict=True))
        for end in [max(at + 1, count - n)]
    ]

    def fed(text: Text, line: Line, at: int) -> torch.Tensor:
        text.cache.rewind(at, len(line.ids) - at)
        return passes.alone(Line(text, line.ids, at, line.rows)).float()

    # Once over the whole, which knows the sources; then what stands behind `at`.
    alone = [(fed(n.text, n, 0), fed(n.text, n, n.at))[1] for n in lines]
    for line in lines:
        line.text.cache.rewind(line.at, len(line.ids) - line.at)
    both = zip(passes.together(lines), alone, strict=True)
    return max(_gap(found.float(), expected) for found, expected in both)


def _gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    """How far two tables of logits are apart, in the spread of the second."""
    # Both -inf, from a short head: the same, but no numbers to compare.
    told = (found != -torch.inf) | (expected != -torch.inf)
    gap = (found - expected)[told].abs().mean() / expected[told].std().clamp(min=1e-6)
    return float(gap)
