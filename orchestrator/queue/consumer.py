"""The consumer's loop: pulls a job when there is a free place, and stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from bild_dist import log
from bild_dist.clock import now_ns
from bild_dist.errors import BildError, BrokerUnavailable, InvalidRequest
from bild_dist.orchestrator.queue.attempt import Attempt, Tally, Why, Writer
from bild_dist.orchestrator.queue.job import Job
from bild_dist.orchestrator.queue.source import Delivery, JobSource
from bild_dist.tables import QueueConfig

POLL_S: Final = 1.0
"""The longest wait for a job in one request: how soon a consumer hears that it is to stop."""
_HUNG_S: Final = 15.0
"""A request that has not come back for so much longer never will."""
_ERRORS: Final = 3
"""Failures in a row after which the connection is made anew."""
_REMEMBERED: Final = 10_000
"""Cancellations kept for jobs that have not been begun; the oldest go first."""
_AFTER_S: Final = 10.0
"""Seconds to give jobs back, once they may not end by themselves."""

_log = logging.getLogger(__name__)


class Consumer:
    """Jobs of one source, written by one decoder. Lives on one event loop; owns the jobs under way.

    `places` is how many the decoder takes at once; `deadline` the one that it gives requests that
    name none. `tally` goes on counting where another consumer stopped.
    """

    def __init__(
        self,
        source: JobSource,
        writer: Writer,
        config: QueueConfig,
        places: int,
        deadline: float | None = None,
        tally: Tally | None = None,
    ) -> None:
        self.tally = Tally() if tally is None else tally
        self._source = source
        self._writer = writer
        self._config = config
        self._deadline = deadline
        self._count = places
        self._places = asyncio.Semaphore(places)
        self._running: dict[object, Attempt] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._cancelled: dict[str, None] = {}
        self._pulling = asyncio.Lock()
        self._over = asyncio.Event()
        self._hurried = asyncio.Event()
        self._errors = 0
        self._heard_ns = 0
        self._clean = True

    def __repr__(self) -> str:
        return f"<Consumer running={len(self._tasks)} {self.tally}>"

    @property
    def running(self) -> int:
        """Jobs under way."""
        return len(self._tasks)

    @property
    def full(self) -> bool:
        """Whether the decoder takes no further job now."""
        # Not the places: the puller holds one while it asks for a job.
        return sum(not attempt.void for attempt in self._running.values()) >= self._count

    def drain(self) -> None:
        """Pulls no more; jobs under way may end. Called again: they go back at once."""
        if self._over.is_set():
            self._hurried.set()
        self._over.set()

    def hurry(self) -> None:
        """Pulls no more, and gives back what is under way: nobody is there to write it."""
        self._over.set()
        self._hurried.set()

    def cancel(self, word: str) -> None:
        """Somebody wants a job to end. One that has not been begun is remembered."""
        found = False
        for attempt in self._running.values():
            if attempt.job is not None and attempt.job.word == word:
                attempt.stop(Why.CANCELLED)
                found = True
        if not found:
            self._cancelled[word] = None
            if len(self._cancelled) > _REMEMBERED:
                del self._cancelled[next(iter(self._cancelled))]

    async def run(self) -> bool:
        """Consumes until `drain` or `hurry`. True: every job that was begun has ended, or is known
        to be back on the queue.

        Raises:
            BrokerUnavailable: nobody answers there at the start.
        """
        await self._source.open(self._count, self.cancel)
        self._heard_ns = now_ns()
        try:
            async with asyncio.TaskGroup() as group:
                puller = group.create_task(self._pull_all(group))
                await self._over.wait()
                # A request under way ends first: what it brings would be nobody's.
                async with self._pulling:
                    puller.cancel()
                with contextlib.suppress(BrokerUnavailable):
                    await self._source.cease()
                await self._drained()
        finally:
            await self._source.close()
        return self._clean

    async def _pull_all(self, group: asyncio.TaskGroup) -> None:
        while True:
            if self._places.locked():
                await self._places.acquire()
                self._heard_ns = now_ns()  # silence while nobody asked says nothing
            else:
                await self._places.acquire()
            async with self._pulling:
                if self._writer.lost:
                    self.hurry()
                if self._over.is_set():
                    return
                delivery = await self._pulled()
                if delivery is None:
                    self._places.release()
                else:
                    await self._take(delivery, group)

    async def _pulled(self) -> Delivery | None:
        try:
            async with asyncio.timeout(POLL_S + _HUNG_S):
                delivery = await self._source.pull(POLL_S)
        except Exception as error:  # whatever a client library comes up with ends this request only
            self._errors += 1
            _log.warning("no job could be pulled: %r", error)
            if self._errors >= _ERRORS:
                await self._reopen()
            else:
                await asyncio.sleep(0.2 * 2**self._errors)
            return None
        self._errors = 0
        self.tally.last_pull_ns = now = now_ns()
        if delivery is not None:
            self._heard_ns = now
        elif now - self._heard_ns > self._config.stall_s * 1e9:
            self._heard_ns = now
            if await self._stalled():
                await self._reopen()
        return delivery

    async def _stalled(self) -> bool:
        """Whether jobs wait although none comes: some clients lose their subscription in silence."""
        try:
            async with asyncio.timeout(_HUNG_S):
                waiting = await self._source.backlog()
        except (BrokerUnavailable, TimeoutError) as error:
            _log.warning("the queue cannot be looked at: %s", error)
            return True
        if waiting:
            _log.warning("%d jobs wait, and none has come for a while", waiting)
        return waiting > 0

    async def _reopen(self) -> None:
        """Makes the connection anew, for as long as it takes."""
        pause_s = 0.5
        while not self._over.is_set():
            await self._source.close()
            try:
                await self._source.open(self._count, self.cancel)
            except BildError as error:
                _log.warning("no connection to the broker: %s", error)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._over.wait()
                pause_s = min(2 * pause_s, 5.0)
            else:
                self._errors = 0
                self.tally.reconnects += 1
                return

    async def _take(self, delivery: Delivery, group: asyncio.TaskGroup) -> None:
        """Begins a job; one that is under way already gets a new delivery instead."""
        self.tally.pulled += 1
        self.tally.redelivered += delivery.attempt > 1
        job, refused = None, None
        try:
            job = Job.parse(delivery.body)
        except InvalidRequest as error:
            refused = error
        key = object() if job is None else (job.reply, job.id)
        running = self._running.get(key)
        if running is not None and await self._doubled(running, delivery):
            self._places.release()
        elif running is not None and not running.leaving and self._running.get(key) is running:
            if not running.void:
                self._places.release()
            running.adopt(delivery)
        else:
            if running is not None:
                await running.ended.wait()
            self._begin(key, job, refused, delivery, group)

    async def _doubled(self, running: Attempt, delivery: Delivery) -> bool:
        """Whether a job under way came in a second message, which is taken away at once: both would
        be handed over in turns for as long as the text takes. False: the job needs this delivery.
        """
        if delivery.message is not None and delivery.message == running.delivery.message:
            return False
        try:
            async with asyncio.timeout(_HUNG_S):
                if not await self._source.renew(running.delivery) or running.leaving:
                    return False
                await self._source.drop(delivery)
        except Exception as error:  # it comes again
            _log.warning("a job that came twice is left to the broker: %r", error)
        return True

    def _begin(
        self,
        key: object,
        job: Job | None,
        refused: InvalidRequest | None,
        delivery: Delivery,
        group: asyncio.TaskGroup,
    ) -> None:
        attempt = Attempt(
            job, delivery, self._source, self._writer, self._config, self.tally,
            self._places.release, deadline=self._deadline, error=refused,
        )  # fmt: skip
        if job is not None and job.word in self._cancelled:
            del self._cancelled[job.word]
            attempt.stop(Why.CANCELLED)
        if self._writer.lost:
            # It came by a request that was under way when the workers were lost: no attempt of it.
            attempt.stop(Why.GIVEN_BACK)
        self._running[key] = attempt
        task = group.create_task(self._one(key, attempt))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _one(self, key: object, attempt: Attempt) -> None:
        fields = {
            "job_id": attempt.job.id if attempt.job is not None else "",
            "attempt": attempt.delivery.attempt,
        }
        try:
            with log.bound(**fields):
                await attempt.run()
        except Exception:
            # One job's bug must not take down the others. Its lease runs out, and it comes again.
            _log.exception("a job was left to the broker")
            self._clean = False
        finally:
            del self._running[key]
            attempt.ended.set()
            self._clean &= attempt.clean
            if not attempt.void:
                self._places.release()

    async def _drained(self) -> None:
        """Waits for the jobs under way, then gives the rest back."""
        await self._ended(self._config.drain_s, heed=True)
        for attempt in self._running.values():
            attempt.stop(Why.GIVEN_BACK)
        await self._ended(_AFTER_S, heed=False)
        for task in self._tasks:
            self._clean = False
            task.cancel()

    async def _ended(self, seconds: float, *, heed: bool) -> None:
        """Waits until no job is under way, for so long at most, or until `hurry` where heeded."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._tasks and not (heed and self._hurried.is_set()):
                    await asyncio.wait(self._tasks, timeout=0.1)
