"""Where `bild sweep` is stopped, and how it goes on."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bild_dist.app import inproc
from bild_dist.evaluation.sweep import aside, running
from bild_dist.evaluation.sweep import main as command
from bild_dist.evaluation.sweep.journal import Journal
from bild_dist.evaluation.sweep.running import Stages
from tests.spec.test_sweep import GRID, swept, words, written


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return written(tmp_path)


@pytest.mark.parametrize("key", ["timed t1", "models", "costs", "read t2"])
def test_a_sweep_goes_on_from_wherever_it_stopped(
    key: str, task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two pieces, also where what passes take is known and what took it is not."""
    put = Journal.put

    def stopped(self: Journal, name: str, value: Any) -> None:
        if name == key:
            raise KeyboardInterrupt
        put(self, name, value)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "put", stopped)
        assert command.main(words(task, *GRID), inproc) == 130
    assert swept(task, *GRID).points


def test_a_journal_that_lacks_the_models_is_completed(task: Path) -> None:
    """Journals of earlier versions had the costs first: a sweep that one of them stopped goes on too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "close", lambda self: None)
        swept(task, *GRID)
    journal = task.with_name("sweep.json.partial.jsonl")
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines if not line.startswith('{"key": "models"')))
    assert len(lines) > len(journal.read_text().splitlines())
    task.with_name("sweep.json").unlink()
    assert swept(task, *GRID).points


@pytest.mark.parametrize("stage", ["_timed_by", "_own"])
def test_a_prediction_that_is_stopped_ends_with_its_setting(
    stage: str, task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C is heard between two settings, not behind the last one of the grid; what was recorded is kept."""
    whole, asked, flags = getattr(Stages, stage), [], []

    def flag() -> threading.Event:
        flags.append(threading.Event())
        return flags[-1]

    def stopped(self: Stages, *given: Any) -> Any:
        asked.append(given)
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)
        assert flags[-1].wait(30)
        return whole(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(aside, "threading", SimpleNamespace(Event=flag))
        patch.setattr(Stages, stage, stopped)
        assert command.main(words(task, *GRID), inproc) == 130
    assert len(asked) == 1
    assert swept(task, *GRID).points


def test_what_a_stage_took_adds_up_over_starts(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep that was interrupted has cost what all of its starts cost, the interrupted ones too."""
    put, ticks = Journal.put, iter(range(10**15, 10**18, 10**9))

    def stopped(self: Journal, name: str, value: Any) -> None:
        if name == "read t2":
            raise KeyboardInterrupt
        put(self, name, value)

    with monkeypatch.context() as patch:
        # Each look at the clock is a second later, so a stage takes one a start.
        patch.setattr(running, "now_ns", lambda: next(ticks))
        with monkeypatch.context() as inner:
            inner.setattr(Journal, "put", stopped)
            assert command.main(words(task, *GRID), inproc) == 130
        study = swept(task, *GRID)
    seconds = {stage: ns // 10**9 for stage, ns in study.spent_ns.items()}
    assert seconds == {"record": 2, "read": 2, "replay": 1, "write": 1}
