"""What tests of the queue share: a writer whose texts are known, and jobs for it."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

from bild_dist.errors import BildError, InvalidRequest, WorkerFault
from bild_dist.orchestrator.queue.brokers import job_desk, job_source
from bild_dist.orchestrator.queue.consumer import Consumer
from bild_dist.orchestrator.queue.source import Delivery, JobDesk, JobSource
from bild_dist.tables import QueueConfig
from bild_dist.types import FinishReason, Result, Source, TokenEvent

_NUMBERS = itertools.count()


class Text:
    """A text of `len(prompt)` tokens, one each `pause_s`; or an error after the first."""

    def __init__(self, prompt: str, pause_s: float, error: BildError | None) -> None:
        self._prompt, self._pause_s, self._error = prompt, pause_s, error
        self._position = 0

    def __aiter__(self) -> AsyncIterator[TokenEvent]:
        return self

    async def __anext__(self) -> TokenEvent:
        if self._position == len(self._prompt):
            raise StopAsyncIteration
        await asyncio.sleep(self._pause_s)
        if self._error is not None:
            raise self._error
        letter = self._prompt[self._position]
        self._position += 1
        return TokenEvent(
            position=self._position - 1, token=ord(letter), text=letter, source=Source.SMALL,
            confidence=1.0, distance=None,
        )  # fmt: skip

    async def result(self) -> Result:
        return Result(
            text=self._prompt, tokens=tuple(map(ord, self._prompt)),
            sources=(Source.SMALL,) * len(self._prompt), finish_reason=FinishReason.EOS,
        )  # fmt: skip

    async def aclose(self) -> None:
        """Nothing is held."""


class Echo:
    """Writes the prompt itself. One that begins with "fail" or "bad" never ends well."""

    def __init__(self, pause_s: float = 0.0) -> None:
        self.pause_s = pause_s
        self.begun: list[str] = []
        self.options: list[dict[str, Any]] = []
        self.lost = False
        self.most = self.now = 0

    def stream(self, prompt: Any, **options: Any) -> Text:
        self.begun.append(prompt)
        self.options.append(options)
        error: BildError | None = None
        if prompt.startswith("fail"):
            error = WorkerFault("it always fails")
        if prompt.startswith("bad"):
            error = InvalidRequest("never")
        return Text(prompt, self.pause_s, error)


def settings(url: str, **values: Any) -> QueueConfig:
    """A queue that no other test has."""
    given = {"prefix": f"t{next(_NUMBERS)}", "lease_s": 2.0, "retry_s": 0.1, "drain_s": 5.0}
    return QueueConfig(url=url, **{**given, **values})


def body(name: str, prompt: str = "abc", **options: Any) -> bytes:
    return json.dumps({"id": name, "prompt": prompt, **options}).encode()


@asynccontextmanager
async def desk_of(config: QueueConfig) -> AsyncIterator[JobDesk]:
    desk = job_desk(config)
    await desk.open()
    try:
        yield desk
    finally:
        await desk.close()


class Running:
    """A consumer in this process, as an async context; leaving it drains."""

    def __init__(self, config: QueueConfig, writer: Echo, places: int = 1) -> None:
        self.consumer = Consumer(job_source(config), writer, config, places)
        self._task: asyncio.Task[bool] | None = None
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._task = self._group.create_task(self.consumer.run())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.consumer.drain()
        await self._group.__aexit__(None, None, None)

    async def stopped(self) -> bool:
        """Waits for the end; whether it was clean."""
        assert self._task is not None
        return await self._task


async def results(desk: JobDesk, count: int, reply: str = "default") -> list[dict[str, Any]]:
    """The next so many results, and whatever else came with them."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            answers = await desk.collect(reply, 1.0)
            await desk.taken(answers)
            found += [json.loads(answer.body) for answer in answers]
    return found


async def dead(config: QueueConfig, name: str) -> list[dict[str, Any]]:
    """The dead letters of a queue, each broker asked in its own words."""
    if config.url.startswith("nats"):
        import nats

        client = await nats.connect(config.url)
        try:
            stream = await client.jetstream().pull_subscribe(f"{config.prefix}.{name}")
            with_data = await _fetched(stream)
        finally:
            await client.close()
    elif config.url.startswith("amqp"):
        import aio_pika

        async with await aio_pika.connect(config.url) as connection:
            channel = await connection.channel()
            queue = await channel.get_queue(f"{config.prefix}.{name}")
            with_data = []
            while (message := await queue.get(no_ack=True, fail=False)) is not None:
                with_data.append(message.body)
    else:
        import redis.asyncio

        async with redis.asyncio.from_url(config.url) as server:
            entries: Any = await server.xrange(f"{config.prefix}:{name}")
            with_data = [fields[b"letter"] for _, fields in entries]
    return [json.loads(data) for data in with_data]


async def _fetched(stream: Any) -> list[bytes]:
    import nats.errors

    try:
        return [message.data for message in await stream.fetch(100, timeout=1)]
    except nats.errors.TimeoutError:
        return []


async def delete_consumer(config: QueueConfig) -> None:
    """What an operator may do by mistake while a consumer runs."""
    if config.url.startswith("nats"):
        import nats

        client = await nats.connect(config.url)
        await client.jetstream().delete_consumer(f"{config.prefix}-jobs", "consumers")
        await client.close()
    elif config.url.startswith("amqp"):
        import aio_pika

        async with await aio_pika.connect(config.url) as connection:
            await (await connection.channel()).queue_delete(f"{config.prefix}.jobs")
    else:
        import redis.asyncio

        async with redis.asyncio.from_url(config.url) as server:
            await server.xgroup_destroy(f"{config.prefix}:jobs", "consumers")


def unheard(word: str) -> None:
    raise AssertionError(f"nobody cancelled {word}")


async def opened(config: QueueConfig, places: int = 1) -> JobSource:
    source = job_source(config)
    await source.open(places, unheard)
    return source


async def pulled(source: JobSource) -> Delivery:
    async with asyncio.timeout(20):
        while True:
            delivery = await source.pull(0.5)
            if delivery is not None:
                return delivery
