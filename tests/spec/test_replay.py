"""The replay: what it predicts is what the machine does, and what a text would have cost."""

from __future__ import annotations

import random
from itertools import product

import pytest

from bild_dist.errors import ConfigError, InvalidRequest
from bild_dist.evaluation.sweep.reading import Reading
from bild_dist.evaluation.sweep.replay import MOST, Marks, changed, paper, replay, staged
from bild_dist.model.scripted import END
from bild_dist.simulator import Costs
from bild_dist.types import Mode, Options, Role, Schedule

COSTS = Costs(
    small_ns=3_000_000, large_ns=12_000_000, small_token_ns=100_000, large_token_ns=500_000,
    small_trip_ns=300_000, large_trip_ns=350_000,
)  # fmt: skip


def text(length: int, seed: int) -> Marks:
    """A made-up reading: the small model is unsure at a fifth of the positions and then right half of
    the time.
    """
    chance = random.Random(seed)
    small, large, confidence, distance = [], [], [], []
    for at in range(length):
        low = chance.random() < 0.2
        same = chance.random() < (0.5 if low else 0.93)
        large.append(END if at == length - 1 else 1)
        small.append(large[-1] if same else END if chance.random() < 0.1 else 2)
        confidence.append(chance.uniform(0.1, 0.6) if low else chance.uniform(0.6, 1))
        distance.append(0.1 if same else chance.uniform(0.7, 8))
    return Marks(tuple(small), tuple(large), tuple(confidence), tuple(distance))


TEXTS = [text(length, length) for length in (1, 2, 3, 9, 24, 40)]


@pytest.mark.parametrize(
    ("alpha_fb", "alpha_rb", "window"), list(product((0.0, 0.4, 0.9, 1.0), (0.0, 2.0), (1, 3, 10)))
)
def test_the_short_way_is_the_machine(alpha_fb: float, alpha_rb: float, window: int) -> None:
    """Schedule `paper` worked out directly gives the tokens, passes, sources and time, to the
    nanosecond, that the real machine and real workers give on the virtual clock.
    """
    options = Options(alpha_fb=alpha_fb, alpha_rb=alpha_rb, window=window, schedule=Schedule.PAPER)
    assert [paper(one, options, COSTS) for one in TEXTS] == staged(TEXTS, options, COSTS)


@pytest.mark.parametrize("schedule", [Schedule.THROUGH, Schedule.OVERLAP])
def test_rates_do_not_depend_on_the_schedule(schedule: Schedule) -> None:
    """Only passes and time do: every schedule writes the same text."""
    options = Options(alpha_fb=0.8, schedule=schedule)
    found = replay(TEXTS, options, COSTS)
    slow = replay(TEXTS, options.merged({"schedule": "paper"}), COSTS)
    for one, other in zip(found, slow, strict=True):
        assert (one.tokens, one.fallbacks, one.rollbacks, one.windows) == (
            other.tokens, other.fallbacks, other.rollbacks, other.windows,
        )  # fmt: skip
    assert sum(one.large_passes for one in found) <= sum(other.large_passes for other in slow)


def test_nothing_is_changed_where_nothing_may_be() -> None:
    """At alpha_rb 0 every token that the large model would not write is replaced; without a bound
    exactly those of the small model's own positions stay.
    """
    strict, free = Options(alpha_fb=0.0, alpha_rb=0.0), Options(alpha_fb=0.0, alpha_rb=99.0)
    assert [changed(one, strict) for one in TEXTS] == [0] * len(TEXTS)
    wide = free.merged({"window": 1000})
    assert [changed(one, wide) for one in TEXTS] == [
        sum(s != b for s, b in zip(one.small, one.large, strict=True)) for one in TEXTS
    ]


@pytest.mark.parametrize("mode", [Mode.LARGE, Mode.SMALL, Mode.EXACT])
def test_other_modes_can_be_played(mode: Mode) -> None:
    """The large model alone takes a pass a token, the small one none of the large; `exact` writes as
    many tokens as `large`.
    """
    options = Options(mode=mode, schedule=Schedule.THROUGH)
    for one, own in zip(replay(TEXTS, options, COSTS), TEXTS, strict=True):
        if mode is Mode.SMALL:
            assert (one.large_passes, one.small_passes) == (0, one.tokens)
        else:
            assert one.tokens == len(own)
            assert one.large_passes <= one.tokens


def test_a_replay_needs_to_know_when_models_run() -> None:
    """A schedule that is not settled, a text of no tokens, or more texts than it tells apart are refused and
    not guessed at.
    """
    with pytest.raises(InvalidRequest, match="schedule"):
        replay(TEXTS, Options(), COSTS)
    with pytest.raises(InvalidRequest, match="at least one token"):
        replay([Marks((), (), (), ())], Options(schedule=Schedule.PAPER), COSTS)
    with pytest.raises(ConfigError, match=str(MOST)):
        replay(TEXTS[:1] * (MOST + 1), Options(schedule=Schedule.THROUGH), COSTS)


def test_marks_keep_what_matters_of_a_reading() -> None:
    """Whether two draws are the same, and whether one ends the text; the ids themselves do not."""
    reading = Reading(
        id="a", end_ids=(2,), small=(7, 9, 2), large=(7, 8, 2), confidence=(0.9, 0.5, 0.8),
        margin=(0.8, 0.1, 0.7), distance=(0.1, 3.0, 0.2), top=(0.1, 0.4, 0.2),
    )  # fmt: skip
    marks = Marks.of(reading)
    assert (marks.small, marks.large) == ((1, 2, END), (1, 1, END))
    assert Reading.from_dict(reading.as_dict()) == reading
    assert {role.value for role in Role} == {"small", "large"}
