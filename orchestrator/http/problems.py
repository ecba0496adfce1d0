"""What a client is told when there is no text: one shape for every refusal, as OpenAI's clients
read it.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

Messages of status 5xx are our own words: what went wrong inside may name addresses and files, and
goes to the log.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Final

from bild_dist.errors import (
    TABLE,
    BildError,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    WorkerFault,
    WorkerUnavailable,
)

_REQUEST: Final = "invalid_request_error"
_TYPES: Final[dict[type[BildError], tuple[str, str | None]]] = {
    InvalidRequest: (_REQUEST, None),
    Overloaded: ("rate_limit_error", "overloaded"),
    DeadlineExceeded: ("timeout_error", "deadline_exceeded"),
    WorkerUnavailable: ("server_error", "worker_unavailable"),
    WorkerFault: ("server_error", "worker_fault"),
}
_INSIDE: Final[dict[type[BildError], str]] = {
    WorkerUnavailable: "a model is not available at the moment: try again in a few seconds",
    WorkerFault: "a model's device failed, and its worker starts again: try again in a few seconds",
}
_BUG: Final = "an internal error: the server's log says more"
RETRY_S: Final = 2
"""After how many seconds to try again where a worker is being replaced."""


class Problem(Exception):
    """A refusal, as it goes to the client."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = _REQUEST,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = dict(headers if headers is not None else {})

    def as_dict(self) -> dict[str, object]:
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def body(self) -> bytes:
        # ASCII, since a message may quote what is no text, such as half a surrogate pair.
        return json.dumps(self.as_dict()).encode()


def problem_of(error: BildError, *, param: str | None = None) -> Problem:
    """What the tree of errors (`errors.py`) means to a client."""
    status = TABLE[type(error)].http
    kind, code = _TYPES.get(type(error), ("server_error", "internal_error"))
    message, headers = str(error), {}
    if isinstance(error, WorkerUnavailable | WorkerFault) or status is None or status == 500:
        # A worker that is away fails many requests, and whoever keeps it has said so once.
        level = logging.INFO if isinstance(error, WorkerUnavailable) else logging.WARNING
        told = "a request failed: %s: %s"
        logging.getLogger(__name__).log(level, told, type(error).__name__, error)
        message = _INSIDE.get(type(error), _BUG)
    if isinstance(error, WorkerUnavailable):
        headers["Retry-After"] = str(RETRY_S)
    return Problem(
        500 if status is None else status, message,
        kind=kind, param=param, code=code, headers=headers,
    )  # fmt: skip
