"""Configuration: what a file says is what runs, and what it cannot mean is refused by name."""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path

import pytest

from bild_dist.config import Config, WorkerConfig, configured, overlay
from bild_dist.errors import ConfigError
from bild_dist.types import Mode, Options
from bild_dist.workers.options import worker_options

SHIPPED = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))


def written(folder: Path, text: str) -> str:
    path = folder / "bild.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_without_a_file_the_defaults_of_the_dataclasses_hold() -> None:
    """There is one place for a default; the default pair is meant where no model is named."""
    assert configured(None) == Config()
    assert Config().generate == Options()
    assert Config().small.model == "default-draft"


def test_a_file_replaces_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    """Every table and kind of value in one file."""
    config = configured(written(tmp_path, """
        [small]
        model = "some/model"
        threads = 2
        ignore_generation = ["num_beams", "do_sample"]
        [large]
        device = "cuda:1"
        dtype = "bfloat16"
        [orchestrator]
        transport = "grpc"
        concurrency = 4
        [generate]
        mode = "exact"
        alpha_fb = 1
        alpha_rb = inf
        stop = ["\\n\\n"]
        deadline = 2.5
        truncate = true
        """))  # fmt: skip
    assert config.small == WorkerConfig(
        model="some/model", threads=2, ignore_generation=("num_beams", "do_sample")
    )
    assert config.large == WorkerConfig(device="cuda:1", dtype="bfloat16")
    assert (config.orchestrator.transport, config.orchestrator.concurrency) == ("grpc", 4)
    assert config.generate == Options(
        mode=Mode.EXACT, alpha_fb=1, alpha_rb=math.inf, stop=("\n\n",), deadline=2.5, truncate=True
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[smal]", r"unknown table \[smal\] \(did you mean 'small'\?\)"),
        ("small = 3", r"small must be a table"),
        ("[small]\nmodle = 'x'", r"unknown key small.modle \(did you mean 'model'\?\)"),
        ("[small]\nthreads = 'two'", r"small.threads = 'two' must be a whole number"),
        ("[small]\nthreads = true", r"small.threads = True must be a whole number"),
        ("[small]\nslots = 1.5", r"small.slots = 1.5 must be a whole number"),
        ("[small]\nslots = 0", r"small.slots = 0 must be a whole number of at least 1"),
        ("[small]\nmodel = ''", r"small.model = '': name a hub id"),
        ("[large]\ndtype = 'bf16'", r"large.dtype = 'bf16': unknown .*bfloat16"),
        ("[large]\ndevice = 'gpu'", r"large.device = 'gpu' must be cpu, cuda or cuda:N"),
        (
            "[large]\nignore_generation = 'num_beams'",
            r"large.ignore_generation .* a list of strings",
        ),
        ("[large]\nignore_generation = [1]", r"large.ignore_generation .* a list of strings"),
        ("[large]\ntrust_remote_code = 1", r"large.trust_remote_code = 1 must be true or false"),
        ("[orchestrator]\ntransport = 'zqm'", r"orchestrator.transport .* mean 'zmq'"),
        ("[orchestrator]\nconcurrency = 0", r"orchestrator.concurrency = 0 must be .* at least 1"),
        ("[generate]\nalpha = 1", r"unknown key generate.alpha \(did you mean"),
        ("[generate]\nalpha_fb = '1'", r"generate.alpha_fb = '1' must be a number"),
        ("[generate]\nalpha_fb = 2", r"generate.alpha_fb = 2 must be a number from 0 to 1"),
        ("[generate]\nmode = 'quick'", r"generate.mode = 'quick' must be one of bild, exact"),
        ("[generate]\ndeadline = 'soon'", r"generate.deadline = 'soon' must be a number"),
        ("[generate\nmode = 1", r"not valid TOML: .*line 1"),
        ("[generate]\n\nmode = ]", r"not valid TOML: .*line 3"),
    ],
)
def test_what_a_file_cannot_mean_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    """The message names the file, the key, what was found and what is needed."""
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=words) as caught:
        configured(path)
    assert str(caught.value).startswith(path)


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    """Missing, a folder, or not text: the name and the reason."""
    for path in (tmp_path / "missing.toml", tmp_path):
        with pytest.raises(ConfigError, match=f"{path} cannot be read"):
            configured(str(path))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not valid TOML"):
        configured(str(binary))


def test_paths_are_meant_from_the_file(tmp_path: Path) -> None:
    """A folder beside the file is found from anywhere; any other name is left for the hub."""
    (tmp_path / "pair" / "small").mkdir(parents=True)
    text = """
        [small]
        model = "pair/small"
        tokenizer = "pair"
        [large]
        model = "pair/large"
        """
    config = configured(written(tmp_path, text))
    assert config.small.model == str(tmp_path / "pair" / "small")
    assert config.small.tokenizer == str(tmp_path / "pair")
    assert config.large.model == "pair/large"


@pytest.mark.parametrize(
    ("assignment", "table", "key", "value"),
    [
        ("generate.alpha_fb=0.5", "generate", "alpha_fb", 0.5),
        ("generate.truncate = true", "generate", "truncate", True),
        ('generate.stop=["a", "b"]', "generate", "stop", ("a", "b")),
        ("small.device=cuda:0", "small", "device", "cuda:0"),
        ("large.model=toy:large?seed=1", "large", "model", "toy:large?seed=1"),
        ("orchestrator.concurrency=3", "orchestrator", "concurrency", 3),
    ],
)
def test_single_values_are_laid_over_a_file(
    assignment: str, table: str, key: str, value: object
) -> None:
    """A value is TOML where it can be, and a plain word where it cannot; the rest stays."""
    base = overlay(Config(), ["generate.window=3", "small.threads=1", "large.threads=2"])
    config = overlay(base, [assignment])
    assert getattr(getattr(config, table), key) == value
    assert (config.generate.window, config.small.threads, config.large.threads) == (3, 1, 2)


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("alpha_fb=0.5", "write TABLE.KEY=VALUE"),
        ("generate.alpha_fb", "write TABLE.KEY=VALUE"),
        ("generat.alpha_fb=0.5", "did you mean 'generate'"),
        ("generate.alpha_f=0.5", "did you mean 'alpha_fb'"),
        ("generate.alpha_fb=half", "generate.alpha_fb = 'half' must be a number"),
    ],
)
def test_a_bad_overlay_is_refused_as_a_bad_file_is(assignment: str, words: str) -> None:
    """The same checks, with `--set` in place of the file's name."""
    with pytest.raises(ConfigError, match=f"--set.*{words}"):
        overlay(Config(), [assignment])


def test_a_worker_is_started_with_exactly_its_configuration() -> None:
    """What a parent process writes on the command line of a worker is what the worker reads."""
    config = WorkerConfig(
        model="m", tokenizer="t", exit_layer=3, device="cuda:1", dtype="float16", threads=4,
        listen="grpc://127.0.0.1:0", slots=2, max_length=64, calm=0.9, calm_decay=2.5, ignore_generation=("a", "b"),
        trust_remote_code=True, metrics="127.0.0.1:0", traces="http://127.0.0.1:4318", log="json",
    )  # fmt: skip
    unlike = [f.name for f in dataclasses.fields(config) if getattr(config, f.name) == f.default]
    assert unlike == [], "every field must differ from its default for this test to see it"
    parser = argparse.ArgumentParser()
    worker_options(parser)
    for expected in (config, WorkerConfig()):
        values = vars(parser.parse_args(expected.as_arguments()))
        values.pop("with_parent")
        assert WorkerConfig(**values) == expected


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_are_valid(path: Path) -> None:
    """A file that we hand out can be used as it is, and the demo shows the defaults as they are."""
    config = configured(str(path))
    assert (config == Config()) == (path.name == "cpu-demo.toml")
