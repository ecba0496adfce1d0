"""Agreement of two models, counted: every figure against a few positions that a person can count."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from bild_dist.errors import ConfigError
from bild_dist.evaluation.align.agreement_counts import (
    Positions,
    bins_of,
    exact_of,
    point_of,
    sources,
)
from bild_dist.evaluation.align.agreement_replay import Written, replay_of
from bild_dist.types import Source, Trace


def positions(*rows: tuple[int, int, float, float, float]) -> Positions:
    """Rows: small, large, confidence, distance, own."""
    small, large, confidence, distance, own = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    return Positions(
        small=small, large=large, confidence=confidence, distance=distance, own=own, written=large
    )


SAME = (5, 5, 0.95, 0.1, 0.1)
HIT = (5, 5, 0.2, 0.5, 0.5)
MISS = (5, 6, 0.25, 3.0, 0.5)
MILD = (5, 6, 0.85, 1.5, 0.5)
FAR = (5, 6, 0.75, 7.0, 0.25)
TEXTS = [positions(SAME, HIT, MILD, FAR), positions(MISS, SAME, SAME)]


def test_bins_hold_every_position_once() -> None:
    """By confidence in ten bins; full confidence belongs to the last."""
    bins = bins_of([*TEXTS, positions((5, 5, 1.0, 0.0, 0.0))])
    counted = {b.low: (b.positions, b.matches) for b in bins if b.positions}
    assert counted == {0.2: (2, 1), 0.7: (1, 0), 0.8: (1, 0), 0.9: (4, 4)}
    assert len(bins) == 10
    assert bins[-1].high == 1.0
    assert bins[-1].confidence == pytest.approx((3 * 0.95 + 1.0) / 4)


def test_a_point_counts_what_its_thresholds_do() -> None:
    """Unsure positions and the guesses that are right there; of the sure ones, those that are
    replaced and those that stand although the large model would write something else.
    """
    point = point_of(TEXTS, 0.3, 2.0)
    assert (point.positions, point.unsure, point.hits) == (7, 2, 1)
    assert (point.sure, point.rollbacks, point.mild, point.written) == (5, 1, 1, 4)
    assert point.fallback_rate == 2 / 7
    assert point.hit_rate == 1 / 2
    assert point.rollback_rate == 1 / 5
    assert point.mild_rate == 1 / 5
    # Only the mild one of the four that stand is less likely than the large model's own.
    assert point.cost_nats == pytest.approx((1.5 - 0.5) / 4)


@pytest.mark.parametrize(
    ("alpha_fb", "alpha_rb", "unsure", "rollbacks"),
    [(0.3, 1.0, 2, 2), (0.3, 8.0, 2, 0), (0.8, 2.0, 3, 0), (0.0, 2.0, 0, 2), (1.0, 2.0, 7, 0)],
)
def test_thresholds_are_those_of_the_decision_table(
    alpha_fb: float, alpha_rb: float, unsure: int, rollbacks: int
) -> None:
    """Below the one the large model writes, beyond the other it writes instead."""
    point = point_of(TEXTS, alpha_fb, alpha_rb)
    assert (point.unsure, point.rollbacks) == (unsure, rollbacks)


def test_at_a_threshold_a_token_stands() -> None:
    """Neither a confidence equal to alpha_fb nor a distance equal to alpha_rb hands over."""
    point = point_of([positions((5, 6, 0.5, 2.0, 1.0))], 0.5, 2.0)
    assert (point.unsure, point.rollbacks, point.mild) == (0, 0, 1)


def test_nothing_to_count_counts_as_none() -> None:
    """A rate over no position is 0, not an error: every position may be unsure."""
    point = point_of([positions(MISS)], 0.5, 2.0)
    assert (point.rollback_rate, point.cost_nats, point.written_rate) == (0.0, 0.0, 0.0)
    assert point_of([positions(SAME)], 0.5, 2.0).hit_rate == 0.0


def test_the_window_hands_over_too() -> None:
    """After so many tokens in a row, anew in every text."""
    run = positions(*[SAME] * 7)
    assert sources(run, 0.3, 2.0, 3) == {Source.SMALL: 6, Source.WINDOW: 1}
    assert point_of([run, run], 0.3, 2.0, 3).written == 12
    # It comes before the other rows of the table: the second position is unsure as well.
    assert sources(TEXTS[0], 0.3, 2.0, 1) == {Source.SMALL: 2, Source.WINDOW: 2}


def test_mode_exact_takes_a_pass_for_each_wrong_guess() -> None:
    """It brings the guesses before it, no more than were made, and one token behind them."""
    texts = [positions(SAME, SAME, MISS, SAME, SAME, SAME)]
    exact = exact_of(texts, 2)
    assert (exact.tokens, exact.passes, exact.accepted) == (6, 2, 4)
    assert exact.acceptance_length == 2.0
    assert exact_of(texts, 1).passes == 4
    assert exact_of([positions(MISS, MISS)], 9).passes == 2


# Real texts.


def test_a_replay_counts_sources_and_likelihoods() -> None:
    """Positions that nobody checked have no likelihood and count for none."""
    text = Written(
        prompt_ids=(1,), ids=(4, 5, 6, 7), greedy=(4, 5, 8, 7),
        sources=(Source.SMALL, Source.FALLBACK, Source.ROLLBACK, Source.SMALL),
        distances=(log(2), 0.0, 9.0, None), trace=Trace(guessed=1, hits=1, large_passes=2),
    )  # fmt: skip
    best = [np.array([log(2) / 2, 0.0, 0.0, 5.0])]
    replay = replay_of([text], alpha_fb=0.5, alpha_rb=2.0, greedy_nats=0.5, best=best)
    assert (replay.small, replay.fallbacks, replay.rollbacks) == (2, 1, 1)
    assert (replay.written_rate, replay.fallback_rate) == (0.5, 0.25)
    assert (replay.rollback_rate, replay.hit_rate) == (1 / 3, 1.0)
    assert replay.small_nats == pytest.approx(log(2))
    assert replay.behind_nats == pytest.approx(log(2) - 0.5)
    assert replay.cost_nats == pytest.approx(log(2) / 2)
    assert replay.agreement == 0.75
    with pytest.raises(ConfigError, match="at least one prompt"):
        replay_of([], alpha_fb=0.5, alpha_rb=2.0, greedy_nats=0.5)
