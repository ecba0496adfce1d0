"""What a sweep found, as a file of JSON: the recording, and every setting with its texts.

Everything that a figure rests on is kept for each text, so that `bild tune` and a look at other
floors or other halves of the texts need no model.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

import numpy as np

from bild_dist.errors import BildError, ConfigError
from bild_dist.evaluation.metrics.base import Judged, Marks, Metric
from bild_dist.evaluation.run.fields import Fields
from bild_dist.evaluation.run.files import refuse_special, write_whole
from bild_dist.evaluation.run.record import (
    Failure,
    Part,
    Setting,
    TextRecord,
    check_figures,
    parsed,
    plain,
)
from bild_dist.evaluation.sweep.alone import ALONE, PRICES, paces, predicted
from bild_dist.evaluation.sweep.reading import Reading
from bild_dist.evaluation.sweep.replay import Played
from bild_dist.evaluation.sweep.texts import Texts, in_line
from bild_dist.evaluation.tasks.base import Item
from bild_dist.types import Mode, Role

FORMAT: Final = 1
_KIND: Final = "sweep"
MEASURED: Final = "measured"
"""The source of passes and times of a setting that worker processes wrote."""
_MS: Final = 1e-6
"""Milliseconds a nanosecond."""
_POINTS: Final = '"points": [\n'
_END: Final = "]}\n"
"""A file has each setting in a line of its own between these two, so that none but one is held."""
_BEGINS: Final = re.compile(rb'\s*\{\s*"format"\s*:\s*\d+\s*,\s*"kind"\s*:\s*"sweep"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One setting. `played`: what the replay predicts, a text each. `texts`: what was written, empty
    where it was not. `ran`: passes and times of those texts. The passes are from `source`: "measured"
    (worker processes), "counted" (schedule `paper`, whose passes do not depend on time) or "own text"
    (the machine played over the text that was really written); the times were measured, or else played
    over that text. `same_texts`: of the texts that worker processes wrote, the share that are `texts`, which the
    figures are of; None where none were, or nobody compared.
    """

    setting: Setting
    played: tuple[Played, ...]
    texts: Sequence[TextRecord] = ()
    ran: tuple[Played, ...] = ()
    source: str = ""
    same_texts: float | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def predicted_passes(self) -> float:
        """Large passes a token of text, as predicted."""
        return per_token(self.played)

    @property
    def run_passes(self) -> float | None:
        """The same of the texts that were written."""
        return per_token(self.ran) if self.ran else None

    @property
    def gap(self) -> float | None:
        """By what share the prediction is off."""
        run = self.run_passes
        return None if not run else self.predicted_passes / run - 1

    @property
    def walls_ns(self) -> tuple[int, ...]:
        """Time of each text: of what was really written where there is something, else predicted."""
        return tuple(text.wall_ns for text in self.ran or self.played)

    @property
    def latency_ms(self) -> float:
        """Mean over texts."""
        return sum(self.walls_ns) / len(self.walls_ns) * _MS

    def as_dict(self) -> dict[str, Any]:
        return {
            "setting": self.setting.as_dict(),
            "predicted": totals(self.played),
            "run": self._run() if self.ran else None,
            "gap": self.gap,
            "latency_ms": self.latency_ms,
            "figures": dict(self.figures),
            "played": [list(text) for text in self.played],
            "ran": [list(text) for text in self.ran],
            "texts": [dataclasses.asdict(text) for text in self.texts],
        }

    def _run(self) -> dict[str, Any]:
        return {**totals(self.ran), "source": self.source, "same_texts": self.same_texts}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        figures = Fields.of(found["figures"], "figures")
        check_figures(figures)
        return cls(
            setting=Setting.from_dict(found["setting"]),
            played=tuple(Played(*text) for text in found["played"]),
            texts=tuple(TextRecord.from_dict(text) for text in found["texts"]),
            ran=tuple(Played(*text) for text in found["ran"]),
            source=(found["run"] or {}).get("source", ""),
            same_texts=(found["run"] or {}).get("same_texts"),
            figures=figures.found,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A sweep. `large`, `small` and `middle` are the measured texts that it rests on, in the order of
    `items`; `readings` by the name of the text that was read ("middle" and "large"), and `recorded`
    says which of them the predictions were made from. `costs`: ns, fields of `simulator.Costs`, what
    `alone.paces` knows of each model, and of settings of both `opening_ns`, what a text takes beside its passes:
    `residual_ns`, or 0 where that is negative; `middle_ns` and `middle_played_ns` as `alone.recorded` has them.
    `spent_ns`: time of each stage, over all starts of the command.
    """

    task: str
    split: str
    metric: str
    items: tuple[Item, ...]
    large: Part
    small: Part
    middle: Part
    readings: Mapping[str, tuple[Reading, ...]]
    recorded: str
    costs: Mapping[str, Any]
    points: tuple[Point, ...] = ()
    failed: tuple[Failure, ...] = ()
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    difference: Mapping[str, Any] = field(default_factory=dict)
    spent_ns: Mapping[str, int] = field(default_factory=dict)

    @property
    def large_walls_ns(self) -> tuple[int, ...]:
        """Time of each text of the large model alone, got as that of the settings was: measured beside all of
        those that were written, or else predicted from the same passes.
        """
        if measured(point for point in self.points if point.texts):
            return tuple(text.wall_ns for text in self.large.texts)
        return tuple(text.wall_ns for text in self.alone(Role.LARGE))

    @property
    def large_ms(self) -> float:
        """Latency of the large model alone, mean over texts."""
        return float(np.mean(self.large_walls_ns)) * _MS

    def alone(self, role: Role) -> tuple[Played, ...]:
        """What is predicted of a model that writes alone."""
        return predicted((self.large if role is Role.LARGE else self.small).texts, role, self.costs)

    def marks(self, metric: Metric, texts: Sequence[TextRecord]) -> Marks:
        """The marks of texts in the order of the items."""
        return metric.marks(
            [
                Judged(text.text, text.tokens, item.references, own.tokens)
                for text, item, own in zip(texts, self.items, self.large.texts, strict=True)
            ]
        )

    def as_dict(self) -> dict[str, Any]:
        """All but the settings are held at once anyway: for a file see `write`."""
        return {**self._head(), "points": [point.as_dict() for point in self.points]}

    def _head(self) -> dict[str, Any]:
        """All but the settings."""
        found = {spec.name: getattr(self, spec.name) for spec in dataclasses.fields(self)}
        del found["points"]
        for name in (Mode.LARGE.value, Mode.SMALL.value, "middle"):
            found[name] = found[name].as_dict()
        return {
            "format": FORMAT,
            "kind": _KIND,
            **found,
            "items": [{"id": i.id, "references": list(i.references)} for i in self.items],
            "failed": [failure.as_dict() for failure in self.failed],
            "readings": {n: [r.as_dict() for r in read] for n, read in self.readings.items()},
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        values = {name: found[name] for name in (spec.name for spec in dataclasses.fields(cls))}
        for name in (Mode.LARGE.value, Mode.SMALL.value, "middle"):
            values[name] = Part.from_dict(found[name])
        values["items"] = tuple(
            Item(item["id"], "", tuple(item["references"])) for item in found["items"]
        )
        points = [Point.from_dict(point) for point in found["points"]]
        if "identity" not in values["environment"]:
            # Older files say of a text that was only counted how long it took over the memory.
            points = [_played(point) if point.source == "counted" else point for point in points]
        values["points"] = tuple(points)
        values["failed"] = tuple(Failure.from_dict(failure) for failure in found["failed"])
        for kind, said in found["difference"].items():
            known = Fields.of(said, f"difference.{kind}")
            for numbers in (known, *([known.object("latency")] if "latency" in said else [])):
                for name in ("settings", "within_10_percent", "median", "most"):
                    numbers.number(name)
        values["readings"] = {
            name: tuple(Reading.from_dict(reading) for reading in read)
            for name, read in found["readings"].items()
        }
        study = cls(**values)
        for part in (study.large, study.small, study.middle):
            if [text.id for text in part.texts] != [item.id for item in study.items]:
                raise ConfigError(f"{part.setting.name} has other texts than the items")
        if study.metric not in study.large.figures:
            raise ConfigError(f"large has no figure of {study.metric}")
        for point in study.points:
            study.check(point)
        study = dataclasses.replace(study, costs=study._paced())
        measured_ns = sum(text.wall_ns for text in study.large.texts)
        if study.items and not (measured_ns and study.large_ms):
            raise ConfigError("large took no time, which nothing can be compared with")
        return dataclasses.replace(study, points=tuple(map(study._priced, study.points)))

    def _paced(self) -> Mapping[str, Any]:
        """Its times. Older files lack what the others and the recorded texts say of each model."""
        texts = {Role.SMALL: self.small.texts, Role.LARGE: self.large.texts}
        there = "large_pass_ns" in Fields.of(self.costs, "costs").found
        found = self.costs if there else {**self.costs, **paces(self.costs, texts)}
        for name in (f"{role}{kind}_ns" for role in Role for kind in PRICES):
            Fields.of(found, "costs").number(name)
        return found

    def _priced(self, point: Point) -> Point:
        """Older files have measured times of a model that writes alone beside predicted ones of all others."""
        role = ALONE.get(point.setting.options.mode)
        if role is None or point.source == MEASURED:
            return point
        played = self.alone(role)
        return dataclasses.replace(point, played=played, ran=played if point.ran else ())

    def write(self, path: Path) -> Self:
        """Whole or not at all. Returns it with the texts of its settings left in that file.

        Raises:
            ConfigError: it cannot be written.
        """
        places: list[int] = []

        def lines() -> Iterator[str]:
            head = _json(self._head()).removesuffix("}") + ", " + _POINTS
            yield head
            place = len(head.encode())
            for number, point in enumerate(self.points, start=1):
                places.append(place)
                line = _json(point.as_dict()) + ("," if number < len(self.points) else "") + "\n"
                yield line
                place += len(line.encode())
            yield _END

        write_whole(path, lines())
        points = (
            _left(point, path, place) for point, place in zip(self.points, places, strict=True)
        )
        return dataclasses.replace(self, points=tuple(points))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Leaves the texts of the settings in the file.

        Raises:
            ConfigError: there is no such file, or it is none of `bild sweep`.
        """
        refuse_special(path)
        try:
            with path.open("rb") as file:
                return cls._read(path, file)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path} is no whole JSON ({error}): make it again") from None
        except KeyError as error:
            raise ConfigError(
                f"{path} is no whole sweep ({error} is missing): make it again"
            ) from None
        except (TypeError, AttributeError) as error:
            raise ConfigError(f"{path} is no whole sweep ({error!r}): make it again") from None

    @classmethod
    def _read(cls, path: Path, file: BinaryIO) -> Self:
        first = file.readline()
        lined = first.endswith(_POINTS.encode())
        # Older files, and those that somebody has formatted, are held whole.
        found = parsed(first + (_END.encode() if lined else file.read()))
        known = isinstance(found, dict) and found.get("kind") == _KIND
        if not known or found.get("format") != FORMAT:
            raise ConfigError(
                f"{path} is no file of `bild sweep` of format {FORMAT}: make it again"
            )
        try:
            study = cls.from_dict(found)
            points = []
            while lined:
                place = file.tell()
                line = file.readline()
                if line == _END.encode():
                    break
                point = Point.from_dict(parsed(line.rstrip().removesuffix(b",")))
                study.check(point)
                points.append(_left(study._priced(point), path, place))
        except (ValueError, BildError) as error:
            raise ConfigError(f"{path} is no whole sweep ({error}): make it again") from None
        return dataclasses.replace(study, points=tuple(points)) if lined else study

    def check(self, point: Point) -> None:
        """Raises ConfigError for a setting that has not one of everything for each item."""
        for said, there in (("played", point.played), ("texts", point.texts), ("ran", point.ran)):
            if len(there) != len(self.items) and (there or said == "played"):
                raise ConfigError(
                    f"{point.setting.name} has {len(there)} {said} for {len(self.items)} items"
                )


def is_one(path: Path) -> bool:
    """Whether a file says of itself that it is of `bild sweep`, without reading more than its beginning."""
    try:
        with path.open("rb") as file:
            return _BEGINS.match(file.read(200)) is not None
    except OSError:
        return False


def _json(value: Any) -> str:
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False)


def _left(point: Point, path: Path, place: int) -> Point:
    """The same with its texts left in the file where its line begins there."""
    texts = Texts(len(point.texts), partial(in_line, path, place)) if point.texts else ()
    return dataclasses.replace(point, texts=texts)


def _played(point: Point) -> Point:
    ran = zip(point.ran, point.played, strict=True)
    return dataclasses.replace(
        point, ran=tuple(one._replace(wall_ns=played.wall_ns) for one, played in ran)
    )


def measured(points: Iterable[Point]) -> bool:
    """Whether the times of all of them were measured; otherwise some are predicted."""
    return {point.source for point in points} == {MEASURED}


def per_token(texts: Sequence[Played]) -> float:
    """Large passes a token."""
    tokens = sum(text.tokens for text in texts)
    return sum(text.large_passes for text in texts) / tokens if tokens else 0.0


def totals(texts: Sequence[Played]) -> dict[str, Any]:
    """Rates and time of some texts."""
    tokens = max(sum(text.tokens for text in texts), 1)
    return {
        "tokens": tokens,
        "large_passes_per_token": per_token(texts),
        "small_passes_per_token": sum(text.small_passes for text in texts) / tokens,
        "fallback_rate": sum(text.fallbacks for text in texts) / tokens,
        "rollback_rate": sum(text.rollbacks for text in texts) / tokens,
        "window_rate": sum(text.windows for text in texts) / tokens,
        "latency_ms": sum(text.wall_ns for text in texts) / max(len(texts), 1) * _MS,
    }
