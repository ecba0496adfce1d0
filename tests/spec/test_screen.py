"""What a person is told at the end of a text."""

from __future__ import annotations

import pytest

from bild_dist.orchestrator.screen import Screen
from bild_dist.types import FinishReason, Result, Source, Trace

MS = 1_000_000


def result(tokens: int, wall_ms: int, large_passes: int, check_ms: int) -> Result:
    trace = Trace(
        large_passes=large_passes, drafted=tokens, verify_ns=large_passes * check_ms * MS,
        wall_ns=wall_ms * MS, first_token_ns=10 * MS,
    )  # fmt: skip
    return Result(
        text="x", tokens=(1,) * tokens, sources=(Source.SMALL,) * tokens,
        finish_reason=FinishReason.LENGTH, trace=trace,
    )  # fmt: skip


def test_a_pair_that_does_not_pay_is_named_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """100 tokens in 5 s, where the large model alone takes 25 ms for each."""
    Screen().summary(result(100, wall_ms=5000, large_passes=90, check_ms=25))
    (line,) = [text for text in capsys.readouterr().err.splitlines() if "does not pay" in text]
    assert "20.0 tokens a second" in line or "19.8 tokens a second" in line
    assert "about 40.0" in line
    assert "--mode large" in line


@pytest.mark.parametrize(
    ("tokens", "wall_ms", "passes"),
    [(100, 1000, 24), (100, 2520, 90), (10, 5000, 9), (100, 5000, 0)],
    ids=["pays", "as fast", "too short to say", "large alone"],
)
def test_nothing_is_said_otherwise(
    capsys: pytest.CaptureFixture[str], tokens: int, wall_ms: int, passes: int
) -> None:
    """A pair that pays, or of which nothing is known, gets its summary and no more."""
    Screen().summary(result(tokens, wall_ms, passes, check_ms=25))
    assert "does not pay" not in capsys.readouterr().err
