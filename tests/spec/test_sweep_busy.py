"""`bild sweep` on a machine that had other things to do: what is divided by what, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from bild_dist.evaluation.report.files import Found
from bild_dist.evaluation.report.report import sections
from bild_dist.evaluation.run.record import TextRecord
from bild_dist.evaluation.sweep import alone, timing
from bild_dist.evaluation.sweep.study import Study
from bild_dist.evaluation.tune.choice import Evidence, Floor
from bild_dist.simulator import Costs
from bild_dist.types import Mode, Role
from tests.spec.test_sweep import GRID, swept, written

MS = 1_000_000
SMALL_MS, LARGE_MS, BESIDES_MS = 1, 9, 2
BUSY = 12
WORDS = (*GRID, "--mode", "bild,large,small")


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return written(tmp_path)


def made(
    task: Path, patch: pytest.MonkeyPatch, slow: Collection[str], timed: int = 1, *words: str
) -> Study:
    """A sweep whose recorded texts take what their passes do, and `BUSY` times as long those of `slow`, such as
    `large t1`. `timed`: how many times longer the passes take that are timed behind them.
    """
    task.with_name("sweep.json").unlink(missing_ok=True)
    whole = timing._item

    async def paced(decoder: Any, item: Any, *given: Any) -> Any:
        found = await whole(decoder, item, *given)
        for kind, text in found.items():
            trace, factor = text["trace"], MS * (BUSY if f"{kind} {item.id}" in slow else 1)
            passes_ms = trace["small_passes"] * SMALL_MS + trace["large_passes"] * LARGE_MS
            first_ms = BESIDES_MS + (LARGE_MS if trace["large_passes"] else SMALL_MS)
            text["first_token_ns"] = factor * first_ms
            text["wall_ns"] = factor * (BESIDES_MS + passes_ms)
        return found

    async def measured(*_: Any) -> Costs:
        return Costs(small_ns=timed * SMALL_MS * MS, large_ns=timed * LARGE_MS * MS)

    with patch.context() as inner:
        inner.setattr(timing, "_item", paced)
        inner.setattr(timing, "measured", measured)
        return swept(task, *(words or WORDS))


def ratios(study: Study) -> dict[str, float]:
    return {point.setting.name: point.latency_ms / study.large_ms for point in study.points}


def test_one_busy_moment_changes_no_latency(
    task: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A text of the large model that another program held up is no reason to call every setting faster: it is
    played over the same passes as all others, and nobody need be warned.
    """
    calm = ratios(made(task, monkeypatch, ()))
    assert ratios(made(task, monkeypatch, ["large t1"])) == pytest.approx(calm)
    assert calm["large"] == 1
    assert calm["small"] < 1
    assert "was busy" not in capsys.readouterr().out


def test_passes_that_were_timed_in_a_busy_moment_change_next_to_none(
    task: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Numerator and denominator are of the same passes. The command says that the two moments differ, and both
    numbers; so does the report.
    """
    calm = ratios(made(task, monkeypatch, ()))
    capsys.readouterr()
    study = made(task, monkeypatch, (), BUSY)
    assert ratios(study) == pytest.approx(calm, rel=0.25)
    said = capsys.readouterr().out
    assert "The machine was busy with other things" in said
    assert (
        "a pass of the large model took 9 ms in the recorded texts and 108 ms when passes" in said
    )
    assert "with --measure" in said
    (part,) = sections(Found(sweeps=[study]), {})
    assert any("took 9 ms in the recorded texts and 108 ms" in note for note in part.notes)


def test_a_recorded_run_that_was_busy_is_no_long_opening(
    task: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a text takes besides its passes is over before its first token is there: the slower passes of all
    that follow are none of it. Both numbers are said.
    """
    everything = [f"{kind} t{number}" for kind in timing.KINDS for number in range(3)]
    study = made(task, monkeypatch, everything)
    first_ns = BUSY * (BESIDES_MS + LARGE_MS) * MS
    assert study.costs["large_opening_ns"] <= first_ns
    assert study.costs["opening_ns"] <= first_ns
    said = capsys.readouterr().out
    assert (
        "a pass of the large model took 108 ms in the recorded texts and 9 ms when passes" in said
    )
    assert "a pass of the small model took 12 ms in the recorded texts and 1 ms when" in said


def test_a_busy_recorded_setting_is_no_long_opening(
    task: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the two models alone were not held up, and both together were: what comes before the first token
    cannot explain it, and that is said.
    """
    study = made(task, monkeypatch, [f"middle t{number}" for number in range(3)])
    assert study.costs["opening_ns"] <= BUSY * (BESIDES_MS + LARGE_MS) * MS
    said = capsys.readouterr().out
    assert "while passes were timed: the recorded setting took " in said
    assert "a pass of" not in said


def test_large_is_what_it_is_divided_by(
    task: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For whoever reads the file: its own measured time where all settings were measured in the same turns,
    and then no passes are doubted; else the predicted one.
    """
    study = made(task, monkeypatch, (), BUSY)
    passes = [text.trace["large_passes"] for text in study.large.texts]
    each_ns, besides_ns = BUSY * LARGE_MS * MS, study.costs["large_opening_ns"]
    assert list(study.large_walls_ns) == [count * each_ns + besides_ns for count in passes]
    evidence = Evidence.of(study, [Floor("agreement", -0.9)])
    assert evidence.large_ns.tolist() == list(study.large_walls_ns)
    capsys.readouterr()
    timed = made(task, monkeypatch, (), BUSY, *GRID, "--measure")
    assert timed.large_walls_ns == tuple(text.wall_ns for text in timed.large.texts)
    assert "was busy" not in capsys.readouterr().out


def test_a_file_of_an_earlier_version_is_read_rightly(
    task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the recorded times of models that write alone, and all that the predicted ones are made of."""
    study = made(task, monkeypatch, ["large t1"])
    now, said = ratios(study), json.loads(json.dumps(study.as_dict()))
    for name in [*said["costs"]]:
        if name.endswith("_pass_ns") or name in ("large_opening_ns", "small_opening_ns"):
            del said["costs"][name]
    for point in said["points"]:
        kind = point["setting"]["mode"]
        if kind in ("large", "small"):
            own = [list(alone.counted(text)) for text in getattr(study, kind).texts]
            point.update(played=own, ran=own)
    file = task.with_name("old.json")
    file.write_text(json.dumps(said), "utf-8")
    assert ratios(Study.read(file)) == pytest.approx(now)


def text(passes: int, first_ms: float, wall_ms: float) -> TextRecord:
    return TextRecord(
        id="a", text="", tokens=(1,) * passes, sources=(), wall_ns=round(wall_ms * MS),
        first_token_ns=round(first_ms * MS),
        trace={"small_passes": 0, "large_passes": passes, "fallbacks": 0, "rollbacks": 0, "windows": 0},
    )  # fmt: skip


def test_texts_of_one_token_say_nothing_about_a_pass() -> None:
    """What comes before the first token is not passes alone, so nothing is doubted on its account."""
    times = {"small_ns": MS, "small_token_ns": 0, "small_trip_ns": 0,
             "large_ns": MS, "large_token_ns": 0, "large_trip_ns": 0}  # fmt: skip
    found = alone.paces(times, {role: [text(1, 50, 50)] for role in Role})
    assert found["large_pass_ns"] == 0
    assert found["large_opening_ns"] == 49 * MS
    assert alone.doubts({**times, **found}) == []


@pytest.mark.parametrize(
    ("each_ms", "doubted"), [(1.0, False), (1.4, False), (4.0, True), (0.5, True)]
)
def test_what_a_message_takes_is_no_busy_moment(each_ms: float, doubted: bool) -> None:
    """A token that is sent at once takes its pass and a message; half as long again is another moment."""
    times = {"small_ns": MS, "small_token_ns": 0, "small_trip_ns": MS,
             "large_ns": MS, "large_token_ns": 0, "large_trip_ns": MS}  # fmt: skip
    texts = [text(11, 10, 10 + 10 * each_ms)]
    found = alone.paces(times, {Role.LARGE: texts, Role.SMALL: [text(1, 1, 1)]})
    assert bool(alone.doubts({**times, **found})) is doubted


def test_a_recorded_setting_far_from_its_prediction_is_doubted() -> None:
    """Where passes alone fit and what both models wrote does not, that is said with both numbers."""
    times = {f"{role}{name}_ns": 0 for role in Role for name in ("", "_token", "_trip", "_pass")}
    times |= {"middle_ns": 20 * MS, "middle_played_ns": 31 * MS}
    (said,) = alone.doubts(times)
    assert "the recorded setting took 20 ms a text, and 31 ms by its passes" in said
    assert alone.doubts({**times, "middle_played_ns": 29 * MS}) == []
    assert alone.ALONE == {Mode.LARGE: Role.LARGE, Mode.SMALL: Role.SMALL}
