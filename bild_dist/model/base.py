"""What an engine needs of a model: slots that it can open, and passes over them.

A pass says which length it builds on, so rollback needs no call of its own. A model holds its KV
cache by slot and trusts the engine's lengths; what lies past a length is garbage by definition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import exp
from typing import Any, Protocol, runtime_checkable

from bild_dist.errors import InvalidRequest
from bild_dist.logprobs import Logprob, of
from bild_dist.messages import Encoded, Info, Rules
from bild_dist.sampling import law, settle
from bild_dist.shares import Shares, apart, drawn, law_row, sketch, sureness
from bild_dist.types import Confidence


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward over one slot: feed `ids[at:]` behind the KV of the first `at`.

    `rows`: how many of the last fed tokens' next-token distributions are wanted; 0 only fills the
    cache. `judge`: tokens whose distance is wanted, one for each of the first `len(judge)` wanted
    rows. `others`: how many tokens to name behind the draw. `shares`: whether each wanted row is to
    be told as the slot's rules need it at the other worker. `against`: what that worker told of the
    judged tokens.
    """

    slot: int
    at: int
    ids: Sequence[int]
    rows: int
    judge: tuple[int, ...] = ()
    others: int = 0
    shares: bool = False
    against: tuple[Shares, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """What a model says of one position.

    `token`: its draw; `confidence`: its largest probability, or what the rules ask for; `distance`:
    -ln p of the judged token, nats, or what the rules ask for (nan where none was named). Where
    tokens are rejected by chance, `token` is the judged one if that stands, and else the one drawn
    in its place. Probabilities are the softmax at temperature 1 after the slot's
    rules (float32 or better).
    """

    token: int
    confidence: float
    distance: float
    others: tuple[int, ...] = ()
    """The next best draws, best first, as many as were asked for."""
    shares: bytes = b""
    """A row of `shares.py`, where that was asked for."""
    logprob: Logprob | None = None
    """Of `token`, where the slot's rules ask for it."""


def compared(
    choice: Choice, work: Pass, row: int, rules: Rules, logs: Callable[[], Sequence[float]]
) -> Choice:
    """A choice with what its rules measure beyond the draw, for models that have lists.

    `logs`: makes ln p of every id at this wanted row of the pass, nats.
    """
    seen = work.against[row] if row < len(work.against) else None
    plain = rules.confidence in (Confidence.MAX, Confidence.PRODUCT)
    if plain and not work.shares and seen is None and rules.logprobs is None:
        return choice
    here = logs()[: rules.vocabulary]
    chances = [exp(p) for p in here]
    changes: dict[str, Any] = {}
    if not plain:
        changes["confidence"] = sureness(rules.confidence, chances)
    if work.shares:
        drawing = drawn(rules)
        changes["shares"] = law_row(law(here, rules), len(here)) if drawing else sketch(chances)
    if seen is not None and drawn(rules):
        index = len(work.ids) - work.rows + row + 1
        small = dict(zip(seen.ids, seen.values, strict=True))
        changes["token"] = settle(here, rules, index, work.judge[row], small)
    elif seen is not None:
        changes["distance"] = apart(rules.distance, seen.values, [chances[t] for t in seen.ids])
    if rules.logprobs is not None:
        changes["logprob"] = of(here, changes.get("token", choice.token), rules)
    return replace(choice, **changes)


class Model(Protocol):
    """One model on one device. Owned by one engine thread: every method but `info` and `files` is
    called from it alone.

    Raises:
        InvalidRequest: the request asks for something that this model cannot do.
        WorkerFault: the device failed and the process must end.
    """

    @property
    def info(self) -> Info:
        """Who this is. `generation`, `pid` and `slots` are filled in by the worker."""
        ...

    def files(self) -> dict[str, bytes]:
        """Tokenizer files for the orchestrator: "tokenizer.json" and "chat.json", or nothing."""
        ...

    def encode(self, seq: int, text: str, src_lang: str, tgt_lang: str) -> Encoded:
        """Ids of a text, for families without a fast tokenizer."""
        ...

    def allocate(self, slots: int) -> None:
        """Preallocates the KV cache of `slots` slots."""
        ...

    def open(self, slot: int, source: Sequence[int], rules: Rules) -> None:
        """Forgets what the slot held; runs the encoder where there is one."""
        ...

    def forward(self, work: Pass) -> list[Choice]:
        """Runs one pass; returns one Choice for each wanted row."""
        ...


@runtime_checkable
class Batched(Protocol):
    """A model that can run passes of several slots as one. What may go together its `info.batching`
    says.
    """

    def forward_batch(self, works: Sequence[Pass]) -> list[list[Choice] | InvalidRequest]:
        """Runs passes of different slots; for each what `forward` would give or raise, but for
        rounding.
        """
        ...
