"""What `bild sweep` and `bild tune` say before, beside and behind their work, and on which schedule they do it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bild_dist.app import inproc
from bild_dist.config import configured
from bild_dist.errors import WorkerFault, WorkerUnavailable
from bild_dist.evaluation.plan import gauge
from bild_dist.evaluation.run import running as texts
from bild_dist.evaluation.sweep import main as command
from bild_dist.evaluation.sweep import running, timing
from bild_dist.evaluation.sweep.journal import Journal
from bild_dist.evaluation.sweep.options import asked
from bild_dist.evaluation.tune import main as tune
from bild_dist.orchestrator import pairing
from bild_dist.simulator import Costs
from bild_dist.types import Schedule
from tests.spec.test_sweep import GRID, swept, words, written
from tests.spec.test_tune import ANY
from tests.spec.test_tune import words as tuned

THRESHOLDS = ("--alpha-fb", ".3,.8", "--alpha-rb", "1,4")


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return written(tmp_path)


def test_the_workers_settle_the_schedule(
    task: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As they do for a request that names none, by the same function: what is predicted, what is recorded and what
    is in the file is what `bild eval` and `bild generate` would do. An interrupted sweep keeps to it, and the same
    command finds its file finished.
    """
    assert vars(timing)["schedule_for"] is pairing.schedule_for
    assert asked(words(task, *THRESHOLDS))[0].grid.schedules == ()
    put = Journal.put

    def stopped(self: Journal, key: str, value: Any) -> None:
        if key == "timed t1":
            raise KeyboardInterrupt
        put(self, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(timing, "schedule_for", lambda *_: Schedule.OVERLAP)
        patch.setattr(Journal, "put", stopped)
        assert command.main(words(task, *THRESHOLDS), inproc) == 130
    study = swept(task, *THRESHOLDS)
    assert {point.setting.options.schedule for point in study.points} == {Schedule.OVERLAP}
    assert study.middle.setting.options.schedule is Schedule.OVERLAP
    assert "Schedule: overlap." in capsys.readouterr().out
    assert command.main(words(task, *THRESHOLDS), inproc) == 0
    assert "is there already" in capsys.readouterr().err


def test_two_models_in_one_process_take_turns(task: Path) -> None:
    """There `through` is the default, as for a request; a schedule that was asked for is taken as it is."""
    study = swept(task, "--alpha-fb", ".5", "--alpha-rb", "1")
    assert {point.setting.options.schedule for point in study.points} == {Schedule.THROUGH}
    given = asked(words(task, "--schedule", "paper,overlap"))[0].grid
    assert given.settled(Schedule.THROUGH) is given
    assert given.first is Schedule.PAPER


def test_another_schedule_than_that_of_the_file_is_named(
    task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of an earlier version was made on a schedule by name."""
    swept(task, *GRID)
    assert command.main(words(task, *THRESHOLDS), inproc) == 2
    assert "middle.schedule is 'paper', not 'as the workers settle it'" in capsys.readouterr().err


def test_a_tuned_file_names_the_schedule_that_was_predicted(
    task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else a worker would settle elsewhere."""

    async def timed(*_: Any) -> Costs:
        return Costs(small_ns=50_000, large_ns=40_000_000)

    monkeypatch.setattr(timing, "measured", timed)
    monkeypatch.setattr(timing, "schedule_for", lambda *_: Schedule.OVERLAP)
    monkeypatch.setattr(tune.Tune, "_verdict", lambda *_: ([], True, 2.0))
    lines = [f'{{"id": "{n}", "prompt": "text {n}"}}\n' for n in range(8)]
    task.write_text("".join(lines))
    given = tuned(task, *ANY)
    place = given.index("--schedule")
    del given[place : place + 2]
    assert tune.main(given, inproc) == 0
    found = configured(str(task.with_name("tuned.toml"))).generate
    assert found.schedule is Schedule.OVERLAP


def test_first_it_is_said_what_comes(
    task: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Texts, settings and stages, before a model is loaded; and where something is lost, what is kept."""

    def lost(*_: Any) -> Any:
        raise WorkerUnavailable("the small worker (pid 7) was killed by SIGKILL")

    monkeypatch.setattr(texts, "opened", lost)
    for front, given, half in (
        (command, words(task, *GRID, "--measure"), "3 texts, 4 settings. Recording first"),
        (tune, tuned(task, *ANY, "--count", "4"), "texts, 2 settings. Recording first"),
    ):
        task.write_text(
            "".join(f'{{"id": "{n}", "prompt": "text {n}"}}\n' for n in range(3 + (front is tune)))
        )
        assert front.main(given, inproc) == 1
        said = capsys.readouterr().err
        assert half in said.splitlines()[0]
        assert said.rstrip().endswith(
            "was killed by SIGKILL. What is recorded and written so far is kept, and the same command goes on"
        )


def test_what_was_written_and_what_was_predicted_are_told_apart(
    task: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --front the settings of the table are few because few were written."""

    async def timed(*_: Any) -> Costs:
        return Costs(small_ns=1_000_000, large_ns=9_000_000)

    monkeypatch.setattr(timing, "measured", timed)
    monkeypatch.setattr(running, "NEAR", 0.0)
    study = swept(
        task, "--alpha-fb", ".1,.95", "--alpha-rb", "0,9", "--schedule", "paper", "--front"
    )
    count = sum(bool(point.texts) for point in study.points)
    assert 0 < count < 4
    assert f" of {count} written, 4 predicted)" in capsys.readouterr().out


def test_side_files_of_two_outs_are_two(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of `t-0.2` and `t-0.3` the number is no suffix, and one must not take the place of the other."""
    paths: list[Path] = []

    def made(_: Any, path: Path, *__: Any) -> Any:
        paths.append(path)
        raise WorkerUnavailable("gone")

    monkeypatch.setattr(tune, "swept", made)
    task.write_text("".join(f'{{"id": "{n}", "prompt": "text {n}"}}\n' for n in range(8)))
    for name in ("t-0.2", "t-0.3", "t-0.3.toml"):
        assert tune.main([*tuned(task, *ANY), "--out", str(task.with_name(name))], inproc) == 1
    assert len({*paths}) == 3
    assert paths[0] == task.with_name("t-0.2.validation.json")


def test_passes_are_timed_behind_a_usual_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One half of the prompts are shorter than it: behind a long text a pass takes longer."""
    lengths = (400, 3, 40, 30, 50)
    lines = ({"prompt": f"{'x' * n}", "reference": "y"} for n in lengths)
    task = tmp_path / "task.jsonl"
    task.write_text("".join(json.dumps(line) + "\n" for line in lines))
    behind: list[Any] = []
    passes = gauge.passes

    async def watched(decoder: Any, prompt: Any = None) -> Any:
        behind.append(prompt)
        return await passes(decoder, prompt)

    monkeypatch.setattr(gauge, "passes", watched)
    swept(task, *THRESHOLDS)
    assert behind == ["x" * 40]


def test_only_a_lost_worker_is_said_to_leave_something() -> None:
    """A worker that never starts has written nothing, and the same command would fail again."""
    assert "the same command goes on" in command.told(WorkerUnavailable("killed"))
    assert command.told(WorkerFault("no memory")) == "no memory"
