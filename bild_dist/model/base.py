"""What an engine needs of a model: slots that it can open, and passes over them.

A pass says which length it builds on, so rollback needs no call of its own. A model holds its KV
cache by slot and trusts the engine's lengths; what lies past a length is garbage by definition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bild_dist.messages import Encoded, Info, Rules


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward over one slot: feed `ids[at:]` behind the KV of the first `at`.

    `rows`: how many of the last fed tokens' next-token distributions are wanted; 0 only fills the
    cache. `judge`: tokens whose distance is wanted, one for each of the first `len(judge)` wanted
    rows. `others`: how many tokens to name behind the draw.
    """

    slot: int
    at: int
    ids: Sequence[int]
    rows: int
    judge: tuple[int, ...] = ()
    others: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """What a model says of one position.

    `token`: its draw; `confidence`: its largest probability; `distance`: -ln p of the judged token,
    nats (nan where none was named). Probabilities are the softmax at temperature 1 after the slot's
    rules (float32 or better).
    """

    token: int
    confidence: float
    distance: float
    others: tuple[int, ...] = ()
    """The next best draws, best first, as many as were asked for."""


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
