"""Requests as lines of JSON: `{"id", "prompt" | "messages" | "prompt_tokens", ...options}`."""

from __future__ import annotations

import json
from typing import Any, Final

from bild_dist.errors import InvalidRequest
from bild_dist.orchestrator.prompt import Prompt

_PROMPTS: Final = {
    "prompt": "a text",
    "messages": "a list of objects",
    "prompt_tokens": "a list of ids",
}


def parsed(line: str | bytes) -> dict[str, Any]:
    """The object of a line.

    Raises:
        InvalidRequest: it is no JSON, or no object.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the line is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise InvalidRequest(f"the line must be a JSON object, not {type(record).__name__}")
    return record


def take_prompt(record: dict[str, Any]) -> Prompt:
    """Takes the prompt out of a line's object and checks its kind.

    Raises:
        InvalidRequest: there is none, more than one, or one of the wrong kind.
    """
    kinds = [kind for kind in _PROMPTS if kind in record]
    if len(kinds) != 1:
        raise InvalidRequest("a line needs one of prompt, messages, prompt_tokens")
    kind = kinds[0]
    prompt: Prompt = record.pop(kind)
    good = {
        "prompt": isinstance(prompt, str),
        "messages": isinstance(prompt, list) and all(isinstance(m, dict) for m in prompt),
        "prompt_tokens": isinstance(prompt, list)
        and all(isinstance(t, int) and not isinstance(t, bool) for t in prompt),
    }
    if not good[kind]:
        raise InvalidRequest(f"{kind} must be {_PROMPTS[kind]}")
    if not prompt:
        raise InvalidRequest(f"{kind} is empty")
    return prompt
