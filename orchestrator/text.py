"""Text to ids and back, as the orchestrator does it: with `tokenizers` and jinja2, without torch.

The files come from the large worker: "tokenizer.json", and "chat.json" with the chat template and the special tokens it uses.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Self

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from bild_dist.errors import ConfigError, InvalidRequest
from bild_dist.types import nearest

_BROKEN = "\ufffd"
"""What an unfinished character decodes to."""


class Text:
    """The tokenizer of a pair. Immutable; a pair without one knows ids only."""

    def __init__(self, tokenizer: Tokenizer | None, chat: Mapping[str, Any]) -> None:
        self._tokenizer = tokenizer
        self._chat = chat

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        """Reads what a worker sent; an empty mapping means ids only.

        Raises:
            ConfigError: the files are not what they should be.
        """
        if "tokenizer.json" not in files:
            return cls(None, {})
        try:
            tokenizer = Tokenizer.from_buffer(files["tokenizer.json"])
            chat = json.loads(files.get("chat.json", b"{}"))
        except Exception as error:  # the tokenizers library raises bare Exceptions
            raise ConfigError(f"the model's tokenizer cannot be read: {error}") from None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return cls(tokenizer, chat)

    @property
    def has_chat_template(self) -> bool:
        return bool(self._chat.get("chat_template"))

    def encode(self, prompt: str, src_lang: str | None = None) -> list[int]:
        """Ids of a text with the model's special tokens.

        With `src_lang` they are those of multilingual models: the language, the text, the end token.
        """
        tokenizer = self._need("a prompt")
        if src_lang is None:
            return list(tokenizer.encode(prompt).ids)
        inner = tokenizer.encode(prompt, add_special_tokens=False).ids
        end = tokenizer.token_to_id(self._chat.get("eos_token") or "</s>")
        return [self.language(src_lang), *inner, *([] if end is None else [end])]

    def language(self, code: str) -> int:
        """The id of a language token such as `deu_Latn`, `de_DE` or `__de__`.

        Raises:
            InvalidRequest: the tokenizer has no such token; the nearest ones are named.
        """
        tokenizer = self._need("a language")
        for name in (code, f"__{code}__"):
            token = tokenizer.token_to_id(name)
            if token is not None and self._is_special(name):
                return int(token)
        added = [t.content for t in tokenizer.get_added_tokens_decoder().values()]
        codes = [name.strip("_") for name in added if name.strip("_") and name[0] not in "<["]
        if not codes:
            raise InvalidRequest(f"the model knows no languages: leave out {code!r}")
        raise InvalidRequest(f"unknown language {code!r}{nearest(code, codes)}")

    def _is_special(self, name: str) -> bool:
        added = self._need("a language").get_added_tokens_decoder().values()
        return any(token.content == name for token in added)

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Ids of a conversation, up to where the model is to answer.

        Raises:
            InvalidRequest: the model has no chat template, or the messages do not suit it.
        """
        tokenizer = self._need("messages")
        template = self._chat.get("chat_template")
        if not template:
            raise InvalidRequest("the model has no chat template: give a prompt instead of messages")
        for message in messages:
            if not isinstance(message.get("role"), str) or "content" not in message:
                raise InvalidRequest("a message needs a role and a content")
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _today
        environment.filters["tojson"] = _to_json
        names = {k: v for k, v in self._chat.items() if k != "chat_template"}
        try:
            text = environment.from_string(template).render(
                messages=[dict(message) for message in messages], add_generation_prompt=True, **names
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise InvalidRequest(f"the messages do not suit the chat template: {error}") from None
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, special tokens left out."""
        if self._tokenizer is None:
            return ""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def stream(self, stop: Sequence[str] = ()) -> Stream:
        """A new text that grows token by token and ends at the first of `stop`."""
        if stop and self._tokenizer is None:
            raise InvalidRequest("stop strings need a tokenizer: the models came without one")
        return Stream(self._tokenizer, tuple(stop))

    def _need(self, what: str) -> Tokenizer:
        if self._tokenizer is None:
            raise InvalidRequest(
                f"the models came without a tokenizer, so {what} cannot be read: give prompt_tokens, "
                "or name a tokenizer when the workers are started"
            )
        return self._tokenizer


class Stream:
    """A text that grows. Owned by its request.

    All pieces that `push` and `finish` give, put together, are the text: the ids decoded, cut before
    the first stop string. Held back is what may still become part of a character or a stop string.

        | settled .................. | open |     the text so far
        | given ........ | held back ....... |

    Decoding looks only at a window: the ids since `settled` ended, behind those of the step before,
    because a first token is decoded unlike a later one (its leading space is dropped).
    """

    def __init__(self, tokens: Tokens | None, stop: tuple[str, ...]) -> None:
        self._tokens = tokens
        self._stop = stop
        self._ids: list[int] = []
        self._window: list[int] = []
        self._context = 0
        """How many ids of the window belong to the settled text."""
        self._prefix = ""
        """What they decode to on their own."""
        self._settled = ""
        self._text = ""
        self._given = 0
        self.stopped = False
        """Whether a stop string is complete."""

    def push(self, token: int) -> str:
        """Takes the next token; gives the text that it sets free."""
        # Tokens that write nothing are left out before decoding, so they must not part a character.
        if self._tokens is None or self.stopped or not self._tokens.writes(token):
            return ""
        searched = len(self._settled)
        self._ids.append(token)
        self._window.append(token)
        self._decode(self._tokens, token)
        cut = self._find_stop(searched)
        if cut is not None:
            self.stopped = True
            return self._give(self._text[:cut])
        return self._give(self._settled[: len(self._settled) - self._held()])

    def ahead(self, tokens: Sequence[int]) -> int | None:
        """Index of the first of these further tokens that would complete a stop string, or None."""
        if not self._stop:
            return None
        trial = copy.copy(self)
        trial._ids, trial._window = list(self._ids), list(self._window)
        for i, token in enumerate(tokens):
            trial.push(token)
            if trial.stopped:
                return i
        return None

    def finish(self) -> str:
        """What was held back, once no further token comes."""
        if self._tokens is None or self.stopped:
            return ""
        return self._give(self._tokens.decode(self._ids))

    def _decode(self, tokens: Tokens, token: int) -> None:
        """Brings `_text` up to date, and `_settled` where nothing to come can change it."""
        line = tokens.decode(self._window)
        if not line.startswith(self._prefix):  # a decoder that looks further back than one step
            self._window, self._context, self._prefix = list(self._ids), 0, ""
            self._settled, line = "", tokens.decode(self._ids)
        fresh = line[len(self._prefix) :]
        self._text = self._settled + fresh.rstrip(_BROKEN)
        # A run of byte tokens that is no valid text as a whole decodes to nothing but broken signs.
        if fresh and not fresh.endswith(_BROKEN) and not tokens.is_byte(token):
            self._settled = self._text
            self._window = self._window[self._context :]
            self._context = len(self._window)
            self._prefix = tokens.decode(self._window)

    def _give(self, text: str) -> str:
        start, self._given = self._given, max(self._given, len(text))
        return text[start:]

    def _find_stop(self, searched: int) -> int | None:
        """Where the earliest stop string begins; none ends within the first `searched` signs."""
        found = [
            at
            for stop in self._stop
            if (at := self._text.find(stop, max(0, searched - len(stop) + 1))) >= 0
        ]
        return min(found) if found else None

    def _held(self) -> int:
        """Length of the settled text's longest end that may be the beginning of a stop string."""
        longest = 0
        for stop in self._stop:
            for length in range(min(len(stop) - 1, len(self._settled)), longest, -1):
                if self._settled.endswith(stop[:length]):
                    longest = length
                    break
        return longest


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _today(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
