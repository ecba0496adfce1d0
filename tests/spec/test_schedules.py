"""The three schedules write the same text; they differ in when the large model runs."""

from __future__ import annotations

from functools import partial

import pytest

from bild_dist.messages import Rules
from bild_dist.model.scripted import END, VOCABULARY, Rates, Script
from bild_dist.policy.forecast import Forecast
from bild_dist.policy.machine import Machine
from bild_dist.simulator import Costs, World, prompt, simulate
from bild_dist.types import Mode, Options, Schedule
from tests.orders import Board, every_order
from tests.shaken import MS, Trial


def _board(options: Options, script: Script) -> Board:
    limit = 2 + options.max_new_tokens
    rules = Rules(vocabulary=VOCABULARY, begin=2, limit=limit, end_ids=(END,))
    return Board(Machine(1, [1, 2], (), rules, options), script)


@pytest.mark.parametrize("mode", [Mode.BILD, Mode.EXACT])
@pytest.mark.parametrize("schedule", list(Schedule))
def test_every_order_of_events_gives_one_text(schedule: Schedule, mode: Mode) -> None:
    """For a text of three tokens with guesses right and wrong, whatever comes first."""
    texts = set()
    for seed in (5, 9):
        options = Options(schedule=schedule, mode=mode, max_new_tokens=3, window=2)
        script = Script(Rates(f=0.4, rho=0.2), seed)
        make = partial(_board, options, script)
        found = set()
        for board in every_order(make):
            assert board.finish is not None
            assert all(side.turns.open_slots == 0 for side in board.sides.values())
            found.add(tuple((t.token, t.source) for t in board.given))
        assert 1 == len(found)
        texts |= found
    assert 2 == len(texts)


@pytest.mark.parametrize("block", range(4))
def test_random_orders_give_the_text_of_the_definition(block: int) -> None:
    """Whatever the costs, the order of events, other requests, cancellations and lost workers: each
    schedule's text and sources are those of the cache-free definition, and no slot stays open.
    """
    for seed in range(100 * block, 100 * block + 100):
        trial = Trial(seed)
        for schedule in Schedule:
            assert [] == trial.complaints(schedule)


def test_through_needs_fewer_large_passes() -> None:
    """A quarter fewer than `paper` where a draft step costs a twentieth of a check, in less time."""
    costs = Costs(small_ns=MS, large_ns=20 * MS)
    paper, through = (
        simulate(costs, Rates(), Options(schedule=s), requests=60, length=128)
        for s in (Schedule.PAPER, Schedule.THROUGH)
    )
    assert through.trace.large_passes < 0.75 * paper.trace.large_passes
    assert through.wall_ns < paper.wall_ns


@pytest.mark.parametrize("ratio", [4, 5, 8])
def test_overlap_is_faster_than_paper(ratio: int) -> None:
    """By a tenth at least, where a check costs four to eight draft steps."""
    costs = Costs(small_ns=MS, large_ns=ratio * MS)
    paper, overlap = (
        simulate(costs, Rates(), Options(schedule=s), requests=40, length=128)
        for s in (Schedule.PAPER, Schedule.OVERLAP)
    )
    assert 1.1 * overlap.wall_ns < paper.wall_ns


@pytest.mark.parametrize("schedule", [Schedule.THROUGH, Schedule.OVERLAP])
def test_a_poor_draft_does_no_harm(schedule: Schedule) -> None:
    """In mode `exact`, with guesses that hit one time in five, the speed is that of the large model
    alone but for 5 %: drafting stops, and is tried again now and then.
    """
    costs = Costs(small_ns=5 * MS, large_ns=25 * MS)
    rates = Rates(f=1.0, q=0.2)
    options = Options(mode=Mode.EXACT, schedule=schedule)
    alone = simulate(costs, rates, Options(mode=Mode.LARGE), requests=10, length=128)
    guessed = simulate(costs, rates, options, requests=10, length=128)
    assert guessed.tokens == alone.tokens
    assert guessed.wall_ns < alone.wall_ns / 0.95
    assert guessed.trace.drafted > 0


def test_a_draft_that_gets_better_is_noticed() -> None:
    """Where guesses have never hit, drafting stops; when they begin to, it comes back."""
    costs = Costs(small_ns=5 * MS, large_ns=25 * MS)
    options = Options(mode=Mode.EXACT, schedule=Schedule.THROUGH)
    bad = World(costs, Rates(f=1.0, q=0.0))
    forecast = Forecast(bad.measured, options)
    good = World(costs, Rates(f=0.0, rho=0.0, mild=0.0))
    for world in (bad, good):
        for number in range(5):
            world.request(prompt(number), options, forecast)
            world.run()
    first, last = bad.outcomes[-1].machine.books.trace, good.outcomes[-1].machine.books.trace
    assert first.drafted < 20
    assert last.large_passes < 0.3 * options.max_new_tokens


def test_the_same_simulation_twice_is_the_same() -> None:
    """Virtual time has no noise."""
    costs = Costs(small_ns=5 * MS, large_ns=25 * MS, small_trip_ns=MS // 3, large_trip_ns=MS // 3)
    runs = [
        simulate(
            costs, Rates(), Options(schedule=Schedule.OVERLAP), requests=8, length=64, concurrency=4
        )
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
