"""What a long command has done so far, a line at a time, so that it can go on where it was."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Self

from bild_dist.errors import ConfigError
from bild_dist.evaluation.run.record import plain, revived

_MOST: Final = 80
"""Characters of a value that a message shows."""


class Journal:
    """Finished pieces by name, beside the file that they will become. Owned by one command.

    `identity`: what the pieces depend on. A journal of another identity is refused, by name.

    Raises:
        ConfigError: it cannot be read or written, or belongs to another command.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self._path = path
        self._found: dict[str, Any] = {}
        identity = json.loads(json.dumps(plain(identity)))
        try:
            # A line that was being written when the machine stopped is not there.
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            whole, _, torn = text.rpartition("\n")
            lines = [json.loads(line) for line in whole.split("\n") if line]
            # The first line says what the run is.
            pieces = {line["key"]: revived(line["value"]) for line in lines[1:]}
            if torn:
                path.write_text(whole + "\n" if whole else "", encoding="utf-8")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path}, which an interrupted run left, cannot be read ({error!r}): remove it to begin anew"
            ) from None
        if lines:
            self._check(lines[0], identity)
            self._found = pieces
        else:
            self._append(identity)

    def _check(self, found: Any, identity: dict[str, Any]) -> None:
        differs = first_difference(found if isinstance(found, dict) else {}, identity)
        if differs is not None:
            name, old, new = differs
            raise ConfigError(
                f"{self._path} is of a run with another {name} ({old}, now {new}): remove it to begin anew, or "
                "take another --out"
            )

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __getitem__(self, key: str) -> Any:
        return self._found[key]

    def put(self, key: str, value: Any) -> None:
        """Keeps a finished piece."""
        self._append({"key": key, "value": value})
        self._found[key] = value

    def _append(self, line: dict[str, Any]) -> None:
        text = json.dumps(plain(line), ensure_ascii=False, allow_nan=False)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text + "\n")
        except OSError as error:
            raise ConfigError(
                f"{self._path} cannot be written: {error.strerror or error}"
            ) from None

    def close(self) -> None:
        """The command has come to its end: the journal goes."""
        self._path.unlink(missing_ok=True)

    @classmethod
    def beside(cls, out: Path, identity: dict[str, Any]) -> Self:
        return cls(out.with_name(out.name + ".partial.jsonl"), identity)


def first_difference(
    old: dict[str, Any], new: dict[str, Any], inside: str = ""
) -> tuple[str, str, str] | None:
    """The first entry in which two identities differ, by name, and what each has there."""
    for name in [*new, *old]:
        was, now = old.get(name), new.get(name)
        if isinstance(was, dict) and isinstance(now, dict):
            deeper = first_difference(was, now, f"{inside}{name}.")
            if deeper is not None:
                return deeper
        elif was != now:
            return inside + name, _short(was), _short(now)
    return None


def _short(value: Any) -> str:
    """For a message: whole grids are told apart by a name."""
    said = repr(value)
    return said if len(said) <= _MOST else sha256(said.encode()).hexdigest()[:16]
