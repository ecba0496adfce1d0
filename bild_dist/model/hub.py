"""Where a model's files are: a folder (of a model or of a draft), a GGUF file turned into one, a hub
id, or this project's own pair.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Final

from bild_dist.config import DEFAULT_LARGE, DEFAULT_SMALL, PAIRS, WorkerConfig
from bild_dist.errors import ConfigError
from bild_dist.model.default_pair import HUB_ID, REMEDIES, locate, shipped_draft

DRAFT: Final = "draft.json"
"""The file that makes a folder a draft: see `draft.py`."""
_ID: Final = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
_PATTERNS: Final = (
    "*.json", "*.jinja", "*.txt", "*.model", "*.spm", "model*.safetensors",
)  # fmt: skip
_OFFLINE: Final = ("huggingface_hub.constants", "HF_HUB_OFFLINE")
_TIMEOUT: Final = 5.0
"""Seconds to wait for a hub before saying that there is none."""


def folder_of(name: str, *, weights: bool = True, trust_remote_code: bool = False) -> Path:
    """A local folder with the files of what `name` means.

    Raises:
        ConfigError: there is none, or its weights are in a format that is not read here; with the
            remedies.
    """
    if name in (DEFAULT_LARGE, DEFAULT_SMALL):
        own = shipped_draft() if name == DEFAULT_SMALL else None
        name = locate() if own is None else str(own)
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ConfigError(f"{name}: there is no such file")
        from bild_dist.model.gguf import converted

        return converted(path)
    if path.is_dir():
        _check(name, path, weights=weights)
        return path
    if path.exists():
        raise ConfigError(f"{name} is a file: name the folder that it lies in, or a .gguf file")
    if not _ID.fullmatch(name) or name in (".", ".."):
        raise ConfigError(f"{name}: there is no such folder")
    return _downloaded(name, weights=weights, trust_remote_code=trust_remote_code)


def is_here(name: str) -> bool:
    """Whether `folder_of` finds the files of `name` but its weights without asking a hub for them."""
    if name in (DEFAULT_LARGE, DEFAULT_SMALL):
        own = shipped_draft() if name == DEFAULT_SMALL else None
        name = locate() if own is None else str(own)
    if Path(name).expanduser().exists():
        return True
    if not _ID.fullmatch(name):
        return False
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot_download(name, local_files_only=True)
    except (LocalEntryNotFoundError, ValueError):
        return False
    return True


@contextmanager
def offline(*more: tuple[str, str]) -> Iterator[None]:
    """As long as this is open no hub is asked. The library reads its environment when it is imported, which may
    have been before, so the flag is set where it keeps it. `more`: modules, each with such a flag of theirs.
    """
    before = []
    for name, flag in (_OFFLINE, *more):
        with suppress(ImportError, AttributeError):
            module = import_module(name)
            before.append((module, flag, getattr(module, flag)))
    try:
        for module, flag, _ in before:
            setattr(module, flag, True)
        yield
    finally:
        for module, flag, was in before:
            setattr(module, flag, was)


def folder_for(config: WorkerConfig) -> Path:
    """`folder_of` a worker's model. Asked for first layers, the default pair's small model is those of
    the large one, whether or not there is a trained draft.
    """
    early = config.model == DEFAULT_SMALL and config.exit_layer
    name = DEFAULT_LARGE if early else config.model
    return folder_of(name, trust_remote_code=config.trust_remote_code)


def is_draft(folder: Path) -> bool:
    """Whether a folder holds a draft instead of a whole model."""
    return (folder / DRAFT).is_file()


def title_of(name: str, layers: int, *, draft: bool = False) -> str:
    """What to call a model in messages to people: no paths. `layers`: of a draft, or how many first
    ones were kept; 0 for a whole model.
    """
    if name in (DEFAULT_LARGE, DEFAULT_SMALL):
        title = HUB_ID
    elif Path(name).parent.parent == PAIRS:
        title = f"{Path(name).parent.name} ({Path(name).name})"
    else:
        title = name if _ID.fullmatch(name) else Path(name).stem
    if not layers:
        return title
    return f"{title} ({'draft of' if draft else 'first'} {layers} layers)"


def _check(name: str, folder: Path, *, weights: bool) -> None:
    if not weights or is_draft(folder):
        return
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{name} is not a model: it has no config.json. Name the folder that a model was saved to"
        )
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(file.name for file in folder.glob("*.bin")) + sorted(
        file.name for file in folder.glob("*.pt*")
    )
    if pickled:
        raise ConfigError(
            f"{name} has its weights in {pickled[0]}, a pickle, which can run code when it is read: convert it to "
            "safetensors where you trust it (model.save_pretrained in transformers) and name that folder"
        )
    raise ConfigError(f"{name} has a config.json but no weights (*.safetensors)")


def _downloaded(name: str, *, weights: bool, trust_remote_code: bool) -> Path:
    """The snapshot of a hub id: from the local cache, or from the hub within its patience."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    patterns = [*_PATTERNS, *(("*.py",) if trust_remote_code else ())]
    if not weights:
        patterns.remove("model*.safetensors")
    try:
        folder = Path(snapshot_download(name, local_files_only=True))
        _check(name, folder, weights=weights)
    except (LocalEntryNotFoundError, ConfigError):
        pass
    else:
        return folder
    try:
        # Asked first, because a download tries again and again where nobody answers.
        HfApi().model_info(name, timeout=_TIMEOUT)
        folder = Path(
            snapshot_download(
                name, allow_patterns=patterns, ignore_patterns=["*/*"], etag_timeout=_TIMEOUT
            )
        )
    except GatedRepoError:
        raise ConfigError(
            f"{name} is given out by its publisher only: ask for access on its page, then log in (hf auth login)"
        ) from None
    except RepositoryNotFoundError:
        raise ConfigError(
            f"{name}: there is no such folder, and no such model on the hub"
        ) from None
    except Exception as error:
        remedy = "name a folder with the model's files, or connect this machine to the network and try again"
        raise ConfigError(
            f"{name} is no folder here, and the model hub cannot be reached ({type(error).__name__}): "
            f"{REMEDIES if name == HUB_ID else remedy}"
        ) from None
    _check(name, folder, weights=weights)
    return folder
