"""The shipped pairs: where their models lie, and how a model is stored to be shipped.

    bild_dist/pairs/NAME/pair.toml    a configuration (see `config`), and where the recipe is
    bild_dist/pairs/NAME/small/       a folder as transformers writes it, or a draft folder
    bild_dist/pairs/NAME/large/

A pair's file is all that is needed to use it by name, `config.paired`; this is for those who make
pairs. Weights are stored in bfloat16, half of what they are computed in. No torch here: the default
pair is looked up without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bild_dist import config
from bild_dist.types import Role

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def folder(name: str, role: Role) -> Path:
    """Where the model of a pair belongs, whether or not it is there."""
    return config.PAIRS / name / role.value


def part(name: str, role: Role) -> Path | None:
    """Where the model of a pair is, or None where its weights are not in this installation."""
    place = folder(name, role)
    return place if any(place.glob("*.safetensors")) else None


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, place: Path) -> None:
    """Writes a model as it is shipped: weights in bfloat16, in one file, and the tokenizer's files.
    The model itself keeps its numbers.

    A model that shares its embedding with its head stores it once.
    """
    import copy

    import torch

    place.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(str(place), max_shard_size="100GB")  # type: ignore[arg-type]
    readable(place, "config.json")
    if tokenizer is not None:
        tokenizer.save_pretrained(str(place))


def readable(folder: Path, like: str) -> None:
    """Gives the weights in a folder the permissions of another file there, which was written as files are.

    Safetensors writes files that only their owner may read, whatever the umask says: a model is for others too.
    """
    mode = (folder / like).stat().st_mode
    for file in folder.glob("*.safetensors"):
        file.chmod(mode)
