"""The predicted speed of each schedule on each placement of the two models.

Nothing is computed by a formula: the simulator plays the real machine and the real turns of the
workers against scripted models, on a clock of its own (`simulator.py`). What it is told are costs
and rates; that the rates hold at every position alike is the assumption behind all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf, sqrt
from typing import Final, NamedTuple

from bild_dist.evaluation.plan.known import Known
from bild_dist.simulator import Costs, Rates, Report, simulate
from bild_dist.types import Mode, Options, Schedule

TOKENS: Final = 2048
"""Tokens that are simulated for a number of the table: a speed is then known to about 2 % (one
standard deviation), ratios between schedules, which write the same texts, to less.
"""
EQUAL: Final = 0.02
"""Speeds that differ by less count as equal, and the simpler schedule is advised."""
FARTHEST_MS: Final = 10_000.0
"""Round trips beyond this are not looked at."""


class Row(NamedTuple):
    """What is run: a mode, and a schedule where there is a choice."""

    mode: Mode
    schedule: Schedule

    def __str__(self) -> str:
        return "large" if self.mode is Mode.LARGE else f"{self.mode} {self.schedule}"


ALONE: Final = Row(Mode.LARGE, Schedule.PAPER)
"""The large model alone, which streams: no round trip a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the two models stand. Round trips from the orchestrator, milliseconds.

    With `hosts` 2 the orchestrator stands beside the small model and the large one elsewhere.
    """

    name: str
    small_trip_ms: float
    large_trip_ms: float
    devices: int = 2
    hosts: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What is known of two models. Times in milliseconds; rates as in `model/scripted.py`.

    `agreement`: share of positions at which both draw the same token, where that was counted;
    otherwise it follows from the four rates. Without `f`, `q` and `rho` only mode `exact` can be
    predicted.
    """

    small_ms: Known
    large_ms: Known
    small_token_ms: Known
    large_token_ms: Known
    mild: Known
    f: Known | None = None
    q: Known | None = None
    rho: Known | None = None
    agreement: Known | None = None

    def costs(self, at: Placement) -> Costs:
        """The times of the simulator for a placement."""
        return Costs(
            small_ns=_ns(self.small_ms.value), small_token_ns=_ns(self.small_token_ms.value),
            large_ns=_ns(self.large_ms.value), large_token_ns=_ns(self.large_token_ms.value),
            small_trip_ns=_ns(at.small_trip_ms), large_trip_ns=_ns(at.large_trip_ms),
            colocated=at.devices == 1,
        )  # fmt: skip

    def counted(self, mode: Mode) -> dict[str, Known]:
        """The rates that a prediction of this mode rests on, by name."""
        names = ("agreement",) if self._agrees(mode) else ("f", "q", "rho")
        found = {name: getattr(self, name) for name in names}
        return {name: known for name, known in found.items() if known is not None}

    def rates(self, mode: Mode) -> Rates:
        """The rates of the simulator for a mode."""
        if self._agrees(mode):
            # Every position is the large model's: unsure ones only, of which so many are hits.
            return Rates(f=1.0, q=self.agreement.value if self.agreement else 0.0)
        values = {name: known.value for name, known in self.counted(mode).items()}
        return Rates(**values, mild=min(self.mild.value, 1 - values.get("rho", 0.0)))

    def _agrees(self, mode: Mode) -> bool:
        return mode is Mode.EXACT and self.agreement is not None


def _ns(ms: float) -> int:
    return round(ms * 1e6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What is predicted for one row on one placement.

    `ratio`: speed over that of the large model alone on the same placement. `low`, `high`: where
    the speed lies with 95 % confidence, as far as the rates were counted; None where none was.
    """

    row: Row
    tokens_per_s: float
    ratio: float
    large_passes_per_token: float
    low: float | None = None
    high: float | None = None


class Predictor:
    """Predictions for one pair, length of text and load. Owned by one plan.

    `options`: thresholds, window and the like, the same for all rows. `tick` is called before each
    simulation.
    """

    def __init__(
        self,
        pair: Pair,
        options: Options,
        *,
        length: int = 128,
        concurrency: int = 1,
        tokens: int = TOKENS,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._pair = pair
        self._options = options
        self._length = length
        self._concurrency = concurrency
        self._requests = max(tokens // length, 2 * concurrency)
        self._tick = tick
        self._played: dict[tuple[Costs, Rates, Options], Report] = {}

    def cell(self, row: Row, at: Placement, *, window: int | None = None) -> Cell:
        """Predicts one row, with another window if one is given."""
        report = self._report(row, at, self._pair, window)
        speed, alone = _speed(report), _speed(self._report(ALONE, at, self._pair))
        return Cell(
            row=row, tokens_per_s=speed, ratio=speed / alone,
            large_passes_per_token=report.trace.large_passes / report.tokens,
        )  # fmt: skip

    def ranged(self, cell: Cell, at: Placement) -> Cell:
        """The same cell with the range that the counts behind its rates leave.

        Each rate is moved to both ends of its interval; what the worse ends cost, and the better
        ones bring, adds up as independent errors do: by squares.
        """
        worse = better = 0.0
        ranged = False
        for name, known in self._pair.counted(cell.row.mode).items():
            if known.interval is None:
                continue
            ranged = True
            ends = []
            for end in known.interval:
                moved = replace(self._pair, **{name: replace(known, value=end)})
                ends.append(_speed(self._report(cell.row, at, moved)) - cell.tokens_per_s)
            worse += min(*ends, 0.0) ** 2
            better += max(*ends, 0.0) ** 2
        if not ranged:
            return cell
        speed = cell.tokens_per_s
        return replace(cell, low=max(speed - sqrt(worse), 0.0), high=speed + sqrt(better))

    def break_even_ms(
        self, rows: Sequence[Row], near: Placement, trips_ms: Sequence[float], least: float
    ) -> float | None:
        """The round trip to the large model from which on none of `rows` is faster than `least`.

        `near` is the placement whose long round trip varies, `trips_ms` ones to begin with, `least`
        a speed in tokens/s. Between two simulated round trips the time of a token is taken for a
        straight line. None where even the shortest is too long, infinity where none is.
        """
        before: tuple[float, float] | None = None
        for trip_ms in _farther(sorted(trips_ms)):
            at = replace(near, large_trip_ms=trip_ms)
            took = 1 / max(self.cell(row, at).tokens_per_s for row in rows)
            if took * least > 1:
                if before is None:
                    return None
                trip_before, took_before = before
                share = (1 / least - took_before) / (took - took_before)
                return trip_before + share * (trip_ms - trip_before)
            before = trip_ms, took
        return inf

    def _report(self, row: Row, at: Placement, pair: Pair, window: int | None = None) -> Report:
        options = replace(
            self._options, mode=row.mode, schedule=row.schedule,
            window=self._options.window if window is None else window,
        )  # fmt: skip
        costs, rates = pair.costs(at), pair.rates(row.mode) if row != ALONE else Rates()
        key = costs, rates, options
        if key not in self._played:
            self._tick()
            # The large model alone writes every text at the same speed.
            requests = self._requests if row != ALONE else 2 * self._concurrency
            self._played[key] = simulate(
                costs, rates, options, requests=requests, length=self._length,
                concurrency=self._concurrency,
            )  # fmt: skip
        return self._played[key]


def _speed(report: Report) -> float:
    """Tokens/s."""
    return report.tokens * 1e9 / report.wall_ns


def _farther(trips_ms: list[float]) -> list[float]:
    """These round trips and longer ones, doubled up to the farthest."""
    trips_ms = trips_ms or [0.5]
    while trips_ms[-1] < FARTHEST_MS:
        trips_ms = [*trips_ms, 2 * max(trips_ms[-1], 1.0)]
    return trips_ms


def best(cells: Sequence[Cell]) -> Cell:
    """The fastest; of those that count as equal the first, which is the simplest."""
    most = max(cell.tokens_per_s for cell in cells)
    return next(cell for cell in cells if cell.tokens_per_s >= most * (1 - EQUAL))
