"""Tables of a configuration file that only services read: `bild serve`, `bild consume`, metrics."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from bild_dist.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """What `bild serve` offers over HTTP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    """Where `bild consume` takes jobs from, and how it treats them."""

    url: str = "nats://127.0.0.1:4222"
    """The broker: nats://HOST:PORT (JetStream), amqp://HOST:PORT (RabbitMQ) or redis://HOST:PORT
    (Redis Streams: weaker guarantees, see docs/queue.md). amqps, rediss and tls work too."""
    prefix: str = "bild"
    """First word of every name on the broker; two prefixes are two queues. Letters, digits, - and _."""
    lease_s: float = 30.0
    """Seconds after which a job whose consumer was not heard of goes to another; renewed every third
    of it. RabbitMQ needs none: it sees the connection end."""
    attempts: int = 5
    """How often a job may be begun before it goes to the queue `failed`, from 1."""
    retry_s: float = 1.0
    """Seconds before a job that failed is begun again; doubles with every attempt."""
    retry_most_s: float = 60.0
    """The longest such pause."""
    drain_s: float = 25.0
    """Seconds that jobs under way may take to end once the consumer is told to stop; after that they
    go back to the queue. Stay below the grace period of whoever stops it (Kubernetes: 30)."""
    stall_s: float = 60.0
    """The connection is made anew when jobs wait and none has come for so many seconds."""
    tokens: bool = True
    """Publish each job's tokens while they are written, at most 20 messages a second."""
    keep_s: float = 604_800.0
    """How long NATS and Redis keep results, and so refuse a second one for the same job: a week."""
    consumer_timeout_s: float = 1800.0
    """RabbitMQ's own setting of that name: a job that takes longer is taken from its consumer, so a
    longer deadline is refused and a job without one gets this as its own."""
    replicas: int = 1
    """Servers of a NATS or RabbitMQ cluster that hold each queue, from 1; 3 outlive the loss of one."""

    def __post_init__(self) -> None:
        if re.match(r"(nats|tls|amqps?|rediss?)://[^/]", self.url) is None:
            raise ConfigError(
                "url must begin with nats://, amqp:// or redis:// and name a host "
                "(amqps, rediss and tls for encrypted connections)"
            )
        if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", self.prefix) is None:
            raise ConfigError(f"prefix = {self.prefix!r} must be 1 to 64 letters, digits, - or _")
        at_least(self, "attempts", 1)
        at_least(self, "replicas", 1)
        for name in (
            "lease_s", "retry_s", "retry_most_s", "stall_s", "keep_s", "consumer_timeout_s",
        ):  # fmt: skip
            _seconds(self, name, above=True)
        _seconds(self, "drain_s", above=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryConfig:
    """What is told about the work: metrics, traces, logs."""


def at_least(config: object, name: str, least: int) -> None:
    """Raises ConfigError where a field is no whole number or a smaller one."""
    value = getattr(config, name)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} = {value!r} must be a whole number of at least {least}")


def _seconds(config: object, name: str, *, above: bool) -> None:
    value = getattr(config, name)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0 or (above and value == 0):
        what = "above 0" if above else "of at least 0"
        raise ConfigError(f"{name} = {value!r} must be a number of seconds {what}")
