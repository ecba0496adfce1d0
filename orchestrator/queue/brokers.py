"""Which broker an address means. Its client library is imported when it is needed, not before."""

from __future__ import annotations

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
    broker = kind(config)
    try:
        if broker == "nats":
            from bild_dist.orchestrator.queue.nats import NatsSource

            return NatsSource(config)
        if broker == "rabbit":
            from bild_dist.orchestrator.queue.rabbit import RabbitSource

            return RabbitSource(config)
        from bild_dist.orchestrator.queue.redis import RedisSource

        return RedisSource(config)
    except ImportError as error:
        raise _missing(broker, error) from None


def job_desk(config: QueueConfig) -> JobDesk:
    """A producer's side, not yet opened. Raises ConfigError as `job_source` does."""
    broker = kind(config)
    try:
        if broker == "nats":
            from bild_dist.orchestrator.queue.nats import NatsDesk

            return NatsDesk(config)
        if broker == "rabbit":
            from bild_dist.orchestrator.queue.rabbit import RabbitDesk

            return RabbitDesk(config)
        from bild_dist.orchestrator.queue.redis import RedisDesk

        return RedisDesk(config)
    except ImportError as error:
        raise _missing(broker, error) from None


def _missing(broker: str, error: ImportError) -> ConfigError:
    return ConfigError(
        f'{_LIBRARIES[broker]} is not installed ({error}): pip install "bild-dist[queue]"'
    )
