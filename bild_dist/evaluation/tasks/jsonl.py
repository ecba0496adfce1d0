"""Anybody's task: a file with a prompt and a reference a line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bild_dist.errors import ConfigError
from bild_dist.evaluation.tasks.base import ALL, Item, Task
from bild_dist.types import nearest

SUFFIX: Final = ".jsonl"
_REFERENCES: Final = ("reference", "references")
_HALF: Final = re.compile(r"[\ud800-\udfff]")


def task(path: str) -> Task:
    """The task of a file with `{"prompt", "reference" | "references"?, "id"?, "split"?}` a line;
    other fields are left alone. Where no line names a split, all are of the split `all`.

    Raises:
        ConfigError: it cannot be read, holds nothing, or a line is not of that kind, or has no split where another has
            one; names the line.
    """
    try:
        # Some editors begin a file with a mark (utf-8-sig). Not splitlines(), which would also end a line at
        # characters that JSON allows inside a text.
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--task {path} cannot be read: {error}") from None
    found = [_line(f"{path}, line {n}", n, line) for n, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise ConfigError(
            f'--task {path} has no items: write one {{"prompt": "...", "reference": "..."}} a line'
        )
    _all_or_none(found)
    splits = tuple(dict.fromkeys(split or ALL for split, _ in found))
    known = all(item.references for _, item in found)
    return Task(
        name=path,
        read=lambda asked, count: [item for split, item in found if (split or ALL) == asked][
            :count
        ],
        metric="rougeL" if known else "agreement",
        splits=splits,
    )


def _all_or_none(found: Sequence[tuple[str, Item]]) -> None:
    """Refuses lines without a split beside lines with one: whoever takes a split would lose them silently."""
    bare = [item.where for split, item in found if not split]
    named = next(((split, item.where) for split, item in found if split), None)
    if bare and named is not None:
        rest = f" (nor do {len(bare) - 1} more lines)" if len(bare) > 1 else ""
        raise ConfigError(
            f"{bare[0]} names no split{rest}, while {named[1]} is of split {named[0]!r}: give every line a split, or "
            "none"
        )


def _line(where: str, number: int, line: str) -> tuple[str, Item]:
    """An item and its split, empty where it names none. A field that is null is not given."""
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ConfigError(f"{where} must be a JSON object, not {type(record).__name__}")
    for name in ("prompt", "id", "split", *_REFERENCES):
        if _broken(record.get(name)):
            raise ConfigError(
                f"{where}: {name} has half a character (a surrogate such as \\ud83d on its own): write "
                "whole ones"
            )
    prompt, split, own = (record.get(field) for field in ("prompt", "split", "id"))
    if "prompt" not in record:
        raise ConfigError(f"{where} has no field prompt{nearest('prompt', list(record))}")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ConfigError(f"{where}: prompt must be a text, and not an empty one")
    if split is not None and not (isinstance(split, str) and split):
        raise ConfigError(f"{where}: split must be a name, such as test")
    item = Item(str(number if own is None else own), prompt, _references(where, record), where)
    return split or "", item


def _references(where: str, record: dict[str, Any]) -> tuple[str, ...]:
    given = [name for name in _REFERENCES if record.get(name) is not None]
    if len(given) > 1:
        raise ConfigError(f"{where} has both reference and references: leave out one")
    if not given:
        return ()
    value = record[given[0]]
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"{where}: {given[0]} must be a text or a list of texts")
    if not all(text.strip() for text in texts):
        raise ConfigError(f"{where}: {given[0]} has an empty text: leave out what is not known")
    return tuple(texts)


def _broken(value: Any) -> bool:
    """Whether a text in it has half a character, which JSON allows and no model or file takes."""
    if isinstance(value, list):
        return any(_broken(part) for part in value)
    return isinstance(value, str) and _HALF.search(value) is not None
