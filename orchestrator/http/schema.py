"""What a client may ask for: a body of OpenAI's API, with the options of this program beside it.

Fields are one of four kinds: honoured; neutral (honoured as far as they ask for nothing); names for
the client's own use, which are dropped; and all others, which are refused by name. Nothing that
would change the text is dropped in silence.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from bild_dist.errors import InvalidRequest
from bild_dist.orchestrator.http.problems import Problem
from bild_dist.orchestrator.prompt import Prompt
from bild_dist.types import Options, nearest

CHOICES: Final = 16
"""Most texts that one request may ask for of a prompt (`n`)."""

_RENAMED: Final = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "stop": "stop",
    "seed": "seed",
    "temperature": "temperature",
    "top_p": "top_p",
}
"""Fields of the API that are options under another name, or the same."""
_OURS: Final = frozenset(spec.name for spec in dataclasses.fields(Options)) - {
    *_RENAMED.values(), "logprobs", "traceparent",
}  # fmt: skip
"""Options that the API does not have: sent beside its fields (`extra_body`)."""
_SHARED: Final = frozenset(("model", "n", "stream", "stream_options", "logprobs", "bild"))
_NEUTRAL: Final[dict[str, tuple[object, ...]]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "best_of": (),  # compared with `n`
    "echo": (False,),
    "suffix": ("",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tools": ([],),
    "tool_choice": ("none",),
    "parallel_tool_calls": (True, False),
}
"""Fields that are accepted with these values alone, which ask for nothing."""
_DROPPED: Final = frozenset(("user", "metadata", "safety_identifier", "prompt_cache_key"))
"""Fields that name the client and ask for nothing."""
_ROLES: Final = ("system", "developer", "user", "assistant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """What the field `bild` of an answer is to hold."""

    tokens: bool = False
    """Of every token: who wrote it, how sure the small model was, how far apart the two are."""
    trace: bool = False
    """What the text cost."""
    events: bool = False
    """What is under way, while it is (`events.py`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request for texts, checked. `options` are changes to the server's own settings."""

    chat: bool
    model: str | None
    prompts: tuple[Prompt, ...]
    options: Mapping[str, Any]
    n: int
    stream: bool
    usage: bool
    """Whether a stream ends with the counts of tokens."""
    logprobs: int | None
    show: Show


def parse(body: bytes, *, chat: bool, defaults: Options) -> Asked:
    """Reads a request's body.

    Raises:
        Problem: 400 with the field that is wrong, what was found and what is needed.
    """
    data = _object(body)
    _known(data, chat=chat)
    n = _whole(data, "n", 1, 1, CHOICES)
    if data.get("best_of") not in (None, n):
        _refuse("best_of", "best_of must be equal to n: no text is written to be thrown away")
    stream = _flag(data, "stream")
    return Asked(
        chat=chat,
        model=_model(data),
        prompts=(_messages(data),) if chat else _prompts(data),
        options=_options(data, chat=chat, defaults=defaults),
        n=n,
        stream=stream,
        usage=_usage(data, stream=stream),
        logprobs=_logprobs(data, chat=chat),
        show=_show(data),
    )


def _refuse(param: str, message: str) -> NoReturn:
    raise Problem(400, message, param=param)


def _object(body: bytes) -> dict[str, Any]:
    try:
        data = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(data, dict):
        raise Problem(
            400, f"the body must be a JSON object, not {_kind(data)}", code="invalid_json"
        )
    return {name: value for name, value in data.items() if value is not None}


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _known(data: Mapping[str, Any], *, chat: bool) -> None:
    own = {"messages", "top_logprobs"} if chat else {"prompt"}
    good = {*own, *_RENAMED, *_OURS, *_SHARED}
    for name, value in data.items():
        if name in good or name in _DROPPED:
            continue
        if name in _NEUTRAL:
            if value not in _NEUTRAL[name] and name != "best_of":
                _refuse(name, f"{name} = {_shown(value)} cannot be honoured here: leave it out")
            continue
        _refuse(name, f"unknown field {name!r}{nearest(name, [*good])}")


def _model(data: Mapping[str, Any]) -> str | None:
    model = data.get("model")
    if model is not None and not isinstance(model, str):
        _refuse("model", f"model must be a string, not {_kind(model)}")
    return model


def _options(data: Mapping[str, Any], *, chat: bool, defaults: Options) -> dict[str, Any]:
    if "max_tokens" in data and "max_completion_tokens" in data:
        _refuse("max_tokens", "max_tokens and max_completion_tokens mean the same: give one")
    options: dict[str, Any] = {}
    names: dict[str, str] = {}
    for name, value in data.items():
        option = _RENAMED.get(name, name if name in _OURS else None)
        if option is not None:
            options[option], names[option] = value, name
    if not chat:
        # A completion goes on with the text as it stands.
        options.setdefault("chat_template", False)
    try:
        defaults.merged(options)
    except InvalidRequest as error:
        option = str(error).partition(" ")[0]
        name = names.get(option, option)
        _refuse(name, f"{name}{str(error)[len(option) :]}" if option in names else str(error))
    return options


def _messages(data: Mapping[str, Any]) -> Prompt:
    messages = data.get("messages")
    if not isinstance(messages, list) or not messages:
        _refuse("messages", "messages must be a list of at least one message")
    return [_message(i, message) for i, message in enumerate(messages)]


def _message(index: int, message: object) -> dict[str, str]:
    at = f"messages[{index}]"
    if not isinstance(message, dict):
        _refuse("messages", f"{at} must be an object with a role and a content")
    for name, value in message.items():
        if name not in ("role", "content", "name") and value not in (None, [], ""):
            hint = nearest(name, ["role", "content", "name"])
            _refuse("messages", f"{at}: unknown field {name!r}{hint}")
    role = message.get("role")
    if role not in _ROLES:
        _refuse("messages", f"{at}.role = {_shown(role)} must be one of {', '.join(_ROLES)}")
    # Templates of open models know the older of the two names.
    role = "system" if role == "developer" else role
    return {"role": role, "content": _content(at, message.get("content"))}


def _content(at: str, content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        _refuse("messages", f"{at}.content must be a text or a list of parts, not {_kind(content)}")
    parts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text":
            _refuse("messages", f'{at}.content: parts must be {{"type": "text", "text": ...}}')
        if not isinstance(part.get("text"), str):
            _refuse("messages", f"{at}.content: a part's text must be a string")
        parts.append(part["text"])
    return "".join(parts)


def _prompts(data: Mapping[str, Any]) -> tuple[Prompt, ...]:
    prompt: Any = data.get("prompt")
    if isinstance(prompt, str) or _ids(prompt):
        prompts = [prompt]
    elif isinstance(prompt, list) and prompt:
        prompts = prompt
    else:
        _refuse("prompt", "prompt must be a text, a list of token ids, or a list of either")
    for one in prompts:
        if not (isinstance(one, str) or _ids(one)):
            _refuse("prompt", "prompt must be a text, a list of token ids, or a list of either")
    return tuple(prompts)


def _ids(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(part, int) and not isinstance(part, bool) for part in value)
    )


def _usage(data: Mapping[str, Any], *, stream: bool) -> bool:
    options = data.get("stream_options")
    if options is None:
        return False
    if not stream:
        _refuse("stream_options", 'stream_options need "stream": true')
    if not isinstance(options, dict):
        _refuse("stream_options", f"stream_options must be an object, not {_kind(options)}")
    for name, value in options.items():
        if name == "include_obfuscation" and not value:
            continue
        if name != "include_usage":
            hint = nearest(name, ["include_usage"])
            _refuse("stream_options", f"stream_options: unknown field {name!r}{hint}")
    return _flag(options, "include_usage")


def _logprobs(data: Mapping[str, Any], *, chat: bool) -> int | None:
    """How many alternatives to name with each token; None: no log-probabilities at all."""
    if not chat:
        return _whole(data, "logprobs", -1, 0, 20) if "logprobs" in data else None
    if not _flag(data, "logprobs"):
        if data.get("top_logprobs", 0) != 0:
            _refuse("top_logprobs", 'top_logprobs need "logprobs": true')
        return None
    return _whole(data, "top_logprobs", 0, 0, 20)


def _show(data: Mapping[str, Any]) -> Show:
    value = data.get("bild", False)
    if isinstance(value, bool):
        return Show(tokens=value, trace=value)
    names = [spec.name for spec in dataclasses.fields(Show)]
    if not isinstance(value, dict):
        _refuse("bild", f"bild must be true, false or an object of {', '.join(names)}")
    for name in value:
        if name not in names:
            _refuse("bild", f"bild: unknown field {name!r}{nearest(name, names)}")
    shown = Show(**{name: _flag(value, name) for name in value})
    if shown.events and not data.get("stream"):
        _refuse("bild", 'bild.events need "stream": true: they tell what is under way')
    return shown


def _flag(data: Mapping[str, Any], name: str) -> bool:
    value = data.get(name, False)
    if not isinstance(value, bool):
        _refuse(name, f"{name} = {_shown(value)} must be true or false")
    return value


def _whole(data: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = data.get(name, default)
    if name not in data:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        _refuse(name, f"{name} = {_shown(value)} must be a whole number from {least} to {most}")
    return value


def _shown(value: object) -> str:
    """A value as JSON, cut where it is long."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _kind(value: object) -> str:
    kinds: Sequence[tuple[type, str]] = (
        (bool, "a truth value"), (int, "a number"), (float, "a number"), (str, "a string"),
        (list, "a list"), (dict, "an object"),
    )  # fmt: skip
    return next((name for kind, name in kinds if isinstance(value, kind)), "null")
