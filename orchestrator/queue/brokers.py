"""Which broker an address means. Its client library is imported when it is needed, not before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from bild_dist.errors import ConfigError
from bild_dist.orchestrator.queue.source import JobDesk, JobSource
from bild_dist.tables import QueueConfig

_LIBRARIES: Final = {
    "nats": "faststream[nats]",
    "rabbit": "faststream[rabbit]",
    "redis": "faststream[redis]",
}
_SCHEMES: Final = {
    "nats": "nats", "tls": "nats", "amqp": "rabbit", "amqps": "rabbit", "redis": "redis", "rediss": "redis",
}  # fmt: skip

WEAKER: Final = (
    "Redis Streams give weaker guarantees than NATS or RabbitMQ: with its usual settings the last second "
    "of writes is lost when the host fails, and acknowledged ones when a replica takes over (docs/queue.md)"
)


def kind(config: QueueConfig) -> str:
    """nats, rabbit or redis."""
    return _SCHEMES[urlsplit(config.url).scheme]


def job_source(config: QueueConfig) -> JobSource:
    """A consumer's side, not yet opened.

    Raises:
        ConfigError: the client library is not installed.
    """
    source, _ = _sides(kind(config))
    return source(config)


def job_desk(config: QueueConfig) -> JobDesk:
    """A producer's side, not yet opened. Raises ConfigError as `job_source` does."""
    _, desk = _sides(kind(config))
    return desk(config)


def _sides(
    broker: str,
) -> tuple[Callable[[QueueConfig], JobSource], Callable[[QueueConfig], JobDesk]]:
    try:
        if broker == "nats":
            from bild_dist.orchestrator.queue.nats import NatsDesk, NatsSource

            return NatsSource, NatsDesk
        if broker == "rabbit":
            from bild_dist.orchestrator.queue.rabbit import RabbitDesk, RabbitSource

            return RabbitSource, RabbitDesk
        from bild_dist.orchestrator.queue.redis import RedisDesk, RedisSource
    except ImportError as error:
        raise _missing(broker, error) from None
    return RedisSource, RedisDesk


def _missing(broker: str, error: ImportError) -> ConfigError:
    return ConfigError(
        f'{_LIBRARIES[broker]} is not installed ({error}): pip install "bild-dist[queue]"'
    )
