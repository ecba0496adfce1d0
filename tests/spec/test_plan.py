"""`bild plan`: what is predicted, what is advised, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bild_dist.app import main
from bild_dist.evaluation.plan.advice import advice
from bild_dist.evaluation.plan.known import Known, assumed, given
from bild_dist.evaluation.plan.observed import observe, parse
from bild_dist.evaluation.plan.options import asked
from bild_dist.evaluation.plan.predict import (
    ALONE,
    Pair,
    Placement,
    Predictor,
    Row,
)
from bild_dist.evaluation.plan.study import Findings, Verdict, rows_of, study
from bild_dist.model.scripted import Rates
from bild_dist.simulator import Costs, World, prompt
from bild_dist.types import Mode, Options, Role, Schedule
from tests.traces import line

MS = 1_000_000
TOKENS = 384
NEAR = Placement(name="near", small_trip_ms=0.3, large_trip_ms=0.3)
SHARED = replace(NEAR, name="one device", devices=1)
FAR = replace(NEAR, name="far", large_trip_ms=50.0, hosts=2)
COSTS = ["--small-ms", "5", "--large-ms", "25", "--tokens", str(TOKENS)]


def pair(*, small_ms: float = 5, large_ms: float = 25, **rates: Known) -> Pair:
    usual = {"f": given(0.2), "q": given(0.45), "rho": given(0.03), "mild": given(0.05)} | rates
    none = given(0.0)
    return Pair(
        small_ms=given(small_ms), large_ms=given(large_ms), small_token_ms=none,
        large_token_ms=none, **usual,
    )  # fmt: skip


def predictor(of: Pair, **settings: Any) -> Predictor:
    return Predictor(of, settings.pop("options", Options()), tokens=TOKENS, **settings)


def plan(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["plan", "--json", *words]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["plan", *words]) == 2
    return capsys.readouterr().err


# What is predicted.


def test_a_run_without_hand_overs_takes_what_arithmetic_says() -> None:
    """Ten draft steps and a check bring eleven tokens: the window's own comes with the check."""
    of = pair(f=given(0.0), rho=given(0.0), mild=given(0.0))
    cell = predictor(of, length=110).cell(Row(Mode.BILD, Schedule.PAPER), NEAR)
    assert cell.tokens_per_s == pytest.approx(11 / (10 * 5 + 25 + 2 * 0.3) * 1000, rel=0.01)
    assert cell.large_passes_per_token == pytest.approx(1 / 11)


def test_the_large_model_alone_takes_a_pass_a_token() -> None:
    """It streams: round trips are paid once a text."""
    cell = predictor(pair(), length=128).cell(ALONE, FAR)
    assert cell.tokens_per_s == pytest.approx(1000 * 128 / (128 * 25 + 2 * 50), rel=0.01)
    assert cell.ratio == 1


@pytest.mark.parametrize(("name", "worse"), [("f", 0.4), ("q", 0.1), ("rho", 0.2)])
def test_worse_rates_are_slower(name: str, worse: float) -> None:
    """More hand-overs, fewer hits, more rollbacks: each costs time."""
    row = Row(Mode.BILD, Schedule.OVERLAP)
    usual = predictor(pair()).cell(row, NEAR)
    slower = predictor(replace(pair(), **{name: given(worse)})).cell(row, NEAR)
    assert slower.tokens_per_s < usual.tokens_per_s


def test_the_range_follows_the_counts() -> None:
    """It holds the prediction, narrows with more tokens, and is not there where nothing was
    counted.
    """
    row = Row(Mode.BILD, Schedule.PAPER)
    widths = []
    for count in (50, 5000):
        of = pair(f=Known.share(count // 5, count, "positions"))
        forecast = predictor(of)
        cell = forecast.ranged(forecast.cell(row, NEAR), NEAR)
        assert cell.low is not None
        assert cell.high is not None
        assert cell.low < cell.tokens_per_s < cell.high
        widths.append(cell.high - cell.low)
    assert widths[0] > 4 * widths[1]
    forecast = predictor(pair())
    assert forecast.ranged(forecast.cell(row, NEAR), NEAR).low is None


def test_at_the_break_even_point_both_are_equally_fast() -> None:
    """What is interpolated is also what is simulated there."""
    forecast, row = predictor(pair()), Row(Mode.BILD, Schedule.PAPER)
    trip_ms = forecast.break_even_ms([row], FAR, [0.5, 10], 60.0)
    assert trip_ms is not None
    there = forecast.cell(row, replace(FAR, large_trip_ms=trip_ms))
    assert there.tokens_per_s == pytest.approx(60.0, rel=0.03)
    assert forecast.break_even_ms([row], FAR, [0.5, 10], 1000.0) is None
    assert forecast.break_even_ms([row], FAR, [0.5, 10], 0.001) == float("inf")


def test_mode_exact_takes_the_agreement_that_was_counted() -> None:
    """It needs no other rate; without one of the four it cannot be predicted."""
    exact = replace(pair(), f=None, q=None, rho=None, agreement=Known.share(80, 100, "positions"))
    assert {row.mode for row in rows_of(exact, None)} == {Mode.LARGE, Mode.EXACT}
    assert rows_of(exact, Mode.BILD) == [ALONE]
    assert exact.rates(Mode.EXACT) == Rates(f=1.0, q=0.8)
    assert list(exact.counted(Mode.EXACT)) == ["agreement"]


def test_a_plan_from_a_run_predicts_that_run() -> None:
    """Texts of the simulator, written as lines and read again, give the speed that they had."""
    costs = Costs(small_ns=5 * MS, large_ns=25 * MS, small_trip_ns=MS, large_trip_ns=MS)
    options = Options(max_new_tokens=128, schedule=Schedule.PAPER)
    world, texts, now = World(costs, Rates(), seed=5), [], 0
    for number in range(24):
        outcome = world.request(prompt(number), options)
        small, large = world.computed(Role.SMALL), world.computed(Role.LARGE)
        world.run()
        trace = replace(
            outcome.machine.books.trace, wall_ns=world.now_ns - now,
            draft_ns=world.computed(Role.SMALL) - small,
            verify_ns=world.computed(Role.LARGE) - large,
        )  # fmt: skip
        now = world.now_ns
        texts.append(parse(json.dumps({"tokens": outcome.tokens, "sources": outcome.sources,
                                       "trace": {s: getattr(trace, s) for s in trace.__slots__}})))  # fmt: skip
    found = observe(texts)
    assert found.small_ms is not None
    assert found.large_ms is not None
    # The prefill, and what is under way when a text ends, is paid and counts as no pass.
    assert found.small_ms.value == pytest.approx(5, rel=0.05)
    assert found.large_ms.value == pytest.approx(25, rel=0.05)
    assert found.tokens_per_s is not None
    of = replace(pair(), f=found.f, q=found.q, rho=found.rho)
    forecast = Predictor(of, Options(), tokens=4096)
    cell = forecast.cell(
        Row(Mode.BILD, Schedule.PAPER), replace(NEAR, small_trip_ms=1, large_trip_ms=1)
    )
    assert cell.tokens_per_s == pytest.approx(found.tokens_per_s.value, rel=0.06)


# What is advised.


def findings(of: Pair, *, mode: Mode | None = Mode.BILD) -> Findings:
    return study(predictor(of), of, [SHARED, NEAR, FAR], rows_of(of, mode), 10)


def test_a_pair_pays_where_it_is_faster_than_the_large_model() -> None:
    """Overlap on two devices, no splitting over a long wire, nothing with a slow small model."""
    good = findings(pair())
    assert [c.verdict for c in good.columns] == [Verdict.PAYS, Verdict.PAYS, Verdict.TOGETHER]
    assert good.columns[1].best.row == Row(Mode.BILD, Schedule.OVERLAP)
    assert good.columns[0].best.row.schedule is not Schedule.OVERLAP
    sentences = advice(good)
    assert "overlap, window 10" in sentences[1]
    assert sentences[2].startswith("far: do not split: ")
    assert sentences[3].count("up to a round trip of about") == 2
    slow = findings(pair(small_ms=30, f=given(0.5), rho=given(0.3)))
    assert {c.verdict for c in slow.columns} == {Verdict.ALONE}
    assert slow.even_with_alone_ms is None
    assert "does not pay on any of these placements: the large model alone" in advice(slow)[0]


def test_another_window_is_advised_where_it_is_faster() -> None:
    """Where hand-overs are rare and the large model slow, a window of ten ends drafts too early."""
    found = findings(pair(small_ms=1, large_ms=50, f=given(0.01), rho=given(0.0)))
    assert found.best_window > 10
    assert any(f"Window: {found.best_window} is the fastest" in s for s in advice(found))


def test_what_nobody_has_measured_is_said() -> None:
    """With the command that measures it; few counts are called few."""
    weak = findings(pair(q=assumed(0.3, "nothing tells")))
    assert any("Nobody has measured q = 0.3" in sentence for sentence in advice(weak))
    few = findings(pair(f=Known.share(4, 20, "positions")))
    assert any("counted on few tokens" in sentence for sentence in advice(few))
    assert not any("measured" in sentence for sentence in advice(findings(pair())))


# The command.


def test_the_table_has_every_schedule_on_every_placement(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And every number its source."""
    words = ["--f", "0.2", "--q", "0.45", "--rho", "0.03", "--round-trip", "7"]
    found = plan(capsys, *COSTS, *words)
    names = [placement["name"] for placement in found["placements"]]
    assert names == [
        "one device", "two devices, zmq", "two devices, grpc", "two hosts, 0.5 ms",
        "two hosts, 2 ms", "two hosts, 7 ms", "two hosts, 10 ms", "two hosts, 50 ms",
    ]  # fmt: skip
    for placement in found["placements"]:
        rows = [(row["mode"], row["schedule"]) for row in placement["rows"]]
        assert rows == [
            ("large", None),
            *[(mode, s.value) for mode in ("bild", "exact") for s in Schedule],
        ]
    assert found["numbers"]["q"] == {"value": 0.45, "source": "given"}
    assert found["numbers"]["round_trip_zmq_ms"]["source"].startswith("assumed")
    assert found["break_even_ms"]["with_large_alone"]["splitting"] == "pays below"
    assert main(["plan", *COSTS, *words, "--mode", "bild"]) == 0
    shown = capsys.readouterr().out
    for word in ("bild paper", "bild through", "bild overlap", "large", "two hosts", "given"):
        assert word in shown
    assert "exact" not in shown


def test_a_trace_gives_costs_rates_window_and_length(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What is said goes before what was recorded; bad lines are told of and left out."""
    path = tmp_path / "out.jsonl"
    text = line("sssswssfrs" * 4, small_passes=40, large_passes=12, draft_ns=200 * MS,
                verify_ns=300 * MS, wire_ns=24 * MS, wall_ns=524 * MS, guessed=4, hits=2)  # fmt: skip
    path.write_text(f"{text}\n{text}\noops\n")
    words = ["--from-trace", str(path), "--tokens", str(TOKENS), "--mode", "bild"]
    found = plan(capsys, *words)
    assert found["window"] == 4
    assert found["length"] == 40
    assert found["numbers"]["small_ms"]["value"] == 5
    assert found["numbers"]["large_ms"]["value"] == 25
    assert found["numbers"]["round_trip_recorded_ms"]["value"] == 1
    assert found["numbers"]["q"]["count"] == 8
    assert found["left_out"] == [f"{path}:3: not JSON"]
    assert "range" in found["placements"][0]["best"]
    found = plan(capsys, *words, "--large-ms", "50", "--q", "0.1", "--window", "6")
    assert found["numbers"]["large_ms"] == {"value": 50, "source": "given"}
    assert found["numbers"]["q"]["source"] == "given"
    assert found["window"] == 6


def test_q_that_no_trace_tells_is_assumed_aloud(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Traces of older programs have no guesses."""
    path = tmp_path / "out.jsonl"
    text = line("sssfsrsss", small_passes=9, large_passes=3, draft_ns=MS, verify_ns=MS)
    path.write_text(text)
    found = plan(capsys, "--from-trace", str(path), "--tokens", str(TOKENS), "--mode", "bild")
    assert found["numbers"]["q"]["value"] == 0.3
    assert any("Nobody has measured q = 0.3" in sentence for sentence in found["advice"])


def test_texts_of_mode_exact_tell_of_mode_exact(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """And of nothing else."""
    path = tmp_path / "out.jsonl"
    path.write_text(line("f" * 20, small_passes=20, large_passes=5, draft_ns=20 * MS,
                         verify_ns=125 * MS, guessed=20, hits=15))  # fmt: skip
    words = ["--from-trace", str(path), "--tokens", str(TOKENS)]
    found = plan(capsys, *words)
    assert found["mode"] == "exact"
    assert found["numbers"]["agreement"]["value"] == 0.75
    assert "f" not in found["numbers"]
    assert "say nothing about mode bild" in refused(capsys, *words, "--mode", "bild")


def test_without_a_pass_of_the_large_model_there_is_no_plan(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Its cost has to come from somewhere."""
    path = tmp_path / "out.jsonl"
    path.write_text(line("ssss", small_passes=4, draft_ns=MS))
    assert "no large passes" in refused(capsys, "--from-trace", str(path))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "nothing to plan with"),
        (["--small-ms", "5"], "nothing to plan with"),
        (["--small-ms", "-5", "--large-ms", "25"], "--small-ms -5 must be"),
        (["--small-ms", "5", "--large-ms", "nan"], "--large-ms nan must be"),
        ([*COSTS, "--large-token-ms", "-1"], "--large-token-ms -1 must be"),
        ([*COSTS, "--q", "1.5"], "--q 1.5 must be a share"),
        ([*COSTS, "--rho", "0.9", "--mild", "0.2"], "at most 1 together"),
        ([*COSTS, "--mode", "small"], "nothing to plan"),
        ([*COSTS, "--round-trip", "tcp"], "--round-trip tcp"),
        ([*COSTS, "--round-trip", "-1"], "round-trip -1 must be"),
        ([*COSTS, "--alpha-fb", "0.5"], "--alpha-fb sets what a pair does"),
        ([*COSTS, "--large", "t5-large"], "--large says which pair to measure"),
        ([*COSTS, "--window", "0"], "window = 0"),
        ([*COSTS, "--length", "1"], "--length 1 must be"),
        ([*COSTS, "--concurrency", "0"], "--concurrency 0 must be"),
    ],
)
def test_wrong_input_is_refused_by_name(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what would be right; nothing is predicted from it."""
    assert reason in refused(capsys, *words)


def test_what_a_configuration_says_of_a_pair_is_measured() -> None:
    """The options of a pair and its thresholds are for `--measure`."""
    found = asked(
        ["--measure", "--small", "toy:small", "--large", "toy:large", "--alpha-fb", "0.5"]
    )
    assert found.config.small.model == "toy:small"
    assert found.options.alpha_fb == 0.5
