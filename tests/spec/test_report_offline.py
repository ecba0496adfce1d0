"""`bild report` asks no network: what it reads again lies on this machine, or is left out and said to be."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import huggingface_hub
import huggingface_hub.constants as hub_constants
import pytest

from bild_dist.evaluation.corpora import archive, named
from bild_dist.evaluation.costs.shapes import shape_at
from bild_dist.evaluation.report.files import Found
from bild_dist.evaluation.report.models import Models, items_of, models_of
from bild_dist.evaluation.report.report import Section, sections
from bild_dist.evaluation.report.swept import split_of
from bild_dist.evaluation.run.record import Record
from bild_dist.evaluation.tasks import registry
from bild_dist.evaluation.tasks.base import HALVES
from bild_dist.model import hub, pairs
from bild_dist.types import Role
from tests.spec.test_report_against import ITEMS, LOSSY, REJECTION, run

TASKS = ("iwslt2017-de-en", "wmt14-de-en", "xsum", "cnn_dailymail", "wikitext")


class Library(ModuleType):
    """Stands in for `datasets`. `cached`: what it has fetched before, None where that is nothing."""

    def __init__(self, cached: list[Mapping[str, Any]] | None) -> None:
        super().__init__("datasets")
        self.config = ModuleType("datasets.config")
        self.config.HF_HUB_OFFLINE = False  # type: ignore[attr-defined]
        self._cached = cached
        self.asked: list[str] = []
        self.networked: list[str] = []

    def load_dataset(self, path: str, config: str | None, *, split: str, **_: Any) -> Any:
        self.asked.append(path)
        if not (self.config.HF_HUB_OFFLINE and hub_constants.HF_HUB_OFFLINE):
            self.networked.append(path)
        if self._cached is None:
            raise ConnectionError("Offline mode is enabled")
        return self._cached


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    """As it is on a machine that has a network, and has fetched no task."""
    found = Library(None)
    monkeypatch.setitem(sys.modules, "datasets", found)
    monkeypatch.setitem(sys.modules, "datasets.config", found.config)
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
    yield found
    # As it was for whoever comes next.
    assert found.config.HF_HUB_OFFLINE is False
    assert hub_constants.HF_HUB_OFFLINE is False


def of(task: str) -> Section:
    records = [
        replace(run(options, speed), task=task, split="test")
        for options, speed in ((LOSSY, 2.0), (REJECTION, 1.6))
    ]
    (part,) = sections(Found(records), {})
    return part


@pytest.mark.parametrize("task", TASKS)
def test_a_task_of_the_hub_is_read_from_its_cache_alone(task: str, library: Library) -> None:
    """And where it is not there the report is made without it, and says what it lacks and why."""
    part = of(task)
    assert library.asked
    assert library.networked == []
    (note,) = (
        note for note in part.notes if note.startswith(f"The texts of {task} cannot be read")
    )
    assert "a report asks no network" in note
    assert "Offline mode is enabled" in note
    assert "differences of quality in table 3b" in note
    assert {table.label for table in part.tables} >= {"table 1", "table 3b"}


def test_what_the_cache_has_is_read(library: Library) -> None:
    """Fetched once by `bild eval`, the references are there."""
    library._cached = [
        {"id": name, "document": item.prompt, "summary": item.references[0]}
        for name, item in ITEMS.items()
    ]
    part = of("xsum")
    assert library.networked == []
    assert not any("cannot be read" in note for note in part.notes)
    table = next(table for table in part.tables if table.label == "table 3b")
    assert table.rows[0][2] == "+0.00 [+0.00, +0.00]"


def test_a_corpus_of_packages_is_not_fetched_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's index takes a network too."""

    def made(name: str, folder: Path) -> None:
        pytest.fail(f"{name} was made")

    monkeypatch.setattr(archive, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(named, "_make", made)
    part = of("debian-de-en")
    assert any("The texts of debian-de-en cannot be read" in note for note in part.notes)
    assert items_of("debian-synopsis", "test").items == {}


def test_a_half_of_a_task_is_looked_for_on_this_machine(library: Library) -> None:
    """The split that a sweep's half belongs to is a hint, and no reason to fetch a data set."""
    sweep: Any = type("Sweep", (), {"task": "xsum", "split": HALVES[0], "items": ()})
    assert split_of(sweep) == ""
    assert library.networked == []


def test_an_evaluation_may_fetch(library: Library) -> None:
    """Only the report is kept from the network."""
    library._cached = [{"id": "a", "document": "b", "summary": "c"}]
    assert registry.find("xsum").items("test")
    assert library.networked == ["EdinburghNLP/xsum"]


def test_models_that_a_record_names_are_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a hub id that is not in the cache, nor the default model where its package is not installed, nor
    what a draft in a folder begins as.
    """
    networked = []

    def asked(_: Any, name: str, **__: Any) -> None:
        if not hub_constants.HF_HUB_OFFLINE:
            networked.append(name)
        raise ConnectionError

    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", asked)
    monkeypatch.setattr(hub, "locate", lambda: "nobody/has-this-model")
    draft = tmp_path / "draft"
    draft.mkdir()
    (draft / hub.DRAFT).write_text('{"base": "default", "layers": 1, "head": []}', "utf-8")
    record: Record = run(LOSSY, 2.0)
    for small in ("nobody/has-this-model", "default", str(draft)):
        command = f"bild eval --small {small} --large nobody/has-this-model"
        found = models_of(replace(record, environment={"command": command}), {})
        assert found.shapes == {}
        assert len(found.complaints) == len(Role)
        assert "nobody/has-this-model is not on this machine" in found.complaints[-1]
    assert networked == []


def test_a_shipped_pair_names_both_models() -> None:
    """Also the default one, whose models are no folders; its first layers are those of its large model."""

    def found(command: str) -> Models:
        return models_of(replace(run(LOSSY, 2.0), environment={"command": command}), {})

    named, unnamed = found("bild eval --pair default"), found("bild eval")
    assert named.complaints == unnamed.complaints
    assert named.shapes == unnamed.shapes
    large = str(pairs.part("de-en", Role.LARGE))
    early = found("bild eval --pair de-en --exit-layer 4").shapes
    assert early == {Role.SMALL: shape_at(large, 4), Role.LARGE: shape_at(large, 0)}
