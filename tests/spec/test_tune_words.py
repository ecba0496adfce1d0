"""What `bild tune` says where no setting passes."""

from __future__ import annotations

from bild_dist.evaluation.tune.choice import Floor, bounds
from bild_dist.evaluation.tune.main import nearest_to
from tests.spec.test_tune import evidence


def test_what_seems_above_the_floor_is_not_called_near_it() -> None:
    """Few texts cannot tell it from luck: the message says how far above it seems, and the bound that is not."""
    floor = Floor("bleu", -2.0)
    few = evidence(6, [2.0, 9.0], 1, floor)
    lower = bounds(few, check=6, confidence=0.95)[floor]
    assert lower.max() < 0 < few.margins(floor)[0]
    said = nearest_to(floor, few, lower)
    assert "loses 2, which seems to lie" in said
    assert "points above it, but 6 texts are too few to be sure: the lower bound is -" in said


def test_what_is_below_the_floor_is_said_to_be() -> None:
    """And by how much, as a share where the floor is one."""
    floor = Floor("rougeL", 0.99)
    far = evidence(50, [4.0, 9.0], 1, floor)
    lower = bounds(far, check=50, confidence=0.95)[floor]
    assert "of the large model's figure below it on these 50 texts" in nearest_to(floor, far, lower)
