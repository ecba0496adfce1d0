"""Every error this project raises on purpose, and what each front end makes of it.

    BildError
    ├── InvalidRequest         the caller asked for something that cannot be done
    ├── Overloaded             no room now
    ├── DeadlineExceeded       the request's own time is up
    ├── ProtocolError          never raised itself: it does not say whose fault it is
    │   ├── LocalProtocolError     we broke the rules of the machine or the wire
    │   └── RemoteProtocolError    the peer did
    ├── WorkerUnavailable      the process is gone, frozen, or was never there
    ├── WorkerFault            the device failed (CUDA error, out of memory)
    ├── BrokerUnavailable      the message broker is gone or out of reach
    └── ConfigError            the operator has to change something before start

An error crosses the wire as its class name and its message, and is born again there by `revive`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


class BildError(Exception):
    """Base of the tree. `str(error)` is one plain sentence with the remedy in it."""


class InvalidRequest(BildError):
    """The caller's request cannot be carried out, now or later."""


class Overloaded(BildError):
    """There is no room for the request at the moment."""


class DeadlineExceeded(BildError):
    """The request did not end within the time that it was given."""


class ProtocolError(BildError):
    """Base of the two protocol errors. Not raised itself: each knows whose fault it is."""

    def __init__(self, *args: object) -> None:
        if type(self) is ProtocolError:
            raise TypeError("raise LocalProtocolError or RemoteProtocolError")
        super().__init__(*args)


class LocalProtocolError(ProtocolError):
    """Our side broke the rules: a bug here."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the rules: a bug there, or a peer of another kind or version."""


class WorkerUnavailable(BildError):
    """The worker process is dead, frozen or out of reach."""


class WorkerFault(BildError):
    """The worker's device failed. The worker process ends with a non-zero exit code."""


class BrokerUnavailable(BildError):
    """The message broker does not answer, or has closed the connection."""


class ConfigError(BildError):
    """What the operator configured does not fit together. Exit code 2."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the front ends make of an error.

    `grpc` is the name of a gRPC status code, `http` an HTTP status or None for errors that are only
    raised before a server starts, `retry` whether the same request may be sent again.
    """

    grpc: str
    http: int | None
    retry: Literal["no", "later", "yes", "caller"]


TABLE: dict[type[BildError], Verdict] = {
    InvalidRequest: Verdict("INVALID_ARGUMENT", 400, "no"),
    Overloaded: Verdict("RESOURCE_EXHAUSTED", 429, "later"),
    DeadlineExceeded: Verdict("DEADLINE_EXCEEDED", 504, "caller"),
    LocalProtocolError: Verdict("FAILED_PRECONDITION", 500, "no"),
    RemoteProtocolError: Verdict("FAILED_PRECONDITION", 500, "no"),
    WorkerUnavailable: Verdict("UNAVAILABLE", 503, "yes"),
    WorkerFault: Verdict("INTERNAL", 500, "yes"),
    BrokerUnavailable: Verdict("UNAVAILABLE", 503, "later"),
    ConfigError: Verdict("FAILED_PRECONDITION", None, "no"),
}

_BY_NAME = {kind.__name__: kind for kind in TABLE}


def revive(name: str, message: str) -> BildError:
    """The error that a peer named. An unknown name is itself the peer's fault."""
    kind = _BY_NAME.get(name)
    if kind is None:
        return RemoteProtocolError(
            f"the peer reported an error of unknown kind {name!r}: {message}"
        )
    return kind(message)
