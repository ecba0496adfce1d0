"""Random requests over two workers whose every event may come in another order.

Shared by the test of the schedules and by the benchmark that counts differing texts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from math import log

from bild_dist.errors import WorkerUnavailable
from bild_dist.kv.prefix import Prefix
from bild_dist.model.scripted import END, VOCABULARY, Rates, Script
from bild_dist.policy.events import Token
from bild_dist.policy.forecast import Forecast
from bild_dist.simulator import Costs, Outcome, World, prompt
from bild_dist.types import Mode, Options, Role, Schedule, Source
from tests.oracle import Distribution, Predictor, Reference, reference

MS = 1_000_000


def predictors(script: Script) -> tuple[Predictor, Predictor]:
    """The scripted twins as the definition sees them: small, large."""

    def small(ids: Sequence[int]) -> Distribution:
        here = script.at(Prefix(ids).digest(len(ids)))
        return Distribution(here.small, here.confidence, lambda t: -log(here.confidence))

    def large(ids: Sequence[int]) -> Distribution:
        here = script.at(Prefix(ids).digest(len(ids)))

        def nats(token: int) -> float:
            if token == here.large:
                return 0.1
            return here.distance if token == here.small else 12.0

        return Distribution(here.large, 0.5, nats)

    return small, large


class Trial:
    """One random setting: models, thresholds, costs, and some requests at the same time."""

    def __init__(self, seed: int) -> None:
        draw = self._draw = random.Random(seed)
        self.seed = seed
        self.rates = Rates(
            f=draw.choice((0.0, 0.2, 0.5, 0.9)), q=draw.random(), rho=draw.choice((0.0, 0.03, 0.3)),
            mild=0.05, end=draw.choice((0.0, 0.02, 0.1)),
        )  # fmt: skip
        self.costs = Costs(
            small_ns=draw.randint(1, 10) * MS, large_ns=draw.randint(1, 40) * MS,
            small_token_ns=draw.choice((0, MS // 10)), large_token_ns=draw.choice((0, MS)),
            small_trip_ns=draw.choice((0, MS // 3, 20 * MS)),
            large_trip_ns=draw.choice((0, MS // 3, 20 * MS)), colocated=draw.random() < 0.2,
        )  # fmt: skip
        self.options = Options(
            mode=draw.choice((Mode.BILD, Mode.BILD, Mode.BILD, Mode.EXACT)), window=draw.choice((1, 2, 5, 10)),
            alpha_fb=draw.choice((0.0, 0.3, 0.6, 0.9, 1.0)), alpha_rb=draw.choice((0.0, 2.0, 9.0)),
            first=draw.choice(list(Role)), verify_tail=draw.random() < 0.9,
            max_new_tokens=draw.randint(1, 24), branches=draw.choice((1, 1, 2, 3)),
            logprobs=(None, 0, 2)[seed % 3],
        )  # fmt: skip
        self.count = draw.choice((1, 1, 2, 4))
        self.slots = draw.randint(1, self.count)
        self.shake = draw.choice((0.0, 0.5, 3.0))
        # Some requests are given up, and now and then a worker dies in the middle of everything.
        self.cancelled = {
            i: draw.randint(1, 400) * MS for i in range(self.count) if draw.random() < 0.1
        }
        self.lost = draw.randint(1, 400) * MS if draw.random() < 0.05 else None
        batching = draw.choice(("single", "ragged", "groups"))
        self.costs = replace(self.costs, batching=batching)
        script = Script(self.rates, seed)
        small, large = predictors(script)
        self.expected: list[Reference] = [
            reference(small, large, prompt(i), self.options, end_ids=[END],
                      max_new_tokens=self.options.max_new_tokens)
            for i in range(self.count)
        ]  # fmt: skip

    def complaints(self, schedule: Schedule) -> list[str]:
        """What is wrong with the texts that this schedule writes; nothing, it is hoped."""
        world = World(self.costs, self.rates, seed=self.seed, slots=self.slots, shake=self.shake)
        options = self.options.merged({"schedule": schedule})
        forecast = Forecast(world.measured, options)
        outcomes = [
            world.request(prompt(i), options, forecast, cancel_ns=self.cancelled.get(i))
            for i in range(self.count)
        ]
        if self.lost is not None:
            error = WorkerUnavailable("lost")
            world.after(self.lost, lambda: world.fail(Role.SMALL, error))
        world.run()
        found = [self._judge(i, outcome) for i, outcome in enumerate(outcomes)]
        if self.lost is None and world.open_slots() > 0:
            found.append("a slot was not given back")
        return [f"{schedule} {self.seed}: {complaint}" for complaint in found if complaint]

    def _judge(self, number: int, outcome: Outcome) -> str:
        expected, finish = self.expected[number], outcome.finish
        tokens, sources = expected.tokens, expected.sources
        if finish is None:
            return "never ended"
        if finish.reason is None:
            if number not in self.cancelled and self.lost is None:
                return f"failed: {finish.error}"
            tokens, sources = tokens[: len(outcome.tokens)], sources[: len(outcome.tokens)]
        elif finish.reason.value != expected.reason:
            return f"ended by {finish.reason}, not {expected.reason}"
        if outcome.tokens != tokens or [s.value for s in outcome.sources] != sources:
            return f"another text: {outcome.tokens} for {tokens}"
        trace = outcome.machine.books.trace
        if finish.reason is not None and not 0 <= trace.wasted <= trace.drafted:
            return f"wasted {trace.wasted} of {trace.drafted}"
        if any(not 0 < token < VOCABULARY for token in outcome.tokens[:-1]):
            return "a token that is none"
        if any(t.logprob != self._logprob(t) for t in outcome.given):
            return "a log-probability of the wrong model"
        return ""

    def _logprob(self, token: Token) -> float | None:
        """What the model that decided says of a token."""
        if self.options.logprobs is None:
            return None
        small = token.source is Source.SMALL and self.options.mode is not Mode.EXACT
        return log(token.confidence or 0.0) if small else log(0.5)
