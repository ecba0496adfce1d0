"""The encoder-decoder recipe's measuring step: what it says of numbers that are known beforehand."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from bild_dist.errors import ConfigError, WorkerFault
from bild_dist.evaluation.align.models import Source
from bild_dist.evaluation.bench.contestants import Peer
from bild_dist.evaluation.bench.job import Job, Outcome, refusal
from bild_dist.evaluation.corpora import named
from bild_dist.evaluation.corpora.named import Example
from bild_dist.types import Mode
from tests.tiny import write_model
from tests.tiny_tokenizers import TEXT, TOKENIZERS

RECIPE = Path(__file__).parents[2] / "recipes" / "debian-t5"
TEXTS = (
    "a small tool that counts the words of a file",
    "the library reads and writes compressed archives",
    "this package holds the documentation of the server",
    "a game for two players on a board of stones",
)
COST_MS = {"generate": 100, "large": 110, "exact": 60, "bild": 40, "small": 20, "assisted": 80}


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The recipe's modules, which import each other by their bare names as a script's do."""
    monkeypatch.syspath_prepend(str(RECIPE))
    names = [file.stem for file in RECIPE.glob("*.py")]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield {name: importlib.import_module(name) for name in ("lineup", "scores", "measure", "ties")}
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)


class Stage:
    """Plays every contestant: known times and texts. Owner of what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fails: set[str] = set()
        self.stop_after = 10**9

    def __call__(self, job: Job) -> Outcome:
        if len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        contestant = job.contestant
        kind = (contestant.peer or contestant.mode).value
        aligned = job.config.small.model.endswith("/aligned")
        self.asked.append(f"{kind} {'aligned' if aligned else 'unaligned'}")
        if kind in self.fails:
            return refusal(WorkerFault("no room"))
        rollbacks = 1 if aligned else 3
        trace = None
        if contestant.peer is None:
            trace = {"fallbacks": 2, "rollbacks": rollbacks if kind == "bild" else 0, "windows": 0,
                     "guessed": 4, "hits": 2, "drafted": 10, "wasted": 2}  # fmt: skip
        worse = kind == "bild" and not aligned
        said = [text.replace("the", "one") if worse else text for text in TEXTS]
        wall_ns = COST_MS[kind] * 1_000_000
        texts = [
            {"tokens": [len(word) for word in text.split()], "text": text, "wall_ns": wall_ns,
             "first_token_ns": 1, "trace": trace, "critical_ns": None}
            for text in said
        ]  # fmt: skip
        return {
            "texts": texts, "wall_ns": wall_ns * len(texts), "cpu_ns": None, "answers": None,
            "large_passes": 9, "memory": {}, "runs_on": "a stage",
        }  # fmt: skip


@pytest.fixture
def stage(
    recipe: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> tuple[Stage, Any]:
    """The stage in place of real processes, and what runs the step: words in, exit code out."""
    played = Stage()
    measure = recipe["measure"]
    monkeypatch.setattr(measure, "measured", played)
    monkeypatch.setattr(
        named, "load", lambda name, split: [Example(text, text, text) for text in TEXTS]
    )
    for name in ("large", "unaligned", "aligned"):
        write_model(tmp_path / name, "t5", layers=1)

    def run(*words: str) -> int:
        models = [
            w for n in ("large", "unaligned", "aligned") for w in (f"--{n}", str(tmp_path / n))
        ]
        out = ["--corpus", "debian-de-en", "--setting", "0.5/3", "--out", str(tmp_path / "o.json")]
        return int(measure.main([*models, *out, *words]))

    return played, run


def report(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "o.json").read_text())
    return found


def test_everybody_takes_part_with_each_small_model(recipe: dict[str, ModuleType]) -> None:
    """The large model alone once, everything else once a small model and setting: names tell them
    apart, because figures are kept by name.
    """
    lineup = recipe["lineup"]
    settings = [lineup.Setting(0.7, 2), lineup.Setting(0.3, 4)]
    names = [entry.name for entry in lineup.lineup(["unaligned", "aligned"], settings, None)]
    assert len(names) == len(set(names)) == 1 + 2 + 1 + 2 + 2 + 4
    assert names[0] == "generate"
    assert {"large", "assisted aligned", "exact unaligned", "bild aligned 0.3/4"} <= set(names)


def test_a_job_has_the_thresholds_and_threads_of_its_entry(recipe: dict[str, ModuleType]) -> None:
    """Both workers and transformers get the same number of threads, which is what is claimed."""
    lineup = recipe["lineup"]
    desk = lineup.Desk(
        models={"large": "l", "aligned": "a"}, tasks=(), threads=2, device="cpu", dtype="float32",
        max_new_tokens=9,
    )  # fmt: skip
    field = lineup.lineup(["aligned"], [lineup.Setting(0.3, 4)], None)
    jobs = {entry.name: desk.job(entry) for entry in field}
    assert {(j.config.large.threads, j.config.small.threads) for j in jobs.values()} == {(2, 2)}
    options = jobs["bild aligned 0.3/4"].options()
    assert (options.alpha_fb, options.alpha_rb, options.mode) == (0.3, 4, Mode.BILD)
    assert jobs["assisted aligned"].contestant.peer is Peer.ASSISTED
    with pytest.raises(ConfigError, match="ALPHA_FB/ALPHA_RB"):
        lineup.Setting.read("0.3")


def test_intervals_hold_the_figure_and_compare_the_same_sentences(
    recipe: dict[str, ModuleType],
) -> None:
    """A contestant with the base's texts differs by nothing in every resample; one with worse texts
    is below, interval and all.
    """
    judge = recipe["scores"].Judge(TEXTS)
    halves = [text.rsplit(" ", 3)[0] + " and more of it" for text in TEXTS]
    base, same, worse = judge.marks(TEXTS), judge.marks(TEXTS), judge.marks(halves)
    assert base.bleu == pytest.approx(100)
    assert base.rouge_l == pytest.approx(100)
    assert same.against(base)["bleu_difference_interval"] == [0, 0]
    low, high = worse.interval
    assert low <= worse.bleu <= high
    against = worse.against(base)
    assert against["bleu_difference_interval"][1] < 0
    assert {against[rule] for rule in ("inside", "not_below", "within_one_point")} == {False}


def test_resamples_are_sacrebleus_own_numbers(recipe: dict[str, ModuleType]) -> None:
    """The BLEU of a resample is what sacrebleu gives for the sentences in it: summing their counts
    is no other measure.
    """
    from sacrebleu.metrics.bleu import BLEU

    scores = recipe["scores"]
    judge = scores.Judge(TEXTS)
    said = [TEXTS[0], TEXTS[1].replace("reads and", "reads or"), TEXTS[2][:30], TEXTS[3]]
    resampled = judge.marks(said)._resampled
    for drawn, bleu in zip(judge._drawn[:20], resampled[:20], strict=True):
        picked = [n for n, times in enumerate(drawn) for _ in range(times)]
        direct = BLEU().corpus_score([said[n] for n in picked], [[TEXTS[n] for n in picked]])
        assert bleu == pytest.approx(direct.score)


def test_speed_ups_are_within_a_round_and_the_best_keeps_the_quality(
    stage: tuple[Stage, Any], tmp_path: Path
) -> None:
    """The fastest is the one among those that lose nothing, not the fastest of all; and at equal
    thresholds the two small models are held against each other.
    """
    played, run = stage
    assert run("--rounds", "2") == 0
    found = report(tmp_path)
    assert found["complete"]
    rows = {row["name"]: row for row in found["contestants"]}
    assert rows["exact aligned"]["figures"]["speedup"]["median"] == 1.66667
    assert not rows["bild unaligned 0.5/3"]["quality"]["within_one_point"]
    best = found["best"]["not_below_the_interval_of_large"]
    assert (best["name"], best["speedup"]) == ("bild aligned 0.5/3", 2.5)
    compared = {line["way"]: line for line in found["aligned_against_unaligned"]}
    assert compared["bild 0.5/3"]["fewer_rollbacks"]
    half = len(played.asked) // 2
    assert played.asked[half:] == played.asked[:half][::-1]


def test_an_interrupted_measurement_goes_on_with_its_rounds(
    stage: tuple[Stage, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is complete is neither lost nor measured twice; other models are another measurement, which says
    what it writes over.
    """
    played, run = stage
    played.stop_after = 13
    assert run("--rounds", "2") == 130
    assert not report(tmp_path)["complete"]
    once = len(report(tmp_path)["rounds"][0]["contestants"])
    played.asked.clear()
    played.stop_after = 10**9
    assert run("--rounds", "2") == 0
    assert len(played.asked) == once
    assert report(tmp_path)["complete"]
    shutil.rmtree(tmp_path / "aligned")
    write_model(tmp_path / "aligned", "t5", layers=1, seed=5)
    played.asked.clear()
    capsys.readouterr()
    assert run("--rounds", "1") == 0
    assert len(played.asked) == once
    said = capsys.readouterr().err
    assert "round-1.json is of another measurement (models.aligned.sha256 was" in said
    assert "written over" in said


def test_who_cannot_take_part_is_named_and_the_others_are_measured(
    stage: tuple[Stage, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program that refuses the pair leaves the figures of the rest whole."""
    played, run = stage
    played.fails = {"assisted"}
    assert run("--rounds", "1") == 1
    rows = {row["name"]: row for row in report(tmp_path)["contestants"]}
    assert rows["assisted aligned"]["error"]["message"] == "no room"
    assert "speedup" in rows["exact aligned"]["figures"]
    assert "assisted aligned: no room" in capsys.readouterr().out


def test_a_missing_model_is_said_before_anything_starts(
    stage: tuple[Stage, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which one, and what to do."""
    played, run = stage
    shutil.rmtree(tmp_path / "aligned")
    assert run() == 2
    assert "make that step first" in capsys.readouterr().err
    assert not played.asked


def test_a_difference_is_excused_only_at_a_tie(
    recipe: dict[str, ModuleType], tmp_path: Path
) -> None:
    """The first position at which two texts part, with the large model's own gap there: a text that
    parts where the model is sure is counted as no tie.
    """
    folder = write_model(tmp_path / "large", "t5", tokenizer=True)
    own = [{"tokens": [5, 9, 7]}, {"tokens": [5, 9]}]
    other = [{"tokens": [5, 8, 7]}, {"tokens": [5, 9]}]
    found = recipe["ties"].differences(str(folder), ["one", "two"], own, {"exact": other})
    assert (found["exact"]["differing"], found["exact"]["ties"]) == (1, 0)
    row = found["exact"]["list"][0]
    assert (row["text"], row["position"], row["own"], row["other"]) == (0, 1, 9, 8)
    assert row["gap_nats"] > 1e-4


def test_a_step_whose_result_is_there_is_skipped(tmp_path: Path) -> None:
    """`make align` with both models there trains neither again, however old they are."""
    for name in ("large", "small-unaligned"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
    said = subprocess.run(
        ["make", "-n", "-C", str(RECIPE), "align", f"WORK={tmp_path}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "bild align" in said
    assert "scratch.py" not in said


def test_a_deep_model_grows_out_of_a_shallow_one(
    recipe: dict[str, ModuleType], tmp_path: Path
) -> None:
    """Each decoder layer becomes several in a row that add a share of what it added; the encoder
    and the embedding stay.
    """
    scratch = importlib.import_module("scratch")
    shallow = Source(model=str(write_model(tmp_path / "a", "t5", layers=2))).load()
    deep = Source(model=str(write_model(tmp_path / "b", "t5", layers=6, seed=1))).load()
    scratch.grow(deep, shallow)
    assert torch.equal(deep.shared.weight, shallow.shared.weight)
    for n, block in enumerate(deep.decoder.block):
        old, new = shallow.decoder.block[n // 3].layer, block.layer
        assert torch.equal(new[1].EncDecAttention.q.weight, old[1].EncDecAttention.q.weight)
        assert torch.allclose(new[2].DenseReluDense.wo.weight * 3, old[2].DenseReluDense.wo.weight)
    with pytest.raises(SystemExit, match="whole multiple"):
        scratch.grow(deep, Source(model=str(write_model(tmp_path / "c", "t5", layers=4))).load())


def test_a_run_from_nothing_goes_on_with_its_own_settings_only(
    recipe: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Whatever is chosen counts, and what is learned from; what another shape would end in, too."""
    words = TEXT.split()
    examples = [
        Example(str(n), " ".join(words[n : n + 4]), " ".join(words[n + 1 : n + 4]))
        for n in range(40)
    ]
    monkeypatch.setattr(named, "load", lambda name, split: examples)
    (tmp_path / "tokenizer").mkdir()
    TOKENIZERS["t5"](tmp_path / "tokenizer")
    scratch = importlib.import_module("scratch")

    def run(*more: str) -> int:
        return scratch.main([  # type: ignore[no-any-return]
            "--corpus", "x", "--tokenizer", str(tmp_path / "tokenizer"), "--out", str(tmp_path / "out"),
            "--encoder-layers", "1", "--decoder-layers", "1", "--width", "24", "--inner", "32", "--heads", "6",
            "--dtype", "float32", "--threads", "1", "--tokens", "256", "--minutes", "1e-9", *more,
        ])  # fmt: skip

    assert run() == 0
    for option, other in (
        ("dropout", "0.5"),
        ("dtype", "bfloat16"),
        ("inner", "64"),
        ("heads", "4"),
    ):
        assert run(f"--{option}", other) == 2
        assert f"holds a run with {option} = " in capsys.readouterr().err
    del examples[-1]
    assert run() == 2
    assert "holds a run with lessons = '40 texts" in capsys.readouterr().err
