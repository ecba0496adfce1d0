"""`bild sweep`: a grid of settings on a task, in one command, over toys in one process."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bild_dist.app import inproc
from bild_dist.errors import ConfigError
from bild_dist.evaluation.run.record import Setting
from bild_dist.evaluation.sweep import main as command
from bild_dist.evaluation.sweep import plot, running, timing
from bild_dist.evaluation.sweep.grid import Grid, front, rule
from bild_dist.evaluation.sweep.identity import identity
from bild_dist.evaluation.sweep.journal import Journal
from bild_dist.evaluation.sweep.options import asked, planned
from bild_dist.evaluation.sweep.running import Stages
from bild_dist.evaluation.sweep.study import Point, Study
from bild_dist.evaluation.sweep.texts import Texts
from bild_dist.simulator import Costs
from bild_dist.types import Mode, Options, Schedule

TOYS = ("--small", "toy:small?seed=1&f=0.3&end=0.03", "--large", "toy:large?seed=1&f=0.3&end=0.03")


def written(folder: Path) -> Path:
    """A task of a few texts."""
    file = folder / "task.jsonl"
    lines = [json.dumps({"id": f"t{n}", "prompt": f"text number {n}"}) for n in range(3)]
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return written(tmp_path)


def words(task: Path, *more: str) -> list[str]:
    house = task.with_name("house.toml")
    house.write_text('[orchestrator]\ntransport = "inproc"\n')
    return [*TOYS, "-c", str(house), "--task", str(task), "--max-new-tokens", "16",
            "--metric", "agreement", "--out", str(task.with_name("sweep.json")), *more]  # fmt: skip


def swept(task: Path, *more: str) -> Study:
    arguments = words(task, *more)
    assert command.main(arguments, inproc) == 0
    return Study.read(task.with_name("sweep.json"))


GRID = ("--alpha-fb", ".3,.8", "--alpha-rb", "1,4", "--schedule", "paper")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    """A sweep that came to its end, and the folder that it left."""
    file = written(tmp_path_factory.mktemp("whole"))
    study = swept(file, *GRID, "--plot", str(file.with_name("plot")))
    return study, file.parent


def test_a_sweep_predicts_writes_and_draws(whole: tuple[Study, Path]) -> None:
    """One command gives each setting's prediction, texts, figures and how far the two lie apart, and
    the picture in both forms; the file can be read back whole.
    """
    study, folder = whole
    assert [len(study.points), len(study.items)] == [4, 3]
    for point in study.points:
        assert len(point.texts) == len(point.played) == 3
        assert point.source == "counted"
        assert 0 <= point.figures["agreement"]["value"] <= 1
        assert point.gap is not None
    assert set(study.difference) == {"middle", "large"}
    # The setting whose text was read is no prediction.
    assert study.difference["middle"]["sources"] == {"counted": 3}
    assert study.difference["large"]["sources"] == {"counted": 4}
    assert Study.from_dict(study.as_dict()).as_dict() == study.as_dict()
    for kind in ("png", "svg"):
        assert (folder / f"plot.{kind}").stat().st_size > 1000
    assert not list(folder.glob("*.partial.jsonl"))


def test_a_long_prediction_holds_nobody_up(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made beside the loop, on which the heartbeats of the workers of this process arrive."""
    whole = Stages._predicted

    def told(*given: Any) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        return whole(*given)

    monkeypatch.setattr(Stages, "_predicted", told)
    assert swept(task, *GRID).points


def test_the_recorded_setting_is_predicted_exactly(task: Path) -> None:
    """Played over its own text, a setting of schedule `paper` has the large passes and the sources
    that it had; drafts behind a token that fell were about another text.
    """
    study = swept(task, "--alpha-fb", ".6", "--alpha-rb", "2", "--schedule", "paper")
    point = study.points[0]
    for played, ran in zip(point.played, point.ran, strict=True):
        assert (played.tokens, *played[2:6]) == (ran.tokens, *ran[2:6])
    assert point.texts[0].tokens == study.middle.texts[0].tokens
    assert point.walls_ns == tuple(played.wall_ns for played in point.played)


def test_exact_writes_what_large_writes(task: Path) -> None:
    """So a sweep takes its text from there, and its agreement is 1."""
    study = swept(task, "--mode", "exact,small", "--schedule", "through")
    exact, small = study.points
    assert [t.tokens for t in exact.texts] == [t.tokens for t in study.large.texts]
    assert exact.figures["agreement"]["value"] == 1.0
    assert small.figures["agreement"]["value"] < 1.0


def test_only_the_front_can_be_written(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --front settings far from it have a prediction and no text; --measure times the others."""

    async def timed(*_: Any) -> Costs:
        # A busy machine would put everything near the front.
        return Costs(small_ns=1_000_000, large_ns=9_000_000)

    monkeypatch.setattr(timing, "measured", timed)
    monkeypatch.setattr(running, "NEAR", 0.0)
    study = swept(
        task, "--alpha-fb", ".1,.95", "--alpha-rb", "0,9", "--schedule", "paper", "--front", "--measure",
    )  # fmt: skip
    written = [point for point in study.points if point.texts]
    assert 0 < len(written) < len(study.points)
    assert {point.source for point in written} == {"measured"}


def test_large_is_timed_beside_what_is_divided_by_it(
    task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --measure it is one of the settings of every item, who comes first changes from item to item,
    and its time is the one taken there.
    """
    turns, found = [], []
    whole = Stages._all

    async def told(decoder: Any, item: Any, settings: Any) -> Any:
        turns.append([setting.name for setting in settings])
        found.append(await whole(decoder, item, settings))
        return found[-1]

    with monkeypatch.context() as patch:
        patch.setattr(Stages, "_all", staticmethod(told))
        study = swept(task, *GRID, "--measure")
    assert all(sorted(turn) == sorted(turns[0]) for turn in turns)
    assert len({turn[0] for turn in turns}) == len(study.items)
    taken = [text.wall_ns for text in study.large.texts]
    own = [{setting.name: text for setting, text in ran.items()}["large"] for ran in found]
    assert taken == [text.wall_ns for text in own]


def test_an_interrupted_sweep_goes_on(
    task: Path, whole: tuple[Study, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written is taken from the journal; the end is as if nothing had happened."""
    put, left = Journal.put, [9]

    def tired(self: Journal, key: str, value: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        put(self, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "put", tired)
        assert command.main(words(task, *GRID), inproc) == 130
    journal = task.with_name("sweep.json.partial.jsonl")
    assert len(journal.read_text().splitlines()) == 10
    again = swept(task, *GRID)
    assert [p.texts[0].tokens for p in again.points] == [p.texts[0].tokens for p in whole[0].points]
    assert not journal.exists()


def test_a_journal_of_something_else_is_refused(tmp_path: Path) -> None:
    """It names what differs and what to do; a line that was torn by a crash is written again."""
    path = tmp_path / "a.jsonl"
    Journal(path, {"task": "one"}).put("a", {"alpha_rb": float("inf")})
    with path.open("a") as file:
        file.write('{"key": "b", "va')
    found = Journal(path, {"task": "one"})
    assert found["a"] == {"alpha_rb": float("inf")}
    assert "b" not in found
    with pytest.raises(ConfigError, match="another task"):
        Journal(path, {"task": "two"})
    for broken in ("{}}\n", '{"task": "one"}\n{"value": 1}\n', "1\n2\n"):
        path.write_text(broken)
        with pytest.raises(ConfigError, match="remove it"):
            Journal(path, {"task": "one"})


def test_a_sweep_goes_on_with_the_same_texts_weights_and_settings_only(
    task: Path, tmp_path: Path
) -> None:
    """Whatever a piece depends on is in the journal's first line, under names: a refusal shows no prompt."""
    first = planned(asked(words(task, *GRID))[0])
    journal = tmp_path / "a.jsonl"
    Journal(journal, identity(first))
    for more in (["--alpha-fb", ".3,.7"], ["--front"], ["--measure"], ["--record", "large"],
                 ["--template", "Say {prompt}"], ["--max-new-tokens", "9"]):  # fmt: skip
        with pytest.raises(ConfigError, match="of a run with another"):
            Journal(journal, identity(planned(asked(words(task, *GRID, *more))[0])))
    items = tuple(dataclasses.replace(item, prompt="a secret") for item in first.items)
    with pytest.raises(ConfigError, match="another items") as refused:
        Journal(journal, identity(dataclasses.replace(first, items=items)))
    assert "secret" not in str(refused.value)
    assert "text number" not in journal.read_text()
    (tmp_path / "config.json").write_text("{}")
    of_files = dataclasses.replace(
        first, config=first.config.overlaid(small={"model": str(tmp_path)})
    )
    names = []
    for weights in (b"one", b"two"):
        (tmp_path / "model.safetensors").write_bytes(weights)
        names.append(identity(of_files)["small"]["weights"])
    assert names[0] != names[1]


BAD: dict[str, tuple[Sequence[str], str]] = {
    "no number": (["--alpha-fb", ".3,x"], "must be numbers"),
    "a threshold out of range": (["--alpha-fb", "1.5"], "alpha_fb"),
    "an empty place": (["--alpha-fb", ".5,,.7"], "--alpha-fb .5,,.7: value 2 of 3 is empty"),
    "a plot without a name": (["--plot", "."], "STEM makes STEM.png"),
    "a split without a name": (["--split", ""], "no split ''"),
    "an empty list": (["--mode", ""], "value 1 of 1 is empty"),
    "a negative threshold": (["--alpha-rb", "-1,2"], "alpha_rb = -1.0 must be"),
    "an unknown mode": (["--mode", "bidl"], "did you mean 'bild'"),
    "an unknown schedule": (["--schedule", "trough"], "did you mean 'through'"),
    "one text": (["--count", "1"], "at least 2"),
    "an unknown metric": (["--metric", "rougeM"], "rougeL"),
    "no references": (["--metric", "bleu"], "has no reference"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_words_are_named(name: str, task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, what was found and what is known, before a model is loaded."""
    more, said = BAD[name]
    assert command.main(words(task, *more), inproc) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("option", ['distance = "kl"', 'confidence = "margin"', "adapt = 0.2"])
def test_what_cannot_be_predicted_is_refused(
    option: str, task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its name: a recording has the largest probability and -ln p, and no other measure."""
    other = task.with_name("other.toml")
    other.write_text(f"[generate]\n{option}\n")
    assert command.main(words(task, "-c", str(other)), inproc) == 2
    assert f"generate.{option.partition(' ')[0]}" in capsys.readouterr().err


def test_a_plot_that_cannot_be_drawn_is_found_first(
    task: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that cannot be written, or a missing matplotlib, is named before anything runs."""
    assert command.main(words(task, "--plot", str(task / "plot")), inproc) == 2
    assert "--plot" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        assert command.main(words(task, "--plot", str(task.with_name("plot"))), inproc) == 2
    assert "matplotlib" in capsys.readouterr().err
    assert [path.name for path in task.parent.iterdir()] == ["task.jsonl", "house.toml"]


def test_a_file_of_something_else_is_no_sweep(tmp_path: Path) -> None:
    """It says so instead of failing somewhere inside."""
    file = tmp_path / "a.json"
    file.write_text('{"format": 1}')
    with pytest.raises(ConfigError, match="no file of `bild sweep`"):
        Study.read(file)
    file.write_text('{"format": 1, "kind": "sweep"}')
    with pytest.raises(ConfigError, match="no whole sweep"):
        Study.read(file)


def test_the_grid_is_as_large_as_it_must_be() -> None:
    """Thresholds make settings of mode `bild` only; one text serves every schedule."""
    grid = Grid(
        base=Options(), modes=(Mode.BILD, Mode.EXACT, Mode.LARGE), alpha_fb=(0.3, 0.6),
        alpha_rb=(1.0, 2.0), windows=(5, 10), schedules=(Schedule.PAPER, Schedule.THROUGH),
    )  # fmt: skip
    settings = grid.settings()
    assert len(settings) == 2 * 2 * 2 * 2 + 2 * 2 + 2
    assert len({rule(setting.options) for setting in settings}) == 2 * 2 * 2 + 1
    named = [s.name for s in settings if s.options.mode is not Mode.LARGE]
    assert len(set(named)) == len(named)


def test_the_front_holds_what_nobody_beats() -> None:
    """From the fastest on; slack keeps what would be on it if it were a little faster."""
    points = [(1.0, 5.0), (2.0, 7.0), (2.1, 6.9), (3.0, 6.0), (4.0, 9.0), (4.0, 9.0)]

    def found(slack: float) -> list[tuple[float, float]]:
        return front(points, quality=lambda p: p[1], latency=lambda p: p[0], slack=slack)

    assert found(0.0) == [(1.0, 5.0), (2.0, 7.0), (4.0, 9.0), (4.0, 9.0)]
    assert (2.1, 6.9) in found(0.1)
    assert (3.0, 6.0) not in found(0.1)


def test_a_plot_needs_something_to_draw(whole: tuple[Study, Path]) -> None:
    """A metric that nothing was judged by is refused, with those that are known."""
    study, folder = whole
    with pytest.raises(ConfigError, match="bleu"):
        plot.draw(study, folder / "other", "bleu")


def test_a_dollar_is_a_dollar(whole: tuple[Study, Path]) -> None:
    """In the path of a task, and not the beginning of a formula."""
    study, folder = whole
    named = dataclasses.replace(study, task="$x^{$ $")
    assert all(path.exists() for path in plot.draw(named, folder / "dollar"))


def test_no_name_lies_on_a_point(whole: tuple[Study, Path]) -> None:
    """What is drawn is named in the legend, mode exact and the large model too."""
    study, folder = whole
    _, path = plot.draw(study, folder / "named")
    svg = path.read_text("utf-8")
    legend = svg.partition('<g id="legend_1">')[2]
    for name in ("large", "one point below large"):
        assert f">{name}</text>" in legend
        assert svg.count(f">{name}</text>") == 1


def test_curves_are_in_the_order_of_numbers() -> None:
    """10 comes behind 2."""
    points = [
        Point(setting=Setting.of(Options(alpha_rb=alpha_rb)), played=())
        for alpha_rb in (10.0, 1.0, 2.0)
    ]
    titles = [title for title, _ in plot.curves(points).found]
    assert titles == ["alpha_rb 1", "alpha_rb 2", "alpha_rb 10"]


def test_defaults_are_a_whole_grid(task: Path) -> None:
    """Asked for nothing, a sweep tries the thresholds of the paper's range, on what schedule the workers settle."""
    found, _ = asked(words(task))
    assert len(found.grid.settings()) == 35
    assert found.grid.schedules == ()
    assert found.grid.settled(Schedule.THROUGH).first is Schedule.THROUGH
    assert len(planned(found).items) == 3


def test_a_study_leaves_its_texts_in_the_file(whole: tuple[Study, Path], tmp_path: Path) -> None:
    """They are read each time that somebody asks, and again after the file was read; the file is one JSON
    object all the same, and one that somebody has formatted is read too.
    """
    study, folder = whole
    again = Study.read(folder / "sweep.json")
    for point, same in zip(study.points, again.points, strict=True):
        assert isinstance(same.texts, Texts)
        assert tuple(point.texts) == tuple(same.texts) == same.texts[:]
    whole_object = json.loads((folder / "sweep.json").read_text("utf-8"))
    copy = tmp_path / "formatted.json"
    copy.write_text(json.dumps(whole_object, indent=1), "utf-8")
    assert Study.read(copy).as_dict() == study.as_dict()
    copy.write_bytes((folder / "sweep.json").read_bytes())
    left = Study.read(copy)
    copy.write_text("{}")
    with pytest.raises(ConfigError, match="was changed while it was in use"):
        tuple(left.points[0].texts)


@pytest.mark.parametrize("cut", [0.3, 0.7, 0.999])
def test_a_sweep_that_was_cut_off_is_refused(
    whole: tuple[Study, Path], tmp_path: Path, cut: float
) -> None:
    """Wherever a copy broke off: in the recording, in a setting, or just before its end."""
    text = (whole[1] / "sweep.json").read_text("utf-8")
    file = tmp_path / "cut.json"
    file.write_text(text[: int(len(text) * cut)], "utf-8")
    with pytest.raises(ConfigError, match=r"cut\.json"):
        Study.read(file)


def test_a_setting_that_lacks_texts_is_refused(whole: tuple[Study, Path], tmp_path: Path) -> None:
    """By its name, instead of failing where two lists are compared."""
    study, _ = whole
    short = [dataclasses.replace(p, texts=tuple(p.texts)[1:]) for p in study.points]
    file = tmp_path / "short.json"
    dataclasses.replace(study, points=tuple(short)).write(file)
    with pytest.raises(ConfigError, match=f"{study.points[0].setting.name} has 2 texts for 3"):
        Study.read(file)
