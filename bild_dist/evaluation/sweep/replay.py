"""What a setting would have done with a text that both models have read: sources, passes, time.

The text is held fixed: where the setting writes another token than the recorded one, the replay goes
on as if the rest were what the recording says. So a prediction is about rates and cost, never about
the text, and it errs where texts of the setting lead somewhere else (`bild sweep` says by how much).

Schedule `paper` in mode `bild` is worked out directly, some microseconds a token. All else is played
by the real machine and the real turns of two workers on the virtual clock of `bild_dist.simulator`,
so that `through` and `overlap` stop drafting where they really would.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from bild_dist.errors import ConfigError, InvalidRequest
from bild_dist.evaluation.sweep.reading import Reading
from bild_dist.messages import Encoded, Info, Rules
from bild_dist.model.base import Choice, Pass
from bild_dist.model.scripted import END, VOCABULARY, Rates, Script, ScriptedModel
from bild_dist.policy.forecast import Forecast
from bild_dist.policy.rules import next_run, owner, stands
from bild_dist.simulator import Costs, World, prompt
from bild_dist.types import Mode, Options, Role, Schedule, Source
from bild_dist.workers.turns import Turns

_SAME: Final = 1
_OTHER: Final = 2
"""Ids of the replay: only whether two are the same, and whether one ends the text, matters."""
MOST: Final = (VOCABULARY - 1) ** 3
"""Texts that `simulator.prompt` tells apart."""
_WARM: Final = (1, 2, 4, 8, 16)
"""Lengths of passes whose times a replay knows from the start, as a pair that has run for a while
does."""


class Played(NamedTuple):
    """One text under one setting. `wall_ns` leaves out what comes before the first pass."""

    tokens: int
    small_passes: int
    large_passes: int
    fallbacks: int
    rollbacks: int
    windows: int
    wall_ns: int


@dataclass(frozen=True, slots=True)
class Marks:
    """A reading in the alphabet of the replay, made once for all settings."""

    small: tuple[int, ...]
    large: tuple[int, ...]
    confidence: tuple[float, ...]
    distance: tuple[float, ...]

    @classmethod
    def of(cls, reading: Reading) -> Marks:
        ends = set(reading.end_ids)
        return cls(
            small=tuple(
                END if small in ends else _SAME if small == large else _OTHER
                for small, large in zip(reading.small, reading.large, strict=True)
            ),
            large=tuple(END if large in ends else _SAME for large in reading.large),
            confidence=reading.confidence,
            distance=reading.distance,
        )

    def __len__(self) -> int:
        return len(self.small)


def replay(texts: Sequence[Marks], options: Options, costs: Costs) -> list[Played]:
    """Plays all texts under one setting, one after the other, as one decoder would.

    `options.schedule` must be settled. `branches` counts as 1: second guesses touch neither the text
    nor the passes of the large model.

    Raises:
        InvalidRequest: the schedule is not settled, or a text is empty.
        ConfigError: there are too many texts.
    """
    if options.schedule is None or not all(len(text) for text in texts):
        raise InvalidRequest("a replay needs a schedule, and texts of at least one token")
    if options.mode in (Mode.LARGE, Mode.SMALL):
        return [_alone(text, options.mode, costs) for text in texts]
    plain = options.first is Role.SMALL and options.verify_tail and options.mode is Mode.BILD
    if options.schedule is Schedule.PAPER and plain:
        return [paper(text, options, costs) for text in texts]
    return staged(texts, options, costs)


def _alone(text: Marks, mode: Mode, costs: Costs) -> Played:
    """One model writes alone, and streams: no round trip a token."""
    small = mode is Mode.SMALL
    draws = text.small if small else text.large
    count = next((n for n, draw in enumerate(draws, start=1) if draw == END), len(draws))
    one = costs.small_ns + costs.small_token_ns if small else costs.large_ns + costs.large_token_ns
    return Played(count, count * small, count * (not small), 0, 0, 0, count * one)


def changed(text: Marks, options: Options) -> int:
    """At how many positions a setting of mode `bild` lets another token than the large model's stand:
    what is known of its quality before it has written anything.
    """
    count = run = 0
    for small, large, confidence, distance in zip(
        text.small, text.large, text.confidence, text.distance, strict=True
    ):
        whose = owner(run, options.window, confidence, options.alpha_fb)
        stood = stands(small == large, whose is not Source.SMALL, distance, options.alpha_rb)
        if whose is Source.SMALL and not stood:
            whose = Source.ROLLBACK
        count += stood and small != large
        run = next_run(run, whose)
    return count


def paper(text: Marks, options: Options, costs: Costs) -> Played:
    """Mode `bild`, schedule `paper`: draft to the hand-over, check, repeat."""
    small, large, confidence, distance = text.small, text.large, text.confidence, text.distance
    least, most, alpha_rb = options.alpha_fb, options.window, options.alpha_rb
    # Positions count from -1, the last id of the prompt. `held`: how far each cache is right.
    size, at, held_small, held_large = len(small), 0, -1, -1
    drafts = checks = passes = small_fed = large_fed = 0
    fallbacks = rollbacks = windows = 0
    while True:
        count, limit, low, over = 0, min(most, size - at), False, False
        drafts += 1
        small_fed += at - min(held_small, at - 1)
        while True:
            passes += 1
            if confidence[at + count] < least:
                low = True
                break
            count += 1
            over = small[at + count - 1] == END
            if over or count == limit:
                break
        small_fed += count - (not low)
        held_small = at + count - (not low)
        ended = over or at + count == size
        bonus = low or not ended
        checks += 1
        large_fed += at + count - min(held_large, at - 1) - (not bonus)
        here, end = at, at + count
        while here < end and stands(small[here] == large[here], False, distance[here], alpha_rb):
            here += 1
        if here == end and not bonus:
            at = end
            break
        if here < end:
            rollbacks += 1
        elif low:
            fallbacks += 1
        else:
            windows += 1
        held_small, held_large, at = min(held_small, here), here, here + 1
        if large[here] == END or at == size:
            break
    wall_ns = (
        costs.small_trip_ns + costs.large_trip_ns  # to open a slot on each
        + passes * costs.small_ns + small_fed * costs.small_token_ns + drafts * costs.small_trip_ns
        + checks * costs.large_ns + large_fed * costs.large_token_ns + checks * costs.large_trip_ns
    )  # fmt: skip
    return Played(at, passes, checks, fallbacks, rollbacks, windows, wall_ns)


def staged(texts: Sequence[Marks], options: Options, costs: Costs) -> list[Played]:
    """Any setting of two models, played by the real machine on a virtual clock.

    Raises:
        ConfigError: there are more texts than the clock's world tells apart.
    """
    if len(texts) > MOST:
        raise ConfigError(
            f"a replay takes up to {MOST} texts, not {len(texts)}: give fewer (--count)"
        )
    stage = _Stage(texts, costs)
    options = dataclasses.replace(
        options, branches=1, stop=(), deadline=None, temperature=0.0, logprobs=None
    )
    forecast = Forecast(stage.measured, options)
    waiting = list(range(len(texts)))

    def start() -> None:
        if waiting:
            number = waiting.pop(0)
            own = dataclasses.replace(options, max_new_tokens=len(texts[number]))
            stage.request(prompt(number), own, forecast, done=start)

    start()
    stage.run()
    found = []
    for outcome in stage.outcomes:
        trace, sources = outcome.machine.books.trace, outcome.sources
        found.append(
            Played(
                tokens=len(sources), small_passes=trace.small_passes,
                large_passes=trace.large_passes, fallbacks=sources.count(Source.FALLBACK),
                rollbacks=sources.count(Source.ROLLBACK), windows=sources.count(Source.WINDOW),
                wall_ns=outcome.ended_ns - outcome.started_ns,
            )
        )  # fmt: skip
    return found


class _Stage(World):
    """The simulator's world with two models that have read the texts. Owned by one replay."""

    def __init__(self, texts: Sequence[Marks], costs: Costs) -> None:
        super().__init__(costs, Rates())
        for role, worker in self._workers.items():
            model = _Reader(role, texts, worker._spend)
            worker.turns = Turns(model, 1, worker._deliver, _clock(worker))
        for _ in range(4):
            for length in _WARM:
                spent = costs.large_ns + length * costs.large_token_ns
                self.measured.checked(length, spent, costs.large_trip_ns)
            one = costs.small_ns + costs.small_token_ns
            self.measured.drafted(1, one, costs.small_trip_ns)


def _clock(worker: Any) -> Callable[[], int]:
    return lambda: int(worker._clock_ns)


class _Reader:
    """One model that has read the texts: says at each position what it said then, whatever stands
    before it. Owned by its worker.
    """

    def __init__(self, role: Role, texts: Sequence[Marks], spend: Callable[[int], None]) -> None:
        self._small = role is Role.SMALL
        self._texts = texts
        self._spend = spend
        self.info: Info = ScriptedModel(role, Script(Rates(), 0), spend).info

    def files(self) -> dict[str, bytes]:
        return {}

    def encode(self, seq: int, text: str, src_lang: str, tgt_lang: str) -> Encoded:
        raise InvalidRequest("a replay has no tokenizer: give ids")

    def allocate(self, slots: int) -> None:
        """It keeps nothing."""

    def open(self, slot: int, source: Sequence[int], rules: Rules) -> None:
        """Which text it is stands in the ids of every pass."""

    def forward(self, work: Pass) -> list[Choice]:
        if work.rows == 0:
            return []
        ids = work.ids
        self._spend(len(ids) - work.at)
        base = VOCABULARY - 1
        text = self._texts[ids[0] - 1 + base * (ids[1] - 1) + base * base * (ids[2] - 1)]
        first = len(ids) - work.rows + 1 - _BEGIN
        last = len(text) - 1
        places = [min(first + row, last) for row in range(work.rows)]
        if self._small:
            return [Choice(text.small[p], text.confidence[p], 0.0) for p in places]
        return [Choice(text.large[p], 0.5, text.distance[p]) for p in places]


_BEGIN: Final = len(prompt(0))
