"""What a model shows of itself before its first request: what its layers keep, that its passes over a
slot are right, which form of it runs, and which of its passes may run together.

The rows of its own cache-free forward are what everything else is held against. A plain decoder
that gives the same takes the weights; a family without one, or a release of transformers that
computes otherwise, runs by its modules. Weights are packed only then, one by one, so that at no
time more than one of them is there twice. What has been packed is held against the same rows once
more: there is no way back from there, so a model whose packed weights compute otherwise is refused.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

import torch
import transformers
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache

from bild_dist.errors import ConfigError, WorkerFault
from bild_dist.kv.cache import LayerShape, SlotStore, shapes_of
from bild_dist.messages import Info
from bild_dist.model.foreign import first_line, no_memory
from bild_dist.model.packed import pack, packs, reads_far
from bild_dist.model.passes import Line, Passes, Text
from bild_dist.model.plain import plain_of

_PROBE: Final = 36
"""Ids of the probe. Passes of more than sixteen rows run by other operations than those of a few (`llama.py`),
and otherwise at the start of a text than behind one: each half of the probe is more than that.
"""
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
    source = ids[: info.max_source]
    name, model = info.architecture, passes.model
    try:
        expected, shapes = _expected(passes, ids, source)
        if plain:
            _try_plain(passes, ids, source, shapes, expected)
        packed, far = packs(model.device, model.dtype), reads_far(model)
        taken = () if passes.plain is None else passes.plain.matrices
        # The largest first: what each needs for a moment then fits where the one before had it.
        for matrix in sorted(taken, key=lambda matrix: matrix.size, reverse=True):
            matrix.take(packed=packed, far=far)
        if packed:
            pack(model, far=far)
        gap = _gap(passes, ids, source, shapes, expected)
    except WorkerFault as error:
        raise ConfigError(f"{name} cannot run on {info.device}: {first_line(error)}") from None
    except Exception as error:
        if no_memory(error):
            raise ConfigError(
                f"{name} does not fit into the memory of {info.device} ({first_line(error)}): take --dtype bfloat16, "
                "a smaller model, or more memory"
            ) from None
        raise ConfigError(
            f"{name} does not run over a cache that can be cut ({type(error).__name__}: {first_line(error)}): "
            "take a model whose layers all use full attention, such as Llama, Qwen, GPT-2, T5, BART or M2M100"
        ) from error
    if passes.plain is not None:
        # Its modules' weights are gone, and with them the other form.
        if not gap < _CLOSE:
            raise ConfigError(
                f"{name} computes otherwise once its weights lie as this CPU reads them fastest (mean gap {gap:.2g} "
                "of the logits' spread): that is torch's fault. Take another release of it, or --dtype bfloat16"
            )
        return Settled(shapes, expected.shape[-1], _batching(passes, ids, source, shapes, _CLOSE))
    half = shapes[0].dtype != torch.float32
    if not gap < (0.5 if half else 1e-2):
        raise ConfigError(
            f"{name} does not compute the same with and without a cache (mean gap {gap:.2g} of the "
            "logits' spread): it cannot be checked token by token. Take another family"
        )
    return Settled(
        shapes, expected.shape[-1], _batching(passes, ids, source, shapes, 0.1 if half else _CLOSE)
    )


def _try_plain(
    passes: Passes, ids: list[int], source: list[int], shapes: list[LayerShape], expected: torch.Tensor,
) -> None:  # fmt: skip
    """Puts a plain decoder in the modules' place if there is one that computes what they do."""
    try:
        passes.plain = plain_of(passes.model)
        if passes.plain is None:
            return
        gap = _gap(passes, ids, source, shapes, expected)
        if gap < _CLOSE:
            return
        why = f"gives other numbers, {gap:.2g} of the logits' spread apart"
    except Exception as error:
        if no_memory(error):
            raise
        # Whatever another release of transformers has renamed or does otherwise: modules can do
        # without, and show by themselves what is wrong if anything is.
        why = f"fails with {type(error).__name__}: {first_line(error)}"
    passes.plain = None
    logging.getLogger(__name__).warning(
        "%s runs by its modules, which is slower: as plain operations it %s. Was transformers %s tested?",
        type(passes.model).__name__, why, transformers.__version__,
    )  # fmt: skip


@torch.inference_mode()
def _expected(
    passes: Passes, ids: list[int], source: list[int]
) -> tuple[torch.Tensor, list[LayerShape]]:
    """The rows of the cache-free forward, and what the layers keep in transformers' own cache."""
    device = passes.model.device
    whole, places = torch.tensor([ids], device=device), torch.arange(len(ids), device=device)[None]
    encoded = passes.encode(source) if passes.encdec else None
    grown: Cache = DynamicCache()
    if passes.encdec:
        grown = EncoderDecoderCache(grown, DynamicCache())
    passes.before(ids, 0)
    passes.modules(whole[:, :1], places[:, :1], grown, encoded, 1)
    rows = passes.modules(whole, places, None, encoded, len(ids))
    return rows.float(), shapes_of(grown)


@torch.inference_mode()
def _gap(
    passes: Passes, ids: list[int], source: list[int], shapes: list[LayerShape], expected: torch.Tensor,
) -> float:  # fmt: skip
    """How far the rows of passes over a slot are from those expected, in their spread: the widest of
    some passes, of which each is looked at by itself.
    """
    device, count = passes.model.device, len(ids)
    places = torch.arange(count, device=device)[None]
    slot = SlotStore(shapes, 1, count, device).slot(0)
    text = passes.open(slot, source)
    # The first pass ends in two wrong ids: what a rollback leaves in the slot must not count.
    half = (count + 1) // 2
    other = [*ids[:half], *reversed(ids[half : half + 2])]
    widest = 0.0
    for fed, start in ((other, 0), (ids, half), (ids, max(half, count - 5)), (ids, count - 1)):
        rows, told = len(fed) - start, half if fed is other else count
        if rows == 0:
            continue
        slot.rewind(start, rows)
        passes.before(fed, start)
        given = torch.tensor([fed[start:]], device=device)
        found = passes.logits(given, places[:, start : len(fed)], text, rows).float()
        widest = max(widest, _apart(found[: told - start], expected[start:told]))
    return widest


def _batching(
    passes: Passes, ids: list[int], source: list[int], shapes: list[LayerShape], close: float
) -> str:
    """Whether passes of several texts run as one give what each gives by itself: texts, and sources, of
    different lengths, that feed different numbers of ids.
    """
    try:
        gap = _gap_together(passes, ids, source, shapes)
    except Exception:
        # As with a plain decoder: what a family or a release cannot do costs speed and nothing else.
        return "single"
    if not gap < close:
        return "single"
    return "groups" if passes.plain is None else "ragged"


@torch.inference_mode()
def _gap_together(
    passes: Passes, ids: list[int], source: list[int], shapes: list[LayerShape]
) -> float:
    """How far the rows of shared passes are from those of lone ones."""
    device, count = passes.model.device, len(ids)
    store = SlotStore(shapes, 3, count, device)
    texts = [passes.open(store.slot(n), source[: max(1, len(source) - 2 * n)]) for n in range(3)]
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
    return max(_apart(found.float(), expected) for found, expected in both)


def _apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """How far two tables of logits are apart, in the spread of the second; infinitely where one has
    numbers that are none.
    """
    # Both -inf, from a short head: the same, but no numbers to compare.
    told = (found != -torch.inf) | (expected != -torch.inf)
    gap = (found - expected)[told].abs().mean() / expected[told].std().clamp(min=1e-6)
    return float(gap.nan_to_num(torch.inf))
