"""The consumer without a broker: what it does when jobs, workers and connections go wrong."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import deque
from typing import Any

import pytest

from bild_dist.errors import BrokerUnavailable, InvalidRequest
from bild_dist.orchestrator.queue import consumer as module
from bild_dist.orchestrator.queue.consumer import Consumer
from bild_dist.orchestrator.queue.source import Delivery, OnCancel, Outcome, Settled
from bild_dist.tables import QueueConfig
from tests.queues import Echo, body


class Source:
    """A broker in memory that can be told to misbehave. Owned by its test."""

    longest_s: float | None = None

    def __init__(self, *bodies: bytes) -> None:
        self.jobs = deque(bodies)
        self.outcomes: list[Outcome] = []
        self.said: list[tuple[str, int]] = []
        self.opened = 0
        self.silent = self.asked = False
        self.error: Exception | None = None
        self.refusals: deque[Exception | Settled] = deque()
        self.held = True
        self.known: set[str] = set()
        self.attempt = 1
        self.messages = itertools.count()
        self.doubles = False
        self.ended = asyncio.Event()

    async def open(self, places: int, on_cancel: OnCancel) -> None:
        self.opened += 1
        if self.opened > 1:
            self.silent, self.error = False, None

    async def close(self) -> None:
        """Nothing is held."""

    async def pull(self, timeout_s: float) -> Delivery | None:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        if self.silent or not self.jobs:
            self.asked = True
            await asyncio.sleep(min(timeout_s, 0.02))
            self.asked = False
            if self.silent or not self.jobs:
                return None
        return self.delivery(self.jobs.popleft())

    def delivery(self, data: bytes) -> Delivery:
        message = next(self.messages) if self.doubles else data
        return Delivery(body=data, attempt=self.attempt, handle=object(), message=message)

    async def cease(self) -> None:
        """Nothing comes unasked."""

    async def renew(self, delivery: Delivery) -> bool:
        return self.held

    async def has_result(self, reply: str, word: str) -> bool:
        return word in self.known

    async def settle(self, delivery: Delivery, outcome: Outcome) -> Settled:
        refusal = self.refusals.popleft() if self.refusals else Settled.FIRST
        if isinstance(refusal, Exception):
            raise refusal
        if refusal is not Settled.VOID:
            self.outcomes.append(outcome)
            self.ended.set()
        return refusal

    async def retry(self, delivery: Delivery, delay_s: float) -> None:
        self._say("retry", delivery)

    async def give_back(self, delivery: Delivery) -> None:
        self._say("give back", delivery)

    async def drop(self, delivery: Delivery) -> None:
        self._say("drop", delivery)

    def _say(self, what: str, delivery: Delivery) -> None:
        self.said.append((what, delivery.attempt))
        self.ended.set()

    async def tell(self, word: str, data: bytes) -> None:
        """Nobody listens."""

    async def backlog(self) -> int:
        return len(self.jobs)


async def consumed(source: Source, writer: Echo | None = None, **values: Any) -> Consumer:
    """Runs a consumer until something has become of a job, then drains it."""
    config = QueueConfig(**{"lease_s": 0.3, "drain_s": 1.0, "retry_s": 0.1, **values})
    consumer = Consumer(source, writer or Echo(), config, 1)
    async with asyncio.TaskGroup() as group:
        group.create_task(consumer.run())
        async with asyncio.timeout(20):
            await source.ended.wait()
        consumer.drain()
    return consumer


def statuses(source: Source) -> list[str]:
    return [json.loads(o.result)["status"] for o in source.outcomes if o.result is not None]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that are short, so that silence is noticed in a test's time."""
    monkeypatch.setattr(module, "POLL_S", 0.02)
    monkeypatch.setattr(module, "_HUNG_S", 0.2)


@pytest.mark.usefixtures("quick")
async def test_silence_with_a_backlog_makes_the_connection_anew() -> None:
    """A client that lost its subscription says nothing: the watchdog asks the broker, and begins
    anew.
    """
    source = Source(body("a"))
    source.silent = True
    consumer = await consumed(source, stall_s=0.1)
    assert ["done"] == statuses(source)
    assert (2, 1) == (source.opened, consumer.tally.reconnects)


@pytest.mark.usefixtures("quick")
async def test_silence_without_a_backlog_is_just_that() -> None:
    """Nothing to do is no reason to begin anew."""
    source = Source()
    consumer = Consumer(source, Echo(), QueueConfig(stall_s=0.05, drain_s=0), 1)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(consumer.run())
        await asyncio.sleep(0.5)
        consumer.drain()
    assert task.result()
    assert 1 == source.opened


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("error", [BrokerUnavailable("gone"), ValueError("of a library")])
async def test_a_request_that_fails_again_and_again_makes_the_connection_anew(
    error: Exception,
) -> None:
    """Whatever a client library raises there: the consumer goes on."""
    source = Source(body("a"))
    source.error = error
    consumer = await consumed(source)
    assert ["done"] == statuses(source)
    assert 1 == consumer.tally.reconnects


async def test_a_result_is_published_until_the_broker_has_it() -> None:
    """A broker that is away for a while does not cost the text: it is written once."""
    source, writer = Source(body("a")), Echo()
    source.refusals.extend([BrokerUnavailable("gone"), BrokerUnavailable("gone")])
    await consumed(source, writer)
    assert ["done"] == statuses(source)
    assert ["abc"] == writer.begun


@pytest.mark.parametrize("places", [1, 2])
async def test_a_job_that_is_handed_over_again_goes_on(places: int) -> None:
    """After a lost connection the delivery counts no more and another comes: the attempt adopts it
    and the text is not begun again, even where there is one place only.
    """
    source, writer = Source(body("a")), Echo()
    source.refusals.append(Settled.VOID)
    config = QueueConfig(lease_s=5, drain_s=5)
    consumer = Consumer(source, writer, config, places)
    async with asyncio.TaskGroup() as group:
        group.create_task(consumer.run())
        async with asyncio.timeout(10):
            while source.refusals:  # noqa: ASYNC110 (the source tells nobody)
                await asyncio.sleep(0.01)
            source.attempt = 2
            source.jobs.append(body("a"))
            await source.ended.wait()
        consumer.drain()
    assert ["abc"] == writer.begun
    assert ["done"] == statuses(source)
    assert [("drop", 1)] == source.said


async def test_a_job_that_comes_twice_is_there_once() -> None:
    """A second message with a job under way is taken away at once, and no place with it: otherwise
    both would be handed over in turns.
    """
    source, writer = Source(body("a", "a" * 20), body("a", "a" * 20), body("b")), Echo(0.02)
    source.doubles = True
    consumer = Consumer(source, writer, QueueConfig(drain_s=5), 2)
    async with asyncio.TaskGroup() as group:
        group.create_task(consumer.run())
        async with asyncio.timeout(10):
            while len(source.outcomes) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert [("drop", 1)] == source.said
        consumer.drain()
    assert ["a" * 20, "abc"] == writer.begun
    assert 3 == consumer.tally.pulled


async def test_a_consumer_is_full_when_its_jobs_fill_it() -> None:
    """And not while it asks for one: with a single place it would be full for ever."""
    source, writer = Source(), Echo(0.02)
    consumer = Consumer(source, writer, QueueConfig(drain_s=5), 1)
    async with asyncio.TaskGroup() as group:
        group.create_task(consumer.run())
        async with asyncio.timeout(10):
            while not source.asked:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            assert not consumer.full
            source.jobs.append(body("a", "a" * 20))
            while not writer.begun:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            assert consumer.full
            await source.ended.wait()
        consumer.drain()
    assert not consumer.full


async def test_a_job_that_went_to_somebody_else_is_left_alone() -> None:
    """Not ours any more, and not handed over again: it is stopped and nothing is published."""
    source, writer = Source(body("a", "a" * 100)), Echo(0.05)
    source.held = False
    config = QueueConfig(lease_s=0.15, drain_s=5)
    consumer = Consumer(source, writer, config, 1)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(consumer.run())
        async with asyncio.timeout(10):
            while not consumer.tally.lost:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        consumer.drain()
    assert task.result()
    assert ([], []) == (source.outcomes, source.said)


async def test_a_job_that_has_its_result_is_not_written_again() -> None:
    """Its consumer was killed between result and acknowledgement, or it was submitted twice."""
    source, writer = Source(body("a")), Echo()
    source.known.add("a")
    await consumed(source, writer)
    assert ([("drop", 1)], []) == (source.said, writer.begun)


async def test_a_job_that_ends_its_consumers_is_given_up() -> None:
    """Begun as often as it may be, and never ended: nobody lived to say why."""
    source, writer = Source(body("a")), Echo()
    source.attempt = 4
    await consumed(source, writer, attempts=3)
    (outcome,) = source.outcomes
    assert ("failed", []) == (outcome.dead, writer.begun)
    assert 3 == json.loads(outcome.letter)["attempts"]


async def test_a_result_that_is_too_large_is_told() -> None:
    """The broker's own limit must not make a job come back for ever."""
    source = Source(body("a"))
    source.refusals.append(InvalidRequest("larger than the server's max_payload"))
    await consumed(source)
    (outcome,) = source.outcomes
    assert "failed" == outcome.dead
    assert "max_payload" in json.loads(outcome.result or b"{}")["error"]["message"]


async def test_a_broker_that_takes_nothing_is_not_asked_for_ever() -> None:
    """Even a few words are too large for it: the job stays there, and the end is not clean."""
    source = Source(body("a"))
    source.refusals.extend([InvalidRequest("larger than the server's max_payload")] * 2)
    consumer = Consumer(source, Echo(), QueueConfig(), 1)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(consumer.run())
        async with asyncio.timeout(10):
            while source.refusals or consumer.running:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        consumer.drain()
    assert not task.result()
    assert ([], []) == (source.outcomes, source.said)


async def test_jobs_may_not_outlast_the_broker_s_patience() -> None:
    """Where the broker takes jobs away after a time a longer deadline is refused, and a job without
    one gets one.
    """
    source, writer = Source(body("a", deadline=101)), Echo()
    source.longest_s = 100.0
    await consumed(source, writer)
    assert "unprocessable" == source.outcomes[0].dead
    assert "consumer_timeout" in json.loads(source.outcomes[0].letter)["error"]["message"]
    source = Source(body("b"))
    source.longest_s = 100.0
    await consumed(source, writer)
    assert [{"deadline": 90.0}] == writer.options


async def test_a_consumer_without_workers_stops() -> None:
    """It pulls no more, so that jobs do not fail one after the other, and leaves them to others."""
    source, writer = Source(body("a")), Echo()
    writer.lost = True
    consumer = Consumer(source, writer, QueueConfig(), 1)
    async with asyncio.timeout(10):
        assert await consumer.run()
    assert (1, []) == (len(source.jobs), writer.begun)


async def test_a_job_that_comes_too_late_for_the_workers_goes_back() -> None:
    """A request for jobs was under way when they were lost: what it brings has used no attempt."""
    source, writer = Source(), Echo()
    consumer = Consumer(source, writer, QueueConfig(), 1)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        task = group.create_task(consumer.run())
        while not source.asked:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        writer.lost = True
        source.jobs.append(body("a"))
    assert task.result()
    assert ([("give back", 1)], []) == (source.said, writer.begun)


async def test_a_second_signal_does_not_wait() -> None:
    """The first drain lets jobs end, the second gives them back at once; that is clean too."""
    source, writer = Source(body("a", "a" * 1000)), Echo(0.05)
    consumer = Consumer(source, writer, QueueConfig(drain_s=600), 1)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(consumer.run())
        async with asyncio.timeout(10):
            while not writer.begun:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            consumer.drain()
            consumer.drain()
            assert await task
    assert [("give back", 1)] == source.said


async def test_a_job_that_cannot_be_given_back_is_no_clean_end() -> None:
    """The broker was not heard of: whoever started the consumer is to know."""
    source, writer = Source(body("a")), Echo()
    source.refusals.extend([BrokerUnavailable("gone")] * 1000)
    consumer = Consumer(source, writer, QueueConfig(drain_s=0.3), 1)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(consumer.run())
        async with asyncio.timeout(20):
            while not writer.begun:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            consumer.drain()
            assert not await task
