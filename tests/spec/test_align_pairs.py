"""`bild align` with pairs that are not alike in everything, and what it leaves on disk."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM

from bild_dist.app import inproc
from bild_dist.errors import ConfigError
from bild_dist.evaluation.align import agreement, together
from bild_dist.evaluation.align import main as front
from bild_dist.evaluation.align.calibration import Question
from bild_dist.evaluation.align.models import Source
from bild_dist.evaluation.align.outputs import Asked, write
from tests.spec.test_align import FEW, LINES
from tests.tiny import build, write_model, write_pair


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def prompts_in(folder: Path, count: int = 120) -> str:
    file = folder / "prompts.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in LINES[:count]))
    return str(file)


@torch.no_grad()
def pad(folder: Path, more: int) -> int:
    """Gives a model ids that no tokenizer has, and that it likes to write. Returns how many it had."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    there = int(model.config.vocab_size)
    model.resize_token_embeddings(there + more)
    for table in (model.lm_head.weight, model.model.embed_tokens.weight):
        table[there:] = table[:more] * 1.1
    model.save_pretrained(folder)
    return there


@pytest.mark.parametrize("wider", ["small", "large"])
def test_padded_vocabularies_are_aligned(wider, tmp_path):
    """Ids that one of the two lacks are masked, in what is learned as in the decoder."""
    small, large = write_pair(tmp_path, "llama", noise=0.1, tokenizer=True)
    pad(small if wider == "small" else large, 64)
    argv = ["--small", str(small), "--large", str(large), "--out", str(tmp_path / "out"),
            "--corpus", prompts_in(tmp_path), *FEW]  # fmt: skip
    assert front.main(argv, inproc) == 0
    assert (tmp_path / "out" / front.REPORT).is_file()


def test_a_teacher_keeps_to_the_shared_ids(tmp_path):
    """Its texts are greedy among them, and its distributions are told over them alone."""
    _, large = write_pair(tmp_path, "llama", tokenizer=True)
    there = pad(large, 64)
    model = Source(model=str(large)).load()
    asked = [Question(str(n), tuple(3 + (7 * n + i) % 50 for i in range(5))) for n in range(9)]
    free = write(model, asked, Asked(max_new_tokens=8, choices=4))
    kept = write(model, asked, Asked(max_new_tokens=8, choices=4, vocabulary=there))
    assert any(output.top_ids.max() >= there for output in free)
    for output in kept:
        assert max(output.ids) < there
        assert output.top_ids.max() < there
        ids = torch.tensor([[*output.prompt_ids, *output.ids[:-1]]])
        with torch.no_grad():
            rows = model(input_ids=ids).logits[0, len(output.prompt_ids) - 1 :, :there]
        assert rows.argmax(-1).tolist() == list(output.ids)
        best = torch.log_softmax(rows, -1).amax(-1)
        torch.testing.assert_close(
            torch.tensor(output.top_logprobs[:, 0]).float(), best, atol=1e-2, rtol=1e-2
        )


def test_a_pair_that_no_worker_takes_is_refused_at_once(tmp_path, capsys):
    """A window that slides within --max-length is seen before the large model writes its first text."""
    small = write_model(tmp_path / "small", "llama", tokenizer=True)
    held = json.loads((small / "config.json").read_text())
    config = MistralConfig(
        vocab_size=held["vocab_size"], hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=96, sliding_window=32,
        bos_token_id=0, pad_token_id=1, eos_token_id=2,
    )  # fmt: skip
    large = tmp_path / "large"
    build(MistralForCausalLM, config).save_pretrained(large)
    for file in small.glob("tokenizer*"):
        (large / file.name).write_bytes(file.read_bytes())
    argv = ["--small", str(small), "--large", str(large), "--out", str(tmp_path / "out"),
            "--corpus", prompts_in(tmp_path), *FEW]  # fmt: skip
    assert front.main(argv, inproc) == 2
    assert "max_length must be 32 or less" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "cache").exists()


def test_what_was_counted_is_kept_where_the_pair_cannot_be_opened(tmp_path, monkeypatch):
    """A report of the agreement lies there, under a name that nobody takes for the end; the same command
    comes to it.
    """
    small, large = write_pair(tmp_path, "llama", noise=0.1, tokenizer=True)
    argv = ["--small", str(small), "--large", str(large), "--out", str(tmp_path / "out"),
            "--corpus", prompts_in(tmp_path), *FEW]  # fmt: skip

    def closed(*_: object) -> None:
        raise ConfigError("no worker takes it")

    with monkeypatch.context() as patch:
        patch.setattr(together, "completed", closed)
        assert front.main(argv, inproc) == 2
    out = tmp_path / "out"
    assert json.loads((out / "report.partial.json").read_text())["after"]["match_rate"] > 0
    assert not (out / front.REPORT).exists()
    assert front.main(argv, inproc) == 0
    assert (out / front.REPORT).exists()
    assert not (out / "report.partial.json").exists()


@pytest.mark.parametrize(
    ("more", "stored"),
    [
        ((), torch.float32),
        (("--dtype", "bfloat16"), torch.bfloat16),
        (("--storage", "bfloat16"), torch.bfloat16),
        (("--dtype", "bfloat16", "--storage", "float32"), torch.float32),
    ],
)
def test_a_pair_is_stored_as_it_was_computed(more, stored, tmp_path):
    """Rounding what was learned in float32 is for those who ask for it."""
    small, large = write_pair(tmp_path, "t5", noise=0.1, tokenizer=True)
    argv = ["--small", str(small), "--large", str(large), "--out", str(tmp_path / "out"), "--corpus",
            prompts_in(tmp_path, 40), *FEW, "--epochs", "1", "--held-out", "1", *more]  # fmt: skip
    assert front.main(argv, inproc) == 0
    weights = load_file(tmp_path / "out" / "model.safetensors").values()
    assert {weight.dtype for weight in weights} == {stored}


def test_a_draft_is_not_stored_in_float32(tmp_path, capsys):
    """Its format has no such thing, and says so before anything is written."""
    _, large = write_pair(tmp_path, "llama", tokenizer=True)
    argv = ["--large", str(large), "--early-exit", "1", "--storage", "float32", "--out", str(tmp_path / "out"),
            "--corpus", prompts_in(tmp_path), *FEW]  # fmt: skip
    assert front.main(argv, inproc) == 2
    assert "a draft takes bfloat16 or int8" in capsys.readouterr().err


def test_texts_of_a_joint_model_are_judged_by_itself(tmp_path, monkeypatch):
    """What stands behind its own most likely ids is reckoned with the model that was trained, which is the
    large one of the pair now.
    """
    large = write_model(tmp_path / "large", "llama", tokenizer=True)
    judges, judged = [], agreement.judged

    def told(model, *given, **more):
        judges.append(model)
        return judged(model, *given, **more)

    monkeypatch.setattr(agreement, "judged", told)
    argv = ["--large", str(large), "--early-exit", "1", "--joint", "--replay", "0.2/2", "--out",
            str(tmp_path / "out"), "--corpus", prompts_in(tmp_path), *FEW, "--rate", "1e-2"]  # fmt: skip
    assert front.main(argv, inproc) == 0
    (judge,) = judges
    trained = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(weight, trained[name]) for name, weight in judge.named_parameters())


def test_somebody_elses_model_is_not_written_over(tmp_path, capsys):
    """A folder with a model and no trace of an alignment; one that an alignment left may be gone on with."""
    small, large = write_pair(tmp_path, "llama", noise=0.1, tokenizer=True)
    other = write_model(tmp_path / "precious", "gpt2")
    before = {file.name: file.read_bytes() for file in other.iterdir()}
    argv = ["--small", str(small), "--large", str(large), "--corpus", prompts_in(tmp_path), *FEW]
    assert front.main([*argv, "--out", str(other)], inproc) == 2
    assert "precious holds a model (config.json)" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in other.iterdir()} == before
    for _ in range(2):
        assert front.main([*argv, "--out", str(tmp_path / "out")], inproc) == 0


def test_an_alignment_that_was_interrupted_while_it_counted_is_not_done(tmp_path):
    """The recipe waits for the report, which is written last, not for the draft."""
    recipe = Path(__file__).parents[2] / "recipes" / "smollm2-draft"

    def asked() -> str:
        command = ["make", "-n", "-C", str(recipe), "align", f"RUN={tmp_path}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    for name in ("draft.json", "draft.safetensors", "report.partial.json"):
        (tmp_path / name).touch()
        assert "bild align" in asked()
    (tmp_path / "report.json").touch()
    assert "bild align" not in asked()
