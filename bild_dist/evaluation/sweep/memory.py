"""A memory of passes: what a model has said about a prefix it need not compute again.

Texts of different settings are the same up to the first token that one of them changes, so most
passes of a sweep ask for rows that are known already. A row is keyed by the role, the source, all
rules of the request and the ids before it, and answers only what was computed for exactly that key;
anything else goes to the model. What comes back is what the model said then: the same texts as
without a memory, up to the rounding by which passes of different lengths differ.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final

from bild_dist.errors import ConfigError
from bild_dist.kv.prefix import Prefix
from bild_dist.messages import Encoded, Info, Rules
from bild_dist.model.base import Choice, Model, Pass
from bild_dist.types import Role

_ROW: Final = frozenset(("slot", "at", "ids", "rows", "judge", "others"))
"""Fields of a pass that say which rows are wanted. All others belong to the key."""


@dataclass(slots=True)
class Row:
    """What was said of one position. `distances`: by judged token, nats."""

    said: Choice
    distances: dict[int, float] = field(default_factory=dict)

    def answers(self, judged: int | None, others: int) -> bool:
        return len(self.said.others) >= others and (judged is None or judged in self.distances)

    def choice(self, judged: int | None, others: int) -> Choice:
        distance = float("nan") if judged is None else self.distances[judged]
        return dataclasses.replace(self.said, distance=distance, others=self.said.others[:others])


class Memory:
    """Rows of both models. Owned by one sweep; each book is used by the engine of its role alone."""

    def __init__(self) -> None:
        self._books: dict[Hashable, dict[Hashable, Row]] = {}
        self.known = dict.fromkeys(Role, 0)
        """Passes that were answered from here, by role."""
        self.computed = dict.fromkeys(Role, 0)
        """Passes that the model had to run."""

    def book(self, role: Role, source: Sequence[int], rules: Rules) -> dict[Hashable, Row]:
        return self._books.setdefault((role, tuple(source), rules), {})

    def forget(self) -> None:
        """Drops all rows: another prompt shares none of them."""
        self._books.clear()


@dataclass(slots=True)
class _Slot:
    """What a slot seems to hold (`ids`), and what the model's own cache holds (`real`)."""

    source: Sequence[int]
    rules: Rules
    book: dict[Hashable, Row]
    ids: Prefix
    real: list[int] | None = None
    """None until the model was asked to open the slot: a text that is known needs no encoder."""


class Remembered:
    """A model behind a memory, itself a `model.base.Model`. Owned as the model is.

    Greedy only: with a temperature a draw is a function of the seed too, which the rules hold, but a
    sweep compares thresholds, not luck.
    """

    def __init__(self, model: Model, role: Role, memory: Memory) -> None:
        self._model = model
        self._role = role
        self._memory = memory
        self._slots: dict[int, _Slot] = {}

    @property
    def info(self) -> Info:
        return self._model.info

    def files(self) -> dict[str, bytes]:
        return self._model.files()

    def encode(self, seq: int, text: str, src_lang: str, tgt_lang: str) -> Encoded:
        return self._model.encode(seq, text, src_lang, tgt_lang)

    def allocate(self, slots: int) -> None:
        self._model.allocate(slots)
        self._slots.clear()

    def open(self, slot: int, source: Sequence[int], rules: Rules) -> None:
        if rules.temperature > 0:
            raise ConfigError("a sweep writes the most likely tokens only: leave temperature at 0")
        book = self._memory.book(self._role, source, rules)
        self._slots[slot] = _Slot(source, rules, book, Prefix())

    def forward(self, work: Pass) -> list[Choice]:
        held = self._slots[work.slot]
        held.ids.cut(work.at)
        held.ids.extend(work.ids[work.at :])
        if work.rows == 0:
            return []
        first = len(held.ids) - work.rows + 1
        more = tuple(
            getattr(work, spec.name) for spec in dataclasses.fields(work) if spec.name not in _ROW
        )
        keys = [(held.ids.digest(first + row), *more) for row in range(work.rows)]
        judged = [*work.judge, *[None] * (work.rows - len(work.judge))]
        rows = [held.book.get(key) for key in keys]
        found = [
            row.choice(token, work.others)
            for row, token in zip(rows, judged, strict=True)
            if row is not None and row.answers(token, work.others)
        ]
        if len(found) == work.rows:
            self._memory.known[self._role] += 1
            return found
        choices = self._computed(held, work)
        for key, token, choice in zip(keys, judged, choices, strict=True):
            row = held.book.get(key)
            if row is None:
                row = held.book[key] = Row(choice)
            elif len(choice.others) > len(row.said.others):
                row.said = dataclasses.replace(row.said, others=choice.others)
            if token is not None:
                row.distances.setdefault(token, choice.distance)
        return choices

    def _computed(self, held: _Slot, work: Pass) -> list[Choice]:
        """Runs the pass, from the last id on that the model's own cache is right about."""
        if held.real is None:
            self._model.open(work.slot, held.source, held.rules)
            held.real = []
        ids = held.ids.ids
        at = 0
        most = min(len(held.real), len(ids) - work.rows)
        while at < most and held.real[at] == ids[at]:
            at += 1
        held.real = list(ids)
        self._memory.computed[self._role] += 1
        return self._model.forward(dataclasses.replace(work, at=at, ids=ids))
