"""The recorded run: both models write every text in worker processes, and their passes are timed.

Three texts an item, one after the other, so that a busy moment of the machine hits all of them: the
large model alone, the small one alone, and mode `bild` in the middle of the grid. Who comes first changes
from item to item, so that what follows a pause favours nobody.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from bild_dist.errors import InvalidRequest
from bild_dist.evaluation.plan import gauge
from bild_dist.evaluation.run import running
from bild_dist.evaluation.run.record import Failure, TextRecord
from bild_dist.evaluation.sweep.grid import Grid
from bild_dist.evaluation.sweep.journal import Journal
from bild_dist.evaluation.tasks.base import Item
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.orchestrator.pairing import schedule_for
from bild_dist.simulator import Costs
from bild_dist.types import Options, Role, Schedule

KINDS: Final = ("large", "small", "middle")
SCHEDULE: Final = "schedule"
"""Under which name the journal has the schedule that the workers settled."""


def of_kind(grid: Grid, kind: str) -> Options:
    """The options of one of the recorded texts."""
    if kind == "middle":
        return grid.middle
    return grid.base.merged({"mode": kind, "schedule": grid.first})


async def write(decoder: Decoder, item: Item, options: Options) -> TextRecord:
    """One text of an item that others were written of.

    Raises:
        BildError: there is no text.
    """
    outcome = await running.write(decoder, item, options)
    if isinstance(outcome, Failure):
        raise InvalidRequest(f"{item.title}: {outcome.message}")
    return outcome


async def record(
    opening: AbstractAsyncContextManager[Decoder], grid: Grid, items: Sequence[Item],
    journal: Journal, tell: Callable[[int], None],
) -> dict[str, Any]:  # fmt: skip
    """Writes and times what is not in the journal yet. Returns the fields of the models' Info.

    Under `timed ID` the journal gets the three texts of an item, or why there are none; under
    `models` what wrote them, under `costs` the times of its passes, and under `schedule` the one that its
    workers take where the grid has none. `tell` hears how many
    items there are, first when the workers are warm.

    Raises:
        BildError: a worker failed, or the models do not fit together.
    """
    settling = () if grid.schedules else (SCHEDULE,)
    wanted = ("models", "costs", *settling, *(f"timed {item.id}" for item in items))
    if all(key in journal for key in wanted):
        found: dict[str, Any] = journal["models"]
        return found
    async with opening as decoder:
        if settling and SCHEDULE not in journal:
            small, large = (decoder.workers[role].info for role in (Role.SMALL, Role.LARGE))
            journal.put(SCHEDULE, schedule_for(small, large, grid.base))
        grid = settled(grid, journal)
        await running.warm_up(decoder, items, [of_kind(grid, kind) for kind in KINDS])
        done = recorded(items, journal)
        tell(done)
        for number, item in enumerate(items, start=1):
            if f"timed {item.id}" not in journal:
                journal.put(f"timed {item.id}", await _item(decoder, item, grid, number))
                done += 1
                tell(done)
        infos = {
            role.value: dataclasses.asdict(worker.info) for role, worker in decoder.workers.items()
        }
        journal.put("models", infos)
        journal.put("costs", dataclasses.asdict(await measured(decoder, _usual(items, journal))))
    return infos


def recorded(items: Sequence[Item], journal: Journal) -> int:
    """How many items are in the journal."""
    return sum(f"timed {item.id}" in journal for item in items)


def settled(grid: Grid, journal: Journal) -> Grid:
    """The grid as the workers of the recorded run settled it: those of a later start write as they did."""
    return grid.settled(Schedule(journal[SCHEDULE])) if SCHEDULE in journal else grid


async def _item(decoder: Decoder, item: Item, grid: Grid, number: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    turn = number % len(KINDS)
    for kind in KINDS[turn:] + KINDS[:turn]:
        outcome = await running.write(decoder, item, of_kind(grid, kind))
        if isinstance(outcome, Failure):
            return {"failed": outcome.as_dict()}
        found[kind] = dataclasses.asdict(outcome)
    return found


def _usual(items: Sequence[Item], journal: Journal) -> Item | None:
    """The item of which half of the prompts that could be asked are shorter; None where none could."""
    asked = [item for item in items if "failed" not in journal[f"timed {item.id}"]]
    return sorted(asked, key=lambda item: len(item.prompt))[len(asked) // 2] if asked else None


async def measured(decoder: Decoder, item: Item | None) -> Costs:
    """What passes and round trips of a running pair take, behind the prompt of an item."""
    timed = await gauge.passes(decoder, None if item is None else item.prompt)
    small, large = timed[Role.SMALL], timed[Role.LARGE]
    devices = {worker.info.device for worker in decoder.workers.values()}
    return Costs(
        small_ns=_ns(small.base_ms.value), small_token_ns=_ns(small.token_ms.value),
        small_trip_ns=_ns(small.trip_ms.value), large_ns=_ns(large.base_ms.value),
        large_token_ns=_ns(large.token_ms.value), large_trip_ns=_ns(large.trip_ms.value),
        # Two models on one accelerator take turns; CPU workers have threads of their own.
        colocated=len(devices) == 1 and not devices & {"cpu"},
    )  # fmt: skip


def _ns(ms: float) -> int:
    return round(ms * 1e6)
