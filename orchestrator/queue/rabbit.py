"""RabbitMQ: quorum queues, and a lost connection hands its jobs to the next consumer at once.

Queues `PREFIX.jobs`, `PREFIX.results.REPLY`, `PREFIX.failed`, `PREFIX.unprocessable`, and one
`PREFIX.retry.MILLISECONDS` for each pause, from which jobs fall back into `PREFIX.jobs`; topic
exchanges `PREFIX.cancel` and `PREFIX.tokens` with the job as routing key. A result is published on
the channel that delivered the job: when the broker has taken the job away that channel is closed,
so a consumer that was frozen meanwhile cannot publish a second one.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Final

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from aiormq.exceptions import AMQPError, ChannelClosed, ChannelInvalidStateError, DeliveryError
from aiormq.exceptions import PublishError as Unroutable
from faststream import AckPolicy
from faststream.exceptions import FastStreamException
from faststream.rabbit import Channel, RabbitBroker, RabbitMessage, RabbitQueue
from faststream.rabbit.schemas.queue import QueueType
from pamqp.commands import Basic

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
    pause_s,
    plain_url,
)
from bild_dist.tables import QueueConfig

_CONNECT_S: Final = 8.0
_ANSWER_S: Final = 10.0
_BASE: Final = "bild-attempts"
"""Header: how often a job had been begun when it was put on the queue."""
_LIMIT: Final = 1000
"""Deliveries after which the broker itself gives a job up. We count too, and far lower: this is for
a job that ends its consumer before that one can count."""
_GATHER: Final = 256
_LARGEST: Final = 16 * 2**20
"""Bytes of a result or dead letter: `max_message_size` as the newest releases have it. The broker does
not say its own, and closes the channel over a larger message, with all jobs that came by it."""
_TOO_LARGE: Final = re.compile(r"message size \d+ is larger than .*?max size (\d+)")


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except (AMQPError, FastStreamException, OSError, TimeoutError, RuntimeError) as error:
        # RuntimeError is the driver's for a connection that was closed meanwhile.
        raise BrokerUnavailable(f"RabbitMQ failed while {doing}: {error!r}") from error


class _Link:
    """A connection, and the queues on it. Owned by whoever opens it."""

    def __init__(self, config: QueueConfig) -> None:
        self._config = config
        self._prefix = config.prefix
        self._broker: RabbitBroker
        self._connection: aio_pika.RobustConnection
        self._side: aio_pika.abc.AbstractChannel

    async def _connect(self) -> None:
        self._broker = RabbitBroker(
            self._config.url,
            ack_policy=AckPolicy.MANUAL,
            logger=None,
            reconnect_interval=0.5,
            decoder=_undecoded,
            default_channel=Channel(on_return_raises=True),
        )
        with _translated(f"connecting to {plain_url(self._config)}"):
            async with asyncio.timeout(_CONNECT_S):
                self._connection = await self._broker.connect()
                for name in (FAILED, UNPROCESSABLE, f"results.{DEFAULT_REPLY}"):
                    await self._queue(name)
                # What falls out of it by the broker's own limit is a dead letter.
                jobs = {"x-delivery-limit": _LIMIT, **self._falls_into(FAILED)}
                await self._queue("jobs", **jobs)
                # Tokens and cancellations: nobody waits until they are stored.
                self._side = await self._connection.channel(publisher_confirms=False)
                for name in ("cancel", "tokens"):
                    await self._exchange(name)

    async def close(self) -> None:
        # Whatever goes wrong with a connection that is given up is no news.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(3):
                await self._broker.stop()

    def _falls_into(self, name: str) -> dict[str, Any]:
        return {
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": f"{self._prefix}.{name}",
            # The default may lose a message on its way between two queues.
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }

    async def _queue(self, name: str, **arguments: Any) -> RabbitQueue:
        """Declares a quorum queue unless it is there."""
        if self._config.replicas > 1:
            arguments["x-quorum-initial-group-size"] = self._config.replicas
        queue: RabbitQueue = RabbitQueue(
            f"{self._prefix}.{name}",
            queue_type=QueueType.QUORUM,
            durable=True,
            arguments=arguments,  # type: ignore[call-overload]  # its types lack some of the keys
        )
        await self._broker.declare_queue(queue)
        return queue

    async def _exchange(self, name: str) -> aio_pika.abc.AbstractExchange:
        kind = aio_pika.ExchangeType.TOPIC
        return await self._side.declare_exchange(f"{self._prefix}.{name}", kind, durable=True)

    async def _send(self, exchange: str, word: str, body: bytes) -> None:
        target = await self._side.get_exchange(f"{self._prefix}.{exchange}", ensure=False)
        await target.publish(aio_pika.Message(body), word, mandatory=False, timeout=_ANSWER_S)

    async def _listen(self, exchange: str, key: str) -> aio_pika.abc.AbstractQueue:
        queue = await self._side.declare_queue(exclusive=True, auto_delete=True)
        await queue.bind(f"{self._prefix}.{exchange}", key)
        return queue


class RabbitSource(_Link):
    """A consumer's side. The broker holds back what exceeds the free places: it hands over one job
    more only when one has gone.
    """

    def __init__(self, config: QueueConfig) -> None:
        super().__init__(config)
        self.longest_s: float | None = config.consumer_timeout_s
        self._inbox: asyncio.Queue[RabbitMessage] = asyncio.Queue()
        self._largest = _LARGEST

    async def open(self, places: int, on_cancel: OnCancel) -> None:
        # What the old connection had handed over went back with it.
        self._inbox = asyncio.Queue()
        await self._connect()
        inbox = self._inbox

        async def take(message: RabbitMessage) -> None:
            inbox.put_nowait(message)

        async def cancelled(message: AbstractIncomingMessage) -> None:
            on_cancel(message.routing_key or "")

        with _translated("subscribing"):
            async with asyncio.timeout(_CONNECT_S):
                for attempt in range(1, self._config.attempts):
                    await self._retry_queue(pause_s(self._config, attempt))
                jobs = RabbitQueue(f"{self._prefix}.jobs", durable=True, declare=False)
                channel = Channel(prefetch_count=places, on_return_raises=True)
                self._jobs = self._broker.subscriber(jobs, channel=channel, no_reply=True)
                self._jobs(take)
                await self._broker.start()
                await (await self._listen("cancel", "#")).consume(cancelled, no_ack=True)

    async def pull(self, timeout_s: float) -> Delivery | None:
        message = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                message = await self._inbox.get()
        if message is None or self._void(message):
            return None
        return self._delivery(message)

    def _delivery(self, message: RabbitMessage) -> Delivery:
        headers = message.raw_message.headers
        base, again = _whole(headers.get(_BASE)), _whole(headers.get("x-delivery-count"))
        return Delivery(body=message.body, attempt=base + again + 1, handle=message)

    async def cease(self) -> None:
        """The broker would hand over what is given back, and count that as an attempt."""
        with _translated("ceasing to consume"):
            async with asyncio.timeout(_ANSWER_S):
                await self._jobs.stop()
        while not self._inbox.empty():
            message = self._inbox.get_nowait()
            if not self._void(message):
                await self.give_back(self._delivery(message))

    async def renew(self, delivery: Delivery) -> bool:
        return not self._void(delivery.handle)

    async def has_result(self, reply: str, word: str) -> bool:
        return False

    async def settle(self, delivery: Delivery, outcome: Outcome) -> Settled:
        message: RabbitMessage = delivery.handle
        for body in (outcome.letter, outcome.result or b""):
            self._sized(body)
        with self._fenced(message, "publishing a result") as fence:
            if outcome.dead is not None:
                await self._confirmed(message, outcome.dead, outcome.letter, outcome.word)
            if outcome.result is not None:
                name = f"results.{outcome.reply}"
                try:
                    await self._confirmed(message, name, outcome.result, outcome.word)
                except Unroutable:
                    # Nobody has made, or somebody has deleted, the queue it asked for.
                    name = f"results.{DEFAULT_REPLY}"
                    await self._confirmed(message, name, outcome.result, outcome.word)
            await message.ack()
        return Settled.VOID if fence else Settled.FIRST

    async def retry(self, delivery: Delivery, delay_s: float) -> None:
        message: RabbitMessage = delivery.handle
        with self._fenced(message, "putting a job off"):
            name = await self._retry_queue(delay_s)
            await self._confirmed(message, name, delivery.body, used=delivery.attempt)
            await message.ack()

    async def give_back(self, delivery: Delivery) -> None:
        """Put on the queue anew: whether a refusal counts as an attempt depends on the release."""
        message: RabbitMessage = delivery.handle
        with self._fenced(message, "giving a job back"):
            await self._confirmed(message, "jobs", delivery.body, used=delivery.attempt - 1)
            await message.ack()

    async def drop(self, delivery: Delivery) -> None:
        with self._fenced(delivery.handle, "dropping a job"):
            await delivery.handle.ack()

    async def tell(self, word: str, body: bytes) -> None:
        with _translated("publishing tokens"):
            await self._send("tokens", word, body)

    async def backlog(self) -> int:
        with _translated("asking for the backlog"):
            # On a channel of its own: a queue that has gone would close the one it is asked on.
            async with (
                asyncio.timeout(_ANSWER_S),
                self._connection.channel(publisher_confirms=False) as channel,
            ):
                queue = await channel.declare_queue(f"{self._prefix}.jobs", passive=True)
                return queue.declaration_result.message_count or 0

    async def _retry_queue(self, delay_s: float) -> str:
        milliseconds = max(1, round(delay_s * 1000))
        name = f"retry.{milliseconds}"
        await self._queue(name, **{"x-message-ttl": milliseconds, **self._falls_into("jobs")})
        return name

    async def _confirmed(
        self, message: RabbitMessage, name: str, body: bytes, word: str = "", used: int = 0
    ) -> None:
        """Publishes on the channel that delivered a job and waits until the queue has it.

        Raises:
            InvalidRequest: it is larger than the broker takes. The channel has gone with it, and its
                jobs come again; from then on we know the limit as well.
        """
        properties = Basic.Properties(
            delivery_mode=2, content_type="application/json", message_id=word or None,
            headers={_BASE: str(used)} if used else None,
        )  # fmt: skip
        try:
            await message.raw_message.channel.basic_publish(
                body, routing_key=f"{self._prefix}.{name}", properties=properties, mandatory=True,
                timeout=_ANSWER_S,
            )  # fmt: skip
        except ChannelClosed as error:
            # Whoever published meanwhile hears the same: whose message it was, its size tells.
            if limit := _TOO_LARGE.search(str(error)):
                self._largest = min(self._largest, int(limit[1]))
                self._sized(body)
            raise

    def _sized(self, body: bytes) -> None:
        if len(body) > self._largest:
            raise InvalidRequest(
                f"RabbitMQ cannot take {len(body)} bytes: its max_message_size is {self._largest}"
            )

    @contextmanager
    def _fenced(self, message: RabbitMessage, doing: str) -> Iterator[list[bool]]:
        """Gives a list that is filled when the delivery turns out to count no more."""
        fence: list[bool] = []
        try:
            with _translated(doing):
                yield fence
        except BrokerUnavailable as error:
            refused = isinstance(error.__cause__, DeliveryError)
            if refused or not self._void(message):
                raise
            fence.append(True)

    def _void(self, message: RabbitMessage) -> bool:
        try:
            return bool(message.raw_message.channel.is_closed)
        except ChannelInvalidStateError:
            return True


class RabbitDesk(_Link):
    """A producer's side."""

    def __init__(self, config: QueueConfig) -> None:
        super().__init__(config)
        self._replies: dict[str, aio_pika.abc.AbstractQueue] = {}

    async def open(self) -> None:
        self._replies.clear()
        await self._connect()

    async def expect(self, reply: str) -> None:
        with _translated("declaring a queue"):
            if reply not in self._replies:
                queue = await self._queue(f"results.{reply}")
                self._replies[reply] = await self._broker.declare_queue(queue)

    async def forget(self, reply: str) -> None:
        with _translated("deleting a queue"):
            self._replies.pop(reply, None)
            channel = await self._connection.channel()
            await channel.queue_delete(f"{self._prefix}.results.{reply}")
            await channel.close()

    async def submit(self, word: str, body: bytes, reply: str = DEFAULT_REPLY) -> None:
        with _translated("submitting a job"):
            await self._broker.publish(
                body, f"{self._prefix}.jobs", persist=True, message_id=word, timeout=_ANSWER_S
            )

    async def collect(self, reply: str, timeout_s: float) -> list[Answer]:
        """Takes results off their queue; `taken` removes them for good."""
        answers: list[Answer] = []
        await self.expect(reply)
        with _translated("collecting results"):
            ends = asyncio.get_running_loop().time() + timeout_s
            while len(answers) < _GATHER:
                message = await self._replies[reply].get(fail=False, timeout=_ANSWER_S)
                if message is not None:
                    answers.append(Answer(body=message.body, handle=message))
                elif answers or asyncio.get_running_loop().time() >= ends:
                    break
                else:
                    await asyncio.sleep(0.1)
        return answers

    async def taken(self, answers: list[Answer]) -> None:
        with _translated("taking results"):
            for answer in answers:
                await answer.handle.ack()

    async def cancel(self, word: str) -> None:
        with _translated("cancelling a job"):
            await self._send("cancel", word, b"")

    async def watch(self, word: str) -> AsyncIterator[bytes]:
        with _translated("watching a job"):
            queue = await self._listen("tokens", word)
            async with queue.iterator(no_ack=True) as messages:
                async for message in messages:
                    yield message.body


def _whole(value: Any) -> int:
    """A count that somebody else may have written."""
    text = str(value)
    return int(text) if text.isdecimal() else 0


async def _undecoded(message: RabbitMessage) -> bytes:
    """The body as it is: one that is no JSON must reach the consumer, which keeps it as a dead
    letter, and not end in the library, where nobody would ever acknowledge it.
    """
    return message.body
