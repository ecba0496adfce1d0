"""`bild eval` over toys in this process: what is measured, what is kept, and what is refused."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from bild_dist.app import inproc
from bild_dist.config import WorkerConfig
from bild_dist.errors import ConfigError, InvalidRequest
from bild_dist.evaluation.metrics.reading import Reading, nats
from bild_dist.evaluation.run import main as front
from bild_dist.evaluation.run.options import planned, taught_prefixes
from bild_dist.evaluation.run.record import Failure, Record, Setting
from bild_dist.evaluation.run.running import BLOCK, steps, write
from bild_dist.evaluation.tasks.base import Item
from bild_dist.types import Mode, Options
from tests.tiny import write_model

SPEC = "seed=1&f=0.3&end=0.05"
TOYS = ("--small", f"toy:small?{SPEC}", "--large", f"toy:large?{SPEC}", "--transport", "inproc")
ITEMS = [Item(str(n), f"text number {n}", ("a text", "a number")) for n in range(1, 8)]


@pytest.fixture(autouse=True)
def _signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command takes over SIGTERM, which is pytest's here."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)


def task_file(folder: Path, *more: dict[str, Any]) -> str:
    file = folder / "task.jsonl"
    records = [{"prompt": item.prompt, "references": item.references} for item in ITEMS]
    file.write_text("".join(json.dumps(r) + "\n" for r in [*records, *more]), "utf-8")
    return str(file)


def evaluate(folder: Path, *words: str, out: str = "out.json", **more: Any) -> tuple[int, Path]:
    file = folder / out
    task = more.get("task") or task_file(folder)
    argv = ["--task", task, "--out", str(file), *TOYS, "--max-new-tokens", "20", *words]
    return front.main(argv, inproc), file


def partial_of(file: Path) -> Path:
    return file.with_name(file.name + ".partial.jsonl")


def test_a_run_is_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both the setting and the large model alone, text by text, with quality against references and
    against each other, times, and who wrote; and a table of it.
    """
    code, file = evaluate(tmp_path, "--alpha-fb", "0.7", "--name", "mine")
    assert code == 0
    record = Record.read(file)
    assert (record.task, record.split) == (str(tmp_path / "task.jsonl"), "all")
    assert record.setting.name == "mine"
    assert record.setting.options.alpha_fb == 0.7
    assert record.large is not None
    assert [text.id for text in record.texts] == [item.id for item in ITEMS]
    assert {text.id for text in record.large.texts} == {item.id for item in ITEMS}
    for text in record.texts:
        assert len(text.tokens) == len(text.sources) == len(text.confidences) == len(text.distances)
        assert text.wall_ns == text.walls_ns[0] > 0
    figures = record.figures
    assert {"bleu", "rougeL", "chrf", "agreement", "latency_ms", "speedup"} <= figures.keys()
    assert figures["bleu"]["difference"]["of"] == "large"
    assert "nrefs:2" in figures["bleu"]["signature"]
    assert figures["speedup"]["low"] <= figures["speedup"]["value"] <= figures["speedup"]["high"]
    assert record.large.figures["agreement"]["value"] == 1
    assert record.large.figures["speedup"]["value"] == 1
    assert record.models["large"]["kind"] == "decoder"
    assert record.environment["command"].startswith("bild eval --task")
    assert not partial_of(file).exists()
    said = capsys.readouterr().out
    assert "speed-up" in said
    assert "mine" in said


def test_speed_is_of_the_large_model_in_the_same_run(tmp_path: Path) -> None:
    """The mean wall time of the large model over that of the setting, over the same items."""
    _, file = evaluate(tmp_path)
    record = Record.read(file)
    assert record.large is not None
    own, other = (sum(t.wall_ns for t in part.texts) for part in (record.part, record.large))
    assert record.figures["speedup"]["value"] == pytest.approx(other / own)
    mean = record.figures["latency_ms"]["mean"]
    assert mean == pytest.approx(own / len(ITEMS) / 1e6)
    tokens = sum(len(text.tokens) for text in record.texts)
    assert record.figures["tokens_per_s"] == pytest.approx(tokens / own * 1e9)


def test_the_large_model_alone_is_measured_once(tmp_path: Path) -> None:
    """It is its own base."""
    code, file = evaluate(tmp_path, "--mode", "large")
    record = Record.read(file)
    assert code == 0
    assert record.large is None
    assert record.figures["speedup"]["value"] == 1


def test_mode_exact_agrees_wholly(tmp_path: Path) -> None:
    """Its texts are the large model's own, so whatever else the figures say, this one is 1."""
    _, file = evaluate(tmp_path, "--mode", "exact", "--metric", "agreement")
    agreement = Record.read(file).figures["agreement"]
    assert agreement["value"] == agreement["identical"] == 1
    assert "bleu" not in Record.read(file).figures


def test_rounds_write_the_same_again(tmp_path: Path) -> None:
    """A text's time is the median over the rounds, and the record says whether the texts repeat."""
    _, file = evaluate(tmp_path, "--rounds", "3", "--count", "2")
    record = Record.read(file)
    assert record.figures["repeats"] is True
    for text in record.texts:
        assert len(text.walls_ns) == 3
        assert text.wall_ns == sorted(text.walls_ns)[1]


def test_what_fails_is_counted_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A prompt that is too long has no text and no part in the figures; the exit code says so."""
    task = task_file(tmp_path, {"prompt": "x" * 5000, "reference": "y", "id": "long"})
    code, file = evaluate(tmp_path, task=task)
    record = Record.read(file)
    assert code == 1
    assert [failure.id for failure in record.failed] == ["long"]
    assert "5000 tokens" in record.failed[0].message
    assert record.figures["texts"] == len(record.texts) == len(ITEMS)
    assert "long failed" in capsys.readouterr().out


def test_texts_without_an_end_are_bounded_and_counted(tmp_path: Path) -> None:
    """`max_new_tokens` ends every text; the share of those is a figure."""
    code, file = evaluate(tmp_path, "--max-new-tokens", "1")
    figures = Record.read(file).figures
    assert code == 0
    assert figures["ended_by_length"] > 0.5
    assert figures["tokens_per_text"] == 1


class Stopped:
    """Interrupts the run behind so many texts, as Ctrl-C does."""

    def __init__(self, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = after
        monkeypatch.setattr(front, "write", self)

    async def __call__(self, *arguments: Any) -> Any:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return await write(*arguments)


def test_an_interrupted_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was written is kept and not written again; the record is that of a run in one go, but for
    the times.
    """
    _, whole = evaluate(tmp_path, out="whole.json")
    with monkeypatch.context() as patched:
        Stopped(5, patched)
        code, file = evaluate(tmp_path)
    assert code == 130
    assert "goes on" in capsys.readouterr().err
    kept = partial_of(file).read_text("utf-8").splitlines()
    assert len(kept) == 1 + 5
    with partial_of(file).open("a", encoding="utf-8") as stream:
        stream.write('{"part": "setting", "round": 0, "id"')  # a line that was cut off
    with monkeypatch.context() as patched:
        rest = Stopped(100, patched)
        code, file = evaluate(tmp_path)
    assert code == 0
    assert 100 - rest.left == 2 * len(ITEMS) - 5
    assert not partial_of(file).exists()
    ours, theirs = Record.read(file), Record.read(whole)
    assert [text.tokens for text in ours.texts] == [text.tokens for text in theirs.texts]
    assert ours.figures["bleu"] == theirs.figures["bleu"]


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (("--alpha-fb", "0.9"), "its setting.name is"),
        (("--count", "3"), "its items is"),
        (("--rounds", "2"), "its rounds is 1, not 2"),
        (("--template", "say {prompt}"), "its items is"),
        (("--large", "toy:large?seed=2"), "its large."),
    ],
    ids=["another setting", "other items", "more rounds", "other prompts", "another model"],
)
def test_a_run_does_not_go_on_as_another(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: Sequence[str],
    needle: str,
) -> None:
    """Texts of two runs in one record would be of neither: what differs is named, and nothing is
    touched.
    """
    with monkeypatch.context() as patched:
        Stopped(3, patched)
        _, file = evaluate(tmp_path)
    before = partial_of(file).read_bytes()
    code, _ = evaluate(tmp_path, *words)
    assert code == 2
    assert needle in capsys.readouterr().err
    assert partial_of(file).read_bytes() == before


def test_a_file_that_is_no_partial_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is somebody's: it is neither read as texts nor written over."""
    file = tmp_path / "out.json.partial.jsonl"
    file.write_text("[1]\n")
    assert evaluate(tmp_path)[0] == 2
    assert "remove it" in capsys.readouterr().err
    assert file.read_text() == "[1]\n"


BAD_USE = {
    "an unknown task": (["--task", "debian-de-enn"], "did you mean 'debian-de-en'"),
    "no items": (["--count", "0"], "--count 0"),
    "a folder": (["--out", "new/"], "--out new/ is a folder"),
    "no rounds": (["--rounds", "0"], "--rounds 0"),
    "rounds without end": (["--rounds", "1000000000"], "at most 1000"),
    "a threshold out of range": (["--alpha-fb", "2"], "alpha_fb"),
    "one model of two": (["--small", "a"], "both"),
    "nowhere to write": (["--out", "/dev/null/out.json"], "cannot be made"),
    "an unknown baseline": (["--baseline", "no rolback"], "did you mean 'no rollback'"),
    "a baseline and an option": (
        ["--baseline", "rejection 4", "--window", "6"],
        "sets window to 4",
    ),
    "a baseline by another name": (["--baseline", "exact", "--name", "mine"], "leave out --name"),
    "an oracle that is none": (["--oracle", "-1"], "--oracle -1 must be"),
    "an oracle below all": (["--oracle", "-inf"], "--oracle -inf must be"),
}


@pytest.mark.parametrize(("argv", "needle"), BAD_USE.values(), ids=BAD_USE)
def test_bad_use_is_refused_before_anything_starts(argv: list[str], needle: str) -> None:
    """The message names what was found, and what would have done."""
    with pytest.raises((ConfigError, InvalidRequest), match=needle):
        planned(["--task", "debian-de-en", "--out", "out.json", *argv])


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (("--metric", "blue"), "did you mean 'bleu'"),
        (("--metric", "perplexity"), "toys have no perplexity"),
        (("--split", "test"), "no split 'test'"),
        (("--template", "no place"), "has no {prompt}"),
    ],
    ids=["a metric", "perplexity of toys", "a split", "a template"],
)
def test_what_a_task_does_not_have_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: Sequence[str], needle: str
) -> None:
    """Exit code 2 and a sentence; nothing is left behind."""
    code, file = evaluate(tmp_path, *words)
    assert code == 2
    assert needle in capsys.readouterr().err
    assert not file.exists()
    assert not partial_of(file).exists()


def test_a_missing_reference_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By file and line, before a model is loaded."""
    code, _ = evaluate(tmp_path, task=task_file(tmp_path, {"prompt": "z"}))
    assert code == 2
    assert "task.jsonl, line 8 has no reference, which bleu needs" in capsys.readouterr().err


def test_every_option_of_a_request_can_be_given() -> None:
    """A setting is options of a request, and none of them is left to the configuration file."""
    words = ["--no-verify-tail", "--first", "large", "--schedule", "paper", "--window", "4", "--seed", "9",
             "--temperature", "0.5", "--stop", "a", "--stop", "b", "--deadline", "3", "--no-chat-template"]  # fmt: skip
    plan = planned(["--task", "debian-de-en", "--out", "out.json", *words])
    asked = plan.config.generate
    assert (asked.verify_tail, asked.first.value, asked.schedule) == (False, "large", "paper")
    assert (asked.window, asked.seed, asked.temperature, asked.stop) == (4, 9, 0.5, ("a", "b"))
    assert (asked.deadline, asked.chat_template) == (3.0, False)
    assert plan.config.orchestrator.concurrency == 1


def test_a_task_brings_options_that_were_not_given() -> None:
    """An article is cut where the model reads no further, as everybody does who measures on it."""
    assert planned(["--task", "xsum", "--out", "out.json"]).config.generate.truncate


def test_a_setting_survives_its_file() -> None:
    """Thresholds are always named, the rest where it is not the default; infinity too."""
    setting = Setting.of(Options(alpha_fb=0.5, alpha_rb=float("inf"), window=4, stop=("x",)))
    assert setting.name == "bild 0.5/inf window 4"
    found = setting.as_dict()
    assert {"mode", "alpha_fb", "alpha_rb", "window", "schedule", "stop", "name"} == found.keys()
    assert Setting.from_dict(found) == setting
    assert Setting.of(Options(mode=Mode.LARGE)).name == "large"


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    """Every value comes back, infinite distances among them, and a text that says "inf" stays one."""
    _, file = evaluate(tmp_path, "--count", "2", "--alpha-rb", "inf")
    record = Record.read(file)
    count = len(record.texts[0].tokens)
    distances = (float("inf"), *[None] * (count - 1))
    text = replace(record.texts[0], text="inf", distances=distances)
    part = replace(record.part, texts=(text,), failed=(Failure("a", "InvalidRequest", "inf"),))
    again = tmp_path / "again.json"
    record = replace(record, part=part, task="inf", split="-inf")
    record.write(again)
    assert Record.read(again) == record
    json.loads(again.read_text("utf-8"), parse_constant=pytest.fail)


def test_a_file_that_is_no_record_is_refused(tmp_path: Path) -> None:
    """Whoever reads it by mistake gets a sentence."""
    file = tmp_path / "other.json"
    for text in ("[]", '{"format": 1}', "no", '{"format": 7}'):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"other\.json"):
            Record.read(file)


def test_parts_take_turns() -> None:
    """Block by block, and who begins changes, so that a machine that slows down favours nobody."""
    items = [Item(str(n), "x") for n in range(2 * BLOCK + 1)]
    order = [(step.part, step.round, step.item.id) for step in steps(items, ["a", "b"], 2)]
    assert len(order) == len(set(order)) == 4 * len(items)
    first = [part for part, number, _ in order if number == 0]
    assert first == ["a"] * BLOCK + ["b"] * 2 * BLOCK + ["a"] * BLOCK + ["a", "b"]
    second = [part for part, number, _ in order if number == 1]
    assert second[0] == "b"
    few = [step.part for step in steps(items[:5], ["a", "b"])]
    assert few == ["a"] * 3 + ["b"] * 5 + ["a"] * 2
    assert [step.part for step in steps(items[:1], ["a", "b"])] == ["a", "b"]


@pytest.mark.parametrize(("config", "taught"), [
    ({"model_type": "t5", "task_specific_params": {"summarization": {"prefix": "summarize: "}}}, True),
    ({"model_type": "t5"}, False),
    ({"model_type": "mt5", "task_specific_params": None}, False),
])  # fmt: skip
def test_only_t5_as_published_was_taught_prefixes(
    tmp_path: Path, config: dict[str, Any], taught: bool
) -> None:
    """Its config lists them; to any other model a prefix is noise."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert taught_prefixes(str(tmp_path)) is taught
    assert not taught_prefixes(f"toy:large?{SPEC}")


def test_perplexity_is_that_of_one_forward_over_the_text(tmp_path: Path) -> None:
    """A model of transformers, called by hand on each text alone, gives the same sums."""
    torch.set_num_threads(1)
    folder = write_model(tmp_path / "large", "t5")
    texts = [
        Reading((5, 6, 7, 1), (9, 10, 11, 1)),
        Reading((8, 1), ()),
        Reading((12, 13, 1), (20, 21)),
    ]
    found = nats(WorkerConfig(model=str(folder), threads=1), texts)
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    for text, said in zip(texts, found, strict=True):
        if not text.ids:
            assert said == 0
            continue
        start = model.config.decoder_start_token_id
        with torch.inference_mode():
            logits = model(
                input_ids=torch.tensor([text.prompt_ids]),
                decoder_input_ids=torch.tensor([[start, *text.ids[:-1]]]),
            ).logits[0]
        chances = logits.log_softmax(-1).gather(-1, torch.tensor(text.ids)[:, None])
        assert said == pytest.approx(-float(chances.sum()), rel=1e-4)


def test_what_a_task_would_have_gives_way_to_what_is_said() -> None:
    """A line of a summary ends after 64 tokens; who asks for the usual number gets the usual number."""
    asked = ["--task", "debian-synopsis", "--out", "out.json"]
    assert planned(asked).config.generate.max_new_tokens == 64
    for tokens in (Options().max_new_tokens, 9):
        more = [*asked, "--max-new-tokens", str(tokens)]
        assert planned(more).config.generate.max_new_tokens == tokens
