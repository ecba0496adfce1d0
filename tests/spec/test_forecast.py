"""What a pair has shown so far: times, chances, and what follows for the next draft."""

from __future__ import annotations

import pytest

from bild_dist.messages import Outlook
from bild_dist.policy.forecast import Costs, Forecast
from bild_dist.policy.outlook import Draughtsman
from bild_dist.policy.rules import Ruler
from bild_dist.types import Mode, Options

MS = 1_000_000
RULER = Ruler.start(Options())


def measured(small_ms: float = 5, large_ms: float = 25, token_ms: float = 0) -> Costs:
    """Costs after a few passes of several lengths."""
    costs = Costs()
    for fed in (1, 4, 8, 2, 6) * 20:
        costs.drafted(4, int(4 * small_ms * MS), 0)
        costs.checked(fed, int((large_ms + fed * token_ms) * MS), 0)
    return costs


def test_costs_are_those_of_the_passes() -> None:
    """Time per draft step, and a straight line for checks by their length."""
    costs = measured(token_ms=1.5)
    assert costs.small_ns == pytest.approx(5 * MS, rel=1e-3)
    assert costs.large_ns(1) == pytest.approx(26.5 * MS, rel=1e-3)
    assert costs.large_ns(8) == pytest.approx(37 * MS, rel=1e-3)
    assert costs.large_token_ns == pytest.approx(1.5 * MS, rel=1e-3)


def test_one_slow_pass_moves_little() -> None:
    """Another program's turn on the core is not the model's cost."""
    costs = measured()
    costs.checked(8, 5_000 * MS, 0)
    costs.drafted(1, 5_000 * MS, 0)
    assert costs.large_ns(8) < 30 * MS
    assert costs.small_ns < 8 * MS


def test_before_anything_is_measured_there_is_a_sane_guess() -> None:
    """A floor between nothing and one token, and drafting is tried."""
    forecast = Forecast(Costs(), Options())
    assert 0.1 < forecast.floor < 0.9
    assert Forecast(Costs(), Options(mode=Mode.EXACT)).pays


def test_no_window_is_too_wide_to_reckon_with() -> None:
    """What drafting may bring is asked at every hand-over of every request: a window of any size takes no
    longer than one that a draft reaches the end of.
    """
    widest = Options(mode=Mode.EXACT, window=(1 << 31) - 1)
    for costs in (Costs(), measured()):
        forecast = Forecast(costs, widest)
        assert forecast.pays == Forecast(costs, Options(mode=Mode.EXACT, window=64)).pays


def test_a_dearer_draft_must_promise_more() -> None:
    """The floor grows with the time of a draft step, and stays below one token."""
    floors = [Forecast(measured(small_ms=ms), Options()).floor for ms in (1, 5, 10, 100)]
    assert floors == sorted(floors)
    assert floors[0] < 0.3
    assert floors[-1] < 1


def test_chances_are_learned_by_confidence() -> None:
    """What stands often where the model is sure, and seldom where it is not, is told apart."""
    forecast = Forecast(measured(), Options())
    for i in range(400):
        forecast.saw(0.9, exact=True, stood=True)
        forecast.saw(0.2, exact=True, stood=i % 10 == 0)
    table = forecast.outlook(1.0, RULER, overlap=False).exact
    assert table[7] > 0.9
    assert table[1] < 0.2


def test_a_class_that_was_seldom_seen_is_not_trusted() -> None:
    """Three lucky guesses do not make a class of confidence look better than its neighbours."""
    forecast = Forecast(measured(), Options())
    for i in range(300):
        forecast.saw(0.4, exact=True, stood=i % 3 == 0)
    for _ in range(3):
        forecast.saw(0.3, exact=True, stood=True)
    table = forecast.outlook(1.0, RULER, overlap=False).exact
    assert table[2] < 0.5


def test_a_draft_ahead_ends_when_the_check_does() -> None:
    """Five steps of 5 ms beside a check of 25 ms."""
    forecast = Forecast(measured(), Options())
    assert 5 == forecast.outlook(1.0, RULER, overlap=True).lead
    assert 0 == forecast.outlook(1.0, RULER, overlap=False).lead


def test_a_full_window_is_worth_only_what_lies_behind_it() -> None:
    """Where the position is known to be the large model's, its token comes free with the check."""
    outlook = Outlook(floor=0.5, ahead=0.5, run=2, window=3, alpha_fb=0.6, blind=0.4)
    hand = Draughtsman(outlook)
    assert hand.worth == 1.0
    hand.wrote(0.9)
    assert hand.worth == 0.4
    assert hand.over
