"""What `--out` names belongs to one command at a time, and is a file."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from bild_dist.app import inproc
from bild_dist.errors import ConfigError
from bild_dist.evaluation.report import main as report
from bild_dist.evaluation.run import held as holding
from bild_dist.evaluation.run import main as evaluation
from bild_dist.evaluation.run.files import beside
from bild_dist.evaluation.run.held import held
from bild_dist.evaluation.run.record import Record
from bild_dist.evaluation.sweep import main as sweep
from bild_dist.evaluation.sweep.study import Study
from bild_dist.evaluation.tune import main as tune
from tests.spec import test_eval, test_sweep, test_tune

HOLD = """
import sys, time
from pathlib import Path
from bild_dist.evaluation.run.held import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands take over SIGTERM, which is pytest's here."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)


def run_eval(folder: Path, out: Path) -> int:
    task = test_eval.task_file(folder)
    words = ["--task", task, *test_eval.TOYS, "--max-new-tokens", "9", "--out", str(out)]
    return evaluation.main(words, inproc)


def run_sweep(folder: Path, out: Path) -> int:
    words = test_sweep.words(test_sweep.written(folder), *test_sweep.GRID)
    return sweep.main([*words, "--out", str(out)], inproc)


def run_tune(folder: Path, out: Path) -> int:
    words = test_tune.words(test_tune.splits(folder), *test_tune.ANY)
    return tune.main([*words, "--out", str(out)], inproc)


COMMANDS = [run_eval, run_sweep, run_tune]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_second_command_on_a_file_is_refused_at_once(
    command: Callable[[Path, Path], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their texts would mix in the file that an interrupted run goes on from: before a model is loaded the
    second one hears which file it is, who has it and what to do. The first one notices nothing.
    """
    out = tmp_path / "out"
    with held(out):
        before = beside(out).read_bytes()
        assert command(tmp_path, out) == 2
        said = capsys.readouterr().err
        assert f"--out {out}: another command" in said
        assert f"holds {beside(out)}: wait for its end, or name another --out" in said
        if holding._LOCKS.exists():
            assert f"(process {os.getpid()})" in said
        assert "starting the workers" not in said
        assert beside(out).read_bytes() == before
    assert not beside(out).exists()
    assert command(tmp_path, out) == 0
    assert not beside(out).exists()


def test_tune_holds_the_sweeps_that_it_makes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are files of `bild sweep`, so somebody may be making one of them."""
    task = test_tune.splits(tmp_path)
    out = tmp_path / "tuned.toml"
    made: list[Path] = []

    def swept(*given: object) -> None:
        made.append(Path(str(given[1])))
        with pytest.raises(ConfigError, match="is at work on it"), held(made[-1]):
            pass
        with pytest.raises(ConfigError, match="is at work on it"), held(out):
            pass
        raise ConfigError("far enough")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune, "swept", swept)
        assert tune.main(test_tune.words(task, *test_tune.ANY), inproc) == 2
    assert "far enough" in capsys.readouterr().err
    assert len(made) == 1
    assert not list(tmp_path.glob("*.partial.jsonl"))


def test_a_command_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    """The file stays, and so does what was written into it; whoever gives the command again goes on."""
    out = tmp_path / "out.json"
    words = [sys.executable, "-c", HOLD, str(out)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        beside(out).write_text("a text\n")
        with pytest.raises(ConfigError, match="another command"), held(out):
            pass
        other.kill()
        other.wait()
    with held(out):
        assert beside(out).read_text() == "a text\n"
    assert beside(out).read_text() == "a text\n"


def test_who_comes_while_another_ends_holds_what_has_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening a file and locking it its owner may finish and take it away: a lock on what has no name
    any more would keep nobody out.
    """
    out = tmp_path / "out.json"
    taken: list[int] = []

    def flock(handle: int, how: int) -> None:
        if not taken:
            taken.append(handle)
            beside(out).unlink()
        fcntl.flock(handle, how)

    with monkeypatch.context() as patch:
        patch.setattr(holding, "fcntl", _With(flock))
        with held(out), pytest.raises(ConfigError, match="another command"), held(out):
            pass
    assert taken
    assert not beside(out).exists()


class _With:
    """The module with another way to lock."""

    LOCK_EX, LOCK_NB = fcntl.LOCK_EX, fcntl.LOCK_NB

    def __init__(self, flock: Callable[[int, int], None]) -> None:
        self.flock = flock


def test_where_there_are_no_locks_a_command_runs_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems of a network know none."""

    def flock(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(holding, "fcntl", _With(flock))
    with held(tmp_path / "out.json"):
        assert beside(tmp_path / "out.json").exists()


def test_what_is_finished_is_shown_while_somebody_holds_it(tmp_path: Path) -> None:
    """A record is not written over, so there is nothing to wait for, and nothing is left beside it."""
    out = tmp_path / "out.json"
    assert run_eval(tmp_path, out) == 0
    with held(out):
        assert run_eval(tmp_path, out) == 0
    assert not beside(out).exists()


def test_a_folder_that_nobody_may_write_to_is_named_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not behind the hours that the texts take."""

    def refused(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    named = SimpleNamespace(open=refused, O_RDWR=os.O_RDWR, O_CREAT=os.O_CREAT)
    monkeypatch.setattr(holding, "os", named)
    for command in COMMANDS:
        assert command(tmp_path, tmp_path / "out") == 2
        said = capsys.readouterr().err
        assert "out.partial.jsonl cannot be written (Permission denied)" in said
        assert "starting the workers" not in said


SPECIAL = {
    "a device that is full": ("/dev/full", "is a device"),
    "a device that forgets": ("/dev/null", "is a device"),
    "another name for what is open": ("/dev/stdout", "is|lies among"),
    "a new device": ("/dev/new.json", "lies among the system's devices"),
    "a process": ("/proc/self/new.json", "lies among the system's devices"),
    "a pipe": ("pipe", "is a pipe"),
    "a link to a device": ("link", "is a device"),
    "a folder": ("folder", "is a folder"),
}


@pytest.mark.parametrize(("name", "needle"), SPECIAL.values(), ids=SPECIAL)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_no_file_is_refused_by_name(
    command: Callable[[Path, Path], int],
    name: str,
    needle: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A device would be read without end or be replaced, and a pipe waits for somebody: nothing starts."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/full")
    (tmp_path / "folder").mkdir()
    out = tmp_path / name
    assert command(tmp_path, out) == 2
    said = capsys.readouterr().err
    assert str(out) in said
    assert any(words in said for words in needle.split("|"))
    assert not Path(f"{out}.partial.jsonl").exists()


def test_what_is_read_is_a_file(tmp_path: Path) -> None:
    """Where a sweep or a record is named, too: a device has no end."""
    for read in (Study.read, Record.read):
        with pytest.raises(ConfigError, match="/dev/full is a device: name a file"):
            read(Path("/dev/full"))


def test_a_report_is_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file or a device in its place is named before the records are read."""
    file = tmp_path / "file"
    file.write_text("somebody's")
    for out in (str(file), "/dev/full"):
        words = ["nowhere.json", "--out", out]
        assert report.main(words) == 2
        assert f"--out {out} is no folder" in capsys.readouterr().err
    assert file.read_text() == "somebody's"


def test_a_folder_in_the_place_of_a_sweep_is_named_first(tmp_path: Path) -> None:
    """Where `bild tune` keeps its own, nobody names it on the command line."""
    (tmp_path / "tuned.test.json").mkdir()
    with (
        pytest.raises(ConfigError, match="is a folder where a file"),
        held(tmp_path / "tuned.test.json"),
    ):
        pass
