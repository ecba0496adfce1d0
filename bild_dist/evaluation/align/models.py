"""The two models of an alignment, as transformers has them: plain layers, which can be trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from bild_dist.errors import ConfigError
from bild_dist.model import hub, tokenizer
from bild_dist.model.checkpoint import DTYPES, cut, plan_of, weights_of
from bild_dist.model.contents import fingerprint, sampled
from bild_dist.model.foreign import quiet
from bild_dist.model.tokenizer import Tokens
from bild_dist.orchestrator.text import Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a model comes from and what it computes in. `exit_layer` as in `WorkerConfig`.

    `layers`: for each of its `exit_layer` decoder layers the one of the model that it begins as,
    from 0; empty for the first ones.
    """

    model: str
    exit_layer: int = 0
    layers: tuple[int, ...] = ()
    dtype: str = "float32"
    device: str = "cpu"
    trust_remote_code: bool = False
    ignored: tuple[str, ...] = ()
    """Fields of its generation config to leave out, as in `WorkerConfig.ignore_generation`."""

    def folder(self) -> Path:
        """Raises ConfigError if there is no such model."""
        return hub.folder_of(self.model, trust_remote_code=self.trust_remote_code)

    def load(self) -> Any:
        """A transformers model with its own linear layers.

        Raises:
            ConfigError: it is not there, or not as it should be.
        """
        folder, title = self.folder(), hub.title_of(self.model, 0)
        plan, trust = self.plan(), self.trust_remote_code
        model: Any = weights_of(folder, plan, title, DTYPES[self.dtype], trust_remote_code=trust)
        fresh: Any = GenerationConfig
        for name in self.ignored:
            setattr(model.generation_config, name, getattr(fresh(), name, None))
        if self.layers:
            _begin(model, replace(self, exit_layer=0, layers=()).load(), self.layers)
        return model.to(self.device).eval()

    def plan(self) -> Any:
        """Its config, cut to the exit layer.

        Raises:
            ConfigError: it cannot be read, is a draft, or has not so many layers.
        """
        folder = self.folder()
        if hub.is_draft(folder):
            raise ConfigError(
                f"{self.model} is a draft, which cannot be aligned again: align the layers of its base (--early-exit)"
            )
        title, trust = hub.title_of(self.model, 0), self.trust_remote_code
        plan = plan_of(folder, title, trust_remote_code=trust)
        text = plan.get_text_config(decoder=True)
        cut(plan, text, self.exit_layer, bool(plan.is_encoder_decoder))
        return plan

    def longest(self, asked: int) -> int:
        """Most ids of a text that it can hold, at most `asked`."""
        text = self.plan().get_text_config(decoder=True)
        found = getattr(text, "max_position_embeddings", None)
        return min(found, asked) if isinstance(found, int) and found > 0 else asked

    def tokens(self) -> Tokens:
        """Its tokenizer. Raises ConfigError if it cannot be read."""
        encdec, trust = bool(self.plan().is_encoder_decoder), self.trust_remote_code
        with quiet():
            return tokenizer.read(self.folder(), encdec=encdec, trust_remote_code=trust)

    def fingerprint(self, *, of_old: bool = False) -> str:
        """A name for the weights and their config: the same for the same contents anywhere. `of_old`: the one
        that earlier versions gave them.
        """
        named = sampled if of_old else fingerprint
        folder = self.folder()
        chosen = [self.exit_layer, self.dtype, self.ignored, *self.layers]
        digest = sha256(json.dumps(chosen).encode())
        for name in ("config.json", "generation_config.json"):
            file = folder / name
            digest.update(file.read_bytes() if file.is_file() else b"")
        for file in sorted(folder.glob("*.safetensors")):
            digest.update(named(file).encode())
        return digest.hexdigest()[:16]


class Writer:
    """From prompts to ids, as the decoder does it: with the chat template where there is one."""

    def __init__(self, tokens: Tokens, src_lang: str = "", tgt_lang: str = "") -> None:
        if not tokens.fingerprint:
            raise ConfigError(
                "the large model comes without a tokenizer: put its files beside the weights"
            )
        self._tokens = tokens
        self._text = Text.from_files(tokens.files)
        self._languages = (src_lang, tgt_lang)

    def ids(self, prompt: Any) -> tuple[int, ...]:
        """Ids of a text, of a list of messages, or of ids.

        Raises:
            InvalidRequest: it cannot be tokenised.
        """
        if not isinstance(prompt, str):
            ids = all(isinstance(part, int) for part in prompt)
            return tuple(prompt if ids else self._text.chat(prompt))
        if self._tokens.encodes:
            return self._tokens.encode(prompt, *self._languages)[0]
        if self._text.has_chat_template:
            return tuple(self._text.chat([{"role": "user", "content": prompt}]))
        return tuple(self._text.encode(prompt, src_lang=self._languages[0] or None))

    def forced(self) -> int | None:
        """The id of the target language, where the family forces one (NLLB, M2M100, mBART).

        Raises:
            InvalidRequest: the model knows no such language.
        """
        source, target = self._languages
        if not target:
            return None
        if self._tokens.encodes:
            return self._tokens.encode("a", source, target)[1]
        return self._text.language(target)


@torch.no_grad()
def _begin(model: Any, whole: Any, layers: Sequence[int]) -> None:
    """Gives each layer of a cut model the weights of a chosen layer of the whole one.

    What only the first layer of a stack has (T5's relative positions) stays where it is.
    """
    stack = _stack(whole)
    for own, layer in zip(_stack(model), layers, strict=True):
        own.load_state_dict(stack[layer].state_dict(), strict=False)


def _stack(model: Any) -> torch.nn.ModuleList:
    """The layers of its decoder."""
    lists = [
        part for part in model.get_decoder().children() if isinstance(part, torch.nn.ModuleList)
    ]
    return max(lists, key=len)


def freeze(model: Any) -> None:
    """Embedding and head stay as they are: they belong to the large model too."""
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        for weight in module.parameters():
            weight.requires_grad_(False)


def threads(count: int) -> None:
    """Sets torch's threads, if a count is given."""
    if count:
        torch.set_num_threads(count)
