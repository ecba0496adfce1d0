"""A transformers model behind `base.Model`: rules, draws and measures over its passes (`passes.py`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedModel

from bild_dist.config import where_given
from bild_dist.errors import ConfigError, InvalidRequest, WorkerFault
from bild_dist.kv.cache import SlotStore
from bild_dist.messages import Encoded, Info, Rules
from bild_dist.model.base import Choice, Pass
from bild_dist.model.draw import Draw
from bild_dist.model.foreign import first_line
from bild_dist.model.measure import Measures
from bild_dist.model.passes import Line, Passes, Text
from bild_dist.model.rules import Constraint
from bild_dist.model.startup import settle
from bild_dist.model.tokenizer import Tokens


@dataclass(slots=True)
class _Slot:
    """What an open slot holds."""

    text: Text
    constraint: Constraint
    draw: Draw
    measures: Measures


class HfModel:
    """One transformers model on one device. Owned by the engine thread.

    Raises:
        ConfigError: the model's own cache-free forward and its passes over a slot disagree, or it
            cannot run at all.
    """

    def __init__(
        self, model: PreTrainedModel, info: Info, tokens: Tokens, *, plain: bool = True
    ) -> None:
        """`plain` allows plain operations in place of the decoder's modules, which then lose their
        weights.
        """
        self._model: Any = model
        self._tokens = tokens
        self._device = model.device
        self._slots: dict[int, _Slot] = {}
        self._store: SlotStore | None = None
        self._passes = Passes(model, encdec=info.kind == "encoder-decoder")
        settled = settle(self._passes, info, plain=plain)
        self._shapes, self._width = settled.shapes, settled.width
        # For people: which form runs decides the speed, and depends on the release of transformers.
        form = "" if self._passes.plain is None else ", plain operations"
        self._info = replace(
            info, architecture=info.architecture + form, batching=settled.batching,
            rules=replace(info.rules, vocabulary=self._width),
        )  # fmt: skip

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
                f"take fewer slots or a smaller max_length {where_given('slots', 'max_length')}"
            ) from None
        self._slots.clear()

    def open(self, slot: int, source: Sequence[int], rules: Rules) -> None:
        constraint, draw = Constraint(rules, self._width, self._device), Draw(rules)
        text = self._passes.open(self._need().clean(slot), source)
        self._slots[slot] = _Slot(text, constraint, draw, Measures(rules, draw))

    @torch.inference_mode()
    def forward(self, work: Pass) -> list[Choice]:
        held = self._slots[work.slot]
        fed, count = work.ids[work.at :], len(work.ids) - work.at
        held.text.cache.rewind(work.at, count)
        try:
            # One copy to the device for everything that is small.
            small = torch.tensor([*fed, *range(work.at, work.at + count), *work.judge])
            small = small.to(self._device)
            self._passes.before(work.ids, work.at)
            logits = self._passes.logits(
                small[None, :count], small[None, count : 2 * count], held.text, work.rows
            )
            if work.rows == 0:
                return []
            logits = held.constraint.apply(logits.float(), work.ids)
            choices = self._said(
                work, logits, self._table(work, logits, small[2 * count :]).tolist()
            )
        except RuntimeError as error:
            raise self._fault(error) from error
        if isinstance(choices, InvalidRequest):
            raise choices
        return choices

    @torch.inference_mode()
    def forward_batch(self, works: Sequence[Pass]) -> list[list[Choice] | InvalidRequest]:
        texts = [self._slots[work.slot].text for work in works]
        for text, work in zip(texts, works, strict=True):
            text.cache.rewind(work.at, len(work.ids) - work.at)
        try:
            logits = self._passes.together(
                [Line(text, n.ids, n.at, n.rows) for text, n in zip(texts, works, strict=True)]
            )
            judged = torch.tensor([token for work in works for token in work.judge])
            return self._choices(works, logits, judged.to(self._device))
        except RuntimeError as error:
            raise self._fault(error) from error

    def _fault(self, error: RuntimeError) -> WorkerFault:
        return WorkerFault(f"{self._info.device}: {first_line(error)}")

    def _choices(
        self, works: Sequence[Pass], logits: Sequence[torch.Tensor], judged: torch.Tensor
    ) -> list[list[Choice] | InvalidRequest]:
        """What shared passes give, each by the rules of its slot. `judged`: the tokens that all of them judge,
        one behind the other.
        """
        asked = [
            (work, self._slots[work.slot].constraint.apply(rows.float(), work.ids))
            for work, rows in zip(works, logits, strict=True)
            if work.rows
        ]
        if not asked:
            return [[] for _ in works]
        parts = judged.split_with_sizes([len(work.judge) for work, _ in asked])
        tables = [self._table(*one, part) for one, part in zip(asked, parts, strict=True)]
        # Ids are exact in float32 up to 16.7 million; one transfer brings everything back.
        numbers = torch.cat([table.flatten() for table in tables]).cpu()
        cells = numbers.split_with_sizes([table.numel() for table in tables])
        said = iter([
            self._said(*one, part.view(table.shape).tolist())
            for one, table, part in zip(asked, tables, cells, strict=True)
        ])  # fmt: skip
        return [next(said) if work.rows else [] for work in works]

    def _table(self, work: Pass, logits: torch.Tensor, judged: torch.Tensor) -> torch.Tensor:
        """How sure each row is, how far the judged token is, and what is drawn. Shapes: `logits` RV."""
        held, count = self._slots[work.slot], len(work.judge)
        total = torch.logsumexp(logits, -1)
        top = held.measures.sureness(logits, total)
        drawn = held.draw.choose(logits, len(work.ids) - work.rows + 1, work.others)
        far = torch.full_like(total, torch.nan)
        if count:
            far[:count] = total[:count] - logits.gather(-1, judged[:, None])[:, 0]
        return torch.cat((torch.stack((top, far), -1), drawn), -1)

    def _said(
        self, work: Pass, logits: torch.Tensor, cells: Sequence[Sequence[float]]
    ) -> list[Choice] | InvalidRequest:
        if any(math.isnan(sure) for sure, *_ in cells):
            return InvalidRequest(
                "the rules leave no token to write, or the model's numbers overflowed: "
                "suppress other tokens, or start the workers with bfloat16 or float32"
            )
        held = self._slots[work.slot]
        choices = [
            Choice(int(token), sure, far, tuple(map(int, others)))
            for sure, far, token, *others in cells
        ]
        if work.shares or work.against:
            choices = self._compared(held.measures, work, logits, choices)
        if held.measures.tells:
            total, tokens = torch.logsumexp(logits, -1), [choice.token for choice in choices]
            told = held.measures.logprobs(logits, total, tokens)
            choices = [replace(c, logprob=row) for c, row in zip(choices, told, strict=True)]
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

    def _need(self) -> SlotStore:
        if self._store is None:
            raise RuntimeError("allocate comes before open")
        return self._store
