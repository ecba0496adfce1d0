"""`bild report` over a sweep: figures 4 and 10, its front, and what its predictions are worth."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from bild_dist.app import inproc
from bild_dist.errors import ConfigError
from bild_dist.evaluation.report import swept
from bild_dist.evaluation.report.files import Found, read
from bild_dist.evaluation.report.main import main
from bild_dist.evaluation.report.report import Section, sections
from bild_dist.evaluation.run.options import planned as evaluated
from bild_dist.evaluation.sweep import main as sweep
from bild_dist.evaluation.sweep.grid import front
from bild_dist.evaluation.sweep.study import Study, is_one
from bild_dist.evaluation.tasks.base import HALVES

SPEC = "seed=1&f=0.3&end=0.03"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep over toys, of mode exact too."""
    folder = tmp_path_factory.mktemp("swept")
    task = folder / "task.jsonl"
    lines = [{"id": f"t{n}", "prompt": f"text number {n}"} for n in range(3)]
    task.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    house = folder / "house.toml"
    house.write_text('[orchestrator]\ntransport = "inproc"\n', "utf-8")
    out = folder / "sweep.json"
    words = ["--small", f"toy:small?{SPEC}", "--large", f"toy:large?{SPEC}", "-c", str(house),
             "--task", str(task), "--max-new-tokens", "16", "--metric", "agreement", "--out", str(out),
             "--alpha-fb", ".3,.8", "--alpha-rb", "1,10", "--mode", "bild,exact", "--schedule", "paper"]  # fmt: skip
    assert sweep.main(words, inproc) == 0
    return out


@pytest.fixture(scope="module")
def study(file: Path) -> Study:
    return Study.read(file)


@pytest.fixture(scope="module")
def part(file: Path) -> Section:
    (found,) = sections(read([file]), {})
    return found


def test_a_sweep_draws_quality_against_latency(part: Section, study: Study) -> None:
    """Figure 4 with the front; figure 10 with a curve for each alpha_rb, in the order of numbers. Both have the
    large model's point, mode exact and the line one point below.
    """
    assert [chart.number for chart in part.charts] == [4, 10]
    for chart in part.charts:
        assert "Large alone: 1.000 at 1." in chart.says
        assert "exact" in chart.says
        assert "0.01 less" in chart.svg
        assert "(predicted)" in chart.svg
    thresholds = part.charts[1].says
    assert thresholds.index("alpha_rb 1:") < thresholds.index("alpha_rb 10:")
    for point in study.points:
        if point.setting.name.startswith("bild"):
            assert f"alpha_fb {point.setting.options.alpha_fb:g}: " in thresholds
            assert f" at {point.latency_ms / study.large_ms:.2f}" in thresholds


def test_the_front_is_a_table(part: Section, study: Study) -> None:
    """What nothing beats, fastest first, the large model below; what was predicted beside what ran."""
    table = part.tables[0]
    best = front(
        study.points,
        quality=lambda point: float(point.figures["agreement"]["value"]),
        latency=lambda point: point.latency_ms,
    )
    assert [row[0] for row in table.rows] == [*(p.setting.name for p in best), "large alone"]
    assert table.heading == table.title
    for row, point in zip(table.rows, best, strict=False):
        assert len(row) == len(table.head)
        assert row[table.head.index("passes predicted")] == f"{point.predicted_passes:.3f}"
        assert row[table.head.index("large passes a token")] == f"{point.run_passes:.3f}"
        assert row[table.head.index("off by")] == f"{point.gap:+.1%}"


def test_how_far_predictions_are_off_is_said_for_both_recorded_texts(
    part: Section, study: Study
) -> None:
    """With where the passes come from that they are held against."""
    table = part.tables[1]
    assert [row[0] for row in table.rows] == ["from the middle text", "from the large text"]
    assert table.rows[0][4] == f"{study.difference['middle']['most']:.1%}"
    assert "counted, which needs no clock (4)" in table.note
    assert "played over the text that was written (1)" in table.note


def test_predicted_latencies_are_called_so(part: Section, study: Study) -> None:
    """And the command that measures them is named; where all were measured nobody says predicted."""
    assert any("predicted" in note for note in part.notes)
    # With a file of its own: the finished one is not written over.
    assert part.lacks[0].command.endswith(" --measure --out FILE.json")
    assert part.lacks[0].command.count("--out") == 1
    timed = tuple(replace(point, source="measured") for point in study.points)
    (other,) = sections(Found(sweeps=[replace(study, points=timed)]), {})
    assert not any("predicted" in note for note in other.notes)
    assert "(predicted)" not in other.charts[0].svg


@pytest.mark.parametrize("half", HALVES)
def test_of_a_half_the_split_is_named_that_eval_knows(half: str, study: Study) -> None:
    """`bild tune` gives halves of a split names that no task has; what the report suggests is taken."""
    lines = Path(study.task).read_text("utf-8").splitlines()
    other = json.dumps({"id": "elsewhere", "prompt": "another text", "split": "first"})
    named = [json.dumps({**json.loads(line), "split": "second"}) for line in lines]
    task = Path(study.task).with_name("splits.jsonl")
    task.write_text("\n".join([other, *named]) + "\n", "utf-8")
    (part,) = sections(Found(sweeps=[replace(study, task=str(task), split=half)]), {})
    lack = next(lack for lack in part.lacks if lack.what.startswith("All other"))
    words = shlex.split(lack.command)
    assert words[:2] == ["bild", "eval"]
    out = str(task.with_name("FILE.json"))
    plan = evaluated([*words[2:-1], out])
    assert plan.split == "second"
    assert {item.id for item in study.items} <= {item.id for item in plan.task.items(plan.split)}
    assert "both halves" in lack.what
    task.unlink()
    (part,) = sections(Found(sweeps=[replace(study, task=str(task), split=half)]), {})
    assert not any("--split" in lack.command for lack in part.lacks)


def test_what_was_not_written_is_in_no_figure(study: Study) -> None:
    """With --front most settings have a prediction and no quality: they are counted, not drawn."""
    first, *others = study.points
    bare = [replace(p, texts=(), ran=(), source="", figures={}, ) for p in others]  # fmt: skip
    (part,) = sections(Found(sweeps=[replace(study, points=(first, *bare))]), {})
    assert any(note.startswith(f"{len(bare)} settings were predicted") for note in part.notes)
    assert [row[0] for row in part.tables[0].rows] == [first.setting.name, "large alone"]
    assert [chart.number for chart in part.charts] == [4]


def test_nothing_written_is_no_failure(study: Study) -> None:
    """The large model's line is left, and nothing is drawn from nothing."""
    bare = tuple(replace(p, texts=(), ran=(), source="", figures={}) for p in study.points)
    (part,) = sections(Found(sweeps=[replace(study, points=bare, difference={})]), {})
    assert part.charts == []
    assert [row[0] for row in part.tables[0].rows] == ["large alone"]
    assert not swept.measured(replace(study, points=bare))


def test_the_command_takes_a_sweep(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its name or in a folder, whose other files are named; page and text have both figures."""
    for given in (file, file.parent):
        assert main([str(given), "--out", str(tmp_path)]) == 0
        told = (tmp_path / "report.md").read_text("utf-8")
        assert "### The front: " in told
        assert "### What predictions are worth" in told
        assert "](figure-10-1.svg)" in told
        page = (tmp_path / "report.html").read_text("utf-8")
        assert page.count("<svg") == 2
        assert "figure 4, figure 10" in capsys.readouterr().err
    assert is_one(file)
    assert not is_one(file.with_name("house.toml"))
    assert not is_one(file.with_name("nothing"))


def test_a_broken_sweep_is_refused_by_what_is_broken(file: Path, tmp_path: Path) -> None:
    """Whatever somebody has cut out or written into it: one line, the field and what to do."""
    whole = json.loads(file.read_text("utf-8"))
    broken = tmp_path / "broken.json"
    point, *_ = whole["points"]
    for changes, said in (
        ({"items": []}, "other texts than the items"),
        (
            {"difference": {"middle": {"settings": 1}}},
            "difference.middle.within_10_percent is missing",
        ),
        ({"points": [{**point, "figures": {"agreement": {"value": "x"}}}]}, "must be a number"),
        ({"points": [{**point, "played": []}]}, "has 0 played for 3 items"),
        ({"metric": "bleu"}, "no figure of bleu"),
        ({"large": 3}, "must be an object"),
    ):
        broken.write_text(json.dumps({**whole, **changes}), "utf-8")
        with pytest.raises(ConfigError, match=said) as refused:
            read([broken])
        assert "make it again" in str(refused.value)
    del whole["readings"]
    broken.write_text(json.dumps(whole), "utf-8")
    with pytest.raises(ConfigError, match="'readings' is missing"):
        read([broken])
