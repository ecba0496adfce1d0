"""The files that a report is made of: records of `bild eval`, and sweeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from os.path import realpath
from pathlib import Path

from bild_dist.errors import ConfigError
from bild_dist.evaluation.align.progress import Bar
from bild_dist.evaluation.run.files import refuse_special
from bild_dist.evaluation.run.record import Foreign, Record
from bild_dist.evaluation.sweep import study


@dataclass(frozen=True, slots=True)
class Found:
    """What was read, in the order of the files."""

    records: Sequence[Record] = ()
    sweeps: Sequence[study.Study] = ()


def read(paths: Sequence[Path], tell: Callable[[str], None] = lambda said: None) -> Found:
    """The records and sweeps of files, and of folders all those that are either; each once, however often
    and under however many names it is there. `tell` hears which files of a folder are none, and why, and
    which are a copy of another.

    Raises:
        ConfigError: a file is neither, or there is none at all.
    """
    found = list(_all(paths, tell))
    if not found:
        raise ConfigError(
            f"no records in {', '.join(map(str, paths))}: name files that bild eval or bild sweep wrote "
            "(--out FILE.json)"
        )
    return Found(
        [one for one in found if isinstance(one, Record)],
        [one for one in found if isinstance(one, study.Study)],
    )


def _all(paths: Sequence[Path], tell: Callable[[str], None]) -> Iterator[Record | study.Study]:
    files = list(_files(paths))
    places: set[Path] = set()
    refused: set[Path] = set()
    contents: dict[str, Path] = {}
    with Bar("reading", len(files)) as bar:
        for number, (file, named) in enumerate(files, 1):
            place = Path(realpath(file))
            # What a folder has and is refused may be named itself further on, and that is an error.
            if place not in places and (named or place not in refused):
                try:
                    content = _content(file)
                    first = contents.get(content)
                    found = _one(file) if first is None else None
                except ConfigError as error:
                    if named:
                        raise
                    refused.add(place)
                    tell(f"left out: {error}")
                else:
                    places.add(place)
                    contents.setdefault(content, file)
                    if found is None:
                        tell(f"left out: {file} is a copy of {first}")
                    else:
                        yield found
            bar.at(number)


def _files(paths: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """Every file, and whether it was named itself."""
    for path in paths:
        if path.is_dir():
            yield from ((file, False) for file in sorted(path.glob("*.json")))
        else:
            yield path, True


def _content(file: Path) -> str:
    """A name for what a file holds."""
    refuse_special(file)
    try:
        with file.open("rb") as stream:
            return file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from None


def _one(path: Path) -> Record | study.Study:
    if study.is_one(path):
        return study.Study.read(path)
    try:
        return Record.read(path)
    except Foreign:
        raise ConfigError(
            f"{path} is not a record of `bild eval` or `bild sweep`: bild report takes files that one of them wrote "
            "(--out FILE.json), and folders of these"
        ) from None
