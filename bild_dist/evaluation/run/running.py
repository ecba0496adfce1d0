"""Texts of a task, one after the other, through the same decoder that users call.

What is measured is a request at batch 1: the next one begins when the last one has ended.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final, TypeAlias

from bild_dist.config import Config
from bild_dist.errors import DeadlineExceeded, InvalidRequest
from bild_dist.evaluation.run.record import Failure, TextRecord
from bild_dist.evaluation.tasks.base import Item, Wording
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.orchestrator.opening import connected, launched
from bild_dist.orchestrator.session import Record
from bild_dist.types import Options, Role

if TYPE_CHECKING:
    from bild_dist.orchestrator.cli import InProcess

WARM_UP: Final = 32
"""Tokens of the text that is written before the clock starts."""
BLOCK: Final = 10
"""Items that one setting writes, at most, before it is the other's turn: short against the minutes in
which a machine changes its speed, long against what a change of setting costs. Of fewer than twice as
many items it is half, so that each setting begins once."""

Outcome: TypeAlias = TextRecord | Failure


def opened(
    config: Config,
    addresses: Mapping[Role, str],
    inproc: InProcess,
    record: Record | None = None,
) -> AbstractAsyncContextManager[Decoder]:
    """A decoder over running workers, over own ones, or with both in this process. `record` is told of
    every step of every request.
    """
    if addresses:
        return connected(config, addresses, record)
    if config.orchestrator.transport == "inproc":
        return inproc(config, record)
    return launched(config, record=record)


def worded(items: Sequence[Item], around: Wording) -> list[Item]:
    """The items with what a model is asked for as their prompts."""
    return [dataclasses.replace(item, prompt=around.of(item)) for item in items]


async def write(decoder: Decoder, item: Item, setting: Options) -> Outcome:
    """One text, or why there is none: what only concerns this item is no reason to stop.

    Texts that are drawn have each a seed of its own (`seed_of`).

    Raises:
        BildError: a worker failed, so there will be no further text either.
    """
    given = {spec.name: getattr(setting, spec.name) for spec in dataclasses.fields(setting)}
    if setting.temperature > 0:
        given["seed"] = seed_of(setting.seed, item)
    generation = None
    try:
        generation = decoder.stream(item.prompt, **given)
        events = [event async for event in generation]
        return TextRecord.of(item.id, await generation.result(), events)
    except (InvalidRequest, DeadlineExceeded) as error:
        return Failure.of(item.id, error)
    finally:
        if generation is not None:
            await generation.aclose()


def seed_of(seed: int, item: Item) -> int:
    """The seed of an item's text, the same for every setting of a run with that seed.

    With one seed for all, every text would meet the same chance at a position and end, or fall, with the others: a
    hundred texts that are worth few, while intervals take them for independent.
    """
    return int.from_bytes(sha256(f"{seed} {item.id}".encode()).digest()[:8]) >> 1


async def warm_up(decoder: Decoder, items: Sequence[Item], settings: Sequence[Options]) -> None:
    """A short text with each setting, so that the first one that counts is like the others. Items that
    cannot be written are passed over.
    """
    for setting in settings:
        short = dataclasses.replace(setting, max_new_tokens=min(WARM_UP, setting.max_new_tokens))
        for item in items:
            if isinstance(await write(decoder, item, short), TextRecord):
                break


@dataclass(frozen=True, slots=True)
class Step:
    """One text to write: for which part of the run, in which round."""

    part: str
    round: int
    item: Item


def steps(items: Sequence[Item], parts: Sequence[str], rounds: int = 1) -> Iterator[Step]:
    """All texts of a run, in an order that favours nobody: the parts take turns block by block, and who
    begins changes with every block and every round.
    """
    block = max(1, min(BLOCK, (len(items) + 1) // 2))
    for number in range(rounds):
        for turn, start in enumerate(range(0, len(items), block)):
            order = parts if (number + turn) % 2 == 0 else list(reversed(parts))
            for part in order:
                for item in items[start : start + block]:
                    yield Step(part, number, item)
