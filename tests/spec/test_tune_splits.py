"""`benchmarks.tune_splits`: how often a choice holds, counted on halves of a sweep."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.tune_splits import split
from tests.spec.test_tune import LOSSES, evidence


def test_the_benchmark_counts_what_the_command_would_do() -> None:
    """Where every setting is slower, both take the large model, which meets its floor."""
    slow = replace(evidence(200, LOSSES, 1), large_ns=np.full(200, 1.0))
    found = split(slow, seed=0, confidence=0.95)
    assert (found["chosen"], found["met"], found["speed"]) == ("large", True, 1.0)


def test_splits_that_chose_thresholds_are_counted_apart() -> None:
    """Modes `large` and `exact` meet any floor by definition: that they met it says nothing about a choice."""
    slow = replace(evidence(200, LOSSES, 1), large_ns=np.full(200, 1.0))
    assert not split(slow, seed=0, confidence=0.95)["thresholds"]
    exact = evidence(200, [0.0], 1, exact=True)
    assert not split(exact, seed=0, confidence=0.95)["thresholds"]
    assert split(evidence(200, [0.0, 0.1], 1), seed=0, confidence=0.95)["thresholds"]
