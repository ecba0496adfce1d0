"""Scripted twins for the simulator: no weights, no time of their own, every position known beforehand.

As the toys of `toy.py`, but made for speed: a position follows from the fingerprint of the ids
before it, which costs the same at any length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from math import log, log1p
from typing import Final

from bild_dist.errors import InvalidRequest
from bild_dist.kv.prefix import Prefix
from bild_dist.logprobs import Logprob
from bild_dist.messages import PROTOCOL, Encoded, Info, Rules
from bild_dist.model.base import Choice, Pass
from bild_dist.sampling import mix
from bild_dist.shares import pack
from bild_dist.types import Role

END: Final = 0
VOCABULARY: Final = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How the scripted models agree; meanings as in `model/toy.py`.

    `f`: share of positions where the small model is unsure (confidence 0.15 to 0.55, elsewhere 0.65
    to 1). `q`: share of those where it guesses right. `rho`, `mild`: share of the others where the
    large model objects (6 to 14 nats) or would write something else (0.8 to 1.8). `end`: share of
    positions where the text ends. `second`: where the small model guesses wrong, share of positions
    where its next best token is right.
    """

    f: float = 0.2
    q: float = 0.45
    rho: float = 0.03
    mild: float = 0.05
    end: float = 0.0
    second: float = 0.4


@dataclass(frozen=True, slots=True)
class Position:
    """What the scripted models say of one position: draws, the small one's confidence, and the
    distance of its draw from the large one.
    """

    small: int
    confidence: float
    large: int
    distance: float
    second: bool


class Script:
    """The twins' text as a function of the fingerprint of all ids before. Owned by its world."""

    def __init__(self, rates: Rates, seed: int) -> None:
        self._rates = rates
        self._seed = mix(seed + 1)
        self._known: dict[int, Position] = {}

    def at(self, digest: int) -> Position:
        position = self._known.get(digest)
        if position is None:
            if len(self._known) > 100_000:
                self._known.clear()
            position = self._known[digest] = self._make(digest)
        return position

    def _make(self, digest: int) -> Position:
        rates = self._rates
        first = mix(digest ^ self._seed)
        second = mix(first)
        low, value = (first & 0xFFFFFF) / (1 << 24) < rates.f, (first >> 24 & 0xFFFF) / 65536
        agree, apart = (second & 0xFFFFFF) / (1 << 24), (second >> 24 & 0xFFFF) / 65536
        large = 1 + (first >> 40 & 0xFFFF) % (VOCABULARY - 1)
        if rates.end > 0 and (second >> 40 & 0xFFFF) / 65536 < rates.end:
            large = END
        other = 1 + (large + (first >> 56) % (VOCABULARY - 2)) % (VOCABULARY - 1)
        confidence = 0.15 + 0.4 * value if low else 0.65 + 0.35 * value
        second = mix(second) / (1 << 64) < rates.second
        if low:
            if agree >= rates.q:
                return Position(other, confidence, large, 1 + 9 * apart, second)
        elif agree < rates.rho:
            return Position(other, confidence, large, 6 + 8 * apart, second)
        elif agree < rates.rho + rates.mild:
            return Position(other, confidence, large, 0.8 + apart, second)
        return Position(large, confidence, large, 0.1, second)


class ScriptedModel:
    """One of the twins behind `model/base.Model`. Owned by its worker.

    It answers from what its passes wrote into the slot, so that a wrong length gives wrong tokens.
    `spend` is told of every pass how many tokens it fed; `batching` is as in `messages.Info`.
    """

    def __init__(
        self, role: Role, script: Script, spend: Callable[[int], None], batching: str = "single"
    ) -> None:
        self._small = role is Role.SMALL
        self._script = script
        self._spend = spend
        self._slots: list[Prefix] = []
        self._told: dict[int, int | None] = {}
        """How many tokens each slot's rules name with a log-probability."""
        self.info = Info(
            protocol=PROTOCOL, model=f"scripted:{role}", architecture="scripted", kind="decoder",
            generation="", pid=0, device="virtual", dtype="", threads=1, slots=0,
            max_length=1 << 20, max_source=0, tokenizer="", tokenizer_size=0, encodes=False,
            decoder_prompt=(), rules=Rules(vocabulary=VOCABULARY, begin=0, limit=0, end_ids=(END,)),
            batching=batching,
        )  # fmt: skip

    def files(self) -> dict[str, bytes]:
        return {}

    def encode(self, seq: int, text: str, src_lang: str, tgt_lang: str) -> Encoded:
        raise InvalidRequest("scripted models have no tokenizer: give ids")

    def allocate(self, slots: int) -> None:
        self._slots = [Prefix() for _ in range(slots)]

    def open(self, slot: int, source: Sequence[int], rules: Rules) -> None:
        self._slots[slot] = Prefix()
        self._told[slot] = rules.logprobs

    def forward(self, work: Pass) -> list[Choice]:
        self._spend(len(work.ids) - work.at)
        return self._read(work)

    def forward_batch(self, works: Sequence[Pass]) -> list[list[Choice] | InvalidRequest]:
        self._spend(sum(len(work.ids) - work.at for work in works))
        return [self._read(work) for work in works]

    def _read(self, work: Pass) -> list[Choice]:
        kv = self._slots[work.slot]
        kv.cut(work.at)
        kv.extend(work.ids[work.at :])
        first = len(kv) - work.rows + 1
        choices: list[Choice] = []
        named = self._told.get(work.slot)
        for row in range(work.rows):
            position = self._script.at(kv.digest(first + row))
            if self._small:
                others = self._others(position, work.others)
                # What is measured of a distribution is in the script: this only takes its place.
                told = pack([position.confidence], [position.small]) if work.shares else b""
                choices.append(Choice(position.small, position.confidence, 0.0, others, told))
            else:
                judged = work.judge[row] if row < len(work.judge) else position.large
                far = position.distance if judged == position.small else 12.0
                choices.append(
                    Choice(position.large, 0.5, 0.1 if judged == position.large else far)
                )
        if named is not None:
            choices = [replace(choice, logprob=self._logprob(choice, named)) for choice in choices]
        return choices

    @staticmethod
    def _logprob(choice: Choice, count: int) -> Logprob:
        """ln p of the draw is that of the confidence; what is left is spread over the other ids."""
        own, rest = log(choice.confidence), log1p(-choice.confidence) - log(VOCABULARY - 1)
        ids = chain([choice.token], (t for t in range(VOCABULARY) if t != choice.token))
        top = ((t, own if t == choice.token else rest) for t in islice(ids, count))
        return Logprob(own, tuple(top))

    @staticmethod
    def _others(position: Position, count: int) -> tuple[int, ...]:
        """The next best draws: the large model's where the second guess is right."""
        first = [position.large] if position.second and position.small != position.large else []
        rest = (t for t in range(1, VOCABULARY) if t not in (position.small, position.large))
        return tuple(islice(chain(first, rest), count))
