"""Corpora by name, split so that no package family and no text is in two splits."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from bild_dist.errors import ConfigError
from bild_dist.evaluation.corpora import archive, debian, libreoffice, pairs
from bild_dist.types import nearest

SPLITS: Final = ("train", "validation", "test")
_SHARES: Final = (("test", 1), ("validation", 5))
"""Of a hundred families, which are in a split: those whose number is below this. The rest trains."""
_FORMAT: Final = 1
"""Changes when the same indexes give other examples."""


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt, and what a good text for it would be where somebody knows."""

    id: str
    prompt: str
    reference: str = ""


def load(name: str, split: str, *, cached: bool = False) -> list[Example]:
    """The examples of a corpus, in a fixed order that mixes packages; kept in the cache. `cached`: only what
    lies there, nothing is fetched or made.

    Raises:
        ConfigError: no such corpus or split, or it cannot be fetched, or is not there.
    """
    if name not in _MAKERS:
        raise ConfigError(
            f"corpus {name!r} is unknown{nearest(name, list(_MAKERS))}: there are {', '.join(_MAKERS)}"
        )
    if split not in SPLITS:
        raise ConfigError(f"split {split!r} must be one of {', '.join(SPLITS)}")
    file = archive.cache_folder() / f"{name}-{_FORMAT}" / f"{split}.jsonl"
    if cached and not file.is_file():
        raise ConfigError(f"{file} is not there: it is made when a task of {name} is run")
    if not file.is_file():
        _make(name, file.parent)
    with file.open(encoding="utf-8") as stream:
        return [Example(**json.loads(line)) for line in stream]


def names() -> list[str]:
    """The corpora there are."""
    return list(_MAKERS)


def split_of(package: str) -> str:
    """The split that a package's family is in."""
    return part_of(debian.family(package))


def part_of(key: str) -> str:
    """The split of whatever has this key: of a hundred, one tests and four validate."""
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) % 100
    return next((split for split, below in _SHARES if number < below), "train")


def divided(found: Iterable[pairs.Pair]) -> dict[str, list[pairs.Pair]]:
    """Pairs by split, one a source text; what is held out shares neither source nor target with
    what trains.
    """
    splits: dict[str, dict[str, pairs.Pair]] = {split: {} for split in SPLITS}
    for pair in found:
        splits[split_of(pair.package)].setdefault(pair.source, pair)
    taken: set[str] = set()
    for split in SPLITS:
        kept = {s: p for s, p in splits[split].items() if s not in taken and p.target not in taken}
        taken |= kept.keys() | {pair.target for pair in kept.values()}
        splits[split] = kept
    return {split: sorted(kept.values(), key=_mixed) for split, kept in splits.items()}


def _mixed(pair: pairs.Pair) -> str:
    return hashlib.sha256(pair.source.encode()).hexdigest()


def _make(name: str, folder: Path) -> None:
    made = _MAKERS[name]()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for split, examples in made.items():
            partial = folder / f"{split}.{os.getpid()}"
            with partial.open("w", encoding="utf-8") as stream:
                for example in examples:
                    stream.write(json.dumps(asdict(example), ensure_ascii=False) + "\n")
            partial.rename(folder / f"{split}.jsonl")
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written ({error.strerror or error}): make room there, or set XDG_CACHE_HOME"
        ) from None


def _translations() -> dict[str, list[Example]]:
    found = pairs.translations(debian.descriptions("de"), debian.descriptions("en"))
    return _examples(found)


def _help_pages() -> dict[str, list[Example]]:
    return _examples(libreoffice.translations())


def _synopses() -> dict[str, list[Example]]:
    return _examples(pairs.summaries(debian.descriptions("en")))


def _examples(found: Iterator[pairs.Pair]) -> dict[str, list[Example]]:
    return {
        split: [
            Example(f"{pair.package}/{n}", pair.source, pair.target) for n, pair in enumerate(kept)
        ]
        for split, kept in divided(found).items()
    }


def _instructions() -> dict[str, list[Example]]:
    from bild_dist.evaluation.corpora import instructions

    records = debian.descriptions("en")
    return {split: list(instructions.instructions(records, split)) for split in SPLITS}


_MAKERS: Final[dict[str, Callable[[], dict[str, list[Example]]]]] = {
    "debian-de-en": _translations,
    "debian-synopsis": _synopses,
    "libreoffice-de-en": _help_pages,
    "debian-instructions": _instructions,
}
