"""A record that is there already: the same run is done, and another one's is not written over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bild_dist.errors import ConfigError
from bild_dist.evaluation.run.identity import first_difference
from bild_dist.evaluation.run.record import Record, stored

IDENTITY: Final = "identity"
"""Where a record's environment says what its run was."""


def there(out: Path) -> Record | None:
    """What `--out` names, None where there is nothing yet.

    Raises:
        ConfigError: there is something else.
    """
    if not out.exists():
        return None
    try:
        return Record.read(out)
    except ConfigError as error:
        raise ConfigError(f"--out: {error}, or remove it first, or name another --out") from None


def same(record: Record, out: Path, identity: Mapping[str, Any]) -> None:
    """Raises ConfigError where a finished record is not of the run with this identity; names what differs."""
    remedy = "name another --out, or remove the file to measure anew"
    theirs = record.environment.get(IDENTITY)
    if not isinstance(theirs, dict):
        raise ConfigError(f"{out} is a finished record that does not say of which run: {remedy}")
    # As a file has them: tuples are lists there, and infinity is a word.
    ours, old = (stored(said) for said in (identity, theirs))
    differs = first_difference(old, ours)
    if differs is not None:
        name, was, now = differs
        raise ConfigError(
            f"{out} is the finished record of another run: its {name} is {was}, not {now}; {remedy}"
        )
