"""Which jobs of a file are on the queue: a note beside the output, kept until all results are there.

A broker may take what is submitted a second time for a second job, and have its text written twice.
An id is noted after the broker has confirmed its job, so the note never says too much.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

SUFFIX: Final = ".submitted"


class Note:
    """The ids that were submitted, as a context that holds the file open. Owned by the task that
    submits.

    `batch` says which jobs of which queue: a note of others counts for nothing and is written over.
    `path` is beside the output; `earlier` beside the input, where a run without an output left one.
    Without a path, or where none can be written (`error` says why), nothing is remembered.
    """

    def __init__(self, path: Path | None, batch: str, earlier: Path | None = None) -> None:
        self.names: set[str] = set()
        self.error = ""
        self._path, self._batch, self._earlier = path, batch, earlier
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        if self._path is None:
            return self
        try:
            if self._earlier is not None and self._read(self._earlier) is not None:
                # It goes where the results go: another output begins without it.
                shutil.move(self._earlier, self._path)
            found = self._read(self._path)
            self._file = self._path.open("w" if found is None else "a", encoding="utf-8")
            self.names.update(found or ())
            # Begins a line of its own after one that a killed run left without its end.
            self._file.write(f"{json.dumps(self._batch)}\n" if found is None else "\n")
            self._file.flush()
        except OSError as error:
            self.error = f"what is submitted cannot be noted: {error}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def _read(self, path: Path) -> list[str] | None:
        """The ids; None where there is no note, or one of other jobs."""
        try:
            batch, *names = path.read_text("utf-8").splitlines()
        except (OSError, ValueError):
            return None
        return (
            [name for line in names if (name := _name(line))]
            if batch == json.dumps(self._batch)
            else None
        )

    def add(self, name: str) -> None:
        """The broker has confirmed this one."""
        self.names.add(name)
        if self._file is not None:
            self._file.write(json.dumps(name) + "\n")
            self._file.flush()

    def remove(self) -> None:
        """All results are there: the next run is another."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()


def _name(line: str) -> str:
    """Nothing for what a killed run wrote of a line."""
    try:
        return str(json.loads(line))
    except ValueError:
        return ""
