"""Slips of a hand or an editor: what is meant is read where it is plain, and named where it is not."""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bild_dist import app
from bild_dist.app import inproc
from bild_dist.errors import ConfigError
from bild_dist.evaluation.align import calibration
from bild_dist.evaluation.bench import prompts
from bild_dist.evaluation.metrics import registry
from bild_dist.evaluation.run import main as evaluation
from bild_dist.evaluation.sweep import main as sweep
from bild_dist.evaluation.sweep.journal import Journal
from bild_dist.evaluation.tasks import jsonl
from bild_dist.evaluation.tune import main as tune
from bild_dist.orchestrator import generate
from bild_dist.orchestrator.queue import submit
from tests.spec.test_sweep import GRID, words
from tests.spec.test_tune import ANY, splits


@pytest.fixture(autouse=True)
def _signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands take over SIGTERM, which is pytest's here."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)


READERS: dict[str, Callable[[str], Any]] = {
    "--task": lambda path: jsonl.task(path).items("all"),
    "--input": generate._read,
    "submit --input": submit.read,
    "--prompts": prompts.read,
    "--corpus": lambda path: [
        found
        for split in ("train", "validation", "test")
        for found in calibration.prompts(path, split)
    ],
}


@pytest.mark.parametrize("name", READERS)
def test_a_mark_at_the_beginning_of_a_file_is_no_part_of_it(name: str, tmp_path: Path) -> None:
    """Some editors put one in front of UTF-8 without showing it: the file says what it says without."""
    text = json.dumps({"id": "a", "prompt": "some text"}) + "\n"
    found = []
    for number, mark in enumerate(("", "\ufeff")):
        file = tmp_path / str(number) / "file.jsonl"
        file.parent.mkdir()
        file.write_text(mark + text, encoding="utf-8")
        found.append(READERS[name](str(file)))
    bare, marked = (str(one).replace(str(tmp_path / str(n)), "") for n, one in enumerate(found))
    assert "some text" in marked
    if name != "submit --input":  # whose ids are made of the file's bytes
        assert marked == bare


def test_one_text_is_no_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing can be said of how far such texts scatter: refused before a model is loaded."""
    task = tmp_path / "task.jsonl"
    task.write_text('{"prompt": "alone"}\n')
    assert sweep.main(words(task, *GRID), inproc) == 2
    assert "split 'all', has one text: intervals need several" in capsys.readouterr().err


@pytest.mark.parametrize("front", [evaluation.main, sweep.main, tune.main])
def test_a_name_that_is_no_text_is_named(
    front: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a shell hands over may be any bytes; the command stands in the record, which is UTF-8, and writing it
    would fail behind the last text.
    """
    task = splits(tmp_path)
    given = words(
        task, "--out", str(tmp_path / "a\udcff.json"), *(ANY if front is tune.main else ())
    )
    assert front(given, inproc) == 2
    assert r"a\udcff.json' is no UTF-8" in capsys.readouterr().err


def test_a_line_that_is_deeper_than_it_can_be_read_is_named(tmp_path: Path) -> None:
    """As any other line that is not understood."""
    task = tmp_path / "task.jsonl"
    task.write_text('{"prompt": "a", "note": ' + "[" * 100_000 + "]" * 100_000 + "}\n")
    with pytest.raises(ConfigError, match="line 1 is not JSON"):
        jsonl.task(str(task))


def test_a_disk_that_is_full_costs_no_finished_piece(tmp_path: Path) -> None:
    """What fitted of a line is taken back: a shorter one behind it, such as the time that was spent, would
    otherwise make both unreadable, and with them everything.
    """
    path = tmp_path / "a.jsonl"
    journal = Journal(path, {"task": "one"})
    journal.put("a", "a text")
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 60, hard))
    try:
        with pytest.raises(ConfigError, match="cannot be written"):
            journal.put("b", "a longer text " * 100)
        assert path.stat().st_size == size
        journal.put("c", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    again = Journal(path, {"task": "one"})
    assert (again["a"], again["c"]) == ("a text", 1)


@pytest.mark.parametrize("name", ["run", "sweep", "tune"])
def test_ctrl_c_is_no_fault_while_a_command_is_loaded(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading takes a second or two, and a list of what was just imported is no answer to it."""

    class Loading:
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, f"bild_dist.evaluation.{name}.main", Loading())
    assert app.main([{"run": "eval"}.get(name, name)]) == 130


@pytest.mark.parametrize("asked", [["bleu,"], [""], ["agreement", ",bleu"]])
def test_an_empty_name_of_a_metric_is_named(asked: list[str]) -> None:
    """Such as a variable that nobody has set: it asks for all metrics no more than for none."""
    with pytest.raises(ConfigError, match="a name is empty"):
        registry.chosen(asked, [])
