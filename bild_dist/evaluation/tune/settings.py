"""A setting as a configuration file that `bild generate -c` takes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from math import isinf
from pathlib import Path
from typing import Any, Final

from bild_dist.config import Config, OrchestratorConfig, WorkerConfig
from bild_dist.types import Mode, Options

_ALWAYS: Final = ("mode", "alpha_fb", "alpha_rb", "window", "schedule")
"""Options that the file names even where they are the default, which may change."""
_PATHS: Final = ("model", "tokenizer")


def as_toml(config: Config, options: Options, remarks: Sequence[str]) -> str:
    """The models and the options; `remarks` stand above as comments."""
    lines = [f"# {line}" for remark in remarks for line in remark.splitlines()]
    for name, table in (("small", config.small), ("large", config.large)):
        lines += ["", f"[{name}]"]
        for spec in dataclasses.fields(WorkerConfig):
            value = getattr(table, spec.name)
            if spec.name == "model" or value != spec.default:
                lines.append(f"{spec.name} = {_value(_absolute(spec.name, value))}")
    house = [
        f"{spec.name} = {_value(getattr(config.orchestrator, spec.name))}"
        for spec in dataclasses.fields(OrchestratorConfig)
        if getattr(config.orchestrator, spec.name) != spec.default
    ]
    lines += ["", "[orchestrator]", *house] if house else []
    lines += ["", "[generate]"]
    default = Options()
    for field in dataclasses.fields(Options):
        value = getattr(options, field.name)
        always = field.name in _ALWAYS and (options.mode is Mode.BILD or field.name == "mode")
        if value is not None and (always or value != getattr(default, field.name)):
            lines.append(f"{field.name} = {_value(value)}")
    return "\n".join(lines).lstrip("\n") + "\n"


def _absolute(name: str, value: Any) -> Any:
    """Paths are taken from the file's folder, so those from here are spelt out."""
    if name in _PATHS and value and Path(value).expanduser().exists():
        return str(Path(value).expanduser().resolve())
    return value


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_value(part) for part in value)}]"
    if isinstance(value, float) and isinf(value):
        return "inf"
    # Strings, numbers and truth values are written alike in both languages.
    return json.dumps(value, ensure_ascii=False)
