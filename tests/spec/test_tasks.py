"""Tasks: what is written about, where it comes from, and what stands around it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bild_dist.errors import ConfigError
from bild_dist.evaluation.corpora import named
from bild_dist.evaluation.tasks import debian, hub, registry
from bild_dist.evaluation.tasks.base import Item, Task, Wording, wording

FIXTURES = Path(__file__).parents[1] / "fixtures" / "tasks"


class Hub:
    """Stands in for `datasets.load_dataset`: rows of the data sets' own schema, made up here."""

    def __init__(self, file: str, error: Exception | None = None) -> None:
        self._file = file
        self._error = error
        self.asked: list[tuple[Any, ...]] = []

    def __call__(
        self, path: str, config: str | None, *, split: str, revision: str | None = None
    ) -> Iterable[dict[str, Any]]:
        self.asked.append((path, config, split, revision))
        if self._error is not None and revision is None:
            raise self._error
        lines = (FIXTURES / f"{self._file}.jsonl").read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines]


def task(name: str, loader: hub.Loader) -> Task:
    return next(task for task in hub.tasks(loader) if task.name == name)


@pytest.mark.parametrize(
    ("name", "path", "config"),
    [
        ("iwslt2017-de-en", "IWSLT/iwslt2017", "iwslt2017-de-en"),
        ("wmt14-de-en", "wmt/wmt14", "de-en"),
    ],
)
def test_translations_come_from_the_hub(name: str, path: str, config: str) -> None:
    """German to English: one column with both languages."""
    loader = Hub("translation")
    found = task(name, loader).items("validation", 2)
    assert loader.asked == [(path, config, "validation", None)]
    assert found == [
        Item("validation/0", "Der Turm steht am Meer.", ("The tower stands by the sea.",)),
        Item("validation/1", "Wir haben den Zug verpasst.", ("We missed the train.",)),
    ]


@pytest.mark.parametrize(
    ("name", "path", "config", "first"),
    [
        ("xsum", "EdinburghNLP/xsum", None, "1001"),
        ("cnn_dailymail", "abisee/cnn_dailymail", "3.0.0", "f00d"),
    ],
)
def test_summaries_come_from_the_hub(name: str, path: str, config: str, first: str) -> None:
    """Articles keep the ids of the data set, and are cut where a model cannot read as much."""
    loader = Hub(name)
    one = task(name, loader)
    found = one.items("test")
    assert loader.asked == [(path, config, "test", None)]
    assert found[0].id == first
    assert all(item.prompt and item.references[0] for item in found)
    assert one.options == {"truncate": True}


def test_wikitext_is_continued() -> None:
    """Headings, blank lines and short paragraphs are no examples; the reference is what follows."""
    (item,) = task("wikitext", Hub("wikitext")).items("test")
    assert item.prompt.split() == [f"word{n}" for n in range(hub.LEAD)]
    assert item.references[0].split()[0] == f"word{hub.LEAD}"
    assert item.id == "test/3"


def test_a_data_set_that_is_a_program_is_taken_as_the_hub_converted_it() -> None:
    """New releases of the library run no programs, so the second try names the converted branch."""
    refused = RuntimeError("Dataset scripts are no longer supported, but found iwslt2017.py")
    loader = Hub("translation", refused)
    assert len(task("iwslt2017-de-en", loader).items("test")) == 3
    assert [asked[3] for asked in loader.asked] == [None, "refs/convert/parquet"]


def test_without_a_network_the_message_names_tasks_that_need_none() -> None:
    """Whatever the library throws, it is the network, and there are other tasks."""
    loader = Hub("translation", ConnectionError("no route\nto host"))
    with pytest.raises(ConfigError, match=r"wmt/wmt14 cannot be loaded \(no route\).*debian-de-en"):
        task("wmt14-de-en", loader).items("test")


def test_other_columns_are_told_apart() -> None:
    """A data set that changed gives a sentence with its columns instead of a KeyError."""
    with pytest.raises(ConfigError, match="columns document, summary, id"):
        task("wmt14-de-en", Hub("xsum")).items("test")


def test_a_data_set_without_its_ids_has_changed() -> None:
    """The column of ids is one of those that were known; without it the message is the same."""

    def loader(*_: Any, **__: Any) -> list[dict[str, str]]:
        return [{"document": "a", "summary": "b"}]

    with pytest.raises(ConfigError, match="columns document, summary, which are not"):
        task("xsum", loader).items("test")


def test_no_more_rows_are_read_than_are_asked_for() -> None:
    """A data set has millions of them, and making items of all takes minutes."""
    read = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal read
        while True:
            read += 1
            yield {"translation": {"de": "a", "en": "b"}}

    found = task("wmt14-de-en", lambda *_, **__: rows()).items("test", 3)
    assert [item.id for item in found] == ["test/0", "test/1", "test/2"]
    assert read <= 4


def test_debian_tasks_are_the_corpora_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their splits are those of the corpora, so nothing that trained is judged on."""
    asked = []

    def load(name: str, split: str, *, cached: bool) -> list[named.Example]:
        assert not cached
        asked.append((name, split))
        return [named.Example("tower/0", "Ein Turm.", "A tower.")]

    monkeypatch.setattr(named, "load", load)
    for one in debian.tasks():
        assert one.items("validation") == [Item("tower/0", "Ein Turm.", ("A tower.",))]
    assert asked == [("debian-synopsis", "validation"), ("debian-de-en", "validation")]
    assert [one.metric for one in debian.tasks()] == ["rougeL", "bleu"]


@pytest.mark.parametrize(
    ("name", "needle"),
    [("debian-sinopsis", "did you mean 'debian-synopsis'"), ("xsumm", "did you mean 'xsum'"),
     ("a.jsonl", "a.jsonl cannot be read")],
)  # fmt: skip
def test_an_unknown_task_is_offered_the_nearest(name: str, needle: str) -> None:
    """A typo is answered with what was probably meant."""
    with pytest.raises(ConfigError, match=needle):
        registry.find(name)


def test_an_unknown_split_is_offered_the_nearest() -> None:
    """Splits have names that people mix up (dev, val, validation)."""
    with pytest.raises(ConfigError, match=r"no split 'valid' .did you mean 'validation'"):
        registry.find("debian-de-en").items("valid")


def lines(folder: Path, *records: Any) -> str:
    file = folder / "mine.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return str(file)


def test_a_file_is_a_task(tmp_path: Path) -> None:
    """Prompt and reference or references; ids are the lines' numbers where none is given, and other
    fields are left alone. What is null is not given, as tables are exported.
    """
    one = registry.find(
        lines(
            tmp_path,
            {"prompt": "a", "reference": "b", "note": 1, "id": None, "split": None},
            {"prompt": "c\u2028d", "references": ["e", "f"], "id": 7},
        )
    )
    assert one.splits == ("all",)
    assert one.default_split == "all"
    assert one.metric == "rougeL"
    found = [(item.id, item.prompt, item.references) for item in one.items("all")]
    assert found == [("1", "a", ("b",)), ("7", "c\u2028d", ("e", "f"))]


def test_a_file_may_have_splits(tmp_path: Path) -> None:
    """A line may say where it belongs; then `test` is the default, as everywhere."""
    one = registry.find(
        lines(
            tmp_path,
            {"prompt": "a", "split": "validation"},
            {"prompt": "b", "split": "test"},
        )
    )
    assert [item.prompt for item in one.items("validation")] == ["a"]
    assert one.default_split == "test"
    assert one.metric == "agreement"


def test_a_line_without_a_split_beside_others_is_named(tmp_path: Path) -> None:
    """Whoever takes a split would not see that it is missing; who means `all` may write it down."""
    bare, named = {"prompt": "a"}, {"prompt": "b", "split": "test"}
    with pytest.raises(
        ConfigError, match=r"line 2 names no split, while .* line 1 is of split 'test'"
    ):
        registry.find(lines(tmp_path, named, bare))
    with pytest.raises(
        ConfigError, match=r"line 1 names no split \(nor do 1 more lines\).* or none"
    ):
        registry.find(lines(tmp_path, bare, bare, named))
    assert registry.find(lines(tmp_path, named, {**bare, "split": "all"})).splits == ("test", "all")


BAD_LINES = {
    "no prompt": ({"promt": "a"}, "line 2 has no field prompt .did you mean 'promt'"),
    "an empty prompt": ({"prompt": " "}, "line 2: prompt must be a text"),
    "a number": (7, "line 2 must be a JSON object, not int"),
    "a reference that is none": ({"prompt": "a", "reference": 3}, "line 2: reference must be"),
    "an empty reference": (
        {"prompt": "a", "reference": " "},
        "line 2: reference has an empty text",
    ),
    "both": ({"prompt": "a", "reference": "b", "references": ["c"]}, "leave out one"),
    "an id twice": ({"prompt": "a", "id": "1"}, "line 2 has the id '1' of .* line 1"),
    "a split that is none": ({"prompt": "a", "split": 1}, "line 2: split must be a name"),
}


@pytest.mark.parametrize(("record", "needle"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_named(tmp_path: Path, record: Any, needle: str) -> None:
    """Files are long: the message has the line and what it lacks."""
    with pytest.raises(ConfigError, match=needle):
        registry.find(lines(tmp_path, {"prompt": "x"}, record)).items("all")


def test_two_items_of_one_id_are_named_wherever_they_come_from() -> None:
    """Texts are kept by their ids: one of the two would be lost."""
    twins = Task(name="mine", read=lambda split, count: [Item("7", "a"), Item("7", "b")])
    with pytest.raises(ConfigError, match="item '7' has the id '7' of item '7'"):
        twins.items("test")


HALF = "\ud83d"


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": f"a {HALF}"},
        {"prompt": "a", "id": HALF},
        {"prompt": "a", "reference": HALF},
        {"prompt": "a", "references": ["b", HALF]},
    ],
    ids=["prompt", "id", "reference", "references"],
)
def test_half_a_character_is_named_by_its_line(tmp_path: Path, record: Any) -> None:
    """JSON allows it, no tokenizer or file does: said before anything is written. Other fields are left
    alone.
    """
    with pytest.raises(ConfigError, match=r"line 2: \w+ has half a character"):
        registry.find(lines(tmp_path, {"prompt": "x", "note": HALF}, record))


def test_an_empty_file_is_no_task(tmp_path: Path) -> None:
    """It says what a line looks like."""
    with pytest.raises(ConfigError, match="has no items"):
        registry.find(lines(tmp_path))


def test_what_stands_around_a_text_depends_on_the_family() -> None:
    """A model that follows instructions gets one; T5 as published gets the prefix that it was taught;
    other encoder-decoder models get the bare text.
    """
    one = registry.find("debian-de-en")
    item = Item("1", "Ein {prompt}.")

    def said(*, decoder_only: bool = False, prefixed: bool = False, **asked: str) -> str:
        return wording(one, decoder_only=decoder_only, prefixed=prefixed, **asked).of(item)

    assert said() == "Ein {prompt}."
    assert said(prefixed=True) == "translate German to English: Ein {prompt}."
    assert said(prefixed=True, prefix="") == "Ein {prompt}."
    assert said(prefix="de: ") == "de: Ein {prompt}."
    assert said(decoder_only=True).startswith("Translate this sentence")
    assert said(decoder_only=True, prefix="Q: ") == "Q: Ein {prompt}."
    assert said(decoder_only=True, template="<{prompt}>") == "<Ein {prompt}.>"


def test_a_template_without_a_place_is_refused() -> None:
    """It would ask the same of every item."""
    with pytest.raises(ConfigError, match=r"has no \{prompt\}"):
        Wording("Summarise this.")
    with pytest.raises(ConfigError, match="give one"):
        wording(registry.find("xsum"), decoder_only=True, prefixed=False, prefix="a", template="b")
