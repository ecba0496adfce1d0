"""`bild eval` where its record is there already."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from bild_dist.evaluation.bench import usage
from bild_dist.evaluation.run.record import Record
from tests.spec.test_eval import Stopped, evaluate, partial_of


@pytest.fixture(autouse=True)
def _signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command takes over SIGTERM, which is pytest's here."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (("--alpha-fb", "0.9"), "its setting.name is"),
        (("--count", "3"), "its items is '7"),
        (("--rounds", "2"), "its rounds is 1, not 2"),
        (("--large", "toy:large?seed=2"), "its large."),
        (("--metric", "agreement"), "its metrics is"),
    ],
    ids=["another setting", "other items", "more rounds", "another model", "other metrics"],
)
def test_a_finished_record_is_not_replaced_by_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: Sequence[str], needle: str
) -> None:
    """Hours of work may be in it: what differs is named, and nothing is touched."""
    _, file = evaluate(tmp_path)
    before = file.read_bytes()
    code, _ = evaluate(tmp_path, *words)
    said = capsys.readouterr().err
    assert code == 2
    assert needle in said
    assert "another --out" in said
    assert file.read_bytes() == before


def test_a_finished_run_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command once more measures nothing, shows the record and says how to measure anew."""
    code, file = evaluate(tmp_path, "--alpha-rb", "inf")
    before, first = file.read_bytes(), capsys.readouterr().out
    Stopped(0, monkeypatch)
    assert evaluate(tmp_path, "--alpha-rb", "inf") == (code, file)
    said = capsys.readouterr()
    assert said.out == first
    assert "is there already" in said.err
    assert file.read_bytes() == before


def test_a_file_that_is_no_record_is_not_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is somebody's: a slip in --out costs nobody a file."""
    (tmp_path / "out.json").write_text("notes\n")
    assert evaluate(tmp_path)[0] == 2
    assert "another --out" in capsys.readouterr().err
    assert (tmp_path / "out.json").read_text() == "notes\n"


def test_corrected_references_are_another_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The figures that are there are of the old ones, so they are no answer; a record of an earlier version,
    which does not name its references, is shown as it always was.
    """
    _, file = evaluate(tmp_path, "--metric", "bleu")
    task = tmp_path / "task.jsonl"
    corrected = task.read_text().replace("a number", "another number")
    other = tmp_path / "corrected.jsonl"
    other.write_text(corrected)
    found = json.loads(file.read_text().replace("task.jsonl", "corrected.jsonl"))
    file.write_text(json.dumps(found))
    capsys.readouterr()
    assert evaluate(tmp_path, "--metric", "bleu", task=str(other))[0] == 2
    assert "its references is '14 (" in capsys.readouterr().err
    del found["environment"]["identity"]["references"]
    file.write_text(json.dumps(found))
    assert evaluate(tmp_path, "--metric", "bleu", task=str(other))[0] == 0
    assert Record.read(file).figures["bleu"]


@pytest.mark.parametrize("done", [3, 100], ids=["interrupted", "finished"])
def test_a_run_does_not_go_on_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], done: int
) -> None:
    """Times of two machines or of two releases in one record are compared as if they were of one: what
    differs is named. A file of an earlier version does not say, and goes on.
    """
    with monkeypatch.context() as patch:
        Stopped(done, patch)
        _, file = evaluate(tmp_path)
    hardware, versions = usage.hardware(), usage.versions()
    for name, found, said in (
        ("hardware", {**hardware, "processor": "another"}, "its machine.cpu is"),
        ("versions", {**versions, "torch": "0.0"}, "its versions.torch is"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(usage, name, lambda found=found: found)
            assert evaluate(tmp_path)[0] == 2
        assert said in capsys.readouterr().err
    left = partial_of(file) if done == 3 else file
    first, *rest = left.read_text().splitlines(keepends=True)
    head = json.loads(first)
    said = head["identity"] if done == 3 else head["environment"]["identity"]
    del said["machine"], said["versions"]
    left.write_text(json.dumps(head) + "\n" + "".join(rest))
    assert evaluate(tmp_path)[0] == 0


def test_a_program_that_changed_on_the_way_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever repairs something and goes on has texts of both: the record has all commits, and the end
    says so.
    """
    for commit, texts in (("one", 3), ("two+", 3), ("two+", 100)):
        with monkeypatch.context() as patch:
            patch.setattr(usage, "commit", lambda commit=commit: commit)
            Stopped(texts, patch)
            _, file = evaluate(tmp_path)
    assert Record.read(file).environment["commits"] == ["one", "two+"]
    assert "commits one, two+" in capsys.readouterr().out
