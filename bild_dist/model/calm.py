"""CALM: a model that stops at the layer that hardly changes anything any more, token by token.

Source: Schuster et al. 2022, "Confident Adaptive Language Modeling", arXiv 2207.07061, with the
choices that the paper compares with (section 7.2): *hidden-state saturation* (the cosine of what two
layers in a row give), *state propagation*, and a *decaying threshold*. It writes alone: mode `large`
or `small` over a worker that was started with `--calm`.

Position t of a text of at most N tokens, layers 1 to M, h(i) what layer i gives:

    exit at the first i in 2 .. M - 1 with cos(h(i), h(i - 1)) >= threshold(t), else at M
    threshold(t) = 0.9 lambda + 0.1 exp(-decay t / N), within 0 and 1
    the token is read off h(exit) with the model's own last norm and head
    layers above the exit keep keys and values made from h(exit), for the tokens behind

A layer that is skipped runs until it has stored its keys and values: its norm and its projections,
but neither attention nor feed-forward. The prompt passes through all layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import exp
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from bild_dist.errors import ConfigError, InvalidRequest
from bild_dist.kv.cache import SlotCache
from bild_dist.messages import Info, Rules
from bild_dist.model.base import Choice, Pass
from bild_dist.model.hf import HfModel
from bild_dist.model.tokenizer import Tokens


def threshold(wanted: float, decay: float, position: int, limit: int) -> float:
    """The cosine at which position `position` of a text of at most `limit` tokens may stop."""
    return min(max(0.9 * wanted + 0.1 * exp(-decay * position / limit), 0.0), 1.0)


class CalmModel(HfModel):
    """A transformers model that leaves its layers early. Owned by the engine thread.

    Raises:
        ConfigError: as HfModel, or there are too few layers to leave any.
    """

    def __init__(
        self, model: PreTrainedModel, info: Info, tokens: Tokens, wanted: float, decay: float
    ) -> None:
        # What has no modules cannot leave them.
        super().__init__(model, info, tokens, plain=False)
        # Each text leaves its layers where it likes.
        self._info = replace(self._info, batching="single")
        self._wanted = wanted
        self._decay = decay
        self._rules: dict[int, Rules] = {}
        self._exits = _Exits(model)

    def open(self, slot: int, source: Sequence[int], rules: Rules) -> None:
        super().open(slot, source, rules)
        self._rules[slot] = rules

    def forward(self, work: Pass) -> list[Choice]:
        if work.rows > 1 or work.judge:
            raise InvalidRequest(
                "a worker with calm writes alone and checks nothing: ask for mode 'large' or "
                "'small', or start it without"
            )
        if work.rows == 0:
            return super().forward(work)
        # Id by id: which layers run, and so the text, must depend on the ids and not on how the
        # schedule cut them into passes.
        for end in range(work.at + 1, len(work.ids)):
            self._leaving(replace(work, at=end - 1, ids=work.ids[:end], rows=0))
        return self._leaving(replace(work, at=len(work.ids) - 1))

    def _leaving(self, work: Pass) -> list[Choice]:
        """A pass over one id that may leave its layers early."""
        rules = self._rules[work.slot]
        position = len(work.ids) - rules.begin
        level = threshold(self._wanted, self._decay, position, rules.limit - rules.begin)
        with self._exits.at(level, self._slots[work.slot].text.cache):
            return super().forward(work)

    @property
    def exit_layer(self) -> int:
        """Behind how many layers the last pass over one token was read off."""
        return self._exits.layer


class _Exits:
    """Watches a model's layers, and has them skipped. Owned by its model; a context while a pass runs
    that may exit.
    """

    def __init__(self, model: Any) -> None:
        layers = next(m for m in model.get_decoder().children() if isinstance(m, nn.ModuleList))
        if len(layers) < 3:
            raise ConfigError(
                f"calm: a model of {len(layers)} layers has none to leave early; it takes 3 or more"
            )
        self.layer = self._count = len(layers)
        self._level: float | None = None
        self._cache: SlotCache | None = None
        self._rest: tuple[Any, ...] | None = None
        for number, layer in enumerate(layers, start=1):
            layer.forward = partial(self._run, number, layer.forward)

    def at(self, level: float, cache: SlotCache) -> _Exits:
        """Exits at this cosine while the context lasts."""
        self._level, self._cache, self.layer = level, cache, self._count
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        if self._cache is not None:
            self._cache.stored = None
        self._level = self._cache = self._rest = None

    def _run(self, number: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """One layer in place of its own forward. Shapes: hidden states 1QD."""
        if self._level is None or self._cache is None:
            return forward(*args, **kwargs)
        before: torch.Tensor = args[0] if args else kwargs["hidden_states"]
        if number > self.layer:
            with suppress(_Stored):
                forward(*args, **kwargs)
            # What families hand from layer to layer beside the states: of the last that ran.
            return before if self._rest is None else (before, *self._rest)
        result = forward(*args, **kwargs)
        self._rest = result[1:] if isinstance(result, tuple) else None
        after: torch.Tensor = result[0] if isinstance(result, tuple) else result
        if 1 < number < self._count:
            alike = torch.cosine_similarity(after[0, -1].float(), before[0, -1].float(), dim=0)
            if float(alike) >= self._level:
                self.layer = number
                self._cache.stored = _stop
        return result


class _Stored(Exception):
    """A skipped layer has stored its keys and values. Never leaves this module."""


def _stop() -> None:
    raise _Stored
