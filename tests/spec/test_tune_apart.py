"""`bild tune` checks on texts that it has not chosen by, wherever the two come from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bild_dist.app import inproc
from bild_dist.errors import ConfigError
from bild_dist.evaluation.sweep import main as sweep
from bild_dist.evaluation.tune.main import Tune, planned_tune
from tests.spec.test_tune import ANY, words


def ids(*argv: str) -> list[list[str]]:
    """Of the texts to choose by, and of those to check on."""
    command = Tune(planned_tune(argv), inproc)
    found = command._chosen_from() if "--from" in argv else command._sweeps()
    return [[item.id for item in one.items] for one in found]


def task(folder: Path, *lines: tuple[str, str]) -> Path:
    """A file of prompts and splits, each with an id of its own."""
    file = folder / "task.jsonl"
    said = [{"id": str(n), "prompt": p, "split": s} for n, (p, s) in enumerate(lines)]
    file.write_text("".join(json.dumps(one) + "\n" for one in said))
    return file


def test_a_prompt_of_both_splits_is_not_checked_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The check takes as many others as there are, and the command says how many it left out."""
    chosen_by = [(f"number {n}", "validation") for n in range(3)]
    checked_on = [(f"number {n}", "test") for n in range(6)]
    file = task(tmp_path, *chosen_by, *checked_on)
    assert ids(*words(file, *ANY, "--test-count", "2")) == [["0", "1", "2"], ["6", "7"]]
    assert "2 of the texts to check on are among those of the choice" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="without them 0 are left: take another --test-split"):
        ids(*words(task(tmp_path, *chosen_by, *checked_on[:3]), *ANY))


def test_halves_share_no_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that has every prompt twice has nothing to check on; one that has some twice has less."""
    twice = task(tmp_path, *((f"number {n // 2}", "all") for n in range(8)))
    with pytest.raises(ConfigError, match="without them 0 are left: add texts with other prompts"):
        ids(*words(twice, *ANY))
    some = task(tmp_path, *((f"number {max(n, 1)}", "all") for n in range(8)))
    assert ids(*words(some, *ANY)) == [list("0246"), list("357")]
    assert "1 of the texts to check on" in capsys.readouterr().out


def test_a_count_to_check_on_holds_for_a_half_too(tmp_path: Path) -> None:
    """It is not passed over in silence."""
    file = task(tmp_path, *((f"number {n}", "all") for n in range(8)))
    assert ids(*words(file, *ANY, "--test-count", "2")) == [list("0246"), list("13")]


def test_the_rest_of_a_file_can_be_checked_on(tmp_path: Path) -> None:
    """A sweep of a whole file of one split leaves nothing, and the refusal says what does."""
    file, out = task(tmp_path, *((f"number {n}", "all") for n in range(7))), tmp_path / "sweep.json"
    made = words(file, "--metric", "agreement", "--out", str(out))
    given = words(file, *ANY, "--from", str(out))
    assert sweep.main(made, inproc) == 0
    with pytest.raises(ConfigError, match="bild sweep --count N"):
        ids(*given)
    out.unlink()
    assert sweep.main([*made, "--count", "4"], inproc) == 0
    assert ids(*given) == [list("0123"), list("456")]
