"""The texts of one request on their way: all that happens to them in one feed, in its order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self, TypeAlias

from bild_dist.errors import WorkerUnavailable
from bild_dist.orchestrator.decoder import Decoder, Generation
from bild_dist.orchestrator.http.admission import Admission
from bild_dist.orchestrator.http.events import Tap
from bild_dist.orchestrator.http.peer import Gone
from bild_dist.orchestrator.http.schema import Asked
from bild_dist.orchestrator.prompt import Prompt
from bild_dist.types import Options, Result, TokenEvent

BEHIND: Final = 8192
"""Tokens that a client may be behind before it is dropped: some 4 MB, 20 with all log-probabilities."""
SHOWN_BEHIND: Final = 512
"""Events of what is under way that wait for a client; those behind them are left out and counted.
They are there to be looked at, and who is so far behind looks at the past."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One text to write. `choices` are the answers' places that it fills: several where the same
    text was asked for more than once.
    """

    prompt: Prompt
    options: Mapping[str, Any]
    choices: tuple[int, ...]


def plans(asked: Asked, defaults: Options) -> list[Plan]:
    """What to write for a request: of `n` texts with a temperature the i-th has seed + i; without
    one they are all the same, and written once.

    Raises:
        InvalidRequest: the seeds leave their range.
    """
    options = dict(asked.options)
    if asked.logprobs is not None:
        options["logprobs"] = asked.logprobs
    merged = defaults.merged(options)
    planned = []
    for i, prompt in enumerate(asked.prompts):
        places = range(i * asked.n, (i + 1) * asked.n)
        if merged.temperature == 0:
            planned.append(Plan(prompt, options, tuple(places)))
            continue
        for j, place in enumerate(places):
            seeded = {**options, "seed": merged.seed + j}
            defaults.merged(seeded)
            planned.append(Plan(prompt, seeded, (place,)))
    return planned


Item: TypeAlias = "list[TokenEvent] | dict[str, Any] | Result"
"""Tokens that are text now, an event of what is under way, or the end of a text."""


@dataclass(frozen=True, slots=True)
class Written:
    """A finished text with what was told of each of its tokens."""

    result: Result
    events: tuple[TokenEvent, ...]


class Texts:
    """The texts of one request, as an async context: leaving it ends what is left of them. Owned by
    the task that answers the request; `group` carries its tasks.
    """

    def __init__(
        self, decoder: Decoder, planned: list[Plan], admission: Admission, *, events: bool = False
    ) -> None:
        self._decoder = decoder
        self._plans = planned
        self._admission = admission
        self._events = events
        self._feed: deque[tuple[int, Item]] = deque()
        self._something = asyncio.Event()
        self._left = len(planned)
        self._tokens = 0
        self._shown = 0
        self._stack = AsyncExitStack()
        self.missed = 0
        """Events of what is under way that were left out."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    def start(self, group: asyncio.TaskGroup) -> None:
        """Starts all of them, in the turn of the loop that had checked for their places.

        Raises:
            BildError: an option is wrong, or a worker has gone.
        """
        for number, plan in enumerate(self._plans):
            record = None
            if self._events:
                record = Tap(self._decoder.text, partial(self._show, number))
            generation = self._decoder.stream(plan.prompt, record=record, **plan.options)
            self._stack.push_async_callback(generation.aclose)
            # By the task's end and not in it: one that is cancelled early never begins.
            leave = self._admission.enter()
            task = group.create_task(self._carry(number, generation))
            task.add_done_callback(leave)

    async def written(self) -> list[Written]:
        """Waits for all texts, in the order of their plans.

        Raises:
            BildError: why one is missing.
        """
        done: dict[int, Result] = {}
        events: list[list[TokenEvent]] = [[] for _ in self._plans]
        while not self.over:
            for number, item in await self.next():
                if isinstance(item, Result):
                    done[number] = item
                elif isinstance(item, list):
                    events[number] += item
        return [Written(done[n], tuple(told)) for n, told in enumerate(events)]

    @property
    def over(self) -> bool:
        """Whether all that there is has been taken."""
        return not (self._left or self._feed)

    async def next(self) -> list[tuple[int, Item]]:
        """What has come up since the last time, with the number of its plan; waits for something."""
        await self._something.wait()
        self._something.clear()
        items, self._feed = list(self._feed), deque()
        self._tokens = self._shown = 0
        return items

    async def _carry(self, number: int, generation: Generation) -> None:
        """The task of one text."""
        try:
            async for event in generation:
                self._put(number, [event, *generation.ready()])
            result = await generation.result()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Not we: the decoder has ended under this text.
            raise WorkerUnavailable("the decoder was closed") from None
        self._left -= 1
        self._put(number, result)

    def _put(self, number: int, item: Item) -> None:
        self._feed.append((number, item))
        self._something.set()
        self._tokens += len(item) if isinstance(item, list) else 0
        if self._tokens > BEHIND:
            raise Gone

    def _show(self, number: int, event: dict[str, Any]) -> None:
        if self._shown >= SHOWN_BEHIND:
            self.missed += 1
            return
        self._shown += 1
        self._feed.append((number, event))
        self._something.set()
