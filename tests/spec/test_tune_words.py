"""What `bild tune` says of what it has found, and where it has found nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bild_dist.app import inproc
from bild_dist.errors import ConfigError
from bild_dist.evaluation.metrics.base import mean
from bild_dist.evaluation.sweep import timing
from bild_dist.evaluation.tune import main as command
from bild_dist.evaluation.tune.choice import Choice, Evidence, Floor, bounds
from bild_dist.evaluation.tune.main import Tune, nearest_to, planned_tune
from bild_dist.simulator import Costs
from tests.spec.test_tune import ANY, evidence, splits, words


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return splits(tmp_path)


def test_what_seems_above_the_floor_is_not_called_near_it() -> None:
    """Few texts cannot tell it from luck: the message says how far above it seems, and the bound that is not."""
    floor = Floor("bleu", -2.0)
    few = evidence(6, [2.0, 9.0], 1, floor)
    lower = bounds(few, check=6, confidence=0.95)[floor]
    assert lower.max() < 0 < few.margins(floor)[0]
    said = nearest_to(floor, few, lower)
    assert "loses 2, which seems to lie" in said
    assert "points above it, but 6 texts are too few to be sure: it may lie " in said
    assert said.endswith(" points below it.")


def test_what_is_below_the_floor_is_said_to_be() -> None:
    """And by how much, as a share where the floor is one."""
    floor = Floor("rougeL", 0.99)
    far = evidence(50, [4.0, 9.0], 1, floor)
    lower = bounds(far, check=50, confidence=0.95)[floor]
    assert "of the large model's figure below it on these 50 texts" in nearest_to(floor, far, lower)


def test_an_answer_of_an_earlier_run_is_called_one(
    task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nothing is found the file of another floor is no answer, and it does not look like one."""
    out = task.with_name("tuned.toml")
    arguments = words(task, "--floor", "agreement=1", "--alpha-rb", "9")
    assert command.main(arguments, inproc) == 1
    assert "earlier run" not in capsys.readouterr().out
    out.write_text("# of another floor\n")
    assert command.main(arguments, inproc) == 1
    assert f"{out} is of an earlier run, and no answer to this one" in capsys.readouterr().out
    assert out.read_text() == "# of another floor\n"


def test_a_check_that_fails_says_what_to_do_first(
    task: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More texts or others to check on; that a second choice checked on the same texts is worth less. And the
    speed of the choice is called predicted where it is.
    """

    async def timed(*_: Any) -> Costs:
        # On a busy machine toys may take as long as one another.
        return Costs(small_ns=50_000, large_ns=4_000_000)

    monkeypatch.setattr(timing, "measured", timed)
    monkeypatch.setattr(Tune, "_verdict", lambda *_: ([], False, 2.0))
    monkeypatch.setattr(Tune, "_checked", lambda *_: None)
    task.with_name("tuned.toml").write_text("")
    assert command.main(words(task, *ANY), inproc) == 1
    said = capsys.readouterr().out
    assert "times the speed of large (predicted)." in said
    assert said.index("--test-split") < said.index("mode exact") < said.index("a lower floor")
    assert "of several tries one passes by luck" in said
    assert "is of an earlier run" in said


def test_a_share_of_nothing_is_said_to_be_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the large model itself has a figure of 0 more texts change nothing: the references or the wording are
    to be looked at, and the refusal says so.
    """
    file = tmp_path / "task.jsonl"
    lines = [{"id": f"t{n}", "prompt": f"number {n}", "reference": "zzz"} for n in range(8)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert command.main(words(file, "--floor", "rougeL=0.9"), inproc) == 1
    said = capsys.readouterr().out
    assert "rougeL=0.9: the rougeL of the large model itself is 0 on these 4 texts" in said
    assert "references" in said
    assert "it never moves" not in said
    assert "more texts" not in said


@pytest.mark.parametrize(("exact", "confirmed"), [(False, False), (True, True)])
def test_a_share_of_nothing_confirms_nothing(
    task: Path, exact: bool, confirmed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check in which the large model's figure is 0 says nothing, but of texts that are its own by definition."""
    floor = Floor("rougeL", 0.9)
    few = evidence(6, [2.0], 1, floor, exact=exact)
    nothing = replace(few, own={floor: mean([0.0] * 6, "")})
    assert (nothing.mute(floor), few.mute(floor)) == (True, False)
    monkeypatch.setattr(Evidence, "of", lambda *_: nothing)
    tune = Tune(planned_tune(words(task, "--floor", str(floor))), inproc)
    found = Choice(place=0, name="a", speed=1.0, margins={}, lower={floor: 0.1}, passed=1)
    study: Any = SimpleNamespace(split="test", items=range(6))
    lines, met, _ = tune._verdict(found, study)
    assert met is confirmed
    assert ("says nothing" in lines[0]) is not confirmed


@pytest.mark.parametrize("split", ["", "tset"])
def test_a_split_to_check_on_is_looked_for_at_once(task: Path, split: str) -> None:
    """Not behind the hours of the choice, and an empty word is no word left out."""
    with pytest.raises(ConfigError, match=f"has no split '{split}'"):
        planned_tune(words(task, "--floor", "agreement=0.5", "--test-split", split))
