"""`bild tune`: what is chosen holds on other texts, and what cannot be promised is not chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bild_dist.app import inproc
from bild_dist.config import Config, configured
from bild_dist.errors import ConfigError
from bild_dist.evaluation.metrics.base import mean
from bild_dist.evaluation.tune import main as command
from bild_dist.evaluation.tune import settings
from bild_dist.evaluation.tune.choice import Evidence, Floor, chosen
from bild_dist.types import Mode, Options, Schedule

FLOOR = Floor("rougeL", 0.97)
TOYS = ("--small", "toy:small?seed=1&f=0.3&end=0.03", "--large", "toy:large?seed=1&f=0.3&end=0.03")


def evidence(count: int, losses: list[float], seed: int, *floors: Floor) -> Evidence:
    """Settings that are the faster the more they lose, on `count` made-up texts. `losses`: mean points
    that each falls below the large model, whose texts have 50 on average.
    """
    chance = np.random.default_rng(seed)
    own = np.clip(chance.normal(50, 15, count), 1, 100)
    hurt = chance.random(count) < 0.4  # the texts that a change touches are the same for all
    scores = [
        own - hurt * chance.exponential(1.0, count) * loss / 0.4 if loss else own for loss in losses
    ]
    floors = floors or (FLOOR,)
    walls = np.array([np.full(count, 100.0 - 10 * n) for n in range(len(losses))])
    return Evidence(
        names=tuple(f"loses {loss:g}" for loss in losses), floors=floors,
        marks={f: tuple(mean(list(s), "") for s in scores) for f in floors},
        own={f: mean(list(own), "") for f in floors},
        walls_ns=walls, large_ns=np.full(count, 200.0),
    )  # fmt: skip


LOSSES = [0.0, 0.4, 0.8, 1.2, 1.4, 1.6, 2.0, 4.0]


def test_what_is_chosen_holds_on_other_texts() -> None:
    """Of 60 choices on one half of made-up texts at most 3 + 3 fall below the floor on the other: more
    than 6 of 60 at a chance of 5 % each has a chance of 3 %, and these are seeded.
    """
    missed = 0
    for seed in range(60):
        everything = evidence(200, LOSSES, seed)
        order = np.random.default_rng(seed).permutation(200)
        found = chosen(everything.only(order[:100]), check=100, confidence=0.95, seed=seed)
        assert found is not None
        missed += not everything.only(order[100:]).met()[found.place]
    assert missed <= 6


def test_more_texts_allow_a_faster_choice() -> None:
    """Caution is about what is not known: sixteen times the texts need a quarter of the distance from
    the floor.
    """
    few = chosen(evidence(50, [0.4], 3), check=50, confidence=0.95)
    many = chosen(evidence(800, [0.4], 3), check=800, confidence=0.95)
    assert few is not None
    assert many is not None
    assert many.margins[FLOOR] - many.lower[FLOOR] < 0.5 * (few.margins[FLOOR] - few.lower[FLOOR])


def test_the_fastest_that_passes_is_taken() -> None:
    """Not the best, and not the last of the grid."""
    found = chosen(evidence(500, [0.0, 0.1, 0.2, 9.0], 1), check=500, confidence=0.95)
    assert found is not None
    assert (found.name, found.passed) == ("loses 0.2", 3)
    assert 0 <= found.lower[FLOOR] < found.margins[FLOOR]


def test_many_settings_make_it_careful() -> None:
    """The more settings luck can pick from, the more each has to show."""
    one = chosen(evidence(200, [0.5], 5), check=200, confidence=0.95)
    rivals = chosen(evidence(200, [0.5, *[2.5] * 20], 5), check=200, confidence=0.95)
    assert one is not None
    assert rivals is None or rivals.lower[FLOOR] <= one.lower[FLOOR]


def test_nothing_is_chosen_where_nothing_is_sure() -> None:
    """Then the answer is none, and not the least bad."""
    assert chosen(evidence(50, [3.0, 4.0], 1), check=50, confidence=0.95) is None


def test_a_text_that_is_the_large_models_own_always_passes() -> None:
    """Mode `exact` meets any floor of at most 1, however few the texts are."""
    found = chosen(evidence(3, [0.0], 1, Floor("rougeL", 1.0)), check=3, confidence=0.95)
    assert found is not None


def test_all_floors_count() -> None:
    """With two floors the stricter one decides."""
    strict = Floor("bleu", -0.1)
    assert chosen(evidence(300, [1.0], 2), check=300, confidence=0.95) is not None
    assert chosen(evidence(300, [1.0], 2, FLOOR, strict), check=300, confidence=0.95) is None


def test_a_floor_is_a_share_or_points() -> None:
    """Above 0 it is a share of the large model's figure, at 0 or below points less than it."""
    scores, own = np.array([49.0]), np.array([50.0])
    assert Floor.parse("rougeL=0.99").margin(scores, own)[0] == pytest.approx(-0.01)
    assert Floor.parse("bleu=-1.5").margin(scores, own)[0] == pytest.approx(0.5)
    assert str(Floor.parse(" bleu = -0.5 ")) == "bleu=-0.5"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rogueL=0.99", "did you mean 'rougeL'"), ("perplexity=0.9", "unknown"), ("bleu", "write"),
        ("bleu=x", "write"), ("bleu=1.5", "at most 1"), ("bleu=nan", "write"),
    ],
)  # fmt: skip
def test_a_floor_that_is_none_is_named(text: str, said: str) -> None:
    """An unknown metric with the nearest name, a number that cannot be one with what can."""
    with pytest.raises(ConfigError, match=said):
        Floor.parse(text)


def test_a_setting_can_be_written_and_read(tmp_path: Path) -> None:
    """What is written is what `bild generate -c` reads: models, threads and every option."""
    config = Config().overlaid(
        small={"model": "toy:small?seed=1", "threads": 2, "ignore_generation": ("top_k",)},
        large={"model": "toy:large?seed=1", "dtype": "bfloat16"},
        orchestrator={"transport": "grpc"},
    )
    options = Options(
        mode=Mode.BILD, alpha_fb=0.35, alpha_rb=float("inf"), schedule=Schedule.PAPER,
        verify_tail=False, tgt_lang="de", stop=('a "b"',),
    )  # fmt: skip
    file = tmp_path / "a.toml"
    settings.write(file, settings.as_toml(config, options, ["made\nby hand"]))
    assert configured(str(file)) == config.overlaid(
        generate={name: getattr(options, name) for name in Options.__slots__}
    )
    exact = settings.as_toml(config, Options(mode=Mode.EXACT), [])
    assert "alpha_fb" not in exact


@pytest.fixture
def task(tmp_path: Path) -> Path:
    file = tmp_path / "task.jsonl"
    lines = [json.dumps({"id": f"t{n}", "prompt": f"text number {n}"}) for n in range(4)]
    file.write_text("\n".join(lines) + "\n")
    return file


def words(task: Path, *more: str) -> list[str]:
    house = task.with_name("house.toml")
    house.write_text('[orchestrator]\ntransport = "inproc"\n')
    return [*TOYS, "-c", str(house), "--task", str(task), "--max-new-tokens", "16",
            "--alpha-fb", ".5", "--alpha-rb", "0,9", "--schedule", "paper",
            "--out", str(task.with_name("tuned.toml")), *more]  # fmt: skip


def test_a_pair_is_tuned_in_one_command(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of one split is halved; the setting that replaces whatever the large model would not
    write is the one that stays above a high floor, and the file says how it was found.
    """
    assert command.main(words(task, "--floor", "agreement=0.999"), inproc) == 0
    said = capsys.readouterr().out
    assert "bild 0.5/0" in said
    text = task.with_name("tuned.toml").read_text()
    assert "# Made by: bild tune" in text
    found = configured(str(task.with_name("tuned.toml")))
    assert (found.generate.alpha_fb, found.generate.alpha_rb) == (0.5, 0.0)
    assert found.large.model == TOYS[3]


def test_no_setting_is_an_answer(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, no file, how near the best came, and what is left to do."""
    arguments = words(task, "--floor", "agreement=1", "--alpha-rb", "9")
    assert command.main(arguments, inproc) == 1
    said = capsys.readouterr().out
    assert "No setting" in said
    assert "--mode exact" in said
    assert not task.with_name("tuned.toml").exists()


BAD: dict[str, tuple[list[str], str]] = {
    "an unknown floor": (["--floor", "agreemint=0.9"], "did you mean 'agreement'"),
    "no references": (["--floor", "bleu=-1"], "has no reference"),
    "a confidence of 1": (["--floor", "agreement=0.9", "--confidence", "1"], "below 1"),
    "no sweep": (["--floor", "agreement=0.9", "--from", "nowhere.json"], "cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_words_are_named(name: str, task: Path, capsys: pytest.CaptureFixture[Any]) -> None:
    """Exit code 2, what was found and what is known, before a model is loaded."""
    more, said = BAD[name]
    assert command.main(words(task, *more), inproc) == 2
    assert said in capsys.readouterr().err


def test_what_is_finished_is_not_made_again(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command a second time writes no text: an interrupted one goes on behind its last
    finished sweep.
    """
    arguments = words(task, "--floor", "agreement=0.5")
    assert command.main(arguments, inproc) == 0
    before = task.with_name("tuned.toml").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(command, "swept", None)
        assert command.main(arguments, inproc) == 0
    assert task.with_name("tuned.toml").read_text() == before
