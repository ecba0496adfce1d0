"""What plain decoders are made of: matrices that were joined, and the norm; and what they are fed.

A call of a matrix costs some 2 us plain and 13 us packed (`packed.py`) besides the reading of its
weights, so layers over the same rows become one. And a norm as torch has it is seven operations;
here it is four, of which one is a matrix product.

Measured, one thread of an AMD EPYC, float32, torch 2.13, width 576: the norm of one row 4.9 us instead of 9.4, of
eight 6.5 instead of 11, of a thousand 190 instead of 230.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn.functional import linear

from bild_dist.kv.cache import SlotCache
from bild_dist.model.packed import SMALLEST, PackedLinear, turned

Rows: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""From rows to as many others."""
Source: TypeAlias = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""What each layer keeps of an encoded source; nothing where there is none."""


@dataclass(frozen=True, slots=True)
class Fed:
    """What one text feeds to a pass, which several may share.

    `ids`: follow the first `at`, whose keys and values lie in `cache`. `rows`: how many of the last
    of them are read. Shapes: `ids` Q.
    """

    ids: torch.Tensor
    at: int
    cache: SlotCache
    source: Source
    rows: int


def stacked(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors one behind the other; one by itself as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts))


def cut(rows: torch.Tensor, counts: Sequence[int], dim: int = 0) -> Sequence[torch.Tensor]:
    """The first rows, the next ones and so on, of each so many: views."""
    return (rows,) if len(counts) == 1 else rows.split_with_sizes(list(counts), dim)


def last(states: torch.Tensor, counts: Sequence[int], read: Sequence[int]) -> torch.Tensor:
    """The last rows of each text, so many as are read of it. Shapes: N1W to R1W."""
    parts = zip(cut(states, counts), counts, read, strict=True)
    return stacked([part[count - rows :] for part, count, rows in parts])


class Joined:
    """Linear layers over the same rows as one: their results side by side. Owned by its decoder.

    Until `take` it asks the layers, which stay as they are.
    """

    def __init__(self, *layers: Any) -> None:
        self._layers = layers
        self.run: Rows = self._asked

    @property
    def size(self) -> int:
        """Numbers of the layers, until it takes them."""
        return sum(layer.weight.numel() for layer in self._layers)

    def _asked(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.cat([layer(rows) for layer in self._layers], -1)

    def take(self, *, packed: bool, far: bool = False) -> None:
        """Takes the weights from the layers, which cannot run any more. Packs them where that pays,
        for reading them from `far` as PackedLinear has it.
        """
        layers, self._layers = self._layers, ()
        weights = [layer.weight.detach() for layer in layers]
        whole = weights[0] if len(weights) == 1 else torch.cat(weights)
        biases = [
            whole.new_zeros(layer.out_features) if layer.bias is None else layer.bias.detach()
            for layer in layers
        ]
        bias = torch.cat(biases) if any(layer.bias is not None for layer in layers) else None
        for layer in layers:
            layer.weight = nn.Parameter(whole.new_empty(0), requires_grad=False)
        if packed and whole.numel() >= SMALLEST:
            # The method itself: a module's call goes through its hooks first.
            self.run = PackedLinear(whole, bias, far=far).forward
        else:
            self.run = partial(linear, weight=turned(whole), bias=bias)


class Norm:
    """Divides rows by their root mean square, and weighs their numbers.

    Shapes: rows N1W, as a product of each with itself takes them.
    """

    def __init__(self, weight: torch.Tensor, epsilon: float) -> None:
        self._weight = weight.detach()
        self._epsilon = torch.full((1, 1, 1), epsilon)
        self._share = 1 / weight.shape[-1]

    @classmethod
    def of(cls, module: Any) -> Norm:
        """The same as a module of transformers."""
        return cls(module.weight, module.variance_epsilon)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        squares = torch.baddbmm(self._epsilon, rows, rows.transpose(1, 2), alpha=self._share)
        return (rows * squares.rsqrt_()).mul_(self._weight)


def joinable(layers: nn.Module) -> bool:
    """Whether all matrices of some layers are as torch makes them, and none was replaced."""
    return all(
        type(module) in (nn.Linear, nn.Embedding)
        for module in layers.modules()
        if getattr(module, "weight", None) is not None and module.weight.dim() > 1  # type: ignore[operator]
    )


def matrices(layers: Sequence[Any]) -> tuple[Joined, ...]:
    """All that the layers of a decoder hold."""
    return tuple(
        part
        for layer in layers
        for part in (getattr(layer, name) for name in layer.__slots__)
        if isinstance(part, Joined)
    )
