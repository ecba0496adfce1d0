"""Names for what files hold: the same for the same contents, another one for any other."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from bild_dist.evaluation.align.calibration import Question
from bild_dist.evaluation.align.models import Source
from bild_dist.evaluation.align.outputs import Asked, Teacher
from bild_dist.evaluation.run.identity import weights
from bild_dist.model import contents, draft
from tests.tiny import write_model


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The files that were read whole, every file being a large one."""
    found: list[Any] = []

    def told(stream: Any, name: str) -> Any:
        found.append(stream.name)
        return hashlib.file_digest(stream, name)

    monkeypatch.setattr(contents, "_LARGE", 1)
    monkeypatch.setattr(contents, "file_digest", told)
    return found


def change(folder: Path, name: str) -> None:
    """Makes one matrix of a model another one, in a file of the same size."""
    (file,) = folder.glob("*.safetensors")
    held = load_file(file)
    held[name] = held[name] + 1
    save_file(held, file, {"format": "pt"})


def test_any_byte_counts(tmp_path: Path) -> None:
    """Also one that no sample of earlier versions saw, such as those of a matrix that was trained again."""
    file = tmp_path / "weights"
    whole = bytearray(9_000_000)
    file.write_bytes(whole)
    before = contents.fingerprint(file), contents.sampled(file)
    whole[100_000] = 1
    file.write_bytes(whole)
    assert contents.sampled(file) == before[1]
    assert contents.fingerprint(file) != before[0]


def test_a_large_file_is_read_once(
    tmp_path: Path, reads: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name is remembered until it is written again."""
    monkeypatch.setattr(contents, "_SETTLED_NS", 0)
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    name = contents.fingerprint(file)
    assert contents.fingerprint(file) == name
    assert len(reads) == 1
    file.write_bytes(b"two")
    assert contents.fingerprint(file) != name
    assert len(reads) == 2


def test_what_has_just_been_written_is_not_trusted(tmp_path: Path, reads: list[Any]) -> None:
    """A file may be written twice under one time of the system."""
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    assert contents.fingerprint(file) == contents.fingerprint(file)
    assert len(reads) == 2


def test_without_a_cache_it_is_read_each_time(
    tmp_path: Path, reads: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is worth having on a disk that cannot be written."""
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    assert contents.fingerprint(file) == contents.fingerprint(file)
    assert len(reads) == 2


def test_a_drafts_base_counts(tmp_path: Path) -> None:
    """A draft has its embedding and its head from there: with another one its texts are others."""
    base = write_model(tmp_path / "base", "llama")
    small = Source(model=str(base), exit_layer=1).load()
    draft.save(small, tmp_path / "draft", "./../base", None, "bfloat16")
    before = weights(tmp_path / "draft")
    assert weights(tmp_path / "draft") == before
    change(base, "lm_head.weight")
    assert weights(tmp_path / "draft") != before


def test_texts_of_earlier_versions_are_taken_over_once(tmp_path: Path) -> None:
    """What took an hour to write is not written again because its name is made otherwise now; and another
    model that earlier versions would have called the same does not find it.
    """
    source = Source(model=str(write_model(tmp_path / "m", "llama")))
    questions = [Question("1", (5, 6, 7))]
    asked = Asked(max_new_tokens=4, choices=2)
    old = source.fingerprint(of_old=True)
    (text,) = Teacher(source.load, old, asked).outputs(questions)

    def unasked() -> None:
        raise AssertionError("nothing is left to write")

    teacher = Teacher(unasked, source.fingerprint(), asked)
    teacher.adopt(old)
    (found,) = teacher.outputs(questions)
    assert found.ids == text.ids
    other = Teacher(unasked, "another", asked)
    other.adopt(old)
    with pytest.raises(AssertionError, match="left to write"):
        list(other.outputs(questions))
