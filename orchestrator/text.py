"""Text to ids and back, as the orchestrator does it: with `tokenizers` and jinja2, without torch.

The files come from the large worker: "tokenizer.json", and "chat.json" with the chat template and
the special tokens that it uses.
"""

from __future__ import annotations

import copy
import datetime
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn, Self

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from bild_dist.errors import ConfigError, InvalidRequest
from bild_dist.types import nearest

LONG: Final = 20_000
"""Characters that take some 15 ms to tokenise: whoever has an event loop gives longer texts to a thread."""

_BROKEN = "\ufffd"
"""What an unfinished character decodes to."""

_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
"""How tokenizers that fall back to bytes write one."""


class Tokens:
    """A tokenizer, reduced to what a text needs of it. Immutable."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder().items()
        self.special: dict[str, int] = {token.content: i for i, token in added if token.special}
        self._silent = frozenset(self.special.values())

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Ids of a text, with the tokens that the model wants around it if `special`.

        Raises:
            InvalidRequest: it is no text, such as one half of a surrogate pair.
        """
        try:
            if len(text) <= LONG:
                return list(self._tokenizer.encode(text, add_special_tokens=special).ids)
            # That would keep all other threads waiting, and a batch does not; nor does this one reckon which
            # characters each token came from, so it takes half of the time.
            (encoded,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=special)
            return list(encoded.ids)
        except Exception as error:  # the library raises bare ones
            raise InvalidRequest(f"the text cannot be tokenised: {error}") from None

    def decode(self, ids: Sequence[int]) -> str:
        """Special tokens and ids that the tokenizer lacks leave no trace."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def find(self, name: str) -> int | None:
        """The id of a token by its name."""
        found = self._tokenizer.token_to_id(name)
        return None if found is None else int(found)

    def writes(self, token: int) -> bool:
        """Whether a token takes part in decoding."""
        return token not in self._silent and self._tokenizer.id_to_token(token) is not None

    def is_byte(self, token: int) -> bool:
        return _BYTE.fullmatch(self._tokenizer.id_to_token(token) or "") is not None


class Text:
    """The tokenizer of a pair. Immutable; a pair without one knows ids only."""

    def __init__(self, tokens: Tokens | None, chat: Mapping[str, Any]) -> None:
        self._tokens = tokens
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
            tokens = Tokens(Tokenizer.from_buffer(files["tokenizer.json"]))
            chat = json.loads(files.get("chat.json", b"{}"))
        except Exception as error:  # the tokenizers library raises bare ones
            raise ConfigError(f"the model's tokenizer cannot be read: {error}") from None
        if not isinstance(chat, dict):
            raise ConfigError("the model's tokenizer cannot be read: chat.json is no JSON object")
        return cls(tokens, chat)

    @property
    def has_chat_template(self) -> bool:
        return bool(self._chat.get("chat_template"))

    def encode(self, prompt: str, src_lang: str | None = None) -> list[int]:
        """Ids of a text with the model's special tokens.

        With `src_lang` they are those of multilingual models: the language, the text, the end
        token.

        Raises:
            InvalidRequest: there is no tokenizer, no such language, or the text is none.
        """
        tokens = self._need("a prompt")
        if src_lang is None:
            return tokens.encode(prompt, special=True)
        end = tokens.find(self._chat.get("eos_token") or "</s>")
        inner = tokens.encode(prompt, special=False)
        return [self.language(src_lang), *inner, *([] if end is None else [end])]

    def language(self, code: str) -> int:
        """The id of a language token such as `deu_Latn`, `de_DE` or `__de__`.

        Raises:
            InvalidRequest: the tokenizer has no such token; the nearest one is named.
        """
        special = self._need("a language").special
        for name in (code, f"__{code}__"):
            if name in special and _is_language(name):
                return special[name]
        codes = [name.strip("_") for name in special if _is_language(name)]
        if not codes:
            raise InvalidRequest(f"the model knows no languages: leave out {code!r}")
        raise InvalidRequest(f"unknown language {code!r}{nearest(code, codes)}")

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Ids of a conversation, up to where the model is to answer.

        Raises:
            InvalidRequest: the model has no chat template, or the messages do not suit it.
        """
        tokens = self._need("messages")
        template = self._chat.get("chat_template")
        if not template:
            raise InvalidRequest(
                "the model has no chat template: give a prompt instead of messages"
            )
        for message in messages:
            if not all(isinstance(message.get(key), str) for key in ("role", "content")):
                raise InvalidRequest("a message needs a role and a content, both texts")
        names = {k: v for k, v in self._chat.items() if k != "chat_template"}
        names["messages"] = [dict(message) for message in messages]
        names["add_generation_prompt"] = True
        try:
            text = _environment().from_string(template).render(names)
        except Exception as error:  # the template is a program that came with the model
            raise InvalidRequest(f"the messages do not suit the chat template: {error}") from None
        # The template has written the special tokens itself.
        return tokens.encode(text, special=False)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, special tokens left out; nothing without a tokenizer."""
        return "" if self._tokens is None else self._tokens.decode(ids)

    def stream(self, stop: Sequence[str] = ()) -> Stream:
        """A new text that grows token by token and ends at the first of `stop`.

        Raises:
            InvalidRequest: stop strings without a tokenizer to find them.
        """
        if stop:
            self._need("a stop string")
        return Stream(self._tokens, tuple(stop))

    def _need(self, what: str) -> Tokens:
        if self._tokens is None:
            raise InvalidRequest(
                f"the models came without a tokenizer, so {what} cannot be read: give "
                "prompt_tokens, or name a tokenizer when the workers are started"
            )
        return self._tokens


def _is_language(name: str) -> bool:
    """Among special tokens: not `<s>`, `[PAD]` and their like."""
    return name.strip("_") != "" and name[0] not in "<["


class Stream:
    """A text that grows. Owned by its request.

    All pieces that `push` and `finish` give, put together, are the text: the ids decoded, cut
    before the first stop string. Held back is what may still become part of a character or a stop
    string.

        | settled ............ | may change |     the text so far
        | given ....... | held back ....... |

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
        # A run of byte tokens may turn out to be no text, and then decodes to broken signs
        # throughout.
        sure = self._settled if self._tokens.is_byte(token) else self._text
        return self._give(sure[: len(sure) - self._held(sure)])

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

    def _held(self, text: str) -> int:
        """Length of a text's longest end that may be the beginning of a stop string."""
        longest = 0
        for stop in self._stop:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:length]):
                    longest = length
                    break
        return longest


def _environment() -> ImmutableSandboxedEnvironment:
    """What chat templates are written for."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    # Jinja's own `tojson` escapes for HTML.
    environment.filters["tojson"] = _to_json
    return environment


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
