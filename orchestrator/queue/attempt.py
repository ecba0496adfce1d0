"""One job under way: its text, its lease, and how it ends.

The broker may hand a job over again while it is being written, after a lost connection or a late
renewal. The attempt then adopts the new delivery and goes on: the text is written once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import nullcontext
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final, Protocol

from bild_dist.errors import (
    BildError,
    BrokerUnavailable,
    DeadlineExceeded,
    InvalidRequest,
    LocalProtocolError,
    WorkerUnavailable,
)
from bild_dist.orchestrator.prompt import Prompt
from bild_dist.orchestrator.queue import job as form
from bild_dist.orchestrator.queue.job import Job
from bild_dist.orchestrator.queue.source import (
    FAILED,
    UNPROCESSABLE,
    Delivery,
    JobSource,
    Outcome,
    Settled,
    pause_s,
)
from bild_dist.orchestrator.queue.tokens import TokenStream
from bild_dist.tables import QueueConfig
from bild_dist.types import Result, TokenEvent

_TRIES: Final = 4
"""To hand a job back before it is left to the broker, which hands it over anew by itself."""
_LONGEST_PAUSE_S: Final = 2.0
_MARGIN: Final = 0.9
"""Share of the broker's own limit that a job without a deadline gets."""

_log = logging.getLogger(__name__)


class Writing(Protocol):
    """A text on its way, as `decoder.Generation` is one."""

    def __aiter__(self) -> AsyncIterator[TokenEvent]: ...
    async def result(self) -> Result: ...
    async def aclose(self) -> None: ...


class Writer(Protocol):
    """Who writes the texts, as `decoder.Decoder` does."""

    def stream(self, prompt: Prompt, **options: Any) -> Writing: ...

    @property
    def lost(self) -> bool:
        """Whether it will never write again."""


class Why(Enum):
    """What ends an attempt before its text does."""

    CANCELLED = "cancelled"
    GIVEN_BACK = "given back"
    LOST = "lost"


@dataclass(slots=True)
class Tally:
    """What a consumer has done so far. Owned by the consumer; whoever reports it reads."""

    pulled: int = 0
    redelivered: int = 0
    done: int = 0
    cancelled: int = 0
    failed: int = 0
    unprocessable: int = 0
    retried: int = 0
    given_back: int = 0
    late: int = 0
    """Results that another attempt's was before."""
    lost: int = 0
    """Attempts that the broker gave to somebody else."""
    renewals: int = 0
    reconnects: int = 0
    last_pull_ns: int = 0
    """When the broker last answered, with a job or with none."""


class Attempt:
    """One job under way. Owned by the consumer; `run` is its task.

    `job` is None for what could not be read, with the reason in `error`. `vacate` is called when the
    broker has taken the job away and its place is free for whatever it hands over next.
    """

    def __init__(
        self,
        job: Job | None,
        delivery: Delivery,
        source: JobSource,
        writer: Writer,
        config: QueueConfig,
        tally: Tally,
        vacate: Callable[[], None],
        *,
        deadline: float | None = None,
        error: InvalidRequest | None = None,
    ) -> None:
        self.job = job
        self._delivery = delivery
        self._older: list[Delivery] = []
        self._source = source
        self._writer = writer
        self._config = config
        self._tally = tally
        self._vacate = vacate
        self._deadline = deadline
        self._error = error
        self._why: Why | None = None
        self._parting = False
        self._writing: asyncio.Task[Result | BildError] | None = None
        self._adopted = asyncio.Event()
        self.void = False
        """Whether the broker has taken the job away; its place was given up then."""
        self.leaving = False
        """Whether it is handing the job back: what comes of the job now may be that very message."""
        self.ended = asyncio.Event()
        """Set by the consumer when it has forgotten the attempt."""
        self.clean = True
        """False when the job was left to the broker, which had not been heard of."""

    @property
    def delivery(self) -> Delivery:
        """The broker's latest delivery of the job."""
        return self._delivery

    def adopt(self, delivery: Delivery) -> None:
        """The broker has handed this job over once more: from now on that delivery counts."""
        self._older.append(self._delivery)
        self._delivery = delivery
        self.void = False
        self._adopted.set()

    def stop(self, why: Why) -> None:
        """Ends the attempt, unless its text is complete."""
        if self._why is None:
            self._why = why
        self._parting |= why is Why.GIVEN_BACK
        if self._writing is not None:
            self._writing.cancel()

    async def run(self) -> None:
        """Writes the text and sees the job off."""
        async with asyncio.TaskGroup() as group:
            lease = group.create_task(self._keep())
            try:
                await self._carry(group)
            finally:
                lease.cancel()

    async def _keep(self) -> None:
        """Renews the lease. A job that has gone for two leases is somebody else's."""
        while True:
            await asyncio.sleep(self._config.lease_s / 3)
            delivery = self._delivery
            try:
                held = await self._source.renew(delivery)
            except Exception as error:  # a lease is long enough to miss one renewal
                _log.warning("a lease could not be renewed: %r", error)
                continue
            self._tally.renewals += held
            if not held and delivery is self._delivery and not await self._handed_over():
                self.stop(Why.LOST)
                return

    async def _handed_over(self) -> bool:
        """Waits until a delivery that counts no more has a successor. False: none came."""
        if not self.void:
            self.void = True
            self._adopted.clear()
            self._vacate()
        try:
            async with asyncio.timeout(2 * self._config.lease_s):
                await self._adopted.wait()
        except TimeoutError:
            return False
        return True

    async def _carry(self, group: asyncio.TaskGroup) -> None:
        job, attempt = self.job, self._delivery.attempt
        if job is None:
            refused = self._error or InvalidRequest("this is no job")
            await self._give_up(UNPROCESSABLE, refused, attempt)
        elif await self._known(job):
            await self._leave(self._source.drop)
        elif attempt > self._config.attempts:
            error = WorkerUnavailable(
                f"begun {attempt - 1} times, and each time its consumer was lost before the end"
            )
            await self._give_up(FAILED, error, attempt - 1)
        else:
            value = await self._written(job, group)
            await self._end(job, value)

    async def _known(self, job: Job) -> bool:
        try:
            return await self._source.has_result(job.reply, job.word)
        except BrokerUnavailable:
            return False

    async def _written(self, job: Job, group: asyncio.TaskGroup) -> Result | BildError | Why:
        if self._why is None:
            self._writing = group.create_task(self._write(job))
            await asyncio.wait([self._writing])
            if not self._writing.cancelled():
                return self._writing.result()
        # Without a reason the decoder itself was closed under the text.
        return self._why if self._why is not None else Why.GIVEN_BACK

    async def _write(self, job: Job) -> Result | BildError:
        writing: Writing | None = None
        try:
            writing = self._writer.stream(job.prompt, **self._options(job))
            stream = TokenStream(self._source, job.id, self._delivery.attempt)
            async with stream if self._config.tokens else nullcontext() as tokens:
                async for event in writing:
                    if tokens is not None:
                        tokens.push(event)
            return await writing.result()
        except BildError as error:
            return error
        except Exception as error:
            _log.exception("a job failed")
            return LocalProtocolError(f"a bug in the consumer: {error!r}")
        finally:
            if writing is not None:
                await writing.aclose()

    def _options(self, job: Job) -> dict[str, Any]:
        """The job's options. Where the broker takes jobs away after a time, none may last longer."""
        longest_s, asked = self._source.longest_s, job.options.get("deadline")
        if longest_s is None:
            return job.options
        if isinstance(asked, int | float) and asked > longest_s:
            raise InvalidRequest(
                f"deadline = {asked:g} is more than the broker's consumer_timeout of {longest_s:g} s: "
                "raise that on the broker, and queue.consumer_timeout_s with it"
            )
        if asked is None and self._deadline is None:
            return {**job.options, "deadline": longest_s * _MARGIN}
        return job.options

    async def _end(self, job: Job, value: Result | BildError | Why) -> None:
        attempt = self._delivery.attempt
        if isinstance(value, Result):
            outcome = Outcome(
                word=job.word, reply=job.reply, result=form.done(job.id, value, attempt)
            )
            self._count("done", await self._settle(outcome))
        elif value is Why.CANCELLED:
            result = form.cancelled(job.id, attempt)
            outcome = Outcome(word=job.word, reply=job.reply, result=result)
            self._count("cancelled", await self._settle(outcome))
        elif value is Why.LOST:
            self._tally.lost += 1
        elif isinstance(value, Why):
            self._count("given_back", await self._leave(self._source.give_back))
        elif isinstance(value, InvalidRequest):
            await self._give_up(UNPROCESSABLE, value, attempt)
        elif isinstance(value, DeadlineExceeded) or attempt >= self._config.attempts:
            # A deadline is the caller's own: another attempt would not be what he asked for.
            await self._give_up(FAILED, value, attempt)
        else:
            delay_s = pause_s(self._config, attempt)
            self._count("retried", await self._leave(lambda d: self._source.retry(d, delay_s)))

    def _count(self, name: str, happened: bool) -> None:
        """Counts what has happened. Not `tally.x += await ...`: that adds to what was there before
        the wait, and forgets what other attempts have counted meanwhile.
        """
        setattr(self._tally, name, getattr(self._tally, name) + happened)

    async def _give_up(self, dead: str, error: BildError, attempts: int) -> None:
        body = self._delivery.body
        letter = form.letter(body, error, attempts)
        outcome = Outcome(dead=dead, letter=letter)
        known = form.address(body) if self.job is None else (self.job.id, self.job.reply)
        if known is not None:
            name, reply = known
            result = form.failed(name, error, attempts)
            outcome = replace(outcome, word=form.word(name), reply=reply, result=result)
        self._count(dead, await self._settle(outcome))

    async def _settle(self, outcome: Outcome) -> bool:
        """Publishes how the job ended, for as long as it takes. True: it is the job's one end."""
        pause, shrunk = 0.1, False
        while True:
            delivery = self._delivery
            try:
                settled = await self._source.settle(delivery, outcome)
            except InvalidRequest as error:
                # Too large for the broker: its sender is told that much.
                if shrunk:
                    _log.error("a job is left to the broker, which takes no word of it: %s", error)
                    self.clean = False
                    return False
                outcome, shrunk = self._smaller(outcome, error), True
                continue
            except BrokerUnavailable as error:
                if self._parting:
                    self.clean = False
                    return False
                _log.warning("a result could not be published yet: %s", error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                continue
            if settled is not Settled.VOID:
                break
            if delivery is self._delivery and not await self._handed_over():
                self._tally.lost += 1
                return False
        self._tally.late += settled is Settled.LATE
        for other in [*self._older, self._delivery]:
            if other is delivery:
                continue
            try:
                await self._source.drop(other)
            except BrokerUnavailable:
                break
        return settled is Settled.FIRST

    def _smaller(self, outcome: Outcome, error: InvalidRequest) -> Outcome:
        """Says only that it was too large, and nothing of the job itself."""
        attempt = self._delivery.attempt
        letter = form.letter(b"", error, attempt)
        if outcome.result is None:
            return replace(outcome, letter=letter)
        name, _ = form.address(self._delivery.body) or ("", "")
        result = form.failed(name, error, attempt)
        return replace(outcome, dead=outcome.dead or FAILED, letter=letter, result=result)

    async def _leave(self, call: Callable[[Delivery], Coroutine[Any, Any, None]]) -> bool:
        """Hands the job back to the broker. False: it could not be reached, and does so by itself
        when the lease has run out.
        """
        self.leaving = True
        for number in range(_TRIES):
            try:
                await call(self._delivery)
            except BrokerUnavailable:
                await asyncio.sleep(0.1 * 2**number)
            else:
                return True
        self.clean = False
        return False
