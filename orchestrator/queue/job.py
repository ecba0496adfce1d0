"""What travels through a queue: jobs, results, tokens and dead letters, each one JSON object.

A job is a line as `bild generate --input` reads it, with an `id` that no other job has and, if its
results are to be kept apart from those of others, a `reply` to name where they go. A result is the
object of `bild generate --json` with `status`, `attempt` and, where there is a text, its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from bild_dist.errors import BildError, InvalidRequest
from bild_dist.orchestrator.lines import parsed, take_prompt
from bild_dist.orchestrator.prompt import Prompt
from bild_dist.types import Result, TokenEvent

DEFAULT_REPLY: Final = "default"
"""Where the results of jobs go that name no other place."""
_WORD: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LONGEST_ID: Final = 256
_LONGEST_QUOTE: Final = 200
_LONGEST_ERROR: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One text to write."""

    id: str
    prompt: Prompt
    options: dict[str, Any]
    reply: str = DEFAULT_REPLY

    @classmethod
    def parse(cls, body: bytes | str) -> Self:
        """Raises InvalidRequest when this is no job; nothing will ever make it one. Options are left
        to the decoder, which knows what they are laid over.
        """
        record = parsed(body)
        name, reply = named(record), record.pop("reply", DEFAULT_REPLY)
        if not isinstance(reply, str) or _WORD.fullmatch(reply) is None:
            raise InvalidRequest(f"reply = {quoted(reply)} must be 1 to 64 letters, digits, - or _")
        return cls(id=name, prompt=take_prompt(record), options=record, reply=reply)

    @property
    def word(self) -> str:
        """The job's id as a part of a subject, routing key or key."""
        return word(self.id)


def named(record: dict[str, Any]) -> str:
    """Takes the id out of a job's object.

    Raises:
        InvalidRequest: there is none, or one that cannot name a job.
    """
    name = record.pop("id", None)
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_ID:
        raise InvalidRequest(
            f"id = {quoted(name)} must be a text of 1 to {_LONGEST_ID} characters that no other job has"
        )
    return name


def word(name: str) -> str:
    """A name that every broker takes as one word: itself, or a hash where it has other characters."""
    if _WORD.fullmatch(name):
        return name
    return f"x{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}"


def address(body: bytes) -> tuple[str, str] | None:
    """Id and reply of something that is no job, where it has them all the same: somebody may be
    waiting for its result.
    """
    try:
        record = parsed(body)
        name, reply = named(record), record.get("reply", DEFAULT_REPLY)
    except InvalidRequest:
        return None
    return name, reply if isinstance(reply, str) and _WORD.fullmatch(reply) else DEFAULT_REPLY


def done(name: str, result: Result, attempt: int) -> bytes:
    """The final result of a job whose text was written."""
    digest = hashlib.sha256(result.text.encode("utf-8", "surrogatepass")).hexdigest()
    return encoded(
        {"id": name, "status": "done", "attempt": attempt, "sha256": digest, **result.as_dict()}
    )


def cancelled(name: str, attempt: int) -> bytes:
    """The final result of a job that was cancelled."""
    return encoded({"id": name, "status": "cancelled", "attempt": attempt})


def failed(name: str, error: BildError, attempt: int) -> bytes:
    """The final result of a job that was given up."""
    return encoded({"id": name, "status": "failed", "attempt": attempt, "error": told(error)})


def letter(body: bytes, error: BildError, attempts: int) -> bytes:
    """What is kept of a job that was given up: the job as it came, and why."""
    return encoded(
        {"error": told(error), "attempts": attempts, "job": body.decode("utf-8", "replace")}
    )


def tokens(name: str, attempt: int, seq: int, offset: int, events: Sequence[TokenEvent]) -> bytes:
    """One message of a token stream. `seq` counts the messages of an attempt from 0, `offset` is
    the position of the first token in it: a gap shows in both.
    """
    return encoded(
        {
            "id": name,
            "attempt": attempt,
            "seq": seq,
            "offset": offset,
            "text": "".join(event.text for event in events),
            "tokens": [event.token for event in events],
            "sources": [event.source.value for event in events],
        }
    )


def told(error: BildError) -> dict[str, str]:
    """An error as the command line tells it. What it quotes may be as large as a broker takes: of a
    long sentence both ends are kept, since the remedy stands at the second.
    """
    return {"type": type(error).__name__, "message": _cut(str(error), _LONGEST_ERROR)}


def quoted(value: object) -> str:
    """A value that somebody else chose, for an error's sentence."""
    return _cut(repr(value), _LONGEST_QUOTE)


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} ... {text[-half:]}"


def encoded(record: dict[str, Any]) -> bytes:
    """One object as it travels."""
    return json.dumps(record, ensure_ascii=True).encode()
