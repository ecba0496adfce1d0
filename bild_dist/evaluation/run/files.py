"""Files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

from bild_dist.errors import ConfigError


def write_whole(path: Path, text: str, option: str = "") -> None:
    """Replaces a file at once. `option`: what named it on the command line.

    Raises:
        ConfigError: it cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        title = f"{option} {path}".lstrip()
        raise ConfigError(f"{title} cannot be written: {error.strerror or error}") from None
