"""Tasks over descriptions of Debian packages, which need no model hub."""

from __future__ import annotations

from functools import partial
from typing import Final

from bild_dist.evaluation.corpora import named
from bild_dist.evaluation.tasks.base import Item, Task

TRANSLATE: Final = (
    "Translate this sentence from German to English. Answer with the translation only.\n\n{prompt}"
)
SUMMARISE: Final = (
    "Summarise this description of a software package in one line of at most ten words. "
    "Answer with that line only.\n\n{prompt}"
)
LINE: Final = 64
"""Tokens that a line may have. The longest of the authors' own has about 30; a model that does not come to an
end is cut here, and not after a page."""


def tasks(*, cached: bool = False) -> list[Task]:
    """Long to short descriptions, and German to English sentences of descriptions. `cached`: they read what
    lies in the cache and fetch nothing.
    """
    return [
        Task(
            name="debian-synopsis", read=partial(_items, "debian-synopsis", cached), metric="rougeL",
            prefix="summarize: ", template=SUMMARISE, options={"max_new_tokens": LINE},
        ),
        Task(
            name="debian-de-en", read=partial(_items, "debian-de-en", cached), metric="bleu",
            prefix="translate German to English: ", template=TRANSLATE,
        ),
    ]  # fmt: skip


def _items(corpus: str, cached: bool, split: str, count: int | None) -> list[Item]:
    return [
        Item(example.id, example.prompt, (example.reference,) if example.reference else ())
        for example in named.load(corpus, split, cached=cached)[:count]
    ]
