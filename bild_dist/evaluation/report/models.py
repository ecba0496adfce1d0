"""The models behind a study, as far as they are at hand: their shapes for the costs, the tokenizer for the
texts. None of their weights is read.

They are looked for where the run's own command named them, unless somebody says otherwise.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from bild_dist.config import DEFAULT_LARGE, DEFAULT_PAIR, DEFAULT_SMALL
from bild_dist.errors import ConfigError
from bild_dist.evaluation.costs.shapes import Shape, shape_at
from bild_dist.evaluation.run.record import Record
from bild_dist.evaluation.tasks import registry
from bild_dist.evaluation.tasks.base import Item
from bild_dist.model import hub, pairs
from bild_dist.types import MOST, Role

_ELSEWHERE: Final = frozenset(("-c", "--config", "--small-worker", "--large-worker"))
"""With these a command may say its models in a file, or not at all."""
_BROKEN: Final = "\ufffd"
"""What a tokenizer gives for a character that is not whole yet."""


@dataclass(frozen=True, slots=True)
class Models:
    """Shapes by role, empty unless both are known; the large model's tokenizer, None where it is not
    there; and what was missing, in sentences.
    """

    shapes: Mapping[Role, Shape] = field(default_factory=dict)
    tokenizer: Any = None
    complaints: tuple[str, ...] = ()

    def lengths(self, record: Record, items: Mapping[str, Item]) -> dict[str, int]:
        """Tokens of the prompts of a run, by the id of their item, without what stands around a text
        (prefix, template, chat template), cut where the run cut them. Empty where the tokenizer or the items
        are not there.
        """
        if self.tokenizer is None:
            return {}
        most = _room(record)
        return {
            text.id: min(len(self.tokenizer.encode(items[text.id].prompt).ids), most)
            for text in record.texts
            if text.id in items
        }

    def pieces(self, tokens: Sequence[int]) -> list[str] | None:
        """The text that each token sets free, as a stream would give it; None without a tokenizer."""
        if self.tokenizer is None:
            return None
        found, shown = [], ""
        for end in range(1, len(tokens) + 1):
            text = str(self.tokenizer.decode(list(tokens[:end]), skip_special_tokens=True))
            whole = text.rstrip(_BROKEN) if end < len(tokens) else text
            found.append(whole[len(shown) :] if whole.startswith(shown) else "")
            shown = max(shown, whole, key=len)
        return found


@dataclass(frozen=True, slots=True)
class Items:
    """Those of a task by id, and why there are none; empty where there are."""

    items: Mapping[str, Item]
    why: str = ""


def items_of(task: str, split: str) -> Items:
    """The items of a task, read again from what lies on this machine: a report asks no network."""
    try:
        return Items({item.id: item for item in registry.find(task, cached=True).items(split)})
    except (ConfigError, ImportError) as error:
        return Items({}, str(error))


def _room(record: Record) -> int:
    """Tokens of a prompt that a run read at most: as `orchestrator/prompt.py` cuts them."""
    said = [record.models.get(role.value, {}) for role in Role]
    options = record.setting.options
    encoder = min(int(own.get("max_source", 0)) for own in said)
    capacity = min(int(own.get("max_length", 0)) for own in said)
    if encoder or not options.truncate or not capacity:
        return encoder or capacity or MOST
    return max(1, capacity - options.max_new_tokens)


def models_of(record: Record, given: Mapping[Role, str]) -> Models:
    """The models of a run. `given`: what the user said, by role.

    Raises:
        ConfigError: a model that the user named cannot be used.
    """
    said = _named(str(record.environment.get("command", "")))
    complaints, shapes, tokenizer = [], {}, None
    for role in Role:
        name = given.get(role) or said.get(role.value, "")
        layers = said.get("exit-layer", "0") if role is Role.SMALL else "0"
        try:
            # A draft may name another model.
            with nullcontext() if given.get(role) else hub.offline():
                if not given.get(role):
                    _look(name)
                shapes[role] = shape_at(name, int(layers))
                if role is Role.LARGE:
                    tokenizer = _tokenizer(hub.folder_of(name, weights=False))
        except (ConfigError, ValueError) as error:
            if role in given:
                raise
            complaints.append(
                f"the {role} model's files were not found ({error}): name them with --{role}"
            )
    return Models(shapes if len(shapes) == len(Role) else {}, tokenizer, tuple(complaints))


def _named(command: str) -> dict[str, str]:
    """The options of a command line that name models."""
    try:
        words = shlex.split(command)
    except ValueError:
        return {}
    found = {}
    for word, following in pairwise([*words, ""]):
        for name in ("small", "large", "pair", "exit-layer"):
            if word == f"--{name}":
                found[name] = following
            elif word.startswith(f"--{name}="):
                found[name] = word.partition("=")[2]
    pair = found.pop("pair", "")
    for role in Role:
        # The first layers of a pair are those of its large model.
        whose = Role.LARGE if "exit-layer" in found else role
        place = pairs.part(pair, whose) if pair else None
        if place is not None:
            found.setdefault(role.value, str(place))
    # The default pair names its models by other words than folders.
    if words and pair in ("", DEFAULT_PAIR) and not _ELSEWHERE & {*words}:
        found.setdefault("large", DEFAULT_LARGE)
        found.setdefault("small", found["large"] if "exit-layer" in found else DEFAULT_SMALL)
    return found


def _look(name: str) -> None:
    """A name from a record is here or nothing: a report asks no network.

    Raises:
        ConfigError: it is not here.
    """
    if not (name and hub.is_here(name)):
        raise ConfigError(f"{name or 'its name'} is not on this machine")


def _tokenizer(folder: Path) -> Any:
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(file))
