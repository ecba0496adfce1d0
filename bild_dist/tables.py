"""Tables of a configuration file that only services read: `bild serve`, `bild consume`, metrics."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite

from bild_dist.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """What `bild serve` offers over HTTP. Raises ConfigError when a value is out of its range."""

    host: str = "127.0.0.1"
    """Address to listen on. Any but this host's own needs keys."""
    port: int = 8000
    """0 lets the system choose."""
    name: str = "bild"
    """What requests call the pair (`model`), beside `small` and `large` for one model alone."""
    concurrency: int = 8
    """Texts that are written at once, from 1 to the workers' slots. In place of [orchestrator]
    concurrency, which is for files.
    """
    queue: int = 16
    """Texts that may wait for their turn, from 0; what comes beyond is refused at once (429)."""
    deadline: float = 600.0
    """Seconds that a request has at most, from when its body is there (504); it may ask for fewer."""
    body_limit: int = 1024 * 1024
    """Bytes of a request's body, at most (413). A prompt is tokenised in one go, so this bounds for
    how long others wait: about a third of a second for each million.
    """
    stall: float = 30.0
    """Seconds that a client may take to send its body (408), or take nothing of a stream (it is
    dropped)."""
    drain: float = 30.0
    """Seconds that requests under way may take to end once the server is told to stop, from 0."""
    keys_env: str = "BILD_API_KEYS"
    """Environment variable with the API keys, parted by commas."""
    keys_file: str = ""
    """File with one API key a line, beside or in place of the variable."""

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("queue", 0), ("body_limit", 1024), ("port", 0)):
            at_least(self, name, least)
        if self.port > 65535:
            raise ConfigError(f"port = {self.port} must be at most 65535")
        for name in ("deadline", "stall", "drain"):
            value = getattr(self, name)
            good = isinstance(value, int | float) and not isinstance(value, bool)
            if not (good and 0 <= value < inf and (value > 0 or name == "drain")):
                raise ConfigError(f"{name} = {value!r} must be a number of seconds above 0")
        for name in ("host", "name", "keys_env", "keys_file"):
            if not isinstance(getattr(self, name), str):
                raise ConfigError(f"{name} = {getattr(self, name)!r} must be a string")
        if not self.host or not self.name:
            raise ConfigError(f"{'name' if self.host else 'host'} = '' must not be empty")


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
    """What is told about the work: metrics, traces, logs. Prompts and texts are in none of them."""

    metrics: str = ""
    """HOST:PORT of a page for Prometheus, empty for none; port 0 lets the system choose. The page is
    plain, read-only and open to whoever reaches the address: keep it on 127.0.0.1, or on a network of
    your own. (`bild serve` has its page beside its API, without this.) A worker's own page is `metrics`
    of [small] and [large].
    """
    traces: str = ""
    """Where spans are sent, an OTLP endpoint over HTTP (http://HOST:4318/v1/traces); empty leaves it to
    OpenTelemetry's own variables, such as OTEL_EXPORTER_OTLP_ENDPOINT. Holds for the workers too. Takes
    the extra `otel`.
    """
    log: str = ""
    """json or console. Empty: services write JSON where no terminal is attached, commands lines for people."""
    level: str = ""
    """debug, info, warning or error. Empty: info for services, warning for commands. BILD_LOG has the last word."""

    def __post_init__(self) -> None:
        if self.metrics:
            host_and_port("metrics", self.metrics)
        endpoint("traces", self.traces)
        one_of("log", self.log, ("", "json", "console"))
        one_of("level", self.level, ("", "debug", "info", "warning", "error"))


def host_and_port(name: str, value: str) -> tuple[str, int]:
    """The two halves of HOST:PORT; an IPv6 address stands in brackets. Raises ConfigError."""
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"{name} = {value!r} must be HOST:PORT, such as 127.0.0.1:9464")
    return host.removeprefix("[").removesuffix("]"), int(port)


def endpoint(name: str, value: str) -> None:
    """Raises ConfigError where a field is neither empty nor an address over HTTP."""
    if value and not value.startswith(("http://", "https://")):
        raise ConfigError(
            f"{name} = {value!r} must begin with http:// or https://, such as http://127.0.0.1:4318/v1/traces"
        )


def one_of(name: str, value: str, known: Sequence[str]) -> None:
    """Raises ConfigError where a field is none of the known words."""
    if value not in known:
        words = ", ".join(word for word in known if word)
        raise ConfigError(f"{name} = {value!r} must be one of {words}")


def at_least(config: object, name: str, least: int) -> None:
    """Raises ConfigError where a field is no whole number or a smaller one."""
    value = getattr(config, name)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} = {value!r} must be a whole number of at least {least}")


def _seconds(config: object, name: str, *, above: bool) -> None:
    value = getattr(config, name)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not isfinite(value) or value < 0 or (above and value == 0):
        what = "above 0" if above else "of at least 0"
        raise ConfigError(f"{name} = {value!r} must be a number of seconds {what}")
