"""One command at a time: what `--out` names, and what an unfinished run keeps beside it, is written by whoever
came first.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from bild_dist.errors import ConfigError
from bild_dist.evaluation.run.files import beside, refuse_special

_TRIES: Final = 10
"""How often a file may be taken away between its opening and its locking, before that is nobody's end."""
_LOCKS: Final = Path("/proc/locks")


@contextmanager
def held(out: Path, *, again: bool = True) -> Iterator[None]:
    """Holds what is kept beside `out`, as long as the block lasts. The kernel lets go of what a dead process held,
    so nothing that stays behind keeps the same command from going on.

    `again`: the command writes over what is there. One that does not shows it, maybe to people who may not write
    there, and there is nothing to hold.

    Raises:
        ConfigError: another command holds it, which is said at once, or it cannot be written.
    """
    if not again and out.exists():
        yield
        return
    if out.is_dir():
        raise ConfigError(f"{out} is a folder where a file is to be: name another --out")
    path = beside(out)
    refuse_special(path)
    handle = _taken(out, path)
    try:
        yield
    finally:
        with suppress(OSError):
            # Nothing to go on with, where nothing was written.
            if os.fstat(handle).st_size == 0 and _is(path, handle):
                path.unlink()
        os.close(handle)


def _taken(out: Path, path: Path) -> int:
    """The file, made where there is none, open and locked."""
    for _ in range(_TRIES):
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be written ({error.strerror or error}): name an --out where it can"
            ) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = _holder(handle)
            os.close(handle)
            raise ConfigError(
                f"--out {out}: another command{who} is at work on it and holds {path}: wait for its end, or name "
                "another --out"
            ) from None
        except OSError:
            # A file system that knows no locks: nothing can be told there.
            return handle
        if _is(path, handle):
            return handle
        # Whoever had it came to an end and took it away between the two calls.
        os.close(handle)
    raise ConfigError(f"{path} comes and goes: name another --out")


def _is(path: Path, handle: int) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _holder(handle: int) -> str:
    """Who holds a file, in brackets; empty where the system does not tell."""
    inode = f":{os.fstat(handle).st_ino}"
    try:
        lines = [line.split() for line in _LOCKS.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return ""
    found = {words[4] for words in lines if words[1:2] == ["FLOCK"] and words[5].endswith(inode)}
    found.discard("0")  # of another container, whose processes have no numbers here
    return f" (process {found.pop()})" if len(found) == 1 else ""
