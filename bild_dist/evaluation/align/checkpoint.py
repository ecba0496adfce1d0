"""A training run on disk: where it stands, so that it can go on.

A checkpoint is a folder that appears at once or not at all; the one before is removed only when the
new one is complete. No pickle: tensors in safetensors, numbers in JSON.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bild_dist.errors import ConfigError

_STATE: Final = "state.json"


class Checkpoints:
    """The checkpoints of one run. Owner of its folder; a run has at most one that counts.

    `identity` says what the run is: one that was started with other settings is refused.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._folder = folder
        self._identity = dict(identity)

    def save(self, numbers: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        """Raises ConfigError where there is no room; the last checkpoint is then intact."""
        place = self._folder / f"step-{numbers['step']:07d}"
        if place.is_dir():
            return
        partial = self._folder / f"{place.name}.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            state = {"identity": self._identity, "numbers": dict(numbers)}
            (partial / _STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
            # Parameters that share their memory are written once each: safetensors wants them apart.
            save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
                      partial / "tensors.safetensors")  # fmt: skip
            _synced(partial)
            partial.rename(place)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            kept = self._last()
            raise ConfigError(
                f"the checkpoint cannot be written in {self._folder} ({error}): make room and start the same command "
                f"again; it goes on from {kept.name if kept else 'the beginning'}"
            ) from None
        for old in self._folder.glob("step-*"):
            if old != place:
                shutil.rmtree(old, ignore_errors=True)

    def load(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]] | None:
        """Numbers and tensors of the last checkpoint; None where there is none.

        Raises:
            ConfigError: it belongs to a run with other settings, or it is damaged.
        """
        place = self._last()
        if place is None:
            return None
        try:
            state = json.loads((place / _STATE).read_text(encoding="utf-8"))
            tensors = load_file(place / "tensors.safetensors")
            numbers, identity = state["numbers"], state["identity"]
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ConfigError(f"{place} is damaged ({error}): remove it to start anew") from None
        differ = [
            k for k in {**identity, **self._identity} if identity.get(k) != self._identity.get(k)
        ]
        if differ:
            name = min(differ)
            raise ConfigError(
                f"{self._folder} holds a run with {name} = {identity.get(name)!r}, not {self._identity.get(name)!r}: "
                "give the same settings to go on, or another --out (or remove the folder) to start anew"
            )
        return numbers, tensors

    def _last(self) -> Path | None:
        return max((p for p in self._folder.glob("step-*") if p.suffix != ".partial"), default=None)


def _synced(folder: Path) -> None:
    for file in folder.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
