"""Tasks of the paper and its neighbours, through the library `datasets`: for people with a network.

The library comes with the extra `hub`; it is imported when a split is read and not before. Names,
configurations and columns are those of the data sets' own cards.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias

from bild_dist.errors import ConfigError
from bild_dist.evaluation.tasks.base import Item, Task
from bild_dist.evaluation.tasks.debian import TRANSLATE
from bild_dist.model.hub import offline

Row: TypeAlias = Mapping[str, Any]
Loader: TypeAlias = Callable[..., Iterable[Row]]
"""`datasets.load_dataset`, called as `loader(path, config, split=...)`, with `revision` where needed."""

CONVERTED: Final = "refs/convert/parquet"
"""The branch where the hub keeps its own conversion of a data set that comes as a program, which
releases of `datasets` from 4 on refuse to run."""
LEAD: Final = 32
"""Words of a paragraph of wikitext that are the prompt; at least as many follow."""

_OFFLINE: Final = (
    ("datasets.config", "HF_HUB_OFFLINE"),
    ("datasets.config", "HF_DATASETS_OFFLINE"),
)
"""Where the library keeps whether it may ask a network: the second name in older releases."""
_SUMMARISE: Final = (
    "Summarise this article in {length}. Answer with the summary only.\n\n{{prompt}}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a task lies. `item` makes prompt and reference of a row, None of one that is no example."""

    path: str
    config: str | None
    item: Callable[[Row], tuple[str, str] | None]
    key: str | None = None
    """The column with an id; rows are numbered where there is none."""
    task: Mapping[str, Any] = field(default_factory=dict)


def _translation(row: Row) -> tuple[str, str]:
    return row["translation"]["de"], row["translation"]["en"]


def _news(document: str, summary: str, row: Row) -> tuple[str, str]:
    return row[document], row[summary]


def _paragraph(row: Row) -> tuple[str, str] | None:
    """A paragraph's first words, and how it goes on; headings, blank lines and short ones are left out."""
    words = row["text"].split()
    if len(words) < 2 * LEAD or words[0] == "=":
        return None
    return " ".join(words[:LEAD]), " ".join(words[LEAD:])


_GERMAN: Final = {
    "metric": "bleu", "prefix": "translate German to English: ", "template": TRANSLATE,
}  # fmt: skip
# A news article can be longer than a model reads; the community cuts it there.
_ARTICLE: Final = {"metric": "rougeL", "prefix": "summarize: ", "options": {"truncate": True}}

SOURCES: Final[Mapping[str, Source]] = {
    "iwslt2017-de-en": Source(
        path="IWSLT/iwslt2017", config="iwslt2017-de-en", item=_translation, task=_GERMAN
    ),
    "wmt14-de-en": Source(path="wmt/wmt14", config="de-en", item=_translation, task=_GERMAN),
    "xsum": Source(
        path="EdinburghNLP/xsum", config=None, item=partial(_news, "document", "summary"), key="id",
        task={**_ARTICLE, "template": _SUMMARISE.format(length="one sentence")},
    ),
    "cnn_dailymail": Source(
        path="abisee/cnn_dailymail", config="3.0.0", item=partial(_news, "article", "highlights"),
        key="id", task={**_ARTICLE, "template": _SUMMARISE.format(length="three sentences")},
    ),
    "wikitext": Source(
        path="Salesforce/wikitext", config="wikitext-2-raw-v1", item=_paragraph,
        task={"metric": "perplexity", "options": {"chat_template": False}},
    ),
}  # fmt: skip


def tasks(loader: Loader | None = None, *, cached: bool = False) -> list[Task]:
    """All of them. `loader` stands in for `datasets.load_dataset`; `cached`: what that has fetched before is
    read, and no network is asked.
    """
    return [
        Task(name=name, read=partial(_items, name, source, loader, cached), **source.task)
        for name, source in SOURCES.items()
    ]


def _items(
    name: str,
    source: Source,
    loader: Loader | None,
    cached: bool,
    split: str,
    count: int | None,
) -> list[Item]:
    loader = loader or _library(name)
    with offline(*_OFFLINE) if cached else nullcontext():
        return _read(name, source, loader, split, count)


def _read(name: str, source: Source, loader: Loader, split: str, count: int | None) -> list[Item]:
    found: list[Item] = []
    for number, row in enumerate(_rows(name, source, loader, split)):
        if len(found) == count:
            break
        try:
            pair = source.item(row)
            key = row[source.key] if source.key else f"{split}/{number}"
        except (KeyError, TypeError):
            raise ConfigError(
                f"task {name!r}: {source.path} has the columns {', '.join(row)}, which are not those that "
                "were known here: the data set has changed; write it as a file with prompt and reference"
            ) from None
        if pair is not None:
            found.append(Item(str(key), pair[0], (pair[1],)))
    return found


def _rows(name: str, source: Source, loader: Loader, split: str) -> Iterable[Row]:
    try:
        try:
            return loader(source.path, source.config, split=split)
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error):
                raise
            return loader(source.path, source.config, split=split, revision=CONVERTED)
    except Exception as error:
        # Whatever the library or the network throws, the remedy is the same.
        said = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise ConfigError(
            f"task {name!r}: {source.path} cannot be loaded ({said[0]}). It takes a network the first time; "
            "without one use debian-de-en, debian-synopsis or a file with prompt and reference"
        ) from None


def _library(name: str) -> Loader:
    try:
        loader: Loader = importlib.import_module("datasets").load_dataset
    except ImportError:
        raise ConfigError(
            f"task {name!r} needs the library datasets: pip install 'bild-dist[hub]', or write the texts "
            "as a file with prompt and reference"
        ) from None
    return loader
