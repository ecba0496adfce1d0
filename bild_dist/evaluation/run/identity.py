"""What makes two runs the same: the models with their weights, and the texts that were asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from bild_dist.config import WorkerConfig
from bild_dist.evaluation.bench import usage
from bild_dist.evaluation.tasks.base import Item
from bild_dist.messages import Info
from bild_dist.model import hub
from bild_dist.model.contents import fingerprint

_PASSING: Final = frozenset(("generation", "pid", "slots", "rules"))
"""Of a worker's Info, what may be another when a run goes on."""
_LATER: Final = frozenset(("references", "machine", "versions"))
"""What files of earlier versions do not say: where one lacks it, nothing is known to differ."""
_DECIDING: Final = ("bild-dist", "torch", "transformers")
"""What texts and their times depend on."""
_MOST: Final = 80
"""Characters of a value that a message shows."""


def asked(items: Sequence[Item]) -> str:
    """How many items, and in brackets a name for their ids and prompts."""
    said = sha256(json.dumps([(item.id, item.prompt) for item in items]).encode())
    return f"{len(items)} ({said.hexdigest()[:16]})"


def named(prompt: str) -> str:
    """A name for a prompt, to tell whether two runs share texts."""
    return sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def references(items: Sequence[Item]) -> str:
    """How many references, and in brackets a name for them and whose they are."""
    there = [(item.id, item.references) for item in items if item.references]
    name = sha256(json.dumps(there).encode()).hexdigest()[:16]
    return f"{sum(len(found) for _, found in there)} ({name})"


def surroundings() -> dict[str, Any]:
    """What a run may not change on its way: the machine and the versions of what computes. `threads`: what a
    worker takes that is told no number.
    """
    machine, versions = usage.hardware(), usage.versions()
    return {
        "machine": {
            "cpu": machine["processor"],
            "gpus": machine["gpus"],
            "threads": os.environ.get("OMP_NUM_THREADS") or machine["cores"],
        },
        "versions": {name: versions[name] for name in _DECIDING if name in versions},
    }


def model(info: Info, config: WorkerConfig, *, joined: bool) -> dict[str, Any]:
    """A worker's Info without what passes, and what its model's folder holds. `joined`: the worker ran
    already, and only its owner knows where its files are.
    """
    found = {**asdict(info), **folder(config, joined=joined)}
    return {name: value for name, value in found.items() if name not in _PASSING}


def folder(config: WorkerConfig, *, joined: bool) -> dict[str, Any]:
    """`weights`, a name for them, and what is `ignored` of the model's own generation config; nothing
    of a toy or of a worker that ran already.
    """
    if joined or config.model.startswith("toy:"):
        return {}
    ignored = list(config.ignore_generation)
    found = weights(hub.folder_for(config), trust_remote_code=config.trust_remote_code)
    return {"weights": found, "ignored": ignored}


def weights(folder: Path, *, trust_remote_code: bool = False) -> str:
    """A name for what a model's folder holds: another one as soon as it is trained again. A draft's holds its
    base too, whose embedding and head it has.
    """
    digest = sha256()
    for file in sorted(folder.glob("*.json")):
        digest.update(file.name.encode() + file.read_bytes())
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(fingerprint(file).encode())
    if hub.is_draft(folder):
        # It needs transformers, and whoever asks for toys has none.
        from bild_dist.model import draft

        own = draft.read(folder)
        if own is not None:
            base = own.base_folder(trust_remote_code=trust_remote_code)
            digest.update(weights(base, trust_remote_code=trust_remote_code).encode())
    return digest.hexdigest()[:16]


def first_difference(
    old: dict[str, Any], new: dict[str, Any], inside: str = ""
) -> tuple[str, str, str] | None:
    """The first entry in which two identities differ, by name, and what each has there."""
    for name in [*new, *old]:
        if name in _LATER and name not in old:
            continue
        was, now = old.get(name), new.get(name)
        if isinstance(was, dict) and isinstance(now, dict):
            deeper = first_difference(was, now, f"{inside}{name}.")
            if deeper is not None:
                return deeper
        elif was != now:
            return inside + name, _short(was), _short(now)
    return None


def _short(value: Any) -> str:
    """For a message: whole grids are told apart by a name."""
    said = repr(value)
    return said if len(said) <= _MOST else sha256(said.encode()).hexdigest()[:16]
