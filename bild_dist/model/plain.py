"""Decoders as plain operations over slots, beside the modules of the families that have one.

A step of a small model costs what it takes to get to the arithmetic. A plain decoder gets there by
weights that were joined and by few, chosen operations. It computes the same numbers up to rounding,
which a model sees at start-up (`startup.py`); where it does not, the modules run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from bild_dist.model.llama import LlamaDecoder
from bild_dist.model.parts import Fed, Joined, Source
from bild_dist.model.t5 import T5Decoder


class PlainDecoder(Protocol):
    """Passes of one model. Immutable but for how its matrices lie in memory; keys and values of a text
    lie in its slot.
    """

    @property
    def matrices(self) -> Sequence[Joined]:
        """All that it takes from the modules once it is settled that it runs."""

    def source(self, ids: torch.Tensor) -> Source:
        """Encodes a source: what every layer keeps of it. Shapes: `ids` S."""

    def logits(self, texts: Sequence[Fed]) -> Sequence[torch.Tensor]:
        """For each text the logits of its last `rows`. All go through each matrix together. Shapes:
        RV each, or nothing where no text asks for a row.
        """


def plain_of(model: Any) -> PlainDecoder | None:
    """The plain decoder of a transformers model; None where it has none, or is not on a CPU in
    float32. It asks the model's layers until it takes their weights.
    """
    if model.device.type != "cpu" or model.dtype != torch.float32:
        return None
    return T5Decoder.of(model) or LlamaDecoder.of(model)
