"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from bild_dist.errors import ConfigError

_KINDS: Final = (
    (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"),
)  # fmt: skip
_SYSTEM: Final = ("/dev", "/proc", "/sys")


def write_whole(path: Path, text: str | Iterable[str], option: str = "") -> None:
    """Replaces a file at once. `text` may come in pieces, for what is too long to be held; `option`: what
    named the file on the command line.

    Raises:
        ConfigError: it cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.writelines([text] if isinstance(text, str) else text)
            file.flush()
            # On the disk before it has its name: what it was made of may go as soon as it has.
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        title = f"{option} {path}".lstrip()
        raise ConfigError(f"{title} cannot be written: {error.strerror or error}") from None
    finally:
        # What is left of a failure is of no use, and maybe what the disk is full of.
        with suppress(OSError):
            part.unlink()


def beside(out: Path) -> Path:
    """Where an interrupted run leaves what it has done."""
    return out.with_name(out.name + ".partial.jsonl")


def made_room(name: str) -> Path:
    """What --out names. Makes the folder that it lies in, where there is none.

    Raises:
        ConfigError: it cannot be made, or --out is a folder itself, or a device or the like.
    """
    out = Path(name)
    if out.is_dir() or name.endswith("/"):
        raise ConfigError(f"--out {name or '.'} is a folder: name a file in it")
    refuse_special(out, "--out")
    folder = os.path.realpath(out.parent)
    if folder in _SYSTEM or folder.startswith(("/proc/", "/sys/")):
        # Such as /dev/stdout, which may lead to a plain file: the name itself would be replaced.
        raise ConfigError(f"--out {out} lies among the system's devices: name a file of a disk")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--out {out}: its folder cannot be made ({error.strerror or error})"
        ) from None
    return out


def refuse_special(path: Path, option: str = "") -> None:
    """Raises ConfigError for what is there and is no file of a disk, which would be read without end, or replaced
    though others use it.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return  # nothing is there, or whoever opens it says why not
    for is_one, kind in _KINDS:
        if is_one(mode):
            title = f"{option} {path}".lstrip()
            raise ConfigError(f"{title} is {kind}: name a file of a disk")
