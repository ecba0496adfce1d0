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
from bild_dist.evaluation.run.fields import Fields, number
from bild_dist.evaluation.run.files import refuse_special, write_whole
from bild_dist.types import FinishReason, Mode, Options, Policy, Result, Source, TokenEvent

FORMAT: Final = 1
_ALWAYS: Final = ("mode", "alpha_fb", "alpha_rb", "window", "schedule")
"""Options that a record names even where they are the default."""
_NUMBERS: Final = frozenset((
    "alpha_rb", "confidences", "distances", "value", "low", "high", "mean",
    "confidence", "margin", "distance", "top",
))  # fmt: skip
"""Where infinity may stand: thresholds, what a text or a reading (`sweep`) has of each token, and figures of
older files.
"""
_TOP: Final = frozenset(("format", "setting"))
"""By these a file is known for a record, whole or not."""


class Foreign(ConfigError):
    """A file of JSON that is no record at all."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Options of a request under the name of their row in a table."""

    name: str
    options: Options

    @classmethod
    def of(cls, options: Options) -> Self:
        """Named after what it is: `large`, `exact`, `rejection 4`, `bild 0.7/2`, and `bild 0.7/2 window 5`
        where the window is not the default.
        """
        name = options.mode.value
        if options.policy is Policy.REJECTION:
            name = f"rejection {options.window}"
        elif options.mode is Mode.BILD:
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
    def from_dict(cls, found: Mapping[str, Any], where: str = "setting") -> Self:
        """Raises ConfigError without a name, InvalidRequest for an option that is unknown or out of its
        range.
        """
        rest = {name: value for name, value in found.items() if name != "name"}
        return cls(Fields.of(found, where).text("name"), Options().merged(rest))


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
    def from_dict(cls, found: Mapping[str, Any], where: str = "") -> Self:
        """Raises ConfigError for a field that is missing, unknown or not what it should be."""
        own = Fields.of(found, where)
        own.only([spec.name for spec in dataclasses.fields(cls)])
        tokens = own.wholes("tokens")
        sources = own.texts("sources", list(Source))
        if len(sources) != len(tokens):
            raise ConfigError(
                f"{own.path('sources')} has {len(sources)} entries for {len(tokens)} tokens"
            )
        reason = own.text("finish_reason", "eos")
        if reason not in list(FinishReason):
            raise ConfigError(
                f"{own.path('finish_reason')} is {reason!r}: known are {', '.join(FinishReason)}"
            )
        trace = own.object("trace", {})
        return cls(
            id=own.text("id"),
            text=own.text("text"),
            tokens=tokens,
            sources=sources,
            confidences=own.numbers("confidences", len(tokens)),
            distances=own.numbers("distances", len(tokens)),
            finish_reason=reason,
            wall_ns=own.whole("wall_ns", 0),
            first_token_ns=own.whole("first_token_ns", 0),
            trace={name: trace.whole(name) for name in trace.found},
            walls_ns=own.wholes("walls_ns", ()),
        )


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
    def from_dict(cls, found: Mapping[str, Any], where: str = "") -> Self:
        """Raises ConfigError as `TextRecord.from_dict`."""
        own = Fields.of(found, where)
        error = own.object("error")
        return cls(own.text("id"), error.text("type"), error.text("message"))


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
    def from_dict(cls, found: Mapping[str, Any], where: str = "") -> Self:
        """Raises ConfigError or InvalidRequest for a field that is not what it should be."""
        own = Fields.of(found, where)
        setting, figures = own.object("setting"), own.object("figures")
        texts = tuple(TextRecord.from_dict(t.found, t.where) for t in own.objects("texts"))
        failed = tuple(Failure.from_dict(f.found, f.where) for f in own.objects("failed"))
        if len({text.id for text in texts}) < len(texts):
            raise ConfigError(f"{own.path('texts')} has an id twice")
        check_figures(figures)
        return cls(
            setting=Setting.from_dict(setting.found, setting.where),
            texts=texts,
            failed=failed,
            figures=figures.found,
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
        """Raises ConfigError or InvalidRequest for a field that is not what it should be."""
        own, large = Fields.of(found), found.get("large")
        models = own.object("models")
        return cls(
            task=own.text("task"),
            split=own.text("split"),
            part=Part.from_dict(found),
            large=None if large is None else Part.from_dict(large, "large"),
            models={role: models.object(role).found for role in models.found},
            environment=own.object("environment").found,
        )

    def write(self, path: Path) -> None:
        """Whole or not at all. Raises ConfigError if it cannot be written."""
        text = json.dumps(plain(self.as_dict()), ensure_ascii=False, allow_nan=False)
        write_whole(path, text + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises ConfigError if there is no such file, or it is no record of this format; Foreign where it is
        of something else altogether.
        """
        refuse_special(path)
        try:
            found = parsed(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path} is no whole JSON ({error}): make it again") from None
        if not isinstance(found, dict) or not found.keys() >= _TOP:
            raise Foreign(
                f"{path} is not a record of `bild eval`: name a file that it wrote (--out FILE.json)"
            )
        if found["format"] != FORMAT:
            raise ConfigError(
                f"{path} is no record of `bild eval` of format {FORMAT}: make it again"
            )
        try:
            return cls.from_dict(found)
        except (TypeError, BildError) as error:
            raise ConfigError(
                f"{path} is no whole record of a run ({error}): make it again"
            ) from None


def check_figures(figures: Fields) -> None:
    """Raises ConfigError for a figure whose numbers are none. One that nobody knows is null."""
    for name, value in figures.found.items():
        if not isinstance(value, Mapping):
            continue
        figure = figures.object(name)
        for part in ("value", "mean", "low", "high"):
            if value.get(part) is not None and not number(value[part]):
                raise ConfigError(f"{figure.path(part)} must be a number")
        if "value" not in value and "mean" not in value:
            raise ConfigError(f"{figure.path('value')} is missing")


def finite(value: Any) -> Any:
    """Figures without what is no number: one that is infinite, or none at all, is not known."""
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain(value: Any) -> Any:
    """A value that every JSON reader takes: an infinite number becomes its name, and one that is none null."""
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def stored(value: Any) -> Any:
    """A value as a file gives it back: lists for tuples, and a name for an infinite number."""
    return json.loads(json.dumps(plain(value)))


def parsed(text: str | bytes) -> Any:
    """What a file says. Raises ValueError where it is no JSON, which knows neither NaN nor Infinity."""
    return revived(json.loads(text, parse_constant=_refused))


def _refused(name: str) -> Any:
    raise ValueError(f"it has {name}, which is no number")


def revived(value: Any, name: str = "") -> Any:
    """The same, read back. Only where a number may be infinite: a task or a text may say "inf"."""
    if isinstance(value, dict):
        return {key: revived(part, key) for key, part in value.items()}
    if isinstance(value, list):
        return [revived(part, name) for part in value]
    if name in _NUMBERS and value in ("inf", "-inf"):
        return float(value)
    return value
