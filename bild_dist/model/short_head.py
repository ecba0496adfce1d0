"""An output head over some of the vocabulary: a small model need not be able to write every token.

The head of a small vocabulary-wide model costs as much as its layers. Most texts of one kind use a
few thousand tokens, so a draft may keep the rows of those and leave the rest to the large model.
Its distribution is then one over the listed ids: the softmax runs over them, every other id has
probability 0 (logit -inf, -ln p infinite). Everything behind the head goes on speaking ids of the
whole vocabulary, so neither rules nor draws nor the wire know of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from bild_dist.errors import ConfigError


class ShortHead(nn.Module):
    """The rows of a head that `ids` names, ascending, answering in the whole vocabulary.

    Shapes: input [..., inputs]; result [..., V], -inf where no id was named.
    """

    ids: torch.Tensor

    def __init__(self, head: nn.Linear, ids: Sequence[int]) -> None:
        super().__init__()
        # A linear layer of its own, so that it can be packed like any other.
        self.rows = nn.Linear(
            head.in_features, len(ids), bias=head.bias is not None,
            device=head.weight.device, dtype=head.weight.dtype,
        )  # fmt: skip
        self.register_buffer(
            "ids", torch.tensor(list(ids), device=head.weight.device), persistent=False
        )
        self._width = head.out_features
        with torch.no_grad():
            self.rows.weight.copy_(head.weight[self.ids])
            if head.bias is not None:
                self.rows.bias.copy_(head.bias[self.ids])

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        short: torch.Tensor = self.rows(hidden)
        whole = short.new_full((*short.shape[:-1], self._width), -torch.inf)
        return whole.index_copy_(-1, self.ids, short)


def shorten(model: PreTrainedModel, ids: Sequence[int], name: str) -> None:
    """Gives a model a short head, for good: it can neither be trained nor saved as before.

    `name` is what messages call the model.

    Raises:
        ConfigError: an id is outside the vocabulary, an end of text is missing, or the family
            changes its logits in a way that would make tokens of what the head left out.
    """
    whole: Any = model
    head, text = whole.get_output_embeddings(), whole.config.get_text_config(decoder=True)
    if type(head) is not nn.Linear or getattr(text, "final_logit_softcapping", None):
        raise ConfigError(
            f"{name}: {type(model).__name__} cannot have a short head: take a whole one"
        )
    outside = [token for token in ids if not 0 <= token < head.out_features]
    if outside:
        raise ConfigError(
            f"{name}: its head lists token {outside[0]}, of a vocabulary of {head.out_features}"
        )
    absent = sorted(set(end_ids(model)) - set(ids))
    if absent:
        raise ConfigError(
            f"{name}: its head leaves out token {absent[0]}, which ends a text: list it too"
        )
    place = next(path for path, module in model.named_modules() if module is head)
    parent, _, attribute = place.rpartition(".")
    setattr(model.get_submodule(parent), attribute, ShortHead(head, ids))


def end_ids(model: PreTrainedModel) -> tuple[int, ...]:
    """The tokens that end a text, as the model's generation config has them."""
    value = getattr(model.generation_config, "eos_token_id", None)
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)
