"""The texts of one setting, left in a file: a sweep of sixty settings holds those of one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

from bild_dist.errors import BildError, ConfigError
from bild_dist.evaluation.run.record import TextRecord, parsed


class Texts(Sequence[TextRecord]):
    """Texts that are read each time that somebody goes through them. Immutable.

    `read`: all of them, from the first on; it may raise ConfigError where their file has gone.
    """

    def __init__(self, count: int, read: Callable[[], Iterable[TextRecord]]) -> None:
        self._count = count
        self._read = read

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[TextRecord]:
        return iter(self._read())

    @overload
    def __getitem__(self, place: int) -> TextRecord: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[TextRecord, ...]: ...

    def __getitem__(self, place: int | slice) -> TextRecord | tuple[TextRecord, ...]:
        return tuple(self)[place]


def in_line(path: Path, place: int) -> tuple[TextRecord, ...]:
    """The `texts` of the object whose line begins at that byte of a file.

    Raises:
        ConfigError: they are not there any more.
    """
    try:
        with path.open("rb") as file:
            file.seek(place)
            found = parsed(file.readline().rstrip().rstrip(b","))
        return tuple(TextRecord.from_dict(text) for text in found["texts"])
    except (OSError, ValueError, KeyError, TypeError, BildError) as error:
        raise ConfigError(
            f"{path} was changed while it was in use ({error}): start the same command again"
        ) from None
