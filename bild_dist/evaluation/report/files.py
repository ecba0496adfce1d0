"""The files that a report is made of: records of `bild eval`, and sweeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bild_dist.errors import ConfigError
from bild_dist.evaluation.run.record import Record
from bild_dist.evaluation.sweep import study


@dataclass(frozen=True, slots=True)
class Found:
    """What was read, in the order of the files."""

    records: Sequence[Record] = ()
    sweeps: Sequence[study.Study] = ()


def read(paths: Sequence[Path], tell: Callable[[str], None] = lambda said: None) -> Found:
    """The records and sweeps of files, and of folders all those that are either. `tell` hears which files
    of a folder are none, and why.

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
    for path in paths:
        if not path.is_dir():
            yield _one(path)
            continue
        for file in sorted(path.glob("*.json")):
            try:
                found = _one(file)
            except ConfigError as error:
                tell(f"left out: {error}")
            else:
                yield found


def _one(path: Path) -> Record | study.Study:
    return study.Study.read(path) if study.is_one(path) else Record.read(path)
