"""Tokenizer files as the orchestrator gets them: its text is the one that transformers gives."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from bild_dist.config import WorkerConfig
from bild_dist.errors import ConfigError, InvalidRequest
from bild_dist.model.load import load
from bild_dist.model.tokenizer import Tokens, fingerprint, read
from tests.tiny import load_model, write_model
from tests.tiny_tokenizers import TEXT, TOKENIZERS

ENCODED_HERE = ("mbart", "marian", "m2m100")
FAMILIES = ("llama", "t5", *ENCODED_HERE)
SAMPLES = [*TEXT.splitlines(), "漢字 unknown ☃ x  y", " ", "two\nlines"]

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")


def made(family: str, folder: Path) -> tuple[Tokens, Any]:
    """Our reading of a folder, and transformers' own."""
    TOKENIZERS[family](folder)
    return read(folder, encdec=family != "llama"), AutoTokenizer.from_pretrained(str(folder))


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_is_that_of_transformers(family: str, tmp_path: Path):
    """For real text and for any ids, languages and special tokens among them."""
    tokens, own = made(family, tmp_path)
    ours = Tokenizer.from_buffer(tokens.files["tokenizer.json"])
    die = random.Random(family)
    lines = [list(own(text).input_ids) for text in SAMPLES]
    lines += [[die.randrange(tokens.size) for _ in range(die.randint(0, 9))] for _ in range(500)]
    for ids in lines:
        expected = own.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids, skip_special_tokens=True) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_encoding_is_that_of_transformers(family: str, tmp_path: Path):
    """By the orchestrator where the file says all, by the worker where it does not."""
    tokens, own = made(family, tmp_path)
    assert tokens.encodes is (family in ENCODED_HERE)
    ours = Tokenizer.from_buffer(tokens.files["tokenizer.json"])
    for text in SAMPLES:
        ids = tokens.encode(text, "", "")[0] if tokens.encodes else ours.encode(text).ids
        assert list(ids) == list(own(text).input_ids)


def test_languages_frame_the_text_as_their_family_does(tmp_path: Path):
    """M2M100 writes the source language first, mBART last; both force the target language as first
    token.
    """
    tokens, own = made("m2m100", tmp_path)
    ids, forced = tokens.encode("Rain fell.", "fr", "de")
    assert ids[0] == own.convert_tokens_to_ids("__fr__")
    assert forced == own.convert_tokens_to_ids("__de__")
    assert tokens.encode("Rain fell.", "__fr__", "__de__") == (ids, forced)
    (tmp_path / "mbart").mkdir()
    tokens, own = made("mbart", tmp_path / "mbart")
    ids, forced = tokens.encode("Rain fell.", "fr_XX", "de_DE")
    assert ids[-1] == own.convert_tokens_to_ids("fr_XX")
    assert forced == own.convert_tokens_to_ids("de_DE")


def test_a_language_does_not_outlive_its_request(tmp_path: Path):
    """transformers' tokenizer remembers a language; a request that names none gets the model's own."""
    tokens, own = made("m2m100", tmp_path)
    before = tokens.encode("Rain fell.", "", "")
    tokens.encode("Rain fell.", "fr", "de")
    assert tokens.encode("Rain fell.", "", "") == before
    assert before[0][0] == own.convert_tokens_to_ids("__en__")
    assert before[1] is None


def test_marian_takes_its_target_language_from_the_text(tmp_path: Path):
    """Multilingual Marian models read the target from a token before the text and force nothing."""
    tokens, own = made("marian", tmp_path)
    ids, forced = tokens.encode("Rain fell.", "", "fra")
    assert ids[0] == own.convert_tokens_to_ids(">>fra<<")
    assert forced is None


@pytest.mark.parametrize(
    ("family", "hint"), [("m2m100", "de"), ("marian", "deu"), ("mbart", "de_DE")]
)
def test_an_unknown_language_gets_the_nearest_one(family: str, hint: str, tmp_path: Path):
    """Each family has codes of its own, so a wrong one is likely."""
    tokens, _ = made(family, tmp_path)
    with pytest.raises(InvalidRequest, match=rf"unknown language .*{hint}"):
        tokens.encode("Rain fell.", "", "de_De")


def test_a_fast_family_is_not_encoded_here(tmp_path: Path):
    """The orchestrator has the file: asking the worker is a mistake."""
    tokens, _ = made("llama", tmp_path)
    with pytest.raises(InvalidRequest, match="orchestrator encodes"):
        tokens.encode("Rain fell.", "", "")


def test_the_file_goes_out_as_it_lies_there(tmp_path: Path):
    """A tokenizer.json is not read and written again: what the publisher tested is what is used."""
    tokens, own = made("llama", tmp_path)
    assert tokens.files["tokenizer.json"] == (tmp_path / "tokenizer.json").read_bytes()
    chat = json.loads(tokens.files["chat.json"])
    assert chat["chat_template"] == own.chat_template
    assert (chat["bos_token"], chat["eos_token"]) == ("<s>", "</s>")


@pytest.mark.parametrize("where", ["jinja", "inline", "several", "none"])
def test_a_chat_template_is_found_wherever_it_was_saved(where: str, tmp_path: Path):
    """transformers has kept it in three places over the years."""
    _, own = made("llama", tmp_path)
    file, config = tmp_path / "chat_template.jinja", tmp_path / "tokenizer_config.json"
    said = json.loads(config.read_text())
    if where != "jinja":
        file.unlink()
        entry = {"name": "default", "template": own.chat_template}
        said["chat_template"] = {
            "inline": own.chat_template, "none": None,
            "several": [{"name": "tool_use", "template": "x"}, entry],
        }[where]  # fmt: skip
        config.write_text(json.dumps(said))
    chat = json.loads(read(tmp_path, encdec=False).files["chat.json"])
    assert chat["chat_template"] == (None if where == "none" else own.chat_template)


def test_the_fingerprint_is_of_the_table_alone(tmp_path: Path):
    """Two files that say the same in other words agree; one changed entry does not."""
    assert fingerprint({"a": 0, "b": 1}) == fingerprint({"b": 1, "a": 0})
    assert fingerprint({"a": 0, "b": 1}) != fingerprint({"a": 1, "b": 0})
    tokens, _ = made("llama", tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()), indent=None))
    assert read(tmp_path, encdec=False).fingerprint == tokens.fingerprint


def test_a_folder_without_a_tokenizer_knows_ids_only(tmp_path: Path):
    """Nothing is made up: no fingerprint, no files."""
    model = load_model(write_model(tmp_path, "llama"))
    assert model.files() == {}
    assert (model.info.tokenizer, model.info.tokenizer_size) == ("", 0)


def test_a_tokenizer_may_lie_elsewhere(tmp_path: Path):
    """An operator names its folder; one without tokenizer files is refused."""
    write_model(tmp_path / "model", "llama", vocabulary=400)
    (tmp_path / "words").mkdir()
    TOKENIZERS["llama"](tmp_path / "words")
    model = load_model(tmp_path / "model", tokenizer=str(tmp_path / "words"))
    assert model.info.tokenizer_size == 400
    with pytest.raises(ConfigError, match="no tokenizer files"):
        load(WorkerConfig(model=str(tmp_path / "model"), tokenizer=str(tmp_path / "model")))


def test_a_broken_tokenizer_is_the_operators_error(tmp_path: Path):
    """The folder is named, and what to do."""
    write_model(tmp_path, "llama")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(WorkerConfig(model=str(tmp_path)))


def test_a_model_encodes_through_its_worker(tmp_path: Path):
    """The worker's answer carries the number of the question."""
    model = load_model(write_model(tmp_path, "marian", tokenizer=True))
    assert model.info.encodes
    encoded = model.encode(7, "Rain fell.", "", "deu")
    assert encoded.seq == 7
    assert encoded.ids[-1] == 0
    assert encoded.forced_begin is None
