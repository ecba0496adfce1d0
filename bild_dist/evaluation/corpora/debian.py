"""The package descriptions of Debian, in English and German.

A description falls under its package's licence: nothing of it is kept but in the user's cache.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bild_dist.evaluation.corpora import archive

SUITES: Final = ("bullseye", "bookworm", "trixie", "sid")
"""Four suites hold about a quarter more distinct descriptions than one."""
_PREFIXES: Final = (
    "lib", "python3-", "python-", "golang-", "node-", "ruby-", "r-cran-", "r-bioc-", "fonts-",
    "librust-", "haskell-", "php-", "elpa-", "texlive-", "gir1.2-", "task-",
)  # fmt: skip
_STEM: Final = re.compile(r"[a-z]+|\d+")


@dataclass(frozen=True, slots=True)
class Description:
    """What one package says of itself. `body`: its paragraphs; a list item is a paragraph of its
    own, as `* item`.
    """

    package: str
    md5: str
    short: str
    body: tuple[str, ...]


def descriptions(language: str) -> list[Description]:
    """Every description of a language, in the order of the indexes; one a package name and md5.

    Raises:
        ConfigError: there is no apt here, or the archive cannot be reached and nothing is cached.
    """
    folder = fetched()
    found: dict[tuple[str, str], Description] = {}
    for suite in SUITES:
        for file in sorted(folder.glob(f"*_dists_{suite}_main_i18n_Translation-{language}*")):
            for entry in parse(_text(file), language):
                found.setdefault((entry.package, entry.md5), entry)
    return list(found.values())


def parse(index: str, language: str) -> Iterator[Description]:
    """The entries of one Translation file (Debian policy 5.6.13: ` .` ends a paragraph, lines with
    two leading blanks are taken as they stand).
    """
    for block in index.split("\n\n"):
        lines = block.split("\n")
        fields = dict(
            line.split(": ", 1) for line in lines if ": " in line and not line.startswith(" ")
        )
        short = fields.get(f"Description-{language}", "").strip()
        if not short or "Package" not in fields:
            continue
        body = _paragraphs([line[1:] for line in lines if line.startswith(" ")])
        yield Description(fields["Package"], fields.get("Description-md5", ""), short, tuple(body))


def _paragraphs(lines: Sequence[str]) -> list[str]:
    paragraphs: list[str] = []
    fresh = True
    for line in lines:
        words = line.strip()
        if words in ("", "."):
            fresh = True
            continue
        item = re.match(r"[-*+•]\s+(.*)", words)
        if item:
            paragraphs.append(f"* {item[1]}")
        elif fresh or not paragraphs:
            paragraphs.append(words)
        else:
            paragraphs[-1] += f" {words}"
        fresh = False
    return paragraphs


def family(package: str) -> str:
    """The stem by which packages of one source go together: no family is in two splits.

    `libfoo2-dev`, `python3-foo` and `foo-doc` are all `foo`.
    """
    name = package
    changed = True
    while changed:
        changed = False
        for prefix in _PREFIXES:
            if name.startswith(prefix) and len(name) - len(prefix) >= 2:
                name, changed = name[len(prefix) :], True
    stem = _STEM.search(name)
    return stem[0] if stem else name


def fetched() -> Path:
    """The folder of the indexes; fetched now if it is not there. Raises ConfigError if that
    fails.
    """
    return archive.kept(
        archive.cache_folder() / "debian" / "lists", lambda place: archive.update(place, SUITES)
    )


def _text(file: Path) -> str:
    """An index as text, however apt keeps it."""
    if not file.suffix:
        return file.read_text(encoding="utf-8")
    done = subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", str(file)],
                          capture_output=True, check=True)  # fmt: skip
    return done.stdout.decode("utf-8")
