"""`bild sweep` over worker processes that are lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from bild_dist.app import inproc
from bild_dist.evaluation.sweep import main as command
from bild_dist.evaluation.sweep import timing
from bild_dist.evaluation.sweep.study import Study
from bild_dist.types import Role
from tests.spec.test_sweep import GRID, words, written

pytestmark = pytest.mark.process


@pytest.mark.parametrize("role", list(Role))
def test_a_worker_that_is_killed_is_named(
    role: Role, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the middle of the recorded run: which worker, what ended it, that nothing is lost and what to do; and
    so it is.
    """
    task, whole = written(tmp_path), timing._item

    async def killed(decoder: Any, item: Any, *given: Any) -> Any:
        if item.id == "t1":
            os.kill(decoder.workers[role].info.pid, signal.SIGKILL)
        return await whole(decoder, item, *given)

    given = words(task, *GRID)
    task.with_name("house.toml").write_text("")
    with monkeypatch.context() as patch:
        patch.setattr(timing, "_item", killed)
        assert command.main(given, inproc) == 1
    said = capsys.readouterr().err
    assert f"bild sweep: the {role} worker (pid " in said
    assert "was killed by SIGKILL. What is recorded" in said
    assert "kept, and the same command goes on" in said
    assert command.main(given, inproc) == 0
    assert "Recorded already: 1." in capsys.readouterr().err
    assert len(Study.read(task.with_name("sweep.json")).items) == 3
