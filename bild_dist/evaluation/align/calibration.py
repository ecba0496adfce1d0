"""What the large model shall write about: a corpus by name, or the lines of a file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bild_dist.errors import BildError, ConfigError
from bild_dist.evaluation.bench.prompts import record_of
from bild_dist.evaluation.corpora import named

_ASKS: Final = ("prompt", "messages", "prompt_tokens")
_KNOWN: Final = [*_ASKS, "id", "reference"]


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt as ids."""

    id: str
    ids: tuple[int, ...]


@dataclass(slots=True)
class Questions:
    """What can be used, and why the rest cannot."""

    kept: list[Question] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def questions(
    prompts: Iterable[tuple[str, Any]],
    ids_of: Callable[[Any], Sequence[int]],
    longest: int,
    vocabulary: int,
    *,
    limit: int = 0,
    but: Iterable[Question] = (),
) -> Questions:
    """The first `limit` prompts (0: all) that are not empty, not longer than `longest` ids, not there
    twice and not among `but`.
    """
    found = Questions()
    seen = {question.ids for question in but}
    for name, prompt in prompts:
        if limit and len(found.kept) >= limit:
            break
        if not prompt or (isinstance(prompt, str) and not prompt.strip()):
            found.skipped["empty"] += 1
            continue
        try:
            ids = tuple(ids_of(prompt))
        except BildError:
            found.skipped["not tokenised"] += 1
            continue
        if not ids or len(ids) > longest:
            found.skipped[f"longer than {longest} tokens" if ids else "empty"] += 1
        elif not all(0 <= token < vocabulary for token in ids):
            found.skipped["ids outside the vocabulary"] += 1
        elif ids in seen:
            found.skipped["there twice"] += 1
        else:
            seen.add(ids)
            found.kept.append(Question(name, ids))
    return found


def prompts(corpus: str, split: str) -> list[tuple[str, Any]]:
    """Names and prompts of a corpus, or of a file; a file is split by its lines' contents, four in a
    hundred for validation and one for test.

    Raises:
        ConfigError: no such corpus or file; or a line that is no JSON object with a prompt.
    """
    if not corpus.endswith(".jsonl"):
        return [(example.id, example.prompt) for example in named.load(corpus, split)]
    try:
        # Not splitlines(), which would also end a line at characters that JSON allows inside a text.
        lines = Path(corpus).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--corpus {corpus} cannot be read: {error}") from None
    found = [
        _asked(f"{corpus}, line {n}", str(n), line)
        for n, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not found:
        raise ConfigError(f'--corpus {corpus} has no prompts: write one {{"prompt": "..."}} a line')
    # By what is asked: the same prompt under two names is in one split.
    return [(name, ask) for name, ask in found if named.part_of(json.dumps(ask)) == split]


def _asked(where: str, number: str, line: str) -> tuple[str, Any]:
    record = record_of(where, line, _KNOWN)
    given = [name for name in _ASKS if name in record]
    if len(given) != 1:
        raise ConfigError(f"{where} needs one of {', '.join(_ASKS)}")
    asked = record[given[0]]
    if not _KINDS[given[0]](asked):
        raise ConfigError(
            f"{where}: a prompt is a text, messages are a list of {{'role': ..., 'content': ...}}, "
            "prompt_tokens a list of ids"
        )
    return str(record.get("id", number)), asked


def _is_messages(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(part, dict) for part in value)


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and all(type(part) is int for part in value)


_KINDS: Final[dict[str, Callable[[object], bool]]] = {
    "prompt": lambda value: isinstance(value, str),
    "messages": _is_messages,
    "prompt_tokens": _is_ids,
}
