"""Redis Streams: the same calls with weaker guarantees, since Redis itself gives no better ones.

Streams `PREFIX:jobs` (group `consumers`; fields `job` and `attempts`), `PREFIX:results:REPLY`,
`PREFIX:failed`, `PREFIX:unprocessable`; a sorted set `PREFIX:delayed` of jobs that are to come again;
keys `PREFIX:final:REPLY:JOB`, of which only the first attempt makes one; channels
`PREFIX:cancel:JOB` and `PREFIX:tokens:JOB`. Each change of several of them is one script, so a
consumer that is killed leaves them all as before or all as after.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from faststream import AckPolicy
from faststream.exceptions import FastStreamException
from faststream.redis import RedisBroker
from redis.exceptions import RedisError, ResponseError

from bild_dist.errors import BrokerUnavailable
from bild_dist.orchestrator.queue.job import DEFAULT_REPLY
from bild_dist.orchestrator.queue.source import (
    Answer,
    Delivery,
    OnCancel,
    Outcome,
    Settled,
    plain_url,
)
from bild_dist.tables import QueueConfig
from bild_dist.tasks import TaskSet

_CONNECT_S: Final = 5.0
_ANSWER_S: Final = 10.0
_GROUP: Final = "consumers"
_START: Final = "0-0"

_SETTLE: Final = """
local first, keep, now = 1, tonumber(ARGV[4]), redis.call('TIME')
if ARGV[2] ~= '' then
  if redis.call('SET', KEYS[2], ARGV[6], 'NX', 'PX', keep) then
    local oldest = math.max(0, now[1] * 1000 - keep)
    redis.call('XADD', KEYS[3], 'MINID', '~', string.format('%.0f', oldest), '*', 'result', ARGV[2])
    redis.call('PEXPIRE', KEYS[3], keep)
  else
    first = redis.call('GET', KEYS[2]) == ARGV[6] and 2 or 0
  end
end
if first == 1 and ARGV[3] ~= '' then
  redis.call('XADD', KEYS[4], '*', 'letter', ARGV[3])
end
redis.call('XACK', KEYS[1], ARGV[5], ARGV[1])
redis.call('XDEL', KEYS[1], ARGV[1])
return first
"""
"""2: this very result is there, since our word to the caller was lost. Keys: jobs, final, results,
dead. Values: entry, result, letter, ms to keep, group, the result's digest."""
_RENEW: Final = """
local held = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1)
if #held == 0 or held[1][2] ~= ARGV[3] then
  return 0
end
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, ARGV[2], 'JUSTID')
return 1
"""
"""Only an owner may renew: claiming what another holds would take it away from him. Keys: jobs.
Values: group, entry, consumer."""
_AGAIN: Final = """
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 1 then
  redis.call('XDEL', KEYS[1], ARGV[2])
  if ARGV[5] ~= '' then
    local now = redis.call('TIME')
    local due = now[1] + now[2] / 1000000 + tonumber(ARGV[5])
    redis.call('ZADD', KEYS[2], string.format('%.3f', due), ARGV[4] .. ':' .. ARGV[2] .. ':' .. ARGV[3])
  else
    redis.call('XADD', KEYS[1], '*', 'job', ARGV[3], 'attempts', ARGV[4])
  end
end
"""
"""The entry is in the member so that two jobs with one text are two members. Keys: jobs, delayed.
Values: group, entry, job, attempts, pause in seconds or nothing."""
_DUE: Final = """
local now = redis.call('TIME')
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now[1] + now[2] / 1000000, 'LIMIT', 0, 64)
for _, member in ipairs(due) do
  local attempts, job = string.match(member, '^(%d+):[^:]*:(.*)$')
  redis.call('XADD', KEYS[1], '*', 'job', job, 'attempts', attempts)
  redis.call('ZREM', KEYS[2], member)
end
"""
"""Keys: jobs, delayed."""


@dataclass(frozen=True, slots=True)
class _Handle:
    entry: str
    consumer: str


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except (RedisError, FastStreamException, OSError, TimeoutError) as error:
        _heed_cancellation()
        raise BrokerUnavailable(f"Redis failed while {doing}: {error!r}") from error
    _heed_cancellation()


def _heed_cancellation() -> None:
    """Raises the CancelledError that the client library swallows now and then, while it connects:
    the caller would go on for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class _Link:
    """A connection. Owned by whoever opens it."""

    def __init__(self, config: QueueConfig) -> None:
        self._config = config
        self._prefix = config.prefix
        self._jobs, self._delayed = self._key("jobs"), self._key("delayed")
        self._broker: RedisBroker
        self._redis: Any

    def _key(self, *parts: str) -> str:
        return ":".join((self._prefix, *parts))

    async def _connect(self) -> None:
        # Longer than the longest wait for a job: a frozen server is not to freeze us.
        self._broker = RedisBroker(
            self._config.url,
            ack_policy=AckPolicy.MANUAL,
            logger=None,  # type: ignore[arg-type]  # as for the other brokers: no log of its own
            socket_timeout=_ANSWER_S,
        )
        with _translated(f"connecting to {plain_url(self._config)}"):
            async with asyncio.timeout(_CONNECT_S):
                self._redis = await self._broker.connect()
                await self._grouped()
                await self._broker.start()

    async def _grouped(self) -> None:
        """Makes the group itself: the library would begin it at the stream's end, and skip what
        waits there already.
        """
        try:
            await self._redis.xgroup_create(self._jobs, _GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def close(self) -> None:
        # Whatever goes wrong with a connection that is given up is no news.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(3):
                await self._broker.stop()


class RedisSource(_Link):
    """A consumer's side."""

    longest_s: float | None = None

    def __init__(self, config: QueueConfig) -> None:
        super().__init__(config)
        self._name = ""
        self._cursor: bytes | str = _START
        self._tasks = TaskSet()

    async def open(self, places: int, on_cancel: OnCancel) -> None:
        # A new name each time: what an old connection held is claimed like anybody's.
        self._name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._cursor = _START
        await self._connect()
        self._tasks.start(self._heed(on_cancel))

    async def close(self) -> None:
        await self._tasks.close()
        await super().close()

    async def _heed(self, on_cancel: OnCancel) -> None:
        """Hears cancellations until closed; a lost connection is made anew."""
        start = len(self._key("cancel", ""))
        while True:
            with contextlib.suppress(RedisError, OSError):
                async with self._redis.pubsub() as channel:
                    await channel.psubscribe(self._key("cancel", "*"))
                    while True:
                        message = await channel.get_message(True, timeout=5.0)
                        _heed_cancellation()
                        if message is not None:
                            on_cancel(message["channel"].decode()[start:])
            _heed_cancellation()
            await asyncio.sleep(0.5)

    async def pull(self, timeout_s: float) -> Delivery | None:
        """The library's own reading is not used: it parses what it reads, and an entry that it
        cannot parse would end it again and again.
        """
        with _translated("pulling"):
            await self._redis.eval(_DUE, 2, self._jobs, self._delayed)
            # Jobs whose lease has run out go first: they have waited longest.
            lease_ms = round(self._config.lease_s * 1000)
            # The server looks at ten a call: from the start each time, it would never see those
            # behind ten that are being renewed.
            self._cursor, found, *_ = await self._redis.xautoclaim(
                self._jobs, _GROUP, self._name, lease_ms, start_id=self._cursor, count=1
            )
            if not found:
                found = _entries(
                    await self._redis.xreadgroup(
                        _GROUP, self._name, {self._jobs: ">"}, count=1, block=_ms(timeout_s)
                    )
                )  # fmt: skip
            if not found:
                return None
            entry, fields = found[0][0].decode(), found[0][1] or {}
            held = await self._redis.xpending_range(self._jobs, _GROUP, entry, entry, 1)
        count = held[0]["times_delivered"] if held else 1
        used = fields.get(b"attempts", b"0")
        return Delivery(
            body=fields.get(b"job", b""),
            attempt=count + (int(used) if used.isdigit() else 0),
            handle=_Handle(entry, self._name),
            message=entry,
        )

    async def cease(self) -> None:
        """Nothing: jobs come one at a time, and only when asked for."""

    async def renew(self, delivery: Delivery) -> bool:
        handle: _Handle = delivery.handle
        words = (_GROUP, handle.entry, handle.consumer)
        with _translated("renewing a lease"):
            return bool(await self._redis.eval(_RENEW, 1, self._jobs, *words))

    async def has_result(self, reply: str, word: str) -> bool:
        with _translated("looking for a result"):
            return bool(await self._redis.exists(self._key("final", reply, word)))

    async def settle(self, delivery: Delivery, outcome: Outcome) -> Settled:
        keep_ms = round(self._config.keep_s * 1000)
        keys = (
            self._jobs,
            self._key("final", outcome.reply, outcome.word),
            self._key("results", outcome.reply),
            self._key(outcome.dead or "failed"),
        )
        result = outcome.result or b""
        values = (
            delivery.handle.entry, result, outcome.letter if outcome.dead else b"",
            keep_ms, _GROUP, hashlib.sha256(result).hexdigest(),
        )  # fmt: skip
        with _translated("publishing a result"):
            first = await self._redis.eval(_SETTLE, len(keys), *keys, *values)
        return Settled.FIRST if first else Settled.LATE

    async def retry(self, delivery: Delivery, delay_s: float) -> None:
        await self._again(delivery, delivery.attempt, str(delay_s))

    async def give_back(self, delivery: Delivery) -> None:
        await self._again(delivery, delivery.attempt - 1, "")

    async def _again(self, delivery: Delivery, used: int, pause_s: str) -> None:
        values = (_GROUP, delivery.handle.entry, delivery.body, used, pause_s)
        with _translated("putting a job back"):
            await self._redis.eval(_AGAIN, 2, self._jobs, self._delayed, *values)

    async def drop(self, delivery: Delivery) -> None:
        await self.settle(delivery, Outcome())

    async def tell(self, word: str, body: bytes) -> None:
        with _translated("publishing tokens"):
            await self._redis.publish(self._key("tokens", word), body)

    async def backlog(self) -> int:
        with _translated("asking for the backlog"):
            for group in await self._redis.xinfo_groups(self._jobs):
                if group["name"] in (_GROUP, _GROUP.encode()):
                    return int(group.get("lag") or 0)
        raise BrokerUnavailable(f"Redis has no group {_GROUP!r} at {self._jobs!r} any more")


class RedisDesk(_Link):
    """A producer's side."""

    def __init__(self, config: QueueConfig) -> None:
        super().__init__(config)
        self._read: dict[str, str] = {}

    async def open(self) -> None:
        await self._connect()

    async def expect(self, reply: str) -> None:
        """Nothing: the first result makes it."""

    async def forget(self, reply: str) -> None:
        """Nothing: what is kept refuses a second result."""

    async def submit(self, word: str, body: bytes, reply: str = DEFAULT_REPLY) -> None:
        with _translated("submitting a job"):
            await self._redis.xadd(self._jobs, {"job": body})

    async def collect(self, reply: str, timeout_s: float) -> list[Answer]:
        """From the oldest result on: what an earlier run has taken is still there."""
        stream = {self._key("results", reply): self._read.get(reply, "0")}
        with _translated("collecting results"):
            found = _entries(await self._redis.xread(stream, count=256, block=_ms(timeout_s)))
        answers = []
        for entry, fields in found:
            self._read[reply] = entry.decode()
            answers.append(Answer(body=fields.get(b"result", b"")))
        return answers

    async def taken(self, answers: list[Answer]) -> None:
        """Nothing: the server keeps results for a time of its own."""

    async def cancel(self, word: str) -> None:
        with _translated("cancelling a job"):
            await self._redis.publish(self._key("cancel", word), b"")

    async def watch(self, word: str) -> AsyncIterator[bytes]:
        with _translated("watching a job"):
            async with self._redis.pubsub() as channel:
                await channel.subscribe(self._key("tokens", word))
                while True:
                    message = await channel.get_message(True, timeout=5.0)
                    _heed_cancellation()
                    if message is not None:
                        yield message["data"]


def _entries(found: Any) -> list[Any]:
    """The entries of the one stream that was read: the client gives pairs or a mapping, depending on
    the protocol that it speaks with the server.
    """
    if not found:
        return []
    if isinstance(found, dict):
        (streams,) = found.values()
        return list(streams[0]) if streams and isinstance(streams[0], list) else list(streams)
    return list(found[0][1])


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
