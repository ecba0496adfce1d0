"""Measures a running pair: passes over 1 to 16 tokens on each worker, round trips, agreement.

The passes are asked for one by one through the same connections as any request's. Every command
builds on the same ids, so a pass of any length starts from the same cache. Lengths take turns, so
that a busy moment of the machine hits all of them; medians are taken.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from bild_dist.clock import now_ns
from bild_dist.config import Config
from bild_dist.errors import BildError, RemoteProtocolError
from bild_dist.evaluation.plan.known import Known
from bild_dist.evaluation.plan.observed import Observed, Text, observe
from bild_dist.kv.prefix import Prefix
from bild_dist.messages import Close, Draft, Drafted, Open, Opened, Verified, Verify
from bild_dist.orchestrator.client import Answer, WorkerClient
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.orchestrator.dispatcher import Work
from bild_dist.orchestrator.opening import launched
from bild_dist.orchestrator.prompt import Prompt, prepare
from bild_dist.types import Mode, Options, Role, Schedule

LENGTHS: Final = (1, 2, 4, 8, 16)
"""Tokens of the passes that are timed."""
ROUNDS: Final = 15
"""Passes of each length, after one that warms up."""
TEXTS: Final = (
    "Explain why the sea is salty.",
    "Write a short letter that asks for a day off.",
    "What should one see in Rome in two days?",
    "Tell a story about a lighthouse keeper and a storm.",
    "List five ways to save water at home.",
    "Describe how a bicycle stays upright.",
)
"""What is written to count how the pair agrees, where nobody says it."""
LENGTH: Final = 48
"""Tokens of each of these texts."""

_SESSION: Final = 1 << 30
"""Far from the numbers of real requests on the same connection."""
_TOY: Final = "toy:{role}?seed=1&end=0"


@dataclass(frozen=True, slots=True)
class Timed:
    """One worker, milliseconds: a pass of n tokens takes `base` + n * `token`; `trip` is a round
    trip without it.
    """

    base_ms: Known
    token_ms: Known
    trip_ms: Known


def fit(times_ms: Mapping[int, float]) -> tuple[float, float]:
    """The straight line through the times of passes by length: time at 0 tokens, time of a token.

    Neither is below 0; a slope that noise turned downwards counts as none.
    """
    lengths, times = list(times_ms), list(times_ms.values())
    slope, base = statistics.linear_regression(lengths, times)
    if slope <= 0:
        return statistics.fmean(times), 0.0
    return (
        (base, slope) if base >= 0 else (0.0, statistics.fmean(times) / statistics.fmean(lengths))
    )


async def passes(decoder: Decoder, asked: Prompt | None = None) -> dict[Role, Timed]:
    """Times both workers of a pair, behind a prompt: how long a pass takes depends on how much is behind it. A
    short one stands for it where none is given.

    Raises:
        BildError: a worker failed, or is no worker that can be asked.
    """
    if decoder.text is None:
        raise RemoteProtocolError("the decoder has not been entered")
    options = Options(chat_template=False, max_new_tokens=4 * max(LENGTHS), truncate=True)
    info = decoder.workers[Role.LARGE].info
    # A worker that tokenises by itself needs a text; ids do for all others, toys among them.
    short = TEXTS[0] if info.encodes else [1 + i % (info.rules.vocabulary - 1) for i in range(32)]
    prompt = short if asked is None else asked
    work = await prepare(prompt, options, decoder.workers, decoder.text)
    return {role: await _Gauge(worker, work).measure() for role, worker in decoder.workers.items()}


async def agreement(
    decoder: Decoder, modes: Sequence[Mode], say: Callable[[str], None]
) -> Observed:
    """Writes the built-in texts in each mode and counts how the models agree.

    Raises:
        BildError: a text could not be written.
    """
    texts = []
    for mode in modes:
        for number, prompt in enumerate(TEXTS, start=1):
            say(f"writing text {number} of {len(TEXTS)}, mode {mode}")
            result = await decoder.generate(
                prompt, mode=mode, schedule=Schedule.THROUGH, max_new_tokens=LENGTH
            )
            texts.append(Text(result.sources, result.trace, mode))
    return observe(texts)


async def round_trip(transport: str) -> Known:
    """What a command and its answer take on this machine beside the work, milliseconds: the mean
    over texts of two toys that take no time, in processes of their own.
    """
    toys = {role.value: {"model": _TOY.format(role=role)} for role in Role}
    config = Config().overlaid(orchestrator={"transport": transport}, **toys)
    async with launched(config) as decoder:
        await decoder.generate("warm up", schedule=Schedule.PAPER, max_new_tokens=32)
        texts = []
        for number in range(4):
            result = await decoder.generate(
                f"text {number}", schedule=Schedule.PAPER, max_new_tokens=128
            )
            texts.append(Text(result.sources, result.trace, Mode.BILD))
    trip = observe(texts).trip_ms
    if trip is None:
        raise RemoteProtocolError(f"no round trip was seen over {transport}")
    return replace(trip, source=f"measured: {trip.source} over {transport}")


class _Gauge:
    """Asks one worker for passes. Owned by `passes`."""

    def __init__(self, worker: WorkerClient, work: Work) -> None:
        self._worker = worker
        self._work = work
        self._prefix = Prefix(work.ids)
        self._prefix.extend([work.ids[-1]] * max(LENGTHS))
        self._answers: asyncio.Queue[Answer] = asyncio.Queue()
        self._seq = 0

    async def measure(self) -> Timed:
        """Times passes of all lengths."""
        self._worker.attach(_SESSION, self._answers.put_nowait)
        try:
            await self._open()
            times: dict[int, list[int]] = {length: [] for length in LENGTHS}
            trips: list[int] = []
            for number in range(1 + ROUNDS):
                for length in LENGTHS:
                    compute_ns, trip_ns = await self._pass(length)
                    if number > 0:
                        times[length].append(compute_ns)
                        trips.append(trip_ns)
        finally:
            self._worker.detach(_SESSION)
            if self._worker.lost is None:
                self._worker.post(Close(session=_SESSION))
        base_ms, token_ms = fit({n: statistics.median(found) / 1e6 for n, found in times.items()})
        source = f"measured: passes of {', '.join(map(str, LENGTHS))} tokens, {ROUNDS} of each"
        trip_ms = statistics.median(trips) / 1e6
        return Timed(
            Known(value=base_ms, source=source),
            Known(value=token_ms, source=source),
            Known(value=trip_ms, source=f"measured: median of {len(trips)}"),
        )

    async def _open(self) -> None:
        work = self._work
        self._worker.post(
            Open(session=_SESSION, epoch=0, seq=self._next(), ids=work.ids, source=work.source,
                 rules=work.rules)
        )  # fmt: skip
        if not isinstance(answer := await self._answer(), Opened):
            raise _unexpected(answer)
        # Writes a token, so that the prompt is in the cache before the first pass is timed.
        await self._draft(1)

    async def _pass(self, length: int) -> tuple[int, int]:
        """Times one pass over so many tokens, ns: the work, and the rest of its round trip."""
        if self._worker.role is Role.SMALL:
            return await self._draft(length)
        at = len(self._work.ids) - 1
        verify = Verify(
            session=_SESSION, epoch=0, seq=self._next(), at=at, digest=self._prefix.digest(at),
            tokens=tuple(self._prefix.ids[at : at + length]), exact=(True,) * (length - 1),
            alpha_rb=0.0, bonus=True,
        )  # fmt: skip
        return await self._timed(verify)

    async def _draft(self, length: int) -> tuple[int, int]:
        at = len(self._work.ids) - 1
        draft = Draft(
            session=_SESSION, epoch=0, seq=self._next(), at=at, digest=self._prefix.digest(at),
            tokens=tuple(self._prefix.ids[at : at + length]), limit=1, stops=False, piece=0,
        )  # fmt: skip
        return await self._timed(draft)

    async def _timed(self, command: Draft | Verify) -> tuple[int, int]:
        sent_ns = now_ns()
        self._worker.post(command)
        answer = await self._answer()
        if not isinstance(answer, Drafted | Verified):
            raise _unexpected(answer)
        spent_ns = now_ns() - sent_ns - answer.queue_ns
        return answer.compute_ns, max(0, spent_ns - answer.compute_ns)

    async def _answer(self) -> Answer:
        answer = await self._answers.get()
        if isinstance(answer, BildError):
            raise answer
        return answer

    def _next(self) -> int:
        self._seq += 1
        return self._seq


def _unexpected(answer: Answer) -> RemoteProtocolError:
    return RemoteProtocolError(f"a worker answered with a {type(answer).__name__}")
