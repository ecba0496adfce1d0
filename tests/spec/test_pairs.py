"""The shipped pairs: a name for two models and the settings that suit them."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import bild_dist
from bild_dist import config as configuration
from bild_dist.config import Config, WorkerConfig, configured, paired, settled, shipped
from bild_dist.errors import ConfigError
from bild_dist.evaluation.bench.options import planned
from bild_dist.evaluation.plan.options import asked
from bild_dist.model import default_pair, draft, hub, pairs
from bild_dist.model.base import Pass
from bild_dist.orchestrator.cli import PLANNED, parser
from bild_dist.types import Role
from tests.tiny import load_model, load_reference, reference_logits, rules_for, write_model

ROOT = Path(__file__).parents[2]

PAIR = """
recipe = "recipes/odd"

[small]
model = "small"
max_length = 80

[large]
model = "large"
dtype = "bfloat16"

[generate]
alpha_fb = 0.4
window = 7
"""


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pairs of our own: `odd`, with weights, `bare`, without, and `default`."""
    place = tmp_path / "pairs"
    for name in ("odd", "bare", "default"):
        (place / name).mkdir(parents=True)
        (place / name / "pair.toml").write_text(PAIR)
    shutil.copy(configuration.PAIRS / "default" / "pair.toml", place / "default")
    for role in Role:
        (place / "odd" / role).mkdir()
        (place / "odd" / role / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr(configuration, "PAIRS", place)
    return place


def test_a_name_stands_for_models_and_settings(shelf: Path) -> None:
    """Both models by their place in the installation, and what suits them as defaults of a request:
    everywhere a setting is taken.
    """
    config, addresses = settled({"pair": "odd"})
    assert config.small.model == str(shelf / "odd" / "small")
    assert config.large.model == str(shelf / "odd" / "large")
    assert (config.small.max_length, config.large.dtype) == (80, "bfloat16")
    assert (config.generate.alpha_fb, config.generate.window) == (0.4, 7)
    assert config.generate.alpha_rb == Config().generate.alpha_rb
    assert not addresses
    assert planned(["--pair", "odd", "--no-peers"]).config.generate.alpha_fb == 0.4
    assert asked(["--pair", "odd", "--measure"]).config == config


def test_a_pair_is_below_the_file_and_the_command_line(tmp_path: Path, shelf: Path) -> None:
    """Precedence: built in, the pair's, the file's, the command line's."""
    file = tmp_path / "c.toml"
    file.write_text('pair = "odd"\n[generate]\nwindow = 9\nalpha_rb = 2.5\n')
    config, _ = settled({"config": str(file), "alpha_rb": 1.5})
    assert config.small.model == str(shelf / "odd" / "small")
    assert (config.generate.alpha_fb, config.generate.window) == (0.4, 9)
    assert config.generate.alpha_rb == 1.5
    assert configured(str(file)).generate.alpha_rb == 2.5
    file.write_text('pair = "bare"\n[generate]\nwindow = 9\n')
    config, _ = settled({"config": str(file), "pair": "odd", "dtype": "float32"})
    assert config.large == WorkerConfig(model=str(shelf / "odd" / "large"))
    assert config.generate.window == 9


def test_the_default_pair_is_what_nobody_needs_to_name(tmp_path: Path, shelf: Path) -> None:
    """Its settings hold where nothing names a model: not for running workers, nor for models named
    in a file or here.
    """
    with (shelf / "default" / "pair.toml").open("a") as stream:
        stream.write("[generate]\nwindow = 5\n")
    file = tmp_path / "c.toml"
    file.write_text("[generate]\nalpha_fb = 0.3\n")
    for given in ({}, {"pair": "default"}, {"config": str(file)}):
        config, _ = settled(given)
        assert (config.small.model, config.large.model) == ("default-draft", "default")
        assert config.generate.window == 5
    workers = {"small_worker": "zmq://127.0.0.1:1", "large_worker": "zmq://127.0.0.1:2"}
    models = {"small": "./a", "large": "./b"}
    for given in (workers, models, {**models, "config": str(file)}):
        assert settled(given)[0].generate.window == Config().generate.window
    file.write_text('[large]\nmodel = "toy:large"\n')
    assert settled({"config": str(file)})[0].generate.window == Config().generate.window


def test_running_workers_may_be_those_of_a_pair(shelf: Path) -> None:
    """Its settings of a request are wanted then too."""
    config, addresses = settled(
        {"pair": "odd", "small_worker": "zmq://127.0.0.1:1", "large_worker": "zmq://127.0.0.1:2"}
    )
    assert len(addresses) == 2
    assert config.generate.window == 7


def test_an_unknown_pair_is_named_with_its_neighbours(tmp_path: Path, shelf: Path) -> None:
    """The nearest name, and all there are."""
    for name in ("od", "default/../odd", "", "."):
        with pytest.raises(ConfigError, match="Shipped are: bare, default, odd"):
            settled({"pair": name})
    with pytest.raises(ConfigError, match="did you mean 'odd'"):
        settled({"pair": "od"})
    file = tmp_path / "c.toml"
    file.write_text("pair = 3\n")
    with pytest.raises(ConfigError, match="must be a string"):
        configured(str(file))


def test_a_pair_and_models_contradict_each_other(tmp_path: Path, shelf: Path) -> None:
    """Neither wins in silence."""
    for given in ({"small": "./a"}, {"large": "./b"}, {"small": "./a", "large": "./b"}):
        with pytest.raises(ConfigError, match="leave out one or the other"):
            settled({"pair": "odd", **given})
    file = tmp_path / "c.toml"
    file.write_text('[small]\nmodel = "./a"\n')
    with pytest.raises(ConfigError, match="names the small model"):
        settled({"pair": "odd", "config": str(file)})
    file.write_text('pair = "odd"\n[large]\nmodel = "./a"\n')
    with pytest.raises(ConfigError, match="names the large model"):
        configured(str(file))


def test_weights_that_are_not_here_can_be_made(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout may lack them: the recipe is named, and a folder of the same name that happens to
    lie about is not taken.
    """
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "model.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"not in this installation.*recipes/odd"):
        paired("bare")
    (shelf / "odd" / "large" / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"its large model.*recipes/odd"):
        settled({"pair": "odd"})


def test_the_option_is_no_longer_planned() -> None:
    """It is there for every command that takes models."""
    assert "--pair" not in PLANNED
    assert parser().parse_args(["generate", "--pair", "de-en", "x"]).pair == "de-en"
    assert parser().parse_args(["check", "--pair", "de-en"]).pair == "de-en"


@pytest.mark.parametrize("name", shipped())
def test_what_is_shipped_can_be_used(name: str) -> None:
    """Each pair's file is a configuration, and names a recipe; weights that are here are bfloat16,
    or a draft's.
    """
    data = tomllib.loads((configuration.PAIRS / name / "pair.toml").read_text())
    assert data["recipe"].startswith("recipes/")
    parts = [place for role in Role if (place := pairs.part(name, role)) is not None]
    if name == "default" or len(parts) == 2:
        assert paired(name).small.model != paired(name).large.model
    for place in parts:
        if draft.read(place) is None:
            weights = load_file(place / "model.safetensors").values()
            assert {torch.bfloat16} == {weight.dtype for weight in weights}
            assert (place / "tokenizer_config.json").is_file()


def test_the_packages_hold_the_weights() -> None:
    """What lies under pairs/ is package data, at any depth."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["bild_dist"]
    package = Path(bild_dist.__file__).parent
    held = {path for pattern in patterns for path in package.glob(pattern) if path.is_file()}
    assert {path for path in configuration.PAIRS.rglob("*") if path.is_file()} <= held


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_stored_weights_are_computed_with_as_the_worker_says(family: str, tmp_path: Path) -> None:
    """bfloat16 on disk, float32 in the worker: each number is the stored one, and nothing on the way
    is rounded again.
    """
    source = write_model(tmp_path / "made", family)
    model = load_reference(source)
    place = tmp_path / "shipped"
    pairs.save(model, None, place)
    assert model.dtype == torch.float32
    stored = load_file(place / "model.safetensors")
    assert {torch.bfloat16} == {weight.dtype for weight in stored.values()}

    plain: Any = load_reference(place).float()
    ours = load_model(place)
    ids = [5, 9, 30, 41]
    again = load_model(place, dtype="bfloat16")
    assert (ours._model.dtype, again._model.dtype) == (torch.float32, torch.bfloat16)
    ours.open(0, ids, rules_for(ours, 1, 90))
    choices = ours.forward(Pass(0, 0, ids, 4, judged := (11, 20, 37, 50)))
    expected = reference_logits(plain, ids, ids).log_softmax(-1)
    for row, token in enumerate(judged):
        assert abs(choices[row].distance + expected[row, token]) < 1e-4


def test_the_default_draft_is_taken_where_it_is_there(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the small model is the large one's first layers; asked for layers, always."""
    base = write_model(tmp_path / "base", "llama", layers=3)
    monkeypatch.setattr(hub, "locate", lambda: str(base))
    assert default_pair.shipped_draft() is None
    small = load_model(Path("default-draft"))
    assert (small.info.model, len(small._shapes)) == (
        "HuggingFaceTB/SmolLM2-135M-Instruct (first 2 layers)", 2,
    )  # fmt: skip
    place = pairs.folder("default", Role.SMALL)
    draft.save(load_reference(base), place, "default", None, "int8")
    assert default_pair.shipped_draft() == place
    small = load_model(Path("default-draft"))
    assert (small.info.model, len(small._shapes)) == (
        "HuggingFaceTB/SmolLM2-135M-Instruct (draft of 3 layers)", 3,
    )  # fmt: skip
    assert small.info.tokenizer == load_model(Path("default")).info.tokenizer
    assert len(load_model(Path("default-draft"), exit_layer=1)._shapes) == 1


def test_the_first_layers_are_those_of_the_large_model_where_no_small_one_is_named(
    tmp_path: Path,
) -> None:
    """`--large L --exit-layer 4` needs no `--small L`, and a shipped pair names its small model no more than that;
    one that somebody names stays what it is.
    """
    early, _ = settled({"large": "some/large", "exit_layer": 4})
    assert (early.small.model, early.small.exit_layer) == ("some/large", 4)
    assert (early.large.model, early.large.exit_layer) == ("some/large", 0)
    both, _ = settled({"small": "some/small", "large": "some/large", "exit_layer": 4})
    assert (both.small.model, both.small.exit_layer) == ("some/small", 4)
    shipped, _ = settled({"pair": "de-en", "exit_layer": 2})
    assert shipped.small.model == shipped.large.model == paired("de-en").large.model
    assert (shipped.small.exit_layer, shipped.large.exit_layer) == (2, 0)
    file = tmp_path / "a.toml"
    file.write_text('pair = "de-en"\n')
    assert settled({"config": str(file), "exit_layer": 2})[0].small == shipped.small
    other, _ = settled({"config": str(file), "large": "some/large", "exit_layer": 2})
    assert (other.small.model, other.large.model) == ("some/large", "some/large")
    own = paired("de-en").small.model
    file.write_text(f'[small]\nmodel = "{own}"\n[large]\nmodel = "{shipped.large.model}"\n')
    named, _ = settled({"config": str(file), "exit_layer": 2})
    assert (named.small.model, named.small.exit_layer) == (own, 2)


@pytest.mark.parametrize(
    "given", [{"large": "toy:large"}, {"small": "toy:small", "large": "some/large"}]
)
def test_toys_have_no_first_layers(given: dict[str, str]) -> None:
    """They would write as whole ones do, under the name of something that was not measured."""
    with pytest.raises(ConfigError, match=r"exit_layer = 4: toy:.* is a toy"):
        settled({**given, "exit_layer": 4})
