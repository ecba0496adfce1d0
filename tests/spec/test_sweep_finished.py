"""`bild sweep` where its file is there already, and where a sweep may go on."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from bild_dist.app import inproc
from bild_dist.errors import ConfigError
from bild_dist.evaluation.bench import usage
from bild_dist.evaluation.sweep import main as command
from bild_dist.evaluation.sweep.journal import Journal
from tests.spec.test_sweep import GRID, swept, words, written


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return written(tmp_path)


def test_a_finished_sweep_is_done(
    task: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command once more shows what is there and runs nothing; any other is refused by what
    differs, and so is a file that is no sweep: hours of work may be in it.
    """
    swept(task, *GRID)
    file = task.with_name("sweep.json")
    before, first = file.read_bytes(), capsys.readouterr().out
    monkeypatch.setattr(command, "swept", None)
    assert command.main(words(task, *GRID), inproc) == 0
    said = capsys.readouterr()
    assert said.out == first
    assert "is there already" in said.err
    for more, differs in (
        (("--measure",), "its measure is False, not True"),
        (("--count", "2"), "its items is '3 ("),
        (("--large", "toy:large?seed=2"), "its large.model is"),
    ):
        assert command.main(words(task, *GRID, *more), inproc) == 2
        said = capsys.readouterr()
        assert differs in said.err
        assert "another --out" in said.err
    assert file.read_bytes() == before
    file.write_text("notes\n")
    assert command.main(words(task, *GRID), inproc) == 2
    assert "another --out" in capsys.readouterr().err
    assert file.read_text() == "notes\n"


def test_corrected_references_are_another_sweep(
    task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The figures that are there are of the old ones."""
    lines = [json.loads(line) for line in task.read_text().splitlines()]
    for reference, code in (("one", 0), ("two", 2)):
        task.write_text(
            "".join(json.dumps({**line, "reference": reference}) + "\n" for line in lines)
        )
        assert command.main(words(task, *GRID, "--metric", "rougeL,agreement"), inproc) == code
    assert "its references is '3 (" in capsys.readouterr().err
    assert command.main(words(task, *GRID), inproc) == 2
    assert "its metric" in capsys.readouterr().err


def test_a_sweep_does_not_go_on_elsewhere(
    task: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither on another machine nor with another release of torch. Another state of this program is named
    in the file and at the end.
    """
    put = Journal.put

    def stopped(self: Journal, key: str, value: object) -> None:
        if key == "read t1":
            raise KeyboardInterrupt
        put(self, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "put", stopped)
        patch.setattr(usage, "commit", lambda: "one")
        assert command.main(words(task, *GRID), inproc) == 130
    hardware, versions = usage.hardware(), usage.versions()
    for name, found, said in (
        ("hardware", {**hardware, "processor": "another"}, "another machine.cpu"),
        ("versions", {**versions, "torch": "0.0"}, "another versions.torch"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(usage, name, lambda found=found: found)
            assert command.main(words(task, *GRID), inproc) == 2
        assert said in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(usage, "commit", lambda: "two")
        study = swept(task, *GRID)
    assert study.environment["commits"] == ["one", "two"]
    assert "commits one, two" in capsys.readouterr().out


def test_a_sweep_of_an_earlier_version_goes_on(task: Path) -> None:
    """Its journal and its file do not say which machine they are of: nothing is known to differ."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "close", lambda self: None)
        swept(task, *GRID)
    file, journal = task.with_name("sweep.json"), task.with_name("sweep.json.partial.jsonl")
    for path, end in ((file, "]}"), (journal, "")):
        first, *rest = path.read_text().splitlines(keepends=True)
        head = json.loads(first.rstrip() + end)
        said = head if path is journal else head["environment"]["identity"]
        del said["machine"], said["versions"]
        path.write_text(json.dumps(head).removesuffix(end) + "\n" + "".join(rest))
    assert command.main(words(task, *GRID), inproc) == 0
    assert journal.exists()  # the finished file was shown
    file.unlink()
    assert swept(task, *GRID).points
    assert not journal.exists()


def test_a_journal_holds_no_piece(tmp_path: Path) -> None:
    """However many there are, what is held is where they begin; what somebody else changed is refused."""
    path = tmp_path / "a.jsonl"
    journal = Journal(path, {"task": "one"})
    for number in range(20):
        journal.put(str(number), {"text": "x" * 100_000, "number": number})
    tracemalloc.start()
    try:
        again = Journal(path, {"task": "one"})
        total = sum(again[str(number)]["number"] for number in range(20))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total == sum(range(20))
    assert peak < 1_000_000
    path.write_text('{"task": "one"}\n{"key": "other", "value": 1}\n')
    with pytest.raises(ConfigError, match="was changed while a run used it"):
        again["19"]
