"""What a plan finds out: every row on every placement, and what is best where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from bild_dist.evaluation.plan.predict import (
    ALONE,
    EQUAL,
    Cell,
    Pair,
    Placement,
    Predictor,
    Row,
    best,
)
from bild_dist.types import Mode, Schedule

WINDOWS: Final = (3, 5, 10, 16, 24)
"""Windows that are tried."""


class Verdict(StrEnum):
    """What to do with a pair on a placement."""

    PAYS = "pays"
    ALONE = "large alone"
    """The large model alone is as fast or faster."""
    TOGETHER = "do not split"
    """Both models on one device are as fast or faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One placement: all rows on it, the best one of the mode that is advised for, its verdict."""

    at: Placement
    cells: tuple[Cell, ...]
    best: Cell
    verdict: Verdict

    @property
    def alone(self) -> Cell:
        return next(cell for cell in self.cells if cell.row == ALONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All that a plan says. Speeds in tokens/s.

    The break-even points are round trips to the large model, milliseconds: from there on two hosts
    are no faster than one shared device, or than the large model alone. None: at any round trip;
    infinity: at none. `windows` are speeds by window at `fastest`, the nearest of the
    best columns.
    """

    pair: Pair
    mode: Mode
    window: int
    columns: tuple[Column, ...]
    fastest: Column
    windows: dict[int, float]
    even_with_one_device_ms: float | None
    even_with_alone_ms: float | None

    @property
    def together(self) -> Column:
        return next(column for column in self.columns if column.at.devices == 1)

    @property
    def best_window(self) -> int:
        """The fastest; the one asked for where it is as fast."""
        most = max(self.windows.values())
        asked = self.windows[self.window]
        return self.window if asked >= most * (1 - EQUAL) else _key_of(self.windows, most)

    def as_dict(self) -> dict[str, Any]:
        """The JSON object of the command line, without its inputs and its sentences. An infinite
        break-even point is given as null, with the word beside it.
        """
        return {
            "mode": self.mode.value,
            "window": self.window,
            "placements": [_column(column) for column in self.columns],
            "windows": {str(window): round(speed, 2) for window, speed in self.windows.items()},
            "best_window": self.best_window,
            "break_even_ms": {
                "with_one_device": _point(self.even_with_one_device_ms),
                "with_large_alone": _point(self.even_with_alone_ms),
            },
        }


def rows_of(pair: Pair, mode: Mode | None) -> list[Row]:
    """The rows that can be predicted, the large model alone first. `mode` None takes all."""
    able = {
        Mode.BILD: None not in (pair.f, pair.q, pair.rho),
        Mode.EXACT: pair.agreement is not None or None not in (pair.f, pair.q, pair.rho),
    }
    modes = [known for known in able if able[known] and mode in (None, known)]
    return [ALONE, *(Row(known, schedule) for known in modes for schedule in Schedule)]


def study(
    predictor: Predictor,
    pair: Pair,
    placements: Sequence[Placement],
    rows: Sequence[Row],
    window: int,
) -> Findings:
    """Predicts it all. `rows` as from `rows_of`, with at least one beside the large model alone;
    the first of `placements` is one shared device.
    """
    mode = rows[1].mode
    advised = [row for row in rows if row.mode is mode]
    columns: list[Column] = []
    for at in placements:
        cells = tuple(predictor.cell(row, at) for row in rows)
        top = best([cell for cell in cells if cell.row in advised])
        verdict = _verdict(at, top, columns)
        if verdict is Verdict.PAYS:
            top = predictor.ranged(top, at)
        columns.append(Column(at=at, cells=cells, best=top, verdict=verdict))
    top = best([column.best for column in columns])
    fastest = next(column for column in columns if column.best is top)
    far = [column.at for column in columns if column.at.hosts == 2]
    trips_ms = [far[0].small_trip_ms, *(at.large_trip_ms for at in far)]
    against = columns[0].best, columns[0].alone
    least = [(1 + EQUAL) * cell.tokens_per_s for cell in against]
    even = [predictor.break_even_ms(advised, far[0], trips_ms, speed) for speed in least]
    return Findings(
        pair=pair, mode=mode, window=window, columns=tuple(columns), fastest=fastest,
        windows={
            tried: predictor.cell(fastest.best.row, fastest.at, window=tried).tokens_per_s
            for tried in sorted({*WINDOWS, window})
        },
        even_with_one_device_ms=even[0], even_with_alone_ms=even[1],
    )  # fmt: skip


def _verdict(at: Placement, top: Cell, before: Sequence[Column]) -> Verdict:
    if at.devices > 1 and before[0].verdict is Verdict.PAYS:
        # The pair pays on one device, so splitting has to beat that.
        slower = top.tokens_per_s < (1 + EQUAL) * before[0].best.tokens_per_s
        return Verdict.TOGETHER if slower else Verdict.PAYS
    return Verdict.ALONE if top.ratio < 1 + EQUAL else Verdict.PAYS


def _key_of(speeds: dict[int, float], speed: float) -> int:
    return next(window for window, found in speeds.items() if found == speed)


def _point(ms: float | None) -> dict[str, Any]:
    if ms is None:
        return {"ms": None, "splitting": "never pays"}
    if ms == float("inf"):
        return {"ms": None, "splitting": "always pays"}
    return {"ms": round(ms, 3), "splitting": "pays below"}


def _column(column: Column) -> dict[str, Any]:
    at = column.at
    return {
        "name": at.name, "devices": at.devices, "hosts": at.hosts,
        "small_round_trip_ms": at.small_trip_ms, "large_round_trip_ms": at.large_trip_ms,
        "verdict": column.verdict.value, "best": _cell(column.best),
        "rows": [_cell(cell) for cell in column.cells],
    }  # fmt: skip


def _cell(cell: Cell) -> dict[str, Any]:
    schedule = None if cell.row == ALONE else cell.row.schedule.value
    shown: dict[str, Any] = {
        "mode": cell.row.mode.value, "schedule": schedule,
        "tokens_per_s": round(cell.tokens_per_s, 2), "ratio": round(cell.ratio, 3),
        "large_passes_per_token": round(cell.large_passes_per_token, 4),
    }  # fmt: skip
    if cell.low is not None and cell.high is not None:
        shown["range"] = [round(cell.low, 2), round(cell.high, 2)]
    return shown
