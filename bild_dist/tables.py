"""Tables of a configuration file that only services read: `bild serve`, `bild consume`, metrics."""

from __future__ import annotations

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
    """What is told about the work: metrics, traces, logs."""


def at_least(config: object, name: str, least: int) -> None:
    """Raises ConfigError where a field is no whole number or a smaller one."""
    value = getattr(config, name)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} = {value!r} must be a whole number of at least {least}")
