"""What the schedules cost and whether their texts ever differ, on the simulator's virtual clock.

`python -m benchmarks.schedules [RUNS]`: RUNS random runs (200,000 by default, some 12 minutes) are
compared with the cache-free definition: each a schedule under random thresholds, costs, order of
events, concurrency, cancellations and losses. Then passes and time by c = t_small / t_large at
f = 0.2, q = 0.45, rho = 0.03, batch 1, no wire.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from benchmarks.record import write
from bild_dist.model.scripted import Rates
from bild_dist.simulator import Costs, simulate
from bild_dist.types import Mode, Options, Schedule
from tests.shaken import MS, Trial

RATIOS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.33)
REQUESTS, LENGTH = 400, 128


def same_text(runs: int) -> dict[str, Any]:
    """Random runs against the definition."""
    started, found = time.perf_counter(), []
    for seed in range(runs // 3):
        trial = Trial(seed)
        for schedule in Schedule:
            found += trial.complaints(schedule)
    return {
        "runs": runs // 3 * 3,
        "differing": len(found),
        "complaints": found[:10],
        "seconds": round(time.perf_counter() - started, 1),
    }


def sweep() -> list[dict[str, Any]]:
    """Large passes a token and time against `paper`, by c."""
    rows = []
    for ratio in RATIOS:
        costs = Costs(small_ns=int(ratio * 100 * MS), large_ns=100 * MS)
        reports = {
            s: simulate(costs, Rates(), Options(schedule=s), requests=REQUESTS, length=LENGTH)
            for s in Schedule
        }
        alone = simulate(costs, Rates(), Options(mode=Mode.LARGE), requests=20, length=LENGTH)
        paper = reports[Schedule.PAPER]
        row: dict[str, Any] = {"c": ratio}
        for schedule, report in reports.items():
            row[schedule.value] = {
                "large_passes_per_token": round(report.trace.large_passes / report.tokens, 4),
                "passes_saved": round(1 - report.trace.large_passes / paper.trace.large_passes, 4),
                "speed_over_paper": round(paper.wall_ns / report.wall_ns, 4),
                "speed_over_large": round(
                    alone.wall_ns / alone.tokens / (report.wall_ns / report.tokens), 3
                ),
                "wasted": round(report.trace.wasted / report.trace.drafted, 3),
            }
        rows.append(row)
    return rows


def one_device() -> list[dict[str, float]]:
    """Speed over `paper` where both models share one device, so that their passes exclude each other."""
    rows = []
    for ratio in RATIOS:
        costs = Costs(small_ns=int(ratio * 100 * MS), large_ns=100 * MS, colocated=True)
        reports = {
            s: simulate(costs, Rates(), Options(schedule=s), requests=100, length=LENGTH)
            for s in Schedule
        }
        paper = reports[Schedule.PAPER].wall_ns
        speeds = {s.value: round(paper / report.wall_ns, 4) for s, report in reports.items()}
        rows.append({"c": ratio, **speeds})
    return rows


def branches() -> list[dict[str, float]]:
    """Speed of `overlap` over `paper` by the guesses followed at a hand-over; a second guess is right
    in 0.4 of the cases where the first is wrong. Passes of spare slots are passes of their own.
    """
    rows = []
    for ratio in (0.02, 0.05, 0.1, 0.2, 0.33):
        costs = Costs(small_ns=int(ratio * 100 * MS), large_ns=100 * MS)
        paper = simulate(costs, Rates(), Options(), requests=100, length=LENGTH)
        row: dict[str, float] = {"c": ratio}
        for count in (1, 2, 3):
            options = Options(schedule=Schedule.OVERLAP, branches=count)
            report = simulate(costs, Rates(), options, requests=100, length=LENGTH)
            row[f"{count}"] = round(paper.wall_ns / report.wall_ns, 4)
        rows.append(row)
    return rows


def poor_draft() -> dict[str, float]:
    """Speed over `large` in mode `exact`, with guesses that hit one time in five, c = 0.2."""
    costs, rates = Costs(small_ns=5 * MS, large_ns=25 * MS), Rates(f=1.0, q=0.2)
    alone = simulate(costs, rates, Options(mode=Mode.LARGE), requests=20, length=LENGTH)
    speeds = {}
    for schedule in Schedule:
        options = Options(mode=Mode.EXACT, schedule=schedule)
        report = simulate(costs, rates, options, requests=20, length=LENGTH)
        speeds[schedule.value] = round(alone.wall_ns / report.wall_ns, 4)
    return speeds


def throughput() -> dict[str, int]:
    """Requests that the simulator plays in a second, by their length."""
    costs, rates = {}, Costs(small_ns=5 * MS, large_ns=25 * MS)
    for length in (8, 16, 32, 128):
        started = time.perf_counter()
        simulate(rates, Rates(), Options(), requests=200, length=length)
        costs[f"{length} tokens"] = round(200 / (time.perf_counter() - started))
    return costs


if __name__ == "__main__":
    write(
        "schedules",
        {
            "same_text": same_text(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000),
            "by_c": sweep(),
            "one_device_speed_over_paper": one_device(),
            "branches_speed_over_paper": branches(),
            "poor_draft_exact_over_large": poor_draft(),
            "requests_per_second": throughput(),
        },
    )
