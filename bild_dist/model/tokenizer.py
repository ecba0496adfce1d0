"""The tokenizer of a model folder: what the orchestrator is sent, and what the worker encodes
itself.

Where the family has a fast tokenizer the orchestrator gets its "tokenizer.json" and does all the
work. Where it has none (Marian, M2M100), or where the special tokens depend on languages (mBART,
NLLB), the worker encodes with transformers' own class, and the orchestrator gets a "tokenizer.json"
to decode with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models
from transformers import AutoTokenizer

from bild_dist.errors import ConfigError, InvalidRequest
from bild_dist.types import nearest

_FILES: Final = (
    "tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "source.spm", "vocab.json",
    "vocab.txt", "tekken.json",
)  # fmt: skip
"""A folder with one of these has a tokenizer."""

_SPECIAL: Final = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


@dataclass(frozen=True, slots=True)
class Tokens:
    """What is known of a model's tokens. Empty for a folder without a tokenizer.

    `fingerprint` and `size` describe the id-to-token table, `files` is for the orchestrator,
    `languages` maps a code to the id of its token. `own` is transformers' tokenizer where the
    worker has to encode, `home` the source language that it starts with.
    """

    fingerprint: str = ""
    size: int = 0
    files: Mapping[str, bytes] = field(default_factory=dict)
    languages: Mapping[str, int] = field(default_factory=dict)
    own: Any = None
    home: str = ""

    @property
    def encodes(self) -> bool:
        return self.own is not None

    def encode(self, text: str, src_lang: str, tgt_lang: str) -> tuple[tuple[int, ...], int | None]:
        """Ids of a text with the family's special tokens, and the id of the target language where
        one is forced.

        Raises:
            InvalidRequest: the family does not encode here, or does not know a language; names the
                nearest.
        """
        if self.own is None:
            raise InvalidRequest("this model has a fast tokenizer: the orchestrator encodes")
        source, target = self._language(src_lang), self._language(tgt_lang)
        if not hasattr(self.own, "src_lang"):
            # Marian: the target language is a token before the text, the source language none at all.
            if target:
                text = f"{target} {text}"
            return tuple(self.own(text).input_ids), None
        # The tokenizer remembers a language, so each text states its own.
        if source or self.home:
            self.own.src_lang = source or self.home
        return tuple(self.own(text).input_ids), self.languages[target] if target else None

    def _language(self, code: str) -> str:
        """The tokenizer's own name of a language. Empty for none."""
        if not code:
            return ""
        for name in (code, code.strip("_"), f">>{code}<<"):
            if name in self.languages:
                return name
        known = [name.strip("<>") for name in self.languages]
        if not known:
            raise InvalidRequest(f"the model knows no languages: leave out {code!r}")
        raise InvalidRequest(f"unknown language {code!r}{nearest(code, known)}")


def read(folder: Path, *, encdec: bool, trust_remote_code: bool = False) -> Tokens:
    """The tokenizer of a folder. `encdec`: the family may have no fast one, or one with languages.

    Raises:
        ConfigError: there is one, but it cannot be read.
    """
    if not any((folder / name).is_file() for name in _FILES):
        return Tokens()
    try:
        file = folder / "tokenizer.json"
        if file.is_file() and not encdec:
            return _fast(file.read_bytes(), _chat_of(folder))
        own: Any = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=trust_remote_code
        )
        chat = {"chat_template": getattr(own, "chat_template", None)}
        chat |= {k: v for k, v in own.special_tokens_map.items() if isinstance(v, str)}
        languages = _languages(own)
        backend = getattr(own, "backend_tokenizer", None)
        if backend is None:
            return _slow(own, chat, languages)
        data = file.read_bytes() if file.is_file() else backend.to_str().encode()
        fast = _fast(data, chat)
        if not languages:
            return fast
        return Tokens(fast.fingerprint, fast.size, fast.files, languages, own, _home(own))
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise ConfigError(
            f"the tokenizer in {folder} cannot be read ({type(error).__name__}: {error}): "
            "put the files there that the model was published with, or name another folder with --tokenizer"
        ) from error


def _fast(data: bytes, chat: Mapping[str, Any]) -> Tokens:
    tokenizer = Tokenizer.from_buffer(data)
    table = tokenizer.get_vocab(with_added_tokens=True)
    return Tokens(fingerprint(table), max(table.values()) + 1, _files(data, chat))


def _slow(own: Any, chat: Mapping[str, Any], languages: Mapping[str, int]) -> Tokens:
    table = _table(own)
    data = decoder_of(own).to_str().encode()
    size = max(table.values()) + 1
    return Tokens(fingerprint(table), size, _files(data, chat), languages, own, _home(own))


def _home(own: Any) -> str:
    return getattr(own, "src_lang", None) or ""


def _files(data: bytes, chat: Mapping[str, Any]) -> dict[str, bytes]:
    return {"tokenizer.json": data, "chat.json": json.dumps(dict(chat)).encode()}


def fingerprint(table: Mapping[str, int]) -> str:
    """A name for the id-to-token table, whatever files it came from."""
    digest = sha256()
    for token, number in sorted(table.items(), key=lambda entry: (entry[1], entry[0])):
        digest.update(f"{number}\t{len(token)}\t{token}\n".encode())
    return digest.hexdigest()


def _table(own: Any) -> dict[str, int]:
    table: dict[str, int] = dict(own.get_vocab())
    table.update(getattr(own, "lang_token_to_id", None) or {})
    return table


def _languages(own: Any) -> dict[str, int]:
    """Code to token id; for Marian the code as it stands in the text, `>>fra<<`."""
    codes = getattr(own, "lang_code_to_id", None)
    if codes:
        return {str(code): int(number) for code, number in codes.items()}
    marked = getattr(own, "supported_language_codes", None)
    if marked is not None:
        return {code: int(own.convert_tokens_to_ids(code)) for code in marked}
    if hasattr(own, "src_lang"):
        return {
            token.content: number
            for number, token in own.added_tokens_decoder.items()
            if token.special and "_" in token.content and token.content[0] not in "<["
        }
    return {}


def decoder_of(own: Any) -> Tokenizer:
    """A tokenizer that can only decode, and does so as a slow sentencepiece tokenizer of
    transformers does.
    """
    table = _table(own)
    unknown = str(own.unk_token)
    tokenizer = Tokenizer(models.WordLevel(table, unk_token=unknown))
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token in own.all_special_tokens
            if token in table
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteFallback(),
            decoders.Replace("▁", " "),
            decoders.Fuse(),
            decoders.Replace(Regex(r"\A\s+|\s+\z"), ""),
        ]
    )
    return tokenizer


def _chat_of(folder: Path) -> dict[str, Any]:
    """The chat template and the special tokens that it may use, from the files beside a
    tokenizer.json.
    """
    config = _json(folder / "tokenizer_config.json")
    named = {**_json(folder / "special_tokens_map.json"), **config}
    template = config.get("chat_template")
    if isinstance(template, list):
        # Several, by name; "default" is the one that transformers takes.
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    file = folder / "chat_template.jinja"
    if file.is_file():
        template = file.read_text(encoding="utf-8")
    elif template is None:
        template = _json(folder / "chat_template.json").get("chat_template")
    chat: dict[str, Any] = {"chat_template": template}
    for name in _SPECIAL:
        value = named.get(name)
        if isinstance(value, Mapping):
            value = value.get("content")
        if isinstance(value, str):
            chat[name] = value
    return chat


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    value = json.loads(file.read_text(encoding="utf-8"))
    return value if isinstance(value, dict) else {}
