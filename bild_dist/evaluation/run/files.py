"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from bild_dist.errors import ConfigError


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


def made_room(out: Path) -> None:
    """Makes the folder that --out lies in, where there is none.

    Raises:
        ConfigError: it cannot be made, or --out is a folder itself.
    """
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder: name a file in it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--out {out}: its folder cannot be made ({error.strerror or error})"
        ) from None
