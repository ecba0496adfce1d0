"""Who is told of requests as a whole: where they begin, get a place, and end. Nobody, unless a decoder has a `watch`.

A watch is asked nothing while tokens are written. What a request has cost so far can be read from it at any time
(`Progress`), by whoever wants to know.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bild_dist.orchestrator.session import Record
from bild_dist.types import Options, Source, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A request that has a place. Its owner is its session; others read, from any thread."""

    prompt_tokens: int
    """Of the decoder's prompt and of the text for the encoder."""
    sources: Sequence[Source]
    """Of the tokens so far. It grows."""
    trace: Callable[[], Trace]
    """What was spent so far."""


class Watched(Protocol):
    """One request. Called in the task of the request."""

    @property
    def traceparent(self) -> str:
        """The W3C trace context that the request's commands carry to the workers; empty for none."""
        ...

    @property
    def record(self) -> Record | None:
        """Told of every step, like the decoder's own recorder; None where nobody wants to know."""
        ...

    def admitted(self, progress: Progress) -> None:
        """The request has a place."""
        ...

    def ended(self, outcome: str) -> None:
        """It is over: a finish reason, `cancelled`, or the name of an error."""
        ...


class Watch(Protocol):
    """Told of all requests of a decoder."""

    def begin(self, options: Options, started_ns: int) -> Watched:
        """A request has arrived. Called in its task, so that context variables set here stay its own."""
        ...


class Quiet:
    """A request's watch that cannot harm it: what fails is logged, and asked no more.

    Owned by the task of the request.
    """

    def __init__(self, watch: Watch | None, options: Options, started_ns: int) -> None:
        self._watched: Watched | None = None
        if watch is not None:
            self._watched = self._safely(watch.begin, options, started_ns)

    @property
    def traceparent(self) -> str:
        return self._watched.traceparent if self._watched is not None else ""

    @property
    def record(self) -> Record | None:
        return self._watched.record if self._watched is not None else None

    def admitted(self, progress: Progress) -> None:
        if self._watched is not None:
            self._safely(self._watched.admitted, progress)

    def ended(self, outcome: str) -> None:
        if self._watched is not None:
            self._safely(self._watched.ended, outcome)

    def _safely(self, call: Callable[..., Any], *arguments: object) -> Any:
        try:
            return call(*arguments)
        except Exception:
            # Whoever watches does not decide whether there is a text.
            logging.getLogger(__name__).exception("a watch failed and is told no more of a request")
            self._watched = None
            return None
