"""`bild align`: from a file of prompts to an aligned model and its report, on tiny models."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from bild_dist.app import inproc
from bild_dist.config import WorkerConfig
from bild_dist.errors import ConfigError
from bild_dist.evaluation.align import main as front
from bild_dist.evaluation.align import outputs
from bild_dist.evaluation.align.calibration import Question, prompts, questions
from bild_dist.evaluation.align.models import Source
from bild_dist.evaluation.align.options import asked
from bild_dist.evaluation.align.outputs import Asked, Teacher, write
from bild_dist.evaluation.align.ready import agree
from bild_dist.model.load import load
from tests.tiny import write_model, write_pair
from tests.tiny_tokenizers import TEXT

WORDS = TEXT.replace("\n", " ").split()
LINES = [
    {"id": f"{n}/{length}", "prompt": " ".join(WORDS[n : n + length])}
    for n in range(100)
    for length in (2, 3, 4)
]
FEW = (
    "--max-new-tokens",
    "6",
    "--held-out",
    "20",
    "--batch",
    "8",
    "--threads",
    "1",
    "--epochs",
    "2",
)


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _file(folder, lines=LINES):
    file = folder / "prompts.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines))
    return str(file)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_texts_are_what_the_model_writes_alone(family, tmp_path):
    """Written in padded batches, each text is the greedy one of its prompt alone, with the best ids
    and log-probabilities of every position.
    """
    model = Source(model=str(write_model(tmp_path, family))).load()
    asked_now = [
        Question(str(n), tuple(3 + (7 * n + i) % 50 for i in range(1 + n % 5))) for n in range(9)
    ]
    found = write(model, asked_now, Asked(max_new_tokens=8, choices=4))
    if family == "t5":
        model.config.num_layers = 3  # see outputs._sized
    for question, output in zip(asked_now, found, strict=True):
        assert output.prompt_ids == question.ids
        ids = torch.tensor([question.ids])
        alone = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False
        )[0]
        alone = alone[1 if family == "t5" else len(question.ids) :].tolist()
        assert list(output.ids) == alone
        assert output.top_ids[:, 0].tolist() == alone
        with torch.no_grad():
            if family == "t5":
                whole = model(
                    input_ids=ids, decoder_input_ids=torch.tensor([[0, *alone[:-1]]])
                ).logits[0]
            else:
                whole = model(input_ids=torch.tensor([[*question.ids, *alone[:-1]]])).logits[
                    0, len(question.ids) - 1 :
                ]
        best = torch.log_softmax(whole.float(), -1).topk(4).values
        assert torch.allclose(best, torch.from_numpy(output.top_logprobs).float(), atol=5e-3)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_cut_model_may_begin_as_other_layers(tmp_path, family):
    """Each layer has the chosen one's weights, but for what only a stack's first layer has."""
    name = str(write_model(tmp_path, family))
    whole = Source(model=name).load().get_decoder()
    source = Source(model=name, exit_layer=2, layers=(0, 2))
    assert source.fingerprint() != Source(model=name, exit_layer=2).fingerprint()
    cut = source.load().get_decoder()
    found, expected = (part.block if family == "t5" else part.layers for part in (cut, whole))
    assert len(found) == 2
    for own, chosen in zip(found, (expected[0], expected[2]), strict=True):
        for key, weight in chosen.state_dict().items():
            assert torch.equal(own.state_dict()[key], weight)


def test_a_forced_language_begins_every_text(tmp_path):
    """As NLLB and its kin want it: the first id is given, the second is the model's own."""
    model = Source(model=str(write_model(tmp_path, "m2m100"))).load()
    (text,) = write(model, [Question("1", (5, 6, 2))], Asked(max_new_tokens=4, forced_begin=40))
    assert text.ids[0] == 40
    assert text.top_ids.shape == (len(text.ids), 16)


def test_texts_are_written_once_and_an_interruption_costs_one_shard(tmp_path, monkeypatch):
    """What a shard holds is read again; a run that stops in the second shard begins with it."""
    monkeypatch.setattr(outputs, "SHARD", 4)
    model = Source(model=str(write_model(tmp_path / "m", "llama"))).load()
    loaded = []

    def once():
        loaded.append(model)
        return model

    questions_now = [Question(str(n), (5 + n, 6)) for n in range(8)]
    teacher = Teacher(once, "print", Asked(max_new_tokens=3, batch=2))
    held = teacher.outputs(questions_now)
    assert [next(held).id for _ in range(4)] == ["0", "1", "2", "3"]
    del held
    assert len(loaded) == 2
    first = list(teacher.outputs(questions_now))
    assert len(loaded) == 4
    again = list(teacher.outputs(questions_now))
    assert len(loaded) == 4
    assert [(o.id, o.prompt_ids, o.ids) for o in again] == [
        (o.id, o.prompt_ids, o.ids) for o in first
    ]
    assert all((a.top_ids == b.top_ids).all() for a, b in zip(again, first, strict=True))


def test_no_room_for_texts_is_a_clear_error(tmp_path, monkeypatch):
    """A full disk: what to do, and no half shard left."""
    model = Source(model=str(write_model(tmp_path / "m", "llama"))).load()

    def full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs, "save_file", full)
    with pytest.raises(ConfigError, match=r"No space left.*make room"):
        list(
            Teacher(lambda: model, "print", Asked(max_new_tokens=3)).outputs(
                [Question("1", (5, 6))]
            )
        )
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]


def test_lines_that_cannot_be_used_are_skipped_and_counted():
    """Empty ones, long ones and those that were there before."""
    found = questions(
        [("1", "ab"), ("2", ""), ("3", "  "), ("4", "abcdef"), ("5", "ab"), ("6", "abc"), ("7", "zz")],

        lambda text: tuple(map(ord, text)), 4, 100,
    )  # fmt: skip
    assert [q.id for q in found.kept] == ["1", "6"]
    assert found.skipped == {
        "empty": 2,
        "longer than 4 tokens": 1,
        "there twice": 1,
        "ids outside the vocabulary": 1,
    }


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1 is not JSON"),
        ("[1]", "must be a JSON object"),
        ('{"promt": "x"}', "unknown field .promt..*prompt"),
        ('{"id": 1}', "needs one of prompt"),
        ('{"prompt": ["a"]}', "a prompt is a text"),
        ('{"prompt_tokens": [true]}', "a list of ids"),
        ('{"messages": ["a", {}]}', "a list of"),
    ],
)
def test_a_bad_file_is_refused_by_line(line, said, tmp_path):
    """What is wrong with which line, whatever split it is in."""
    file = tmp_path / "bad.jsonl"
    file.write_text(line)
    with pytest.raises(ConfigError, match=said):
        prompts(str(file), "train")


def test_a_file_is_split_by_its_lines(tmp_path):
    """Every line is in one split, whatever the others are."""
    file = _file(tmp_path, [{"prompt": f"number {n}"} for n in range(400)])
    splits = {split: prompts(file, split) for split in ("train", "validation", "test")}
    assert sum(map(len, splits.values())) == 400
    assert len(splits["train"]) > 350
    assert splits["validation"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "name the model that shall learn"),
        (("--small", "a", "--early-exit", "2"), "leave out --small"),
        (("--small", "a", "--head", "9"), "go with --early-exit"),
        (("--early-exit", "2", "--joint", "--head", "9"), "leave out --head"),
        (("--small", "a", "--storage", "int8"), "leave it out"),
        (("--early-exit", "2", "--distil", "2"), "from 0 to 1"),
        (("--early-exit", "2", "--replay", "0.5"), "such as 0.5/2"),
        (("--early-exit", "2", "--rate", "0"), "above 0"),
        (("--early-exit", "2", "--layers", "0"), "names K layers"),
        (("--early-exit", "2", "--layers", "0,x"), "such as 0,1,28,29"),
        (("--small", "a", "--layers", "0"), "names K layers"),
        (("--early-exit", "2", "--device", "tpu"), "cpu, cuda or cuda:N"),
        (("--early-exit", "2", "--max-length", "64"), "leave room"),
    ],
)
def test_bad_options_are_refused_before_anything_starts(words, said, tmp_path):
    """Each with what to do instead."""
    with pytest.raises(ConfigError, match=said):
        asked(["--corpus", "x.jsonl", "--out", str(tmp_path / "out"), *words])


def test_the_same_prompt_is_in_one_split_whatever_it_is_called(tmp_path):
    """Names do not matter, nor do line ends that JSON allows inside a text."""
    asks = [f"number{chr(0x2028)}{n}" for n in range(200)]
    file = tmp_path / "twice.jsonl"
    lines = [{"id": f"{k}/{n}", "prompt": ask} for k in range(2) for n, ask in enumerate(asks)]
    file.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    sets = [{ask for _, ask in prompts(str(file), s)} for s in ("train", "validation", "test")]
    assert sets[0] | sets[1] | sets[2] == set(asks)
    assert not sets[0] & sets[1]
    assert not (sets[0] | sets[1]) & sets[2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--early-exit", "9"), "--early-exit 9 is more than the 3 layers"),
        (("--early-exit", "1", "--layers", "3"), "there is no layer 3"),
        (("--early-exit", "3", "--joint"), "is the whole model"),
        (("--early-exit", "1", "--ignore-generation", "num_beans"), "num_beams"),
    ],
)
def test_what_cannot_come_to_its_end_does_not_begin(words, said, tmp_path, capsys):
    """Found out before a text is written."""
    large = write_model(tmp_path / "large", "llama", tokenizer=True)
    argv = ["--large", str(large), "--corpus", _file(tmp_path), "--out", str(tmp_path / "out")]
    assert front.main([*argv, *words], inproc) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "cache" / "bild-dist" / "outputs").exists()


def test_beams_are_refused_at_once_and_can_be_ignored(tmp_path, capsys):
    """A generation config that no worker would take, with the option that helps."""
    small, large = write_pair(tmp_path, "t5", tokenizer=True, generation={"num_beams": 4})
    argv = ["--small", str(small), "--large", str(large), "--corpus", _file(tmp_path, LINES[:40]),
            "--out", str(tmp_path / "out"), *FEW]  # fmt: skip
    assert front.main(argv, inproc) == 2
    assert "--ignore-generation num_beams" in capsys.readouterr().err
    assert front.main([*argv, "--ignore-generation", "num_beams"], inproc) == 0


def test_models_are_never_written_over(tmp_path, capsys):
    """--out must be a folder of its own; a short head needs a decoder-only model."""
    large = write_model(tmp_path / "large", "t5", tokenizer=True)
    argv = ["--large", str(large), "--early-exit", "1", "--corpus", _file(tmp_path)]
    assert front.main([*argv, "--out", str(large)], inproc) == 2
    assert "name another folder" in capsys.readouterr().err
    assert front.main([*argv, "--out", str(tmp_path / "out"), "--head", "9"], inproc) == 2
    assert "decoder-only" in capsys.readouterr().err


def test_a_run_goes_on_with_its_own_texts_only(tmp_path, capsys):
    """Another corpus of the same size in the same --out is another run."""
    small, large = write_pair(tmp_path, "llama", tokenizer=True)
    out = [
        "--small",
        str(small),
        "--large",
        str(large),
        "--out",
        str(tmp_path / "out"),
        "--limit",
        "20",
    ]
    assert front.main([*out, "--corpus", _file(tmp_path), *FEW, "--minutes", "1e-9"], inproc) == 1
    other = _file(tmp_path, LINES[150:])
    assert front.main([*out, "--corpus", other, *FEW], inproc) == 2
    assert "holds a run with texts = " in capsys.readouterr().err


def test_different_tokenizers_are_refused(tmp_path):
    """A model cannot learn ids that mean something else to it."""
    small = Source(model=str(write_model(tmp_path / "a", "llama", tokenizer=True)))
    large = Source(model=str(write_model(tmp_path / "b", "t5", tokenizer=True)))
    with pytest.raises(ConfigError, match="different tokenizers"):
        agree(small.tokens(), large.tokens())


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_pair_is_aligned_from_the_command_line(family, tmp_path, capsys):
    """The small model comes closer to the large one, what is written loads in a worker, and the
    report has both sides.
    """
    small, large = write_pair(tmp_path, family, noise=0.1, tokenizer=True)
    out = tmp_path / "out"
    argv = ["--small", str(small), "--large", str(large), "--corpus", _file(tmp_path), "--out", str(out),
            *FEW, "--rate", "2e-3", "--epochs", "10", "--batch-tokens", "256", "--replay", "0.5/2"]  # fmt: skip
    assert front.main(argv, inproc) == 0
    report = json.loads((out / front.REPORT).read_text())
    skipped = sum(report["skipped"].values())
    assert report["left_for_tests"] == len(prompts(_file(tmp_path), "test"))
    assert report["texts"] + report["held_out"] + report["left_for_tests"] + skipped == len(LINES)
    assert report["after"]["match_rate"] > report["before"]["match_rate"]
    assert {speed["mode"] for speed in report["after"]["speeds"]} == {"exact", "bild"}
    assert report["after"]["replays"][0]["texts"] == report["held_out"]
    assert load(WorkerConfig(model=str(out), threads=1)).info.tokenizer
    said = capsys.readouterr().err
    assert "match rate" in said
    assert f"only {report['held_out']} held-out texts: so few say little" in said
    # As readable as what is written beside it, whatever wrote the weights.
    assert len({file.stat().st_mode for file in out.iterdir() if file.is_file()}) == 1


def test_an_interrupted_alignment_goes_on(tmp_path, capsys):
    """--minutes stops it with exit code 1; the same command ends it; another one is refused."""
    small, large = write_pair(tmp_path, "llama", noise=0.3, tokenizer=True)
    argv = ["--small", str(small), "--large", str(large), "--corpus", _file(tmp_path), "--out",
            str(tmp_path / "out"), *FEW, "--batch-tokens", "64"]  # fmt: skip
    assert front.main([*argv, "--minutes", "1e-9"], inproc) == 1
    assert "the same command goes on" in capsys.readouterr().err
    assert front.main([*argv, "--rate", "0.5"], inproc) == 2
    assert "rate = 0.0001, not 0.5" in capsys.readouterr().err
    assert front.main([*argv, "--choices", "4"], inproc) == 2
    assert "choices = 16, not 4" in capsys.readouterr().err
    assert front.main(argv, inproc) == 0


def test_an_early_exit_leaves_the_large_model_alone(tmp_path):
    """A draft of its first layers, with a short head: a folder that a worker loads beside an
    untouched large model.
    """
    large = write_model(tmp_path / "large", "llama", tokenizer=True)
    before = (large / "model.safetensors").read_bytes()
    out = tmp_path / "out"
    argv = ["--large", str(large), "--early-exit", "1", "--head", "40", "--corpus", _file(tmp_path),
            "--out", str(out), *FEW, "--rate", "3e-3"]  # fmt: skip
    assert front.main(argv, inproc) == 0
    assert (large / "model.safetensors").read_bytes() == before
    held = json.loads((out / "draft.json").read_text())
    assert (out / "draft.safetensors").stat().st_mode == (out / "draft.json").stat().st_mode
    assert (held["layers"], len(held["head"])) == (1, 40)
    assert (
        load(WorkerConfig(model=str(out), threads=1)).info.rules.vocabulary
        == load(WorkerConfig(model=str(large), threads=1)).info.rules.vocabulary
    )


def test_joint_training_writes_one_model_for_both(tmp_path):
    """The whole model, whose first layers are the small one."""
    large = write_model(tmp_path / "large", "llama", tokenizer=True)
    out = tmp_path / "out"
    argv = ["--large", str(large), "--early-exit", "1", "--joint", "--corpus", _file(tmp_path),
            "--out", str(out), *FEW, "--rate", "3e-3"]  # fmt: skip
    assert front.main(argv, inproc) == 0
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.config.num_hidden_layers == 3
    old, new = load_file(large / "model.safetensors"), load_file(out / "model.safetensors")
    assert any(not torch.equal(old[name], new[name]) for name in old if "layers.2" in name)
    assert load(WorkerConfig(model=str(out), exit_layer=1, threads=1)).info.model
