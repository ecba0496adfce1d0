"""A draft folder: the first layers of a model, trained to write for it, beside what they share.

A small model made of a large one's first layers shares its embedding, its head, its tokenizer and
its settings, which are most of its size. A draft folder holds what is its own and names the rest:

    draft.json          {"format": 1, "base": "default", "layers": 4, "head": null,
                         "storage": "bfloat16"}
    draft.safetensors   the layers and the last norm, under the names that the base gives them

`base` is whatever a worker's `--model` may be, or a path relative to the draft's folder that begins
with a dot. `head` lists the token ids that the draft can write (see `short_head`), null for all.
`storage` is bfloat16, or int8: matrices as int8 with a float32 scale a row, `NAME.scale`, and
everything else as float32. What it computes in is the worker's dtype.

Four layers of SmolLM2-135M are 28.3 MB on disk in bfloat16, 14.3 in int8. What a short head saves of a
pass stands in docs/alignment.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from bild_dist.errors import ConfigError
from bild_dist.model import checkpoint, hub, pairs
from bild_dist.model.foreign import first_line
from bild_dist.model.short_head import end_ids, shorten

FORMAT: Final = 1
STORAGES: Final = ("bfloat16", "int8")
WEIGHTS: Final = "draft.safetensors"
_SCALE: Final = ".scale"
_MOST: Final = 127
"""The largest int8 that has a negative of its own."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What draft.json says, checked for itself."""

    folder: Path
    base: str
    layers: int
    head: tuple[int, ...] | None
    storage: str

    def base_folder(self, *, trust_remote_code: bool = False) -> Path:
        """Where the base lies.

        Raises:
            ConfigError: it is not there, or is a draft itself.
        """
        name = str(self.folder / self.base) if self.base.startswith(".") else self.base
        folder = hub.folder_of(name, trust_remote_code=trust_remote_code)
        if hub.is_draft(folder):
            raise ConfigError(
                f"{self.folder}: its base {self.base} is a draft too: name the whole model"
            )
        return folder

    def fill(self, model: PreTrainedModel) -> None:
        """Puts the draft's own weights, and its head if it has one, into the first layers of its
        base.

        Raises:
            ConfigError: the file is damaged, or does not belong to this base.
        """
        _decoder_only(model, str(self.folder))
        file = self.folder / WEIGHTS
        own = dict(_own(model))
        try:
            with safe_open(str(file), framework="pt") as stored:
                _check_names(file, set(stored.keys()), self._names(own), self.base)
                for name, parameter in own.items():
                    parameter.data.copy_(self._read(stored, name, parameter))
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{file} cannot be read: {first_line(error)}") from error
        if self.head is not None:
            shorten(model, self.head, str(self.folder))

    def _names(self, own: dict[str, nn.Parameter]) -> set[str]:
        scales = {n + _SCALE for n, p in own.items() if self.storage == "int8" and p.dim() == 2}
        return {*own, *scales}

    def _read(self, stored: Any, name: str, parameter: nn.Parameter) -> torch.Tensor:
        shape = list(parameter.shape)
        if self.storage == "bfloat16":
            tensor = self._checked(stored, name, shape, torch.bfloat16)
        elif parameter.dim() == 2:
            scale = self._checked(stored, name + _SCALE, shape[:1], torch.float32)
            tensor = self._checked(stored, name, shape, torch.int8).float() * scale[:, None]
        else:
            tensor = self._checked(stored, name, shape, torch.float32)
        if not bool(tensor.isfinite().all()):
            raise ConfigError(f"{self.folder / WEIGHTS} is damaged: {name} holds no numbers")
        return tensor

    def _checked(
        self, stored: Any, name: str, shape: list[int], dtype: torch.dtype
    ) -> torch.Tensor:
        found = list(stored.get_slice(name).get_shape())
        tensor: torch.Tensor | None = stored.get_tensor(name) if found == shape else None
        if tensor is None or tensor.dtype != dtype:
            kind = "" if tensor is None else f" of {tensor.dtype}"
            raise ConfigError(
                f"{self.folder / WEIGHTS}: {name} is {found}{kind}, and {shape} of {dtype} is needed with "
                f"the base {self.base}: it is damaged, or belongs to another model"
            )
        return tensor


def read(folder: Path) -> Draft | None:
    """What a folder says of itself, None where it is no draft.

    Raises:
        ConfigError: there is a draft.json that says something else than it must.
    """
    if not hub.is_draft(folder):
        return None
    file = folder / hub.DRAFT
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {first_line(error)}") from None
    keys = {"format", "base", "layers", "head", "storage"}
    if not isinstance(said, dict) or set(said) != keys:
        raise ConfigError(f"{file} must be an object with the keys {', '.join(sorted(keys))}")
    if said["format"] != FORMAT:
        raise ConfigError(
            f"{file} has format {said['format']!r}, and this version reads {FORMAT}: take the version that wrote it"
        )
    base, layers, head, storage = (said[key] for key in ("base", "layers", "head", "storage"))
    for key, good in (
        ("base", isinstance(base, str) and base != ""),
        ("layers", type(layers) is int and layers > 0),
        ("head", head is None or _ascending(head)),
        ("storage", storage in STORAGES),
    ):
        if not good:
            needed = {
                "base": "the name of a model", "layers": "a whole number from 1",
                "head": "null or token ids in ascending order", "storage": " or ".join(STORAGES),
            }[key]  # fmt: skip
            raise ConfigError(f"{file}: {key} must be {needed}")
    return Draft(folder, base, layers, None if head is None else tuple(head), storage)


def load(folder: Path, dtype: torch.dtype, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """The whole model of a draft folder as transformers has it, with the base's config.

    Raises:
        ConfigError: it is no draft, is damaged, or its base is not there or another one.
    """
    own = read(folder)
    if own is None:
        raise ConfigError(f"{folder} is no draft: it has no {hub.DRAFT}")
    trusted = trust_remote_code
    base = own.base_folder(trust_remote_code=trusted)
    plan: Any = checkpoint.plan_of(base, own.base, trust_remote_code=trusted)
    checkpoint.cut(plan, plan.get_text_config(decoder=True), own.layers, plan.is_encoder_decoder)
    model = checkpoint.weights_of(base, plan, own.base, dtype, trust_remote_code=trusted)
    own.fill(model)
    return model


def save(
    model: PreTrainedModel, folder: Path, base: str, head_ids: Sequence[int] | None, storage: str
) -> None:
    """Writes a model of `base`'s first layers as a draft folder. Its embedding and head must still
    be the base's: they are not written.

    Raises:
        ConfigError: it is no decoder-only model, the storage is unknown, or the head is outside the
            vocabulary or leaves out an end of text.
    """
    _decoder_only(model, str(folder))
    if storage not in STORAGES:
        raise ConfigError(f"storage = {storage!r} must be {' or '.join(STORAGES)}")
    plan: Any = model.config.get_text_config(decoder=True)
    head = None if head_ids is None else sorted(set(head_ids))
    if head is not None:
        absent = set(end_ids(model)) - set(head)
        if not head or head[0] < 0 or head[-1] >= plan.vocab_size or absent:
            raise ConfigError(
                f"head: {len(head)} ids must lie in a vocabulary of {plan.vocab_size} and hold every end of "
                f"text (missing: {sorted(absent) or 'none'})"
            )
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in _own(model):
        weight = parameter.detach().cpu().float()
        if storage == "bfloat16":
            tensors[name] = weight.bfloat16()
        elif weight.dim() == 2:
            scale = (weight.abs().amax(1) / _MOST).clamp(min=1e-12)
            tensors[name] = (weight / scale[:, None]).round().to(torch.int8).contiguous()
            tensors[name + _SCALE] = scale
        else:
            tensors[name] = weight.contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(folder / WEIGHTS))
    said = {
        "format": FORMAT, "base": base, "layers": plan.num_hidden_layers, "head": head, "storage": storage,
    }  # fmt: skip
    (folder / hub.DRAFT).write_text(json.dumps(said) + "\n", encoding="utf-8")
    pairs.readable(folder, hub.DRAFT)


def _own(model: PreTrainedModel) -> Iterator[tuple[str, nn.Parameter]]:
    """The weights that a draft does not share with its base, by name."""
    whole: Any = model
    ends = (whole.get_input_embeddings(), whole.get_output_embeddings())
    shared = {id(parameter) for end in ends for parameter in end.parameters()}
    for name, parameter in model.named_parameters():
        if id(parameter) not in shared:
            yield name, parameter


def _decoder_only(model: PreTrainedModel, name: str) -> None:
    if model.config.is_encoder_decoder:
        raise ConfigError(
            f"{name}: drafts are made of decoder-only models, and {type(model).__name__} has an encoder: "
            "save the whole model"
        )


def _ascending(ids: object) -> bool:
    if not isinstance(ids, list) or not ids or not all(type(token) is int for token in ids):
        return False
    return ids[0] >= 0 and all(a < b for a, b in pairwise(ids))


def _check_names(file: Path, found: set[str], needed: set[str], base: str) -> None:
    if found != needed:
        odd = [f"lacks {name}" for name in sorted(needed - found)[:1]]
        odd += [f"has {name}, which is not needed" for name in sorted(found - needed)[:1]]
        raise ConfigError(
            f"{file} {' and '.join(odd)} with the base {base}: it is damaged, or belongs to another model"
        )
