"""What plain decoders are made of: matrices that were joined, and the norm.

A call of a matrix costs some 2 us plain and 13 us packed (`packed.py`) besides the reading of its
weights, so layers over the same rows become one. And a norm as torch has it is seven operations;
here it is four, of which one is a matrix product.

Measured, one thread of an AMD EPYC, float32, torch 2.13, width 576: the norm of one row 4.9 us instead of 9.4, of
eight 6.5 instead of 11, of a thousand 190 instead of 230.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn.functional import linear

from bild_dist.model.packed import SMALLEST, PackedLinear

Rows: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""From rows to as many others."""


class Joined:
    """Linear layers over the same rows as one: their results side by side. Owned by its decoder.

    Until `take` or `part` the layers are views of it, so that they still run and nothing is kept
    twice.
    """

    def __init__(self, *layers: Any) -> None:
        self._layers = layers
        weights = [layer.weight.detach() for layer in layers]
        whole = weights[0] if len(weights) == 1 else torch.cat(weights)
        for layer, view in zip(layers, whole.split([len(w) for w in weights]), strict=True):
            layer.weight = _frozen(view)
        biases = [
            whole.new_zeros(layer.out_features) if layer.bias is None else layer.bias.detach()
            for layer in layers
        ]
        some = any(layer.bias is not None for layer in layers)
        self._bias = torch.cat(biases) if some else None
        self._weight = whole
        self.run: Rows = partial(linear, weight=whole, bias=self._bias)

    def take(self, *, packed: bool) -> None:
        """Takes the weights from the layers, which cannot run any more, and lays them out for the CPU
        where that pays.
        """
        whole = self._weight
        if packed and whole.numel() >= SMALLEST:
            # The method itself: a module's call goes through its hooks first.
            self.run = PackedLinear(whole, self._bias).forward
        self._weight = whole.new_empty(0)
        for layer in self._layers:
            layer.weight = _frozen(self._weight)

    def part(self) -> None:
        """Gives the layers weights of their own again: this is not used."""
        if len(self._layers) > 1:
            for layer in self._layers:
                layer.weight = _frozen(layer.weight.detach().clone())


class Norm:
    """Divides rows by their root mean square, and weighs their numbers.

    Shapes: rows N1W, as a product of each with itself takes them.
    """

    def __init__(self, weight: torch.Tensor, epsilon: float) -> None:
        self._weight = weight.detach()
        self._epsilon = torch.full((1, 1, 1), epsilon)
        self._share = 1 / weight.shape[-1]

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


def _frozen(weight: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)
