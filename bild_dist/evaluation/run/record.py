"""The record of a run: one setting on one task, as a file of JSON that reports, sweeps and tuning read.

The file is whole: every text with its tokens and times, so that any figure can be taken again without
a model. Infinity, which JSON lacks, is the string "inf", for instance `alpha_rb` of a setting that never
rolls back.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from bild_dist.errors import BildError, ConfigError
from bild_dist.types import Mode, Options, Result, TokenEvent

FORMAT: Final = 1
_ALWAYS: Final = ("mode", "alpha_fb", "alpha_rb", "window", "schedule")
"""Options that a record names even where they are the default."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Options of a request under the name of their row in a table."""

    name: str
    options: Options

    @classmethod
    def of(cls, options: Options) -> Self:
        """Named after what it is: `large`, `exact`, `bild 0.7/2`, and `bild 0.7/2 window 5` where the
        window is not the default.
        """
        name = options.mode.value
        if options.mode is Mode.BILD:
            name += f" {options.alpha_fb:g}/{options.alpha_rb:g}"
            if options.window != Options().window:
                name += f" window {options.window}"
        return cls(name, options)

    def as_dict(self) -> dict[str, Any]:
        """The name, the thresholds, and what else is not the default."""
        default = Options()
        found: dict[str, Any] = {"name": self.name}
        for spec in dataclasses.fields(Options):
            value = getattr(self.options, spec.name)
            if spec.name in _ALWAYS or value != getattr(default, spec.name):
                found[spec.name] = list(value) if isinstance(value, tuple) else value
        return found

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """Raises InvalidRequest for an option that is unknown or out of its range."""
        rest = {name: value for name, value in found.items() if name != "name"}
        return cls(str(found["name"]), Options().merged(rest))


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRecord:
    """One text of a run. `confidences` and `distances` as in `types.TokenEvent`, one a token.

    `wall_ns` is the median over the rounds and `walls_ns` has them all; the texts are those of the
    first round.
    """

    id: str
    text: str
    tokens: tuple[int, ...]
    sources: tuple[str, ...]
    confidences: tuple[float | None, ...] = ()
    distances: tuple[float | None, ...] = ()
    finish_reason: str = "eos"
    wall_ns: int = 0
    first_token_ns: int = 0
    trace: Mapping[str, int] = field(default_factory=dict)
    walls_ns: tuple[int, ...] = ()

    @classmethod
    def of(cls, id: str, result: Result, events: list[TokenEvent]) -> Self:
        """What the decoder gave for an item of a task."""
        return cls(
            id=id,
            text=result.text,
            tokens=result.tokens,
            sources=tuple(source.value for source in result.sources),
            confidences=tuple(event.confidence for event in events),
            distances=tuple(event.distance for event in events),
            finish_reason=result.finish_reason.value,
            wall_ns=result.trace.wall_ns,
            first_token_ns=result.trace.first_token_ns,
            trace=dataclasses.asdict(result.trace),
            walls_ns=(result.trace.wall_ns,),
        )

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in found.items()
        }
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Failure:
    """An item for which there is no text, and why."""

    id: str
    type: str
    message: str

    @classmethod
    def of(cls, id: str, error: BildError) -> Self:
        return cls(id, type(error).__name__, str(error))

    def as_dict(self) -> dict[str, Any]:
        return {"id": self.id, "error": {"type": self.type, "message": self.message}}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        return cls(found["id"], found["error"]["type"], found["error"]["message"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one setting wrote, and its figures by name (see docs/eval.md)."""

    setting: Setting
    texts: tuple[TextRecord, ...]
    failed: tuple[Failure, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {
            "setting": self.setting.as_dict(),
            "texts": [dataclasses.asdict(text) for text in self.texts],
            "failed": [failure.as_dict() for failure in self.failed],
            "figures": dict(self.figures),
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        return cls(
            setting=Setting.from_dict(found["setting"]),
            texts=tuple(TextRecord.from_dict(text) for text in found["texts"]),
            failed=tuple(Failure.from_dict(failure) for failure in found["failed"]),
            figures=found["figures"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A run: what was measured (`part`), and the large model alone, measured in the same run on the
    same items (`large`; None where the setting is the large model alone).

    `models` has the fields of both workers' Info by role, `environment` what it ran on. In the file
    the part's own keys stand at the top.
    """

    task: str
    split: str
    part: Part
    large: Part | None = None
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def setting(self) -> Setting:
        return self.part.setting

    @property
    def texts(self) -> tuple[TextRecord, ...]:
        return self.part.texts

    @property
    def failed(self) -> tuple[Failure, ...]:
        return self.part.failed

    @property
    def figures(self) -> Mapping[str, Any]:
        return self.part.figures

    def as_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "task": self.task,
            "split": self.split,
            "models": dict(self.models),
            "environment": dict(self.environment),
            **self.part.as_dict(),
            "large": None if self.large is None else self.large.as_dict(),
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        large = found.get("large")
        return cls(
            task=found["task"],
            split=found["split"],
            part=Part.from_dict(found),
            large=None if large is None else Part.from_dict(large),
            models=found["models"],
            environment=found["environment"],
        )

    def write(self, path: Path) -> None:
        """Whole or not at all. Raises ConfigError if it cannot be written."""
        part = path.with_name(path.name + ".part")
        try:
            text = json.dumps(plain(self.as_dict()), ensure_ascii=False, allow_nan=False)
            part.write_text(text + "\n", encoding="utf-8")
            part.replace(path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises ConfigError if there is no such file, or it is no record of this format."""
        try:
            found = revived(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ConfigError(
                f"{path} is no record of `bild eval` of format {FORMAT}: make it again"
            )
        try:
            return cls.from_dict(found)
        except (KeyError, TypeError, BildError) as error:
            raise ConfigError(
                f"{path} is no whole record of a run ({error}): make it again"
            ) from None


def plain(value: Any) -> Any:
    """A value that every JSON reader takes: an infinite number becomes its name."""
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, float) and math.isinf(value):
        return str(value)
    return value


def revived(value: Any, name: str = "") -> Any:
    """The same, read back. Only where a number is expected: a text may say "inf"."""
    if isinstance(value, dict):
        return {key: revived(part, key) for key, part in value.items()}
    if isinstance(value, list):
        return [revived(part, name) for part in value]
    if value in ("inf", "-inf") and name not in _WORDS:
        return float(value)
    return value


_WORDS: Final = frozenset(
    ("text", "id", "name", "message", "stop", "command", "src_lang", "tgt_lang")
)
