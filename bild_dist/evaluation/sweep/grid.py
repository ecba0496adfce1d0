"""Which settings a sweep tries, and which of them lie on the front of quality against time."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias, TypeVar

from bild_dist.evaluation.run.record import Setting
from bild_dist.types import Mode, Options, Schedule

Rule: TypeAlias = tuple[Any, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The values to try of each option; `base` has all others. `schedules`: settled ones, or none, where the
    workers settle it when they are there (`settled`).
    """

    base: Options
    modes: tuple[Mode, ...] = (Mode.BILD,)
    alpha_fb: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    alpha_rb: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 5.0)
    windows: tuple[int, ...] = (10,)
    schedules: tuple[Schedule, ...] = ()

    def settings(self) -> list[Setting]:
        """All of them, each once: thresholds say nothing in modes other than `bild`."""
        found: dict[Options, Setting] = {}
        for mode, alpha_rb, alpha_fb, window, schedule in product(
            self.modes, self.alpha_rb, self.alpha_fb, self.windows, self.schedules or (None,)
        ):
            options = dataclasses.replace(self.base, mode=mode, schedule=schedule)
            if mode is Mode.BILD:
                options = options.merged(
                    {"alpha_fb": alpha_fb, "alpha_rb": alpha_rb, "window": window}
                )
            elif mode is Mode.EXACT:
                options = options.merged({"window": window})
            name = Setting.of(options).name
            if len(self.schedules) > 1 and mode in (Mode.BILD, Mode.EXACT):
                name += f" {schedule}"
            if mode is Mode.EXACT and len(self.windows) > 1:
                name += f" window {window}"
            found.setdefault(options, Setting(name, options))
        return list(found.values())

    def settled(self, schedule: Schedule) -> Grid:
        """With this schedule where none was asked for."""
        return self if self.schedules else dataclasses.replace(self, schedules=(schedule,))

    @property
    def first(self) -> Schedule | None:
        """The schedule of what is recorded; None until it is settled."""
        return self.schedules[0] if self.schedules else None

    @property
    def middle(self) -> Options:
        """The setting whose text is recorded: mode `bild` in the middle of the thresholds."""
        return self.base.merged(
            {
                "mode": Mode.BILD,
                "alpha_fb": statistics.median_low(self.alpha_fb),
                "alpha_rb": statistics.median_low(self.alpha_rb),
                "window": max(self.windows),
                "schedule": self.first,
            }
        )


def rule(options: Options) -> Rule:
    """What the text of a setting depends on: all but when each model runs."""
    kept = dataclasses.asdict(dataclasses.replace(options, schedule=None, branches=1))
    if options.mode is not Mode.BILD:
        # The text of mode `exact` is the large model's own, by definition and up to rounding.
        own = Mode.SMALL if options.mode is Mode.SMALL else Mode.LARGE
        kept |= {"alpha_fb": 0, "alpha_rb": 0, "window": 0, "mode": own}
    return tuple(kept.values())


def front(
    points: Iterable[T],
    *,
    quality: Callable[[T], float],
    latency: Callable[[T], float],
    slack: float = 0.0,
) -> list[T]:
    """The points that no other one beats, from the fastest on: none that is at least as fast is
    better, none that is at least as good is faster.

    `slack`: keeps a point too that would be on the front if it were faster by this share.
    """

    def beats(rival: T, point: T) -> bool:
        faster = latency(point) * (1 - slack) - latency(rival)
        better = quality(rival) - quality(point)
        return faster >= 0 and better >= 0 and (faster > 0 or better > 0)

    ordered = sorted(points, key=lambda point: (latency(point), -quality(point)))
    return [point for point in ordered if not any(beats(rival, point) for rival in ordered)]
