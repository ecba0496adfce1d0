"""A machine and two workers' jobs played by hand: no thread, no loop, no clock, every step
visible.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from math import log

from bild_dist.errors import InvalidRequest
from bild_dist.kv.prefix import Prefix
from bild_dist.kv.slots import Slot
from bild_dist.messages import (
    PROTOCOL,
    Draft,
    Drafted,
    Encoded,
    Info,
    Open,
    Opened,
    Rules,
    Verified,
    Verify,
)
from bild_dist.model.base import Choice, Pass, compared
from bild_dist.policy.events import Emit, Finish, FromWorker, Token, ToWorker
from bild_dist.policy.machine import Machine
from bild_dist.sampling import choose, sampled
from bild_dist.types import Role
from bild_dist.workers.jobs import Meter, Steps, draft, prefill, verify
from tests.oracle import Distribution, Predictor

VOCABULARY = 12
END = 0


def scripted(seed: int, other: Predictor | None = None, agree: float = 0.6) -> Predictor:
    """A made-up model over a tiny vocabulary: peaked, with an end token now and then.

    With `other` it mostly agrees with that one, as a small model does with its large one.
    """

    def predict(ids: Sequence[int]) -> Distribution:
        key = f"{seed}:{list(ids)}".encode()
        raw = hashlib.blake2b(key, digest_size=2 * VOCABULARY + 2).digest()
        weights = [raw[i] ** 2 + 1.0 for i in range(VOCABULARY)]
        weights[END] *= 0.7
        if other is not None and raw[VOCABULARY] / 256 < agree:
            weights[other(ids).draw] = max(weights) * (1 + raw[VOCABULARY + 1] / 16)
        total = sum(weights)
        best = max(range(VOCABULARY), key=lambda t: (weights[t], -t))
        return Distribution(
            best, weights[best] / total, lambda t: -log(weights[t] / total), width=VOCABULARY
        )

    return predict


class PredictorModel:
    """A predictor behind the Model protocol.

    It predicts from what its passes wrote into the slot, never from the ids handed in, so that a
    wrong length shows.
    """

    def __init__(self, predict: Predictor, max_length: int = 64) -> None:
        self._predict = predict
        self.kv: dict[int, list[int]] = {}
        self._rules: dict[int, Rules] = {}
        self.info = Info(
            protocol=PROTOCOL, model="scripted", architecture="scripted", kind="decoder",
            generation="", pid=0, device="cpu", dtype="float32", threads=1, slots=0,
            max_length=max_length, max_source=0, tokenizer="", tokenizer_size=0, encodes=False,
            decoder_prompt=(), rules=Rules(vocabulary=VOCABULARY, begin=0, limit=0, end_ids=(END,)),
        )  # fmt: skip

    def files(self) -> dict[str, bytes]:
        return {}

    def encode(self, seq: int, text: str, src_lang: str, tgt_lang: str) -> Encoded:
        raise InvalidRequest("scripted models have no tokenizer: give ids")

    def allocate(self, slots: int) -> None:
        self.kv = {slot: [] for slot in range(slots)}

    def open(self, slot: int, source: Sequence[int], rules: Rules) -> None:
        self.kv[slot] = []
        self._rules[slot] = rules

    def forward(self, work: Pass) -> list[Choice]:
        kv = self.kv[work.slot]
        kv[work.at :] = work.ids[work.at :]
        rules = self._rules.get(work.slot, self.info.rules)
        choices = []
        for row in range(work.rows):
            index = len(kv) - work.rows + row + 1
            p = self._predict(kv[:index])
            drawn = [p.draw]
            if sampled(rules) or work.others:
                drawn = choose(self._logs(p), rules, index, work.others)
            judged = work.judge[row] if row < len(work.judge) else None
            distance = float("nan") if judged is None else p.nll(judged)
            choice = Choice(drawn[0], p.top, distance, tuple(drawn[1:]))
            choices.append(compared(choice, work, row, rules, partial(self._logs, p)))
        return choices

    @staticmethod
    def _logs(p: Distribution) -> list[float]:
        return [-p.nll(t) for t in range(VOCABULARY)]


class HandWorker:
    """One slot of a worker, answering one command at a time."""

    def __init__(self, predict: Predictor) -> None:
        self.model = PredictorModel(predict)
        self.model.allocate(1)
        self.meter = Meter()
        self.slot: Slot | None = None

    def answer(self, request: Open | Draft | Verify) -> list[Opened | Drafted | Verified]:
        if isinstance(request, Open):
            self.slot = Slot(0, request.rules, Prefix())
            self._play(prefill(self.model, self.slot, request, lambda: 256, self.meter))
            return [Opened(session=request.session, epoch=request.epoch, seq=request.seq)]
        if self.slot is None:
            raise AssertionError("a command before Open")
        if isinstance(request, Draft):
            return self._play(draft(self.slot, request, self.meter))
        return self._play(verify(self.slot, request, self.meter))

    def _play(self, steps: Steps) -> list[Opened | Drafted | Verified]:
        replies: list[Opened | Drafted | Verified] = []
        for asked in steps:
            if isinstance(asked, Pass):
                self.meter.passes += 1
                reply = steps.send(self.model.forward(asked))
                if isinstance(reply, Drafted | Verified):
                    replies.append(reply)
        return replies


def play(
    machine: Machine,
    small: HandWorker,
    large: HandWorker,
    spy: Callable[[ToWorker], None] = lambda command: None,
) -> tuple[list[Token], Finish]:
    """Carries a machine to its end, answering every command at once."""
    workers = {Role.SMALL: small, Role.LARGE: large}
    commands = machine.start()
    tokens: list[Token] = []
    events: list[FromWorker] = []
    for _ in range(10_000):
        for command in commands:
            if isinstance(command, Emit):
                tokens.extend(command.tokens)
            elif isinstance(command, Finish):
                return tokens, command
            else:
                spy(command)
                if isinstance(command.request, Open | Draft | Verify):
                    replies = workers[command.role].answer(command.request)
                    events += [FromWorker(command.role, reply) for reply in replies]
        commands = machine.handle(events.pop(0))
    raise AssertionError(f"no end in sight: {machine!r}")
