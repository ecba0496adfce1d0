"""Which files `bild report` takes: each once, none that is something else, and no number that is none."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from bild_dist.errors import ConfigError
from bild_dist.evaluation.report import markdown, page
from bild_dist.evaluation.report.files import Found, read
from bild_dist.evaluation.report.main import main
from bild_dist.evaluation.report.report import sections
from bild_dist.evaluation.run import sheet
from bild_dist.evaluation.run.figures import Judge, Written
from bild_dist.evaluation.run.record import Record, TextRecord
from bild_dist.evaluation.tasks.base import Item
from tests.spec.test_report_runs import run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two records of one study."""
    for number in (1, 2):
        record = run(1.0 + number, own={"bleu": 20}, large={"bleu": 21}, alpha_rb=number)
        record.write(tmp_path / f"{number}.json")
    return tmp_path


@pytest.mark.parametrize("named", [True, False])
def test_a_pipe_is_not_waited_for(folder: Path, named: bool) -> None:
    """Nor a device read without end: an error where it was named, left out of a folder."""
    pipe = folder / "pipe.json"
    os.mkfifo(pipe)
    notes: list[str] = []
    if named:
        with pytest.raises(ConfigError, match=r"pipe\.json is a pipe: name a file"):
            read([pipe], notes.append)
    else:
        assert len(read([folder], notes.append).records) == 2
        assert notes == [f"left out: {pipe} is a pipe: name a file of a disk"]


def test_a_record_counts_once(folder: Path) -> None:
    """Named twice, in a folder that is named too, over a link, or copied under another name."""
    one = folder / "1.json"
    (folder / "link.json").symlink_to(one)
    other = folder.with_name(f"{folder.name}-too")
    other.symlink_to(folder)
    notes: list[str] = []
    found = read([one, folder, folder / "." / "1.json", other, folder / "link.json"], notes.append)
    assert [record.setting.options.alpha_rb for record in found.records] == [1, 2]
    assert notes == []
    copy = folder / "3.json"
    shutil.copy(one, copy)
    assert len(read([folder], notes.append).records) == 2
    assert notes == [f"left out: {copy} is a copy of {one}"]
    other.unlink()


def test_a_file_that_is_named_must_be_a_record_wherever_it_lies(folder: Path) -> None:
    """In a folder it is left out and told once; named beside the folder it ends the command."""
    bad = folder / "bad.json"
    bad.write_text("{", "utf-8")
    notes: list[str] = []
    assert len(read([folder, folder], notes.append).records) == 2
    assert len(notes) == 1
    with pytest.raises(ConfigError, match=r"bad\.json is no whole JSON"):
        read([folder, bad])


@pytest.mark.parametrize(
    "found", [{}, [], {"name": "package", "version": "1"}, "text", {"format": 1}]
)
def test_a_foreign_file_is_said_to_be_one(
    found: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever names the package.json of another program is not told to make it again."""
    file = tmp_path / "package.json"
    file.write_text(json.dumps(found), "utf-8")
    assert main([str(file), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"{file} is not a record of `bild eval` or `bild sweep`" in said
    assert "--out FILE.json" in said
    assert "again" not in said


def test_a_record_of_another_format_is_one_all_the_same(folder: Path) -> None:
    """It was ours, and making it anew helps."""
    found = json.loads((folder / "1.json").read_text("utf-8"))
    (folder / "1.json").write_text(json.dumps({**found, "format": 7}), "utf-8")
    with pytest.raises(ConfigError, match="of format 1: make it again"):
        read([folder / "1.json"])


def test_long_work_gives_signs_of_life(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error: files that were read, and the rows and sections that were worked out."""
    assert main([str(folder), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "reading: 2 of 2" in said.err
    # The large model alone, two settings, and their section.
    assert "tables and figures: 4 of 4" in said.err
    assert said.out == ""


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_no_number_is_shown_that_is_none(
    word: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON knows neither, so a file with one is refused; one too large to hold is shown as a dash."""
    file = folder / "1.json"
    text = file.read_text("utf-8")
    old = '"speedup": {"value": 2.0'
    assert old in text
    file.write_text(text.replace(old, f'"speedup": {{"value": {word}', 1), "utf-8")
    code = main([str(file), "--out", str(folder / "out")])
    said = capsys.readouterr().err
    if word == "1e999":
        assert code == 0
        shown = (folder / "out" / "report.md").read_text("utf-8")
        assert "| - |" in shown
        assert "inf" not in shown.replace("alpha_rb inf", "")
    else:
        assert code == 2
        assert f"1.json is no whole JSON (it has {word}, which is no number)" in said


def test_a_large_model_that_took_no_time_makes_no_speedup() -> None:
    """Nothing is so many times as fast as nothing; older files may say that it is."""
    one = run(1.5, own={"bleu": 20}, large={"bleu": 21})
    for value in (0.0, inf, nan, None):
        figures = {**one.figures, "speedup": {"value": value, "low": value, "high": value}}
        odd = replace(one, part=replace(one.part, figures=figures))
        (part,) = sections(Found([odd]), {})
        cells = [cell for table in part.tables for row in table.rows for cell in row[1:]]
        assert "-" in cells
        for shown in (page.page([part]), *(str(cell) for cell in cells)):
            assert "Infinity" not in shown
            assert "infx" not in shown
            assert "nan" not in shown.lower().replace("nanosecond", "")


class Odd:
    """A metric whose figure is what it is given."""

    name, title, needs_references, higher_is_better, point, digits = (
        "bleu",
        "Odd",
        False,
        True,
        1.0,
        1,
    )

    def __init__(self, value: float) -> None:
        self._value = value

    def ready(self) -> None:
        """Nothing is needed."""

    def marks(self, texts: Any) -> Any:
        import numpy as np

        from bild_dist.evaluation.metrics.base import Marks

        rows = np.ones((len(texts), 1))
        return Marks(rows, lambda sums: np.full(len(sums), self._value), "odd")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", [inf, nan])
def test_a_record_holds_no_figure_that_is_no_number(value: float, tmp_path: Path) -> None:
    """It is null there, which every reader of JSON takes, and a dash wherever it is shown."""
    texts = {
        n: TextRecord(id=n, text="a", tokens=(1,), sources=("large",), wall_ns=9) for n in "ab"
    }
    large, part = Written(texts, {}), Written(dict(texts), {})
    judge = Judge([Item("a", ""), Item("b", "")], [Odd(value)], large, [part])
    figures = judge.figures(part)
    assert figures["bleu"]["value"] is None
    assert figures["bleu"]["difference"]["value"] is None
    one = run(1.5, own={}, large={})
    assert one.large is not None
    record = replace(
        one, part=replace(one.part, figures=figures),
        large=replace(one.large, figures=judge.figures(large)),
    )  # fmt: skip
    file = tmp_path / "a.json"
    record.write(file)
    again = Record.read(file)
    assert again == record
    sheet.show(again)
    (section,) = sections(read([file]), {})
    markdown.written([section], tmp_path)
    told = (tmp_path / "report.md").read_text("utf-8")
    assert "nan" not in told
    assert "inf" not in told
