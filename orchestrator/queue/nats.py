"""NATS JetStream: leases that are renewed, and one result a job by the server's own word.

Streams `PREFIX-jobs`, `PREFIX-results` (subjects `PREFIX.results.REPLY.JOB`) and `PREFIX-dead`
(`PREFIX.failed`, `PREFIX.unprocessable`); plain subjects `PREFIX.cancel.JOB`, `PREFIX.tokens.JOB`.
A result is published under the condition that its subject is still empty, so the second one is
refused by the server, however late it comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import nats.errors
import nats.js.errors
from faststream import AckPolicy
from faststream.exceptions import FastStreamException
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

from bild_dist.errors import BrokerUnavailable, InvalidRequest
from bild_dist.orchestrator.queue.job import DEFAULT_REPLY
from bild_dist.orchestrator.queue.source import (
    FAILED,
    UNPROCESSABLE,
    Answer,
    Delivery,
    OnCancel,
    Outcome,
    Settled,
    plain_url,
)
from bild_dist.tables import QueueConfig

_CONNECT_S: Final = 5.0
_ANSWER_S: Final = 5.0
_DEDUP_S: Final = 600.0
"""How long a job that is submitted twice is taken for one."""
_GROUP: Final = "consumers"
_BASE: Final = "bild-attempts"
"""Header: how often a job had been begun when it was put on the queue."""
_HEADERS: Final = 1024
"""Bytes of headers at most: the server counts them and closes the connection over what is too large,
the client counts the body alone."""
_WRONG_SEQUENCE: Final = 10071
"""JetStream's code for: the subject is not as you expected it."""


@dataclass(frozen=True, slots=True)
class _Handle:
    message: NatsMessage
    epoch: int
    """Of the connection: an answer over another one is none."""
    seq: int
    """In the stream: the same for every delivery of one message."""


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except nats.errors.MaxPayloadError:
        raise InvalidRequest(
            f"NATS cannot take it while {doing}: it is larger than the server's max_payload"
        ) from None
    except (nats.errors.Error, FastStreamException, OSError, TimeoutError) as error:
        raise BrokerUnavailable(f"NATS failed while {doing}: {error!r}") from error


class _Link:
    """A connection, and the streams on it. Owned by whoever opens it."""

    def __init__(self, config: QueueConfig) -> None:
        self._config = config
        self._prefix = config.prefix
        self._broker: NatsBroker
        self._client: Client
        self._js: JetStreamContext
        self._epoch = 0

    async def _connect(self) -> None:
        self._broker = NatsBroker(
            self._config.url,
            ack_policy=AckPolicy.MANUAL,
            logger=None,
            error_cb=_noted,
            # Without an end: jobs under way outlive a restart of the server.
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.25,  # type: ignore[arg-type]  # handed to a sleep as it is
            ping_interval=10,
        )
        self._prepare(self._broker)
        with _translated(f"connecting to {plain_url(self._config)}"):
            # The driver itself would try for ever, at a wrong address too.
            async with asyncio.timeout(_CONNECT_S):
                await self._broker.start()
            self._client = self._broker.connection
            self._js = self._client.jetstream(timeout=_ANSWER_S)
            await self._declare()
        self._epoch += 1

    def _prepare(self, broker: NatsBroker) -> None:
        """Registers what must be known before the broker starts."""

    async def close(self) -> None:
        # Whatever goes wrong with a connection that is given up is no news. Closed first: the
        # library would wait for messages that nobody is going to read.
        for last in (self._flushed, self._client.close, self._broker.stop):
            with contextlib.suppress(Exception):
                async with asyncio.timeout(2):
                    await last()

    async def _flushed(self) -> None:
        if self._client.is_connected:
            await self._client.flush()

    async def _declare(self) -> None:
        prefix, keep = self._prefix, self._config.keep_s
        for stream in (
            api.StreamConfig(
                name=f"{prefix}-jobs", subjects=[f"{prefix}.jobs"],
                retention=api.RetentionPolicy.WORK_QUEUE, duplicate_window=_DEDUP_S,
            ),
            api.StreamConfig(
                name=f"{prefix}-results", subjects=[f"{prefix}.results.*.*"], max_age=keep,
                duplicate_window=min(keep, 120.0),
            ),
            api.StreamConfig(
                name=f"{prefix}-dead", subjects=[f"{prefix}.{FAILED}", f"{prefix}.{UNPROCESSABLE}"],
                duplicate_window=_DEDUP_S,
            ),
        ):  # fmt: skip
            config = stream.evolve(storage=api.StorageType.FILE, num_replicas=self._config.replicas)
            try:
                await self._js.stream_info(str(config.name))
            except nats.js.errors.NotFoundError:
                await self._js.add_stream(config)

    async def _publish(
        self, name: str, subject: str, body: bytes, headers: dict[str, str]
    ) -> api.PubAck:
        """Publishes to a stream and waits until the server has stored it."""
        if len(body) + _HEADERS > self._client.max_payload:
            raise nats.errors.MaxPayloadError
        ack = await self._broker.publish(
            body, subject, stream=f"{self._prefix}-{name}", headers=headers, timeout=_ANSWER_S
        )
        assert isinstance(ack, api.PubAck)  # noqa: S101 (what naming a stream promises)
        return ack


class NatsSource(_Link):
    """A consumer's side."""

    longest_s: float | None = None

    def _prepare(self, broker: NatsBroker) -> None:
        # One message a request, asked for when there is a place: a buffer would age in here.
        self._jobs = broker.subscriber(
            f"{self._prefix}.jobs",
            stream=JStream(f"{self._prefix}-jobs", declare=False),
            durable=_GROUP,
            pull_sub=PullSub(batch_size=1),
        )

    async def open(self, places: int, on_cancel: OnCancel) -> None:
        await self._connect()

        async def cancelled(message: Msg) -> None:
            on_cancel(message.subject.rpartition(".")[2])

        with _translated("subscribing"):
            # Also brings an older consumer's lease up to date. The server counts deliveries and we
            # decide: its own limit would leave the job in the stream for ever, told to nobody.
            await self._js.add_consumer(
                f"{self._prefix}-jobs",
                api.ConsumerConfig(
                    durable_name=_GROUP, ack_policy=api.AckPolicy.EXPLICIT,
                    ack_wait=self._config.lease_s, max_deliver=-1, max_ack_pending=-1,
                ),
            )  # fmt: skip
            await self._client.subscribe(f"{self._prefix}.cancel.*", cb=cancelled)

    async def pull(self, timeout_s: float) -> Delivery | None:
        with _translated("pulling"):
            message = await self._jobs.get_one(timeout=timeout_s)
        if message is None:
            return None
        about = message.raw_message.metadata
        base = _whole((message.raw_message.headers or {}).get(_BASE))
        return Delivery(
            body=message.body,
            attempt=base + (about.num_delivered or 1),
            handle=_Handle(message, self._epoch, about.sequence.stream),
            message=about.sequence.stream,
        )

    async def cease(self) -> None:
        """Nothing: jobs come one at a time, and only when asked for."""

    async def renew(self, delivery: Delivery) -> bool:
        if self._void(delivery):
            return False
        with _translated("renewing a lease"):
            await delivery.handle.message.in_progress()
        return True

    async def has_result(self, reply: str, word: str) -> bool:
        with _translated("looking for a result"):
            return await self._stored(reply, word) is not None

    async def _stored(self, reply: str, word: str) -> bytes | None:
        subject = f"{self._prefix}.results.{reply}.{word}"
        try:
            found = await self._js.get_last_msg(f"{self._prefix}-results", subject)
        except nats.js.errors.NotFoundError:
            return None
        return found.data or b""

    async def settle(self, delivery: Delivery, outcome: Outcome) -> Settled:
        handle: _Handle = delivery.handle
        if self._void(delivery):
            return Settled.VOID
        fresh = first = True
        with _translated("publishing a result"):
            if outcome.dead is not None:
                # No dead letter of a job that somebody else has done.
                first = outcome.result is None or await self._ours(outcome, outcome.result)
                if first:
                    headers = {"Nats-Msg-Id": f"dead.{handle.seq}"}
                    subject = f"{self._prefix}.{outcome.dead}"
                    await self._publish("dead", subject, outcome.letter, headers)
            if outcome.result is not None:
                fresh = first and await self._publish_first(outcome, outcome.result)
                first = fresh or await self._ours(outcome, outcome.result)
            # Otherwise it may have been taken away, perhaps by ourselves before a connection broke:
            # nobody would answer.
            await (handle.message.ack_sync() if fresh else handle.message.ack())
        return Settled.FIRST if first else Settled.LATE

    async def _publish_first(self, outcome: Outcome, result: bytes) -> bool:
        headers = {"Nats-Expected-Last-Subject-Sequence": "0"}
        subject = f"{self._prefix}.results.{outcome.reply}.{outcome.word}"
        try:
            await self._publish("results", subject, result, headers)
        except nats.js.errors.APIError as error:
            if error.err_code != _WRONG_SEQUENCE:
                raise
            return False
        return True

    async def _ours(self, outcome: Outcome, result: bytes) -> bool:
        """Whether no other result is there. One to the byte like this is it: the server's word that
        it has it was lost.
        """
        return await self._stored(outcome.reply, outcome.word) in (None, result)

    async def retry(self, delivery: Delivery, delay_s: float) -> None:
        if not self._void(delivery):
            with _translated("putting a job off"):
                await delivery.handle.message.nack(delay=delay_s)

    async def give_back(self, delivery: Delivery) -> None:
        """Put on the queue anew, since a refusal would count as an attempt."""
        handle: _Handle = delivery.handle
        if self._void(delivery):
            return
        with _translated("giving a job back"):
            headers = {_BASE: str(delivery.attempt - 1), "Nats-Msg-Id": f"again.{handle.seq}"}
            await self._publish("jobs", f"{self._prefix}.jobs", delivery.body, headers)
            await handle.message.ack_sync()

    async def drop(self, delivery: Delivery) -> None:
        if not self._void(delivery):
            with _translated("dropping a job"):
                await delivery.handle.message.ack()

    async def tell(self, word: str, body: bytes) -> None:
        with _translated("publishing tokens"):
            await self._client.publish(f"{self._prefix}.tokens.{word}", body)

    async def backlog(self) -> int:
        with _translated("asking for the backlog"):
            info = await self._js.consumer_info(f"{self._prefix}-jobs", _GROUP)
        return info.num_pending or 0

    def _void(self, delivery: Delivery) -> bool:
        return bool(delivery.handle.epoch != self._epoch)


class NatsDesk(_Link):
    """A producer's side."""

    def __init__(self, config: QueueConfig) -> None:
        super().__init__(config)
        self._results: dict[str, JetStreamContext.PullSubscription] = {}

    async def open(self) -> None:
        self._results.clear()
        await self._connect()

    async def expect(self, reply: str) -> None:
        """Nothing: the first result makes it."""

    async def forget(self, reply: str) -> None:
        """Nothing: what is kept refuses a second result."""

    async def submit(self, word: str, body: bytes, reply: str = DEFAULT_REPLY) -> None:
        with _translated("submitting a job"):
            headers = {"Nats-Msg-Id": f"{reply}.{word}"}
            await self._publish("jobs", f"{self._prefix}.jobs", body, headers)

    async def collect(self, reply: str, timeout_s: float) -> list[Answer]:
        """From the oldest result on: what an earlier run has taken is still there."""
        with _translated("collecting results"):
            if reply not in self._results:
                self._results[reply] = await self._js.pull_subscribe(
                    f"{self._prefix}.results.{reply}.*",
                    stream=f"{self._prefix}-results",
                    config=api.ConsumerConfig(
                        ack_policy=api.AckPolicy.NONE, inactive_threshold=300.0
                    ),
                )
            results = self._results[reply]
            try:
                messages = await results.fetch(256, timeout=timeout_s)
            except TimeoutError:
                messages = []
            if not messages:
                try:
                    await results.consumer_info()
                except nats.js.errors.NotFoundError:
                    # It does not outlive a restart of the server; its successor begins anew.
                    del self._results[reply]
        return [Answer(body=message.data) for message in messages]

    async def taken(self, answers: list[Answer]) -> None:
        """Nothing: the server keeps results for a time of its own."""

    async def cancel(self, word: str) -> None:
        with _translated("cancelling a job"):
            await self._client.publish(f"{self._prefix}.cancel.{word}", b"")
            await self._client.flush(2)

    async def watch(self, word: str) -> AsyncIterator[bytes]:
        with _translated("watching a job"):
            tokens = await self._client.subscribe(f"{self._prefix}.tokens.{word}")
            try:
                async for message in tokens.messages:
                    yield message.data
            finally:
                await tokens.unsubscribe()


def _whole(text: Any) -> int:
    """A count that somebody else may have written."""
    return int(text) if isinstance(text, str) and text.isdecimal() else 0


async def _noted(error: Exception) -> None:
    logging.getLogger(__name__).info("NATS: %r", error)
