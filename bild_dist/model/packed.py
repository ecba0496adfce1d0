"""Weights in the layout that a CPU reads fastest.

A decoder multiplies a few rows by every matrix of the model, so its time is the time to read them.
torch's plain matrices are read at a third of what the memory gives, and eight rows take half as
long again as one. oneDNN's own blocked layout, made once at start-up, is read at twice the speed,
and eight rows take hardly longer than one: just what checking a draft asks for.

Measured on two AMD EPYC cores, float32, 49152 x 576: 9.5 ms plain and 4.4 ms packed for one row,
14.9 and 5.0 ms for eight. Calling it costs some 15 us more than a plain matrix does: 192 x 192 takes
20 instead of 7 us, 512 x 512 the same for one row and 41 instead of 70 for eight.

The kernel for one row waits for the memory more than the one for four does. Where the weights of a
model do not fit into the last cache, so that each pass reads them from memory, one row or two are
computed as four: beside another busy core 49152 x 576 takes 5.8 instead of 7.5 ms, 3072 x 576 0.45
instead of 0.54, 512 x 512 90 instead of 102 us, copies included. From the cache it would be slower
(512 x 512: 53 instead of 40 us).

What is too small to be packed lies on its side: its columns are added up in the order in which they
lie. One thread, weights in no cache, one and four rows: 576 x 192 39 and 54 us instead of 64 and 77,
768 x 192 44 and 72 instead of 83 and 102, 192 x 192 22 and 19 instead of 24 and 28.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

SMALLEST: Final = 1 << 18
"""Numbers of a matrix from which packing pays."""
_CACHE: Final = 1 << 25
"""Bytes that a CPU's last cache is taken to hold."""

_OPS: Final[Any] = torch.ops.mkldnn
_BACKEND: Final[Any] = torch.backends.mkldnn


class PackedLinear(nn.Module):
    """A linear layer that cannot be trained or moved to another device. One whose weights come from
    `far` has one or two rows computed as four.

    Shapes: `weight` is [outputs, inputs] to the eye, blocked in memory; input [..., inputs].
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, *, far: bool = False
    ) -> None:
        super().__init__()
        self._few = 2 if far else 0
        self.weight: torch.Tensor = _OPS._reorder_linear_weight(weight.detach().contiguous())
        self.bias = None if bias is None else bias.detach()
        self._apply_to = _OPS._linear_pointwise.default

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        count = rows.numel() // rows.shape[-1]
        if not 0 < count <= self._few:
            whole: torch.Tensor = self._apply_to(rows, self.weight, self.bias, "none", [], "")
            return whole
        fed = torch.cat((rows.reshape(count, -1),) * (4 // count))
        found = self._apply_to(fed, self.weight, self.bias, "none", [], "")
        return found.narrow(0, 0, count).view(*rows.shape[:-1], -1)  # type: ignore[no-any-return]


def turned(weight: torch.Tensor) -> torch.Tensor:
    """The same matrix, its columns one behind the other in memory: how a matrix too small to be packed
    is read fastest.
    """
    return weight.t().contiguous().t()


def packs(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this torch can pack weights of this kind."""
    if device.type != "cpu" or not _BACKEND.is_available():
        return False
    if not (hasattr(_OPS, "_reorder_linear_weight") and hasattr(_OPS, "_linear_pointwise")):
        return False
    return dtype == torch.float32 or (
        dtype == torch.bfloat16 and bool(_OPS._is_mkldnn_bf16_supported())
    )


def reads_far(model: Any) -> bool:
    """Whether a pass of a model's decoder reads more than a CPU's last cache holds."""
    if model.dtype != torch.float32:
        return False
    aside = set(model.get_encoder().modules()) if model.config.is_encoder_decoder else set()
    found = {module for module in model.modules() if type(module) in (nn.Linear, Conv1D)} - aside
    return bool(sum(module.weight.nbytes for module in found) > _CACHE)


@torch.no_grad()
def pack(model: nn.Module, smallest: int = SMALLEST, *, far: bool = False) -> None:
    """Replaces every plain linear layer of a model with so many numbers or more; one that shares its
    weight with an embedding gets its own copy. `far`: as PackedLinear has it.
    """
    made: dict[int, PackedLinear] = {}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                weight = child.weight
            elif type(child) is Conv1D:
                weight = child.weight.t()
            else:
                continue
            if weight.numel() < smallest:
                continue
            if id(child) not in made:
                made[id(child)] = PackedLinear(weight, child.bias, far=far)
            setattr(parent, name, made[id(child)])
