"""What the consumer needs of a broker, and what a producer does: the two seams of the queue.

Each broker has one adapter that carries out both. All calls raise BrokerUnavailable when the broker
is out of reach; everything else that a driver raises is translated to it in the adapter.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol, TypeAlias
from urllib.parse import urlsplit

from bild_dist.orchestrator.queue.job import DEFAULT_REPLY
from bild_dist.tables import QueueConfig

FAILED: Final = "failed"
"""Dead letters of jobs that were begun as often as they may be."""
UNPROCESSABLE: Final = "unprocessable"
"""Dead letters of what is no job, or one that can never be carried out."""

OnCancel: TypeAlias = Callable[[str], None]
"""Told the word (`job.word`) of each job that somebody wants to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One handing-over of a job by the broker, to be settled, retried or given back."""

    body: bytes
    attempt: int
    """How often the job has been begun, with this time: from 1."""
    handle: Any
    """The adapter's own."""
    message: object = None
    """The same for all deliveries of one message on the queue, where the broker tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a job ended for good: what is published, all of it confirmed, before the job goes."""

    word: str = ""
    reply: str = ""
    result: bytes | None = None
    """None where nobody can be told: the job had no id."""
    dead: str | None = None
    """FAILED or UNPROCESSABLE where a dead letter is kept."""
    letter: bytes = b""


class Settled(Enum):
    """What became of an outcome."""

    FIRST = "first"
    """It is the job's one final result."""
    LATE = "late"
    """Another attempt's result was first; this one was dropped, and the job has gone."""
    VOID = "void"
    """The delivery counts no more: the broker has handed, or will hand, the job over anew."""


def plain_url(config: QueueConfig) -> str:
    """The address without its password, for people to see."""
    parts = urlsplit(config.url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def pause_s(config: QueueConfig, attempt: int) -> float:
    """Seconds before a job is begun again after so many attempts."""
    return float(min(config.retry_s * 2.0 ** min(attempt - 1, 64), config.retry_most_s))


class JobSource(Protocol):
    """A consumer's side of a broker. Owned by one consumer, on one event loop."""

    longest_s: float | None
    """Seconds after which the broker takes a job away, whatever its consumer says."""

    async def open(self, places: int, on_cancel: OnCancel) -> None:
        """Connects, and declares what is missing. `places`: jobs that may be held at once."""

    async def close(self) -> None:
        """Disconnects. What was not settled is handed over again by the broker."""

    async def pull(self, timeout_s: float) -> Delivery | None:
        """The next job, or None when none came in time. Asked only when there is a free place."""

    async def cease(self) -> None:
        """No more jobs are wanted. Those that were handed over unasked go back."""

    async def renew(self, delivery: Delivery) -> bool:
        """Says that the job is being worked on. False: it is no longer ours."""

    async def has_result(self, reply: str, word: str) -> bool:
        """Whether the job has its final result already. Brokers that cannot tell say False."""

    async def settle(self, delivery: Delivery, outcome: Outcome) -> Settled:
        """Publishes how the job ended, waits until the broker has it, and then takes the job away.
        May be repeated.
        """

    async def retry(self, delivery: Delivery, delay_s: float) -> None:
        """The attempt failed: the job comes again after a pause, its attempts one more."""

    async def give_back(self, delivery: Delivery) -> None:
        """The attempt was not carried out: the job comes again, its attempts as they were."""

    async def drop(self, delivery: Delivery) -> None:
        """Takes a job away that has its result already."""

    async def tell(self, word: str, body: bytes) -> None:
        """Publishes a part of a token stream, at most once."""

    async def backlog(self) -> int:
        """Jobs that wait and that nobody holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One final result, as a collector takes it from the broker."""

    body: bytes
    handle: Any = None


class JobDesk(Protocol):
    """A producer's side of a broker. Owned by one task."""

    async def open(self) -> None:
        """Connects, and declares what is missing."""

    async def close(self) -> None:
        """Disconnects."""

    async def expect(self, reply: str) -> None:
        """Makes the place where results are kept for this producer, before its first job."""

    async def forget(self, reply: str) -> None:
        """Removes that place: all its results are safe, and what is left there are duplicates."""

    async def submit(self, word: str, body: bytes, reply: str = DEFAULT_REPLY) -> None:
        """Puts a job on the queue and waits until the broker has it. `word` and `reply` together
        name it: what is submitted again within minutes is one job, where the broker can tell.
        """

    async def collect(self, reply: str, timeout_s: float) -> list[Answer]:
        """Further results, at least once each; empty when none came in time."""

    async def taken(self, answers: list[Answer]) -> None:
        """These results are safe; the broker may forget them."""

    async def cancel(self, word: str) -> None:
        """Asks all consumers to end a job. One that has not been begun is cancelled when it is, if
        a consumer that heard this gets it.
        """

    def watch(self, word: str) -> AsyncIterator[bytes]:
        """A job's token stream from now on."""
