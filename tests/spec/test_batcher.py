"""Which passes go together: a pure choice among what is asked for."""

from __future__ import annotations

import random
from collections import deque

import pytest

from bild_dist.workers.batcher import MOST, PADDED, PIECES, SPARE, Wanted, together

STEP = Wanted(1)
PIECE = Wanted(64, piece=True)
AHEAD = Wanted(1, needed=False)


def test_nothing_wanted_is_nothing_chosen() -> None:
    """An idle worker runs nothing."""
    for batching in ("ragged", "groups", "single"):
        assert [] == together([], batching)


def test_a_model_that_cannot_batch_serves_one() -> None:
    """The first that somebody waits for; the first of all where nobody does."""
    assert [1] == together([AHEAD, STEP, STEP], "single")
    assert [0] == together([AHEAD, AHEAD], "single")


def test_all_that_is_needed_goes_together() -> None:
    """Draft steps, checks and pieces of prompts, in the order of their turns."""
    wanted = [STEP, Wanted(9), Wanted(64), STEP]
    assert [0, 1, 2, 3] == together(wanted, "ragged")


def test_a_batch_is_bounded() -> None:
    """What does not fit waits for the next one, and what is smaller behind it does not."""
    wanted = [Wanted(200), Wanted(100), Wanted(56), STEP]
    assert [0, 2] == together(wanted, "ragged")
    assert 256 == MOST


def test_a_pass_over_the_bound_runs_alone() -> None:
    """It is nobody's to cut in two; it comes first when its turn has come."""
    long = Wanted(MOST + 1)
    assert [0] == together([long, STEP], "ragged")
    assert [0] == together([STEP, long], "ragged")


def test_prompts_that_begin_do_not_make_every_token_slow() -> None:
    """Beside draft steps and checks only some of their tokens go at once; among themselves more."""
    assert [0, 1, 2, 5] == together([PIECE, PIECE, STEP, PIECE, PIECE, STEP], "ragged")
    assert [0, 1, 2, 3] == together([PIECE] * 6, "ragged")
    # A draft that nobody waits for is no reason to go slowly.
    assert [0, 1, 2, 3] == together([*[PIECE] * 6, AHEAD], "ragged")
    assert 2 * PIECE.fed == PIECES


def test_work_that_runs_ahead_joins_only_where_it_costs_hardly_anything() -> None:
    """Behind all that is needed, and only while the batch is short."""
    assert [1, 0] == together([AHEAD, STEP], "ragged")
    assert [1] == together([AHEAD, Wanted(SPARE)], "ragged")
    assert SPARE == len(together([AHEAD] * 40, "ragged"))


def test_padding_is_bounded() -> None:
    """Where shorter rows are padded, a long piece of a prompt and draft steps go by turns."""
    chunk = Wanted(64)
    assert [0] == together([chunk, STEP, STEP], "groups")
    assert [0, 2] == together([STEP, chunk, STEP], "groups")
    assert [0, 1] == together([chunk, Wanted(50)], "groups")
    # Few tokens may be padded to more of them: that costs a device nothing.
    assert [0, 1, 2, 3] == together([Wanted(PADDED // 4), STEP, STEP, STEP], "groups")


@pytest.mark.parametrize("batching", ["ragged", "groups", "single"])
@pytest.mark.parametrize("seed", range(5))
def test_nobody_waits_for_ever(batching: str, seed: int) -> None:
    """Whoever is needed is served before anybody needed is served twice more than the line is long:
    each batch serves the first in line, and those served go to its end.
    """
    die = random.Random(seed)
    line = deque(range(12))
    sizes = [die.choice((1, 1, 4, 20, 64, 200, 300)) for _ in line]
    last = dict.fromkeys(line, 0)
    for batch in range(1, 400):
        wanted = [
            Wanted(sizes[who], needed=who < 10, piece=who % 3 == 0 and sizes[who] < 256)
            for who in line
        ]
        chosen = [line[number] for number in together(wanted, batching)]
        total = sum(sizes[who] for who in chosen)
        assert len(chosen) == len(set(chosen))
        assert len(chosen) == 1 or total <= MOST
        for who in chosen:
            line.remove(who)
            line.append(who)
            last[who] = batch
        assert all(batch - last[who] <= 12 for who in range(10))
