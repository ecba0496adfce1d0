"""What an interrupted run has written so far, so that the same command goes on from there.

Lines of JSON: the first says what the run is, each further one is a text or why there is none. They
are flushed one by one; a last line that was cut off in the middle is thrown away.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeAlias

from bild_dist.errors import ConfigError
from bild_dist.evaluation.run.files import beside
from bild_dist.evaluation.run.identity import first_difference
from bild_dist.evaluation.run.record import FORMAT, Failure, TextRecord, plain, revived, stored
from bild_dist.evaluation.run.running import Outcome, Step

Key: TypeAlias = tuple[str, int, str]
"""Part, round and id of an item."""


class Partial:
    """The finished texts of a run, in a file beside its record. Owner of that file while it is open.

    `identity` says by name what the run is: a file of another one is refused. `commit`: of the program that
    writes now; `commits` has all that wrote.

    Raises:
        ConfigError: the file cannot be read or written, or is of another run; names what differs.
    """

    def __init__(self, out: Path, identity: Mapping[str, Any], commit: str | None = None) -> None:
        self.path = beside(out)
        self.found: dict[Key, Outcome] = {}
        self.commits: list[str] = []
        self._identity = stored(identity)
        lines = self._read()
        try:
            if not lines:
                head = {"format": FORMAT, "identity": self._identity, "commit": commit}
                self.path.write_text(json.dumps(head, ensure_ascii=False) + "\n", encoding="utf-8")
            self._file = self.path.open("a", encoding="utf-8")
            if commit is not None and commit not in self.commits:
                self.commits.append(commit)
                if lines:
                    self._put({"commit": commit})
        except OSError as error:
            raise self._refused(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        # Where a line did not fit, closing tries it once more: the error that says so is on its way.
        with suppress(OSError):
            self._file.close()

    def __contains__(self, step: Step) -> bool:
        return (step.part, step.round, step.item.id) in self.found

    def add(self, step: Step, outcome: Outcome) -> None:
        """Raises ConfigError if it cannot be written."""
        self.found[step.part, step.round, step.item.id] = outcome
        said = dataclasses.asdict(outcome) if isinstance(outcome, TextRecord) else outcome.as_dict()
        try:
            self._put(plain({"part": step.part, "round": step.round, **said}))
        except OSError as error:
            raise self._refused(error) from None

    def _put(self, said: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(said, ensure_ascii=False) + "\n")
        self._file.flush()

    def outcomes(self, part: str, round: int) -> dict[str, Outcome]:
        """By the ids of the items."""
        return {key[2]: outcome for key, outcome in self.found.items() if key[:2] == (part, round)}

    def remove(self) -> None:
        """The record is written: there is nothing to go on with."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _read(self) -> list[Any]:
        """The objects of the file, empty where there is none; cuts off a last line without its end."""
        try:
            if not self.path.exists():
                return []
            text = self.path.read_bytes()
            whole = text[: text.rfind(b"\n") + 1]
            if whole != text:
                # Never written anew: whoever stops in the middle of that would lose all texts.
                os.truncate(self.path, len(whole))
        except OSError as error:
            raise self._refused(error) from None
        try:
            said = whole.decode("utf-8", errors="replace")
            lines = [revived(json.loads(line)) for line in said.split("\n") if line]
            other = dict(lines[0]["identity"]) if lines else self._identity
            if lines and lines[0].get("commit"):
                self.commits.append(lines[0]["commit"])
            for line in lines[1:]:
                if "commit" in line:
                    self.commits.append(line["commit"])
                    continue
                part, number = line.pop("part"), line.pop("round")
                kind = Failure if "error" in line else TextRecord
                found = kind.from_dict(line)
                self.found[part, number, found.id] = found
        except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
            raise ConfigError(
                f"{self.path} is not what an interrupted run leaves ({error}): remove it to begin again"
            ) from None
        self._compare(revived(other))
        return lines

    def _compare(self, other: Mapping[str, Any]) -> None:
        differs = first_difference(dict(other), revived(self._identity))
        if differs is not None:
            name, was, now = differs
            raise ConfigError(
                f"{self.path} is of another run: its {name} is {was}, not {now}. Give the same command again to go "
                "on with it, name another --out, or remove the file"
            )

    def _refused(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"{self.path} cannot be used ({error.strerror or error}): name another --out, or make room"
        )
