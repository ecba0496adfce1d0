"""From agreement to speed: what `bild plan` would predict for what was counted.

The simulator plays the real policy with the counted rates (`plan/predict.py`). It takes them to
hold at every position alike, while in texts the unsure positions come in clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from bild_dist.errors import ConfigError
from bild_dist.evaluation.align.agreement_counts import Point
from bild_dist.evaluation.align.report import Report, Speed
from bild_dist.evaluation.plan.gauge import Timed
from bild_dist.evaluation.plan.known import Known, given
from bild_dist.evaluation.plan.predict import TOKENS, Cell, Pair, Placement, Predictor, Row
from bild_dist.types import Mode, Options, Role, Schedule

_LARGE_MS: Final = 100.0
"""Where only the ratio of the costs is known: the predicted ratio does not depend on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """What passes cost, milliseconds: over n tokens `_ms` + n * `_token_ms`; `trip_ms` is a round
    trip beside the work.

    Raises:
        ConfigError: a pass takes no time.
    """

    small_ms: Known
    large_ms: Known
    small_token_ms: Known
    large_token_ms: Known
    trip_ms: float = 0.0

    def __post_init__(self) -> None:
        if self.small > 0 and self.large > 0:
            return
        raise ConfigError("a pass must take time: give a cost of the small model above 0")

    @classmethod
    def relative(cls, c: float) -> Self:
        """`c`: a pass of the small model over that of the large one. Any length takes the same."""
        none = given(0.0)
        return cls(
            small_ms=given(c * _LARGE_MS), large_ms=given(_LARGE_MS),
            small_token_ms=none, large_token_ms=none,
        )  # fmt: skip

    @classmethod
    def measured(cls, timed: Mapping[Role, Timed]) -> Self:
        """As `bild plan` measures a running pair (`gauge.passes`)."""
        small, large = timed[Role.SMALL], timed[Role.LARGE]
        return cls(
            small_ms=small.base_ms, large_ms=large.base_ms, small_token_ms=small.token_ms,
            large_token_ms=large.token_ms, trip_ms=large.trip_ms.value,
        )  # fmt: skip

    @property
    def small(self) -> float:
        """A pass over one token."""
        return self.small_ms.value + self.small_token_ms.value

    @property
    def large(self) -> float:
        return self.large_ms.value + self.large_token_ms.value

    @property
    def ratio(self) -> float:
        """c."""
        return self.small / self.large


def speeds(
    report: Report,
    times: Times,
    *,
    alpha_fb: Sequence[float] = (0.3, 0.5, 0.7, 0.9),
    alpha_rb: Sequence[float] = (2.0,),
    devices: int = 1,
    length: int | None = None,
    tokens: int = TOKENS,
    tick: Callable[[], None] = lambda: None,
) -> tuple[Speed, ...]:
    """The predicted speed over the large model alone: mode `exact`, then every point of the report
    at these thresholds. With the schedule that is taken where none is asked for.

    `devices`: 1 where the models share one, 2 where each has its own. `length`: tokens of a text;
    None takes the mean of the report's. A number takes some tenths of a second.
    """
    length = length or max(2, min(round(report.positions / report.texts), 4096))
    schedule = Schedule.THROUGH if devices == 1 else Schedule.OVERLAP
    at = Placement(
        name="here", small_trip_ms=times.trip_ms, large_trip_ms=times.trip_ms, devices=devices
    )
    # The scripted models are sure above 0.65 and far apart from 6 nats on, at whatever thresholds
    # the rates were counted: the usual ones tell them apart.
    options = Options(window=report.window)

    def predicted(point: Point | None) -> Cell:
        mode = Mode.EXACT if point is None else Mode.BILD
        play = Predictor(
            _pair(report, times, point), options, length=length, tokens=tokens, tick=tick
        )
        return play.cell(Row(mode, schedule), at)

    points = [p for p in report.points if p.alpha_fb in alpha_fb and p.alpha_rb in alpha_rb]
    return tuple(
        Speed(
            mode=Mode.EXACT.value if point is None else Mode.BILD.value, schedule=schedule.value,
            alpha_fb=point.alpha_fb if point else None, alpha_rb=point.alpha_rb if point else None,
            c=times.ratio, devices=devices, ratio=cell.ratio,
            large_passes_per_token=cell.large_passes_per_token,
            cost_nats=point.cost_nats * point.written_rate if point else 0.0,
        )
        for point, cell in ((point, predicted(point)) for point in (None, *points))
    )  # fmt: skip


def _pair(report: Report, times: Times, point: Point | None) -> Pair:
    """What `bild plan` would read from texts. Without a point: mode `exact` alone."""
    nothing = Known(value=0.0, source="counted: no such position")

    def counted(hits: int, count: int) -> Known:
        return Known.share(hits, count, "positions") if count else nothing

    rates = {} if point is None else {
        "f": counted(point.unsure, point.positions), "q": counted(point.hits, point.unsure),
        "rho": counted(point.rollbacks, point.sure),
    }  # fmt: skip
    return Pair(
        small_ms=times.small_ms, large_ms=times.large_ms, small_token_ms=times.small_token_ms,
        large_token_ms=times.large_token_ms, agreement=counted(report.matches, report.positions),
        mild=counted(point.mild, point.sure) if point else nothing, **rates,
    )  # fmt: skip
