"""What a long command has done so far, a line at a time, so that it can go on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from bild_dist.errors import ConfigError
from bild_dist.evaluation.run.files import beside
from bild_dist.evaluation.run.identity import first_difference
from bild_dist.evaluation.run.record import plain, revived, stored


class Journal:
    """Finished pieces by name, beside the file that they will become. Owned by one command.

    The pieces stay in the file: each is read when somebody asks for it, and what is held is where it
    begins. So the texts of many settings need the room of one.

    `identity`: what the pieces depend on. A journal of another identity is refused, by name.

    Raises:
        ConfigError: it cannot be read or written, or belongs to another command.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self._path = path
        self._places: dict[str, int] = {}
        """Of each piece the byte at which its line begins."""
        identity = stored(identity)
        first = True
        try:
            for place, line in self._lines():
                found = json.loads(line)
                if first:
                    # It says what the run is.
                    self._check(found, identity)
                    first = False
                else:
                    _ = found["value"]
                    self._places[found["key"]] = place
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path}, which an interrupted run left, cannot be read ({error!r}): remove it to begin anew"
            ) from None
        if first:
            self._append(identity)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Each whole line and where it begins. Cuts off a last one that was being written when the
        machine stopped.
        """
        if not self._path.exists():
            return
        with self._path.open("rb+") as file:
            place = 0
            while line := file.readline():
                if not line.endswith(b"\n"):
                    file.truncate(place)
                    return
                if line.strip():
                    yield place, line
                place += len(line)

    def _check(self, found: Any, identity: dict[str, Any]) -> None:
        differs = first_difference(found if isinstance(found, dict) else {}, identity)
        if differs is not None:
            name, old, new = differs
            raise ConfigError(
                f"{self._path} is of a run with another {name} ({old}, now {new}): remove it to begin anew, or "
                "take another --out"
            )

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> Any:
        """Raises KeyError without such a piece, ConfigError where somebody else changed the file."""
        place = self._places[key]
        try:
            with self._path.open("rb") as file:
                file.seek(place)
                found = json.loads(file.readline())
            if found["key"] != key:
                raise ValueError("another piece is there")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{self._path} was changed while a run used it ({error}): remove it to begin anew"
            ) from None
        return revived(found["value"])

    def put(self, key: str, value: Any) -> None:
        """Keeps a finished piece."""
        self._places[key] = self._append({"key": key, "value": value})

    def _append(self, line: dict[str, Any]) -> int:
        """Returns where the line begins."""
        text = json.dumps(plain(line), ensure_ascii=False, allow_nan=False)
        place = None
        try:
            with self._path.open("ab") as file:
                place = file.tell()
                file.write(text.encode() + b"\n")
        except OSError as error:
            if place is not None:
                # What fitted is no line, and the next one would begin in its middle.
                with suppress(OSError):
                    os.truncate(self._path, place)
            raise ConfigError(
                f"{self._path} cannot be written ({error.strerror or error}): make room, and the same command goes on"
            ) from None
        return place

    def close(self) -> None:
        """The command has come to its end: the journal goes."""
        self._path.unlink(missing_ok=True)

    @classmethod
    def beside(cls, out: Path, identity: dict[str, Any]) -> Self:
        return cls(beside(out), identity)
