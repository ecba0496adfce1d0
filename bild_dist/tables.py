"""Tables of a configuration file that only services read: `bild serve`, `bild consume`, metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bild_dist.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """What `bild serve` offers over HTTP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    """Where `bild consume` takes jobs from."""


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
