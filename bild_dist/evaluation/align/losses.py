"""What a model is told about its mistakes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy, log_softmax

from bild_dist.evaluation.align.lessons import IGNORED, Batch


@dataclass(frozen=True, slots=True)
class Aim:
    """What counts as right.

    `distil`: share of the loss that is the cross-entropy to the large model's top-k distribution;
    the rest is the cross-entropy to its text (paper, 3.5.1). What the top k leave over is spread
    evenly: a model should be as unsure as the one that it learns from, because its confidence
    decides who writes. `exit_layer`: average the loss of this layer and of the last one (paper,
    7.2.1); 0 for none.
    """

    distil: float = 0.0
    exit_layer: int = 0


def loss_of(model: Any, batch: Batch, aim: Aim, head: torch.Tensor | None = None) -> torch.Tensor:
    """Mean loss over the positions that teach, in nats.

    `head` [V] long: where given, the model writes only the ids with an entry >= 0, which is the
    id's row in its short head. What lies outside is spread evenly, so that the model is unsure
    there.
    """
    wanted = batch.labels != IGNORED
    labels = batch.labels[wanted]
    found = list(_logits(model, batch, wanted, aim.exit_layer))
    return torch.stack([_one(logits, labels, batch, aim, head) for logits in found]).mean()


def _one(
    logits: torch.Tensor, labels: torch.Tensor, batch: Batch, aim: Aim, head: torch.Tensor | None
) -> torch.Tensor:
    logits = logits.float()
    even = None
    total = logits.new_zeros(())
    if aim.distil < 1 or batch.top_ids is None:
        rows = labels if head is None else head[labels]
        known = rows >= 0
        hard = cross_entropy(logits[known], rows[known], reduction="sum")
        if head is not None:
            even = -log_softmax(logits, -1).mean(-1)
            hard = hard + even[~known].sum()
        total = total + (1 - aim.distil if batch.top_ids is not None else 1) * hard / len(labels)
    if aim.distil > 0 and batch.top_ids is not None and batch.top_logprobs is not None:
        scores = log_softmax(logits, -1)
        masses = batch.top_logprobs.exp()
        ids = batch.top_ids
        if head is not None:
            ids = head[ids]
            masses = masses.masked_fill(ids < 0, 0.0)
            ids = ids.clamp(min=0)
        rest = (1 - masses.sum(-1)).clamp(min=0)
        soft = -(masses * scores.gather(-1, ids)).sum(-1) - rest * scores.mean(-1)
        total = total + aim.distil * soft.mean()
    return total


def _logits(
    model: Any, batch: Batch, wanted: torch.Tensor, exit_layer: int
) -> Iterator[torch.Tensor]:
    """Logits [N, V] at the N wanted positions: of the last layer, then of the exit layer if there
    is one.

    The head is given only the wanted positions, because over a prompt it costs as much as all the
    layers; everything else is the model's own forward.
    """
    encdec = bool(batch.source.shape[1])
    ids = (
        {"input_ids": batch.source, "decoder_input_ids": batch.fed}
        if encdec
        else {"input_ids": batch.fed}
    )
    more = {"output_hidden_states": True} if exit_layer else {}
    with only(model.get_output_embeddings(), wanted):
        found = model(**ids, attention_mask=batch.attended, use_cache=False, **more)
    yield found.logits
    if exit_layer:
        layers = found.decoder_hidden_states if encdec else found.hidden_states
        yield exit_logits(model, layers[exit_layer][wanted])


def exit_logits(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """What the shared norm and head make of an inner layer's output (paper, 4.4): the logits of the
    model that is cut behind this layer.
    """
    decoder = model.get_decoder()
    names = ("norm", "final_layer_norm", "ln_f", "layer_norm")
    norm = next((getattr(decoder, name) for name in names if hasattr(decoder, name)), None)
    if norm is not None:
        hidden = norm(hidden)
    if getattr(model.config, "scale_decoder_outputs", False):
        hidden = hidden * model.config.d_model**-0.5
    logits: torch.Tensor = model.get_output_embeddings()(hidden)
    bias = getattr(model, "final_logits_bias", None)
    return logits if bias is None else logits + bias


@contextmanager
def only(head: torch.nn.Module, wanted: torch.Tensor) -> Iterator[None]:
    """Gives a head the wanted positions alone: [B, T, D] becomes [N, D], in row-major order."""

    def select(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0][wanted],)

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
