"""What the contestants have to write: prompts from a file, or a dozen short instructions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bild_dist.errors import ConfigError
from bild_dist.types import nearest

BUILT_IN: Final = (
    "Explain why the sea is salty.",
    "Write a short letter to a neighbour about a lost cat.",
    "List five things to pack for a walk in the mountains.",
    "What is the difference between weather and climate?",
    "Describe how bread is made, step by step.",
    "Tell a short story about a lighthouse keeper.",
    "Why do leaves change colour in autumn?",
    "Write a Python function that reverses a list.",
    "Give three tips for learning a new language.",
    "Summarise the rules of chess in a few sentences.",
    "How does a bicycle stay upright?",
    "Write a poem of four lines about rain.",
)

_ASKS: Final = ("prompt", "messages", "prompt_tokens")
_OPTIONS: Final = ("max_new_tokens", "src_lang", "tgt_lang")
"""Options of a request that a line may set: those that every contestant can honour."""


@dataclass(frozen=True, slots=True)
class Task:
    """One text to write. `references`: what a good one would be, empty where nobody knows."""

    prompt: Any
    options: dict[str, Any] = field(default_factory=dict)
    references: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {"prompt": self.prompt, "options": self.options}


def built_in() -> list[Task]:
    """Short instructions for decoder-only models."""
    return [Task(prompt) for prompt in BUILT_IN]


def read(path: str) -> list[Task]:
    """The tasks of a file with `{"prompt" | "messages" | "prompt_tokens", "reference"?}` a line.

    `reference` is a text or a list of them.

    Raises:
        ConfigError: it cannot be read, holds nothing, or a line is not of that kind; names the
            line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--prompts {path} cannot be read: {error}") from None
    tasks = [_task(f"{path}, line {n}", line) for n, line in enumerate(lines, 1) if line.strip()]
    if not tasks:
        raise ConfigError(f'--prompts {path} has no prompts: write one {{"prompt": "..."}} a line')
    return tasks


def record_of(where: str, line: str, known: list[str]) -> dict[str, Any]:
    """The object that a line holds. Raises ConfigError, which begins with `where`, if it is none or
    has a field that is not known.
    """
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where} is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ConfigError(f"{where} must be a JSON object, not {type(record).__name__}")
    for name in record:
        if name not in known:
            raise ConfigError(f"{where}: unknown field {name!r}{nearest(name, known)}")
    return record


def _task(where: str, line: str) -> Task:
    record = record_of(where, line, ["id", "reference", *_ASKS, *_OPTIONS])
    asked = [record[name] for name in _ASKS if name in record]
    if len(asked) != 1 or not isinstance(asked[0], str | list) or not asked[0]:
        raise ConfigError(f"{where} needs one of {', '.join(_ASKS)}, and something in it")
    options: dict[str, Any] = {name: record[name] for name in _OPTIONS if name in record}
    return Task(asked[0], options, _references(where, record.get("reference", [])))


def _references(where: str, found: object) -> tuple[str, ...]:
    texts: Sequence[object] = [found] if isinstance(found, str) else []
    if isinstance(found, list):
        texts = found
    if not isinstance(found, str | list) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"{where}: reference must be a text or a list of texts")
    return tuple(str(text) for text in texts)
