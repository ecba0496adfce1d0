"""The help pages of LibreOffice, in German and English: paragraphs that carry the same id.

All of them are of one family, which trains: they are more of the same kind of text for a model that
is tested on package descriptions.
"""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

from bild_dist.evaluation.corpora import archive
from bild_dist.evaluation.corpora.pairs import Pair, sentence_pairs

_SUITE: Final = "bookworm"
"""The newest one that has the English pages in a package of their own."""
_PACKAGES: Final = ("libreoffice-help-de", "libreoffice-help-en-us")
_FAMILY: Final = "libreoffice"
_TEXTS: Final = Path("usr/share/libreoffice/help")
_BLOCKS: Final = frozenset(("p", "h1", "h2", "h3", "h4", "h5", "h6"))


def translations() -> Iterator[Pair]:
    """Sentences of paragraphs that exist in both languages and have as many sentences in each.

    Raises:
        ConfigError: the pages cannot be fetched.
    """
    folder = archive.cache_folder() / "libreoffice" / "help"
    archive.kept(folder, lambda place: archive.unpacked(place, _SUITE, _PACKAGES))
    german, english = (folder / _TEXTS / name for name in ("de", "en-US"))
    for file in sorted(german.rglob("*.html")):
        other = english / file.relative_to(german)
        if not other.is_file():
            continue
        ours, theirs = paragraphs(file.read_text("utf-8")), paragraphs(other.read_text("utf-8"))
        for name in ours:
            if name in theirs:
                yield from sentence_pairs(_FAMILY, ours[name], theirs[name])


def paragraphs(page: str) -> dict[str, str]:
    """The paragraphs and headings of a page that have an id, without their mark-up."""
    reader = _Reader()
    reader.feed(page)
    return {name: " ".join(text.split()) for name, text in reader.found.items()}


class _Reader(HTMLParser):
    """Collects the text of blocks with an id. Owner of `found`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self._at: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _BLOCKS:
            self._at = dict(attrs).get("id")
            if self._at is not None:
                self.found[self._at] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self._at = None

    def handle_data(self, data: str) -> None:
        if self._at is not None:
            self.found[self._at] += data
