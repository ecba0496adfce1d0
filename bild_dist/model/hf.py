"""A transformers model behind `base.Model`: its passes run over our own slot cache.

What a row must be is defined by the cache-free forward of the whole prefix, `model(ids)`, which is
also what transformers' `generate` computes. With a cache, some families derive positions from the
cache's length where the cache-free forward derives them from the ids: M2M100 and its kin give a pad
id inside the text no position of its own. Here they follow the cache-free forward, however the ids
are cut into passes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from bild_dist.errors import ConfigError, InvalidRequest, WorkerFault
from bild_dist.kv.cache import LayerShape, SlotCache, SlotStore, shapes_of, with_source
from bild_dist.messages import Encoded, Info, Rules
from bild_dist.model.base import Choice, Pass
from bild_dist.model.draw import Draw
from bild_dist.model.foreign import first_line
from bild_dist.model.measure import Measures
from bild_dist.model.rules import Constraint
from bild_dist.model.t5 import Source, T5Decoder
from bild_dist.model.tokenizer import Tokens

_PROBE = 7
"""Ids of the probe at start-up."""


@dataclass(slots=True)
class _Slot:
    """What an open slot holds besides its keys and values."""

    cache: SlotCache
    constraint: Constraint
    draw: Draw
    measures: Measures
    source: BaseModelOutput | None = None
    both: EncoderDecoderCache | None = None
    far: Source | None = None
    """The source as `_plain` keeps it."""


class HfModel:
    """One transformers model on one device. Owned by the engine thread.

    Raises:
        ConfigError: the model's own cache-free forward and its passes over a slot disagree, or it
            cannot run at all.
    """

    def __init__(self, model: PreTrainedModel, info: Info, tokens: Tokens) -> None:
        self._model: Any = model
        self._info = info
        self._tokens = tokens
        self._device = model.device
        self._encdec = info.kind == "encoder-decoder"
        self._width = info.rules.vocabulary
        names = inspect.signature(model.forward).parameters
        self._places = "position_ids" in names and not self._encdec
        self._keeps = "logits_to_keep" in names
        self._nothing = torch.empty(0, dtype=torch.long, device=self._device)
        self._pads = _PadPositions.of(model)
        self._plain = T5Decoder.of(model)
        self._slots: dict[int, _Slot] = {}
        self._store: SlotStore | None = None
        self._shapes = self._probe()

    @property
    def info(self) -> Info:
        return self._info

    def files(self) -> dict[str, bytes]:
        return dict(self._tokens.files)

    def encode(self, seq: int, text: str, src_lang: str, tgt_lang: str) -> Encoded:
        ids, forced = self._tokens.encode(text, src_lang, tgt_lang)
        return Encoded(seq=seq, ids=ids, forced_begin=forced)

    def allocate(self, slots: int) -> None:
        length = self._info.max_length
        try:
            self._store = SlotStore(self._shapes, slots, length, self._device)
        except RuntimeError as error:
            raise ConfigError(
                f"no memory for {slots} slots of {length} tokens on {self._info.device} ({first_line(error)}): "
                "take fewer --slots or a smaller --max-length"
            ) from None
        self._slots.clear()

    def open(self, slot: int, source: Sequence[int], rules: Rules) -> None:
        constraint, draw = Constraint(rules, self._width, self._device), Draw(rules)
        held = _Slot(self._need().clean(slot), constraint, draw, Measures(rules, draw))
        if self._encdec:
            held.source = self._encode_source(source)
            held.far = self._far(held.source)
            held.both = with_source(held.cache) if held.far is None else None
        self._slots[slot] = held

    @torch.inference_mode()
    def forward(self, work: Pass) -> list[Choice]:
        held = self._slots[work.slot]
        fed = work.ids[work.at :]
        held.cache.rewind(work.at, len(fed))
        try:
            choices = self._pass(held, work, fed)
        except RuntimeError as error:
            raise WorkerFault(f"{self._info.device}: {first_line(error)}") from error
        if any(math.isnan(choice.confidence) for choice in choices):
            raise InvalidRequest(
                "the rules leave no token to write, or the model's numbers overflowed: "
                "suppress other tokens, or start the workers with bfloat16 or float32"
            )
        return choices

    def _pass(self, held: _Slot, work: Pass, fed: Sequence[int]) -> list[Choice]:
        rows, count = work.rows, len(fed)
        # One copy to the device for everything that is small.
        small = torch.tensor([*fed, *range(work.at, work.at + count), *work.judge])
        small = small.to(self._device)
        if self._pads is not None:
            self._pads.before(work.ids, work.at)
        logits = self._logits(
            small[None, :count], small[None, count : 2 * count], held.both or held.cache,
            held.source, rows, held.far,
        )  # fmt: skip
        if rows == 0:
            return []
        logits = held.constraint.apply(logits[0].float(), work.ids)
        total = torch.logsumexp(logits, -1)
        top = held.measures.sureness(logits, total)
        drawn = held.draw.choose(logits, len(work.ids) - rows + 1, work.others)
        far = torch.full_like(total, torch.nan)
        judged = len(work.judge)
        if judged:
            far[:judged] = total[:judged] - logits.gather(-1, small[2 * count :, None])[:, 0]
        # Ids are exact in float32 up to 16.7 million; one transfer brings everything back.
        numbers = torch.cat((torch.stack((top, far), -1), drawn), -1).tolist()
        choices = [
            Choice(int(token), sure, far, tuple(map(int, others)))
            for sure, far, token, *others in numbers
        ]
        if work.shares or work.against:
            choices = self._compared(held.measures, work, logits, choices)
        return choices

    @staticmethod
    def _compared(
        measures: Measures, work: Pass, logits: torch.Tensor, choices: list[Choice]
    ) -> list[Choice]:
        """The choices with what a comparison of both models' distributions needs, or says."""
        if work.shares:
            rows = measures.rows(logits)
            return [replace(c, shares=row) for c, row in zip(choices, rows, strict=True)]
        far = measures.distances(logits, work.against) or []
        for row, distance in enumerate(far):
            choices[row] = replace(choices[row], distance=distance)
        index = len(work.ids) - work.rows + 1
        for row, token in enumerate(measures.settle(logits, index, work.judge, work.against) or []):
            choices[row] = replace(choices[row], token=token)
        return choices

    def _logits(
        self, ids: torch.Tensor, places: torch.Tensor, cache: Cache | None,
        source: BaseModelOutput | None, rows: int, far: Source | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Logits of the last `rows` positions. Shapes: `ids` and `places` 1Q; result 1RV."""
        if far is not None and self._plain is not None and isinstance(cache, SlotCache):
            return self._plain.logits(ids[0], cache.length, cache, far, rows)[None]
        arguments: dict[str, Any] = {"past_key_values": cache, "use_cache": cache is not None}
        if self._encdec:
            arguments |= {"encoder_outputs": source, "decoder_input_ids": ids}
        else:
            arguments["input_ids"] = ids
            if self._places:
                arguments["position_ids"] = places
        if self._keeps:
            arguments["logits_to_keep"] = rows or self._nothing
        logits: torch.Tensor = self._model(**arguments).logits
        return logits[:, logits.shape[1] - rows :]

    @torch.inference_mode()
    def _encode_source(self, source: Sequence[int]) -> BaseModelOutput:
        ids = torch.tensor([list(source)], device=self._device)
        try:
            encoder: Any = self._model.get_encoder()
            return BaseModelOutput(last_hidden_state=encoder(input_ids=ids)[0])
        except RuntimeError as error:
            raise WorkerFault(f"{self._info.device}: {first_line(error)}") from error

    @torch.inference_mode()
    def _far(self, source: BaseModelOutput) -> Source | None:
        """What the plain decoder keeps of a source, None where there is none."""
        states = source.last_hidden_state
        return None if self._plain is None or states is None else self._plain.source(states[0])

    def _need(self) -> SlotStore:
        if self._store is None:
            raise RuntimeError("allocate comes before open")
        return self._store

    @torch.inference_mode()
    def _probe(self) -> list[LayerShape]:
        """Learns what the layers keep, and that passes over a slot give what the cache-free forward
        gives.
        """
        name = self._info.architecture
        ids = [
            (7 * i + 3) % min(self._width, 97) for i in range(min(_PROBE, self._info.max_length))
        ]
        whole = torch.tensor([ids], device=self._device)
        places = torch.arange(len(ids), device=self._device)[None]
        try:
            source = self._encode_source(ids) if self._encdec else None
            grown: Cache = DynamicCache()
            if self._encdec:
                grown = EncoderDecoderCache(grown, DynamicCache())
            if self._pads is not None:
                self._pads.before(ids, 0)
            self._logits(whole, places, grown, source, 1)
            expected = self._logits(whole, places, None, source, len(ids))[0].float()
            shapes = shapes_of(grown)
            slot = SlotStore(shapes, 1, len(ids), self._device).slot(0)
            far = self._far(source) if source is not None else None
            cache = with_source(slot) if self._encdec and far is None else slot
            found = torch.empty_like(expected)
            cut, last = len(ids) // 2, len(ids) - 1
            # To the end, then back: a rollback.
            for start, end in ((0, cut), (cut, len(ids)), (cut, last), (last, len(ids))):
                if start == end:
                    continue
                slot.rewind(start, len(ids[start:end]))
                if self._pads is not None:
                    self._pads.before(ids, start)
                part = slice(start, end)
                found[part] = self._logits(
                    whole[:, part], places[:, part], cache, source, len(ids[part]), far
                )[0].float()
        except (WorkerFault, MemoryError, torch.OutOfMemoryError) as error:
            raise ConfigError(
                f"{name} cannot run on {self._info.device}: {first_line(error)}"
            ) from None
        except Exception as error:
            raise ConfigError(
                f"{name} does not run over a cache that can be cut ({type(error).__name__}: {first_line(error)}): "
                "take a model whose layers all use full attention, such as Llama, Qwen, GPT-2, T5, BART or M2M100"
            ) from error
        half = shapes[0].dtype != torch.float32
        # Both -inf, from a short head: the same, but no numbers to compare.
        told = (found != -torch.inf) | (expected != -torch.inf)
        gap = (found - expected)[told].abs().mean() / expected[told].std().clamp(min=1e-6)
        if not bool(gap < (0.5 if half else 1e-2)):
            raise ConfigError(
                f"{name} does not compute the same with and without a cache (mean gap {float(gap):.2g} of the "
                "logits' spread): it cannot be checked token by token. Take another family"
            )
        self._width = expected.shape[-1]
        rules = replace(self._info.rules, vocabulary=self._width)
        self._info = replace(self._info, rules=rules)
        return shapes


class _PadPositions:
    """Counts the positions of families that give pad ids none. Owned by its model.

    Their embedding adds the cache's length to the positions within a pass. What must be added is
    how many ids before the pass are not pads.
    """

    def __init__(self, embedding: nn.Module, pad: int) -> None:
        self._pad = pad
        self._count = 0
        embedding.register_forward_pre_hook(self._replace)

    @classmethod
    def of(cls, model: Any) -> _PadPositions | None:
        decoder = model.get_decoder()
        embedding = getattr(decoder, "embed_positions", None)
        pad = getattr(embedding, "padding_idx", None)
        if embedding is None or pad is None:
            return None
        if not hasattr(embedding, "create_position_ids_from_input_ids"):
            return None
        return cls(embedding, pad)

    def before(self, ids: Sequence[int], at: int) -> None:
        """Announces a pass that feeds `ids[at:]`."""
        self._count = at - sum(1 for token in ids[:at] if token == self._pad)

    def _replace(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*inputs[:2], self._count)
