"""Spans: what a request and its workers did when, for OpenTelemetry. Nothing of it is loaded unless spans are wanted.
 A request's own span begins with it, because workers are told of it. All others are written when the
request is over, from what was noted on the way: while tokens are written a note is an append to a list.
A trace that its sampler does not want costs nothing but its first span.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from bild_dist import __version__, genai
from bild_dist.clock import now_ns
from bild_dist.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

    from bild_dist.telemetry.sending import Sender

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""OpenTelemetry's own variables that ask for spans."""

FLUSH_S: Final = 1.0
"""How long a process that ends waits for its last spans to leave."""
_ATTEMPT_S: Final = 0.7
"""Of that, for the one attempt that is left; the rest is for what it takes around it."""


class Spans:
    """Where this process's spans go. Owned by its root, which closes it.

    `provider` is a TracerProvider of OpenTelemetry's SDK, `sender` what it sends with, where that must
    hear of the end.
    """

    def __init__(self, provider: TracerProvider, sender: Sender | None = None) -> None:
        from opentelemetry import trace

        self._trace = trace
        self._sender = sender
        self._leaving: threading.Thread | None = None
        self._until_ns = 0
        self._provider = provider
        self._tracer = provider.get_tracer(genai.US, __version__)

    @classmethod
    def opened(cls, endpoint: str, service: str, **resource: str) -> Self | None:
        """Spans to an OTLP endpoint over HTTP, or to where OpenTelemetry's own variables say; None where neither says
        anything.

        Raises:
            ConfigError: an endpoint is configured, and the packages are missing.
        """
        if not endpoint and (
            not any(os.environ.get(name) for name in ENDPOINTS)
            or os.environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp"
        ):
            return None
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            from bild_dist.telemetry.sending import Sender
        except ImportError:
            remedy = 'pip install "bild-dist[otel]"'
            if endpoint:
                raise ConfigError(f"traces = {endpoint!r} takes OpenTelemetry: {remedy}") from None
            logging.getLogger(__name__).warning("no spans without OpenTelemetry: %s", remedy)
            return None
        name = os.environ.get("OTEL_SERVICE_NAME", service)
        provider = TracerProvider(
            resource=Resource.create({"service.name": name, **resource}), shutdown_on_exit=False
        )
        if endpoint and urlsplit(endpoint).path in ("", "/"):
            endpoint = f"{endpoint.rstrip('/')}/v1/traces"
        sender = Sender(endpoint, _ATTEMPT_S)
        provider.add_span_processor(BatchSpanProcessor(sender))
        return cls(provider, sender)

    def leave(self) -> None:
        """No further span comes: begins to send what is left, while the caller does something else."""
        if self._leaving is None:
            self._until_ns = now_ns() + int(FLUSH_S * 1e9)
            self._leaving = threading.Thread(target=self._send_rest, name="last spans", daemon=True)
            self._leaving.start()

    def close(self) -> None:
        """Sends what is left, for a second at most: a collector that is away holds no process up."""
        self.leave()
        if self._leaving is not None:
            self._leaving.join(max(0.0, (self._until_ns - now_ns()) / 1e9))

    def _send_rest(self) -> None:
        if self._sender is not None:
            self._sender.hurry()
        self._provider.shutdown()

    def joined(self, traceparent: str) -> Context:
        """The trace that a W3C `traceparent` names; a new one where it names none."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        return TraceContextTextMapPropagator().extract({"traceparent": traceparent})

    def started(
        self, name: str, parent: Context, at_ns: int, attributes: Mapping[str, Any]
    ) -> Span:
        """A span that others are children of, begun at `at_ns` nanoseconds since 1970."""
        return self._tracer.start_span(
            name, parent, kind=self._trace.SpanKind.SERVER, attributes=dict(attributes),
            start_time=at_ns,
        )  # fmt: skip

    def within(self, span: Span) -> Context:
        """What children of a span are started in."""
        return self._trace.set_span_in_context(span)

    def write(
        self, name: str, parent: Context, start_ns: int, end_ns: int, attributes: Mapping[str, Any]
    ) -> None:
        """A whole span, from and to a time in nanoseconds since 1970."""
        span = self._tracer.start_span(
            name, parent, attributes=dict(attributes), start_time=start_ns
        )
        span.end(end_ns)

    def failed(self, span: Span, what: str) -> None:
        """The work of a span has failed. `what` is the name of an error: its message may quote a prompt."""
        span.set_attribute("error.type", what)
        span.set_status(self._trace.StatusCode.ERROR)


def traceparent(span: Span) -> str:
    """A span as W3C's Trace Context writes it."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def since_1970_ns() -> int:
    """What to add to a time of our clock, so that it counts from 1970, as spans do. Asked anew for each
    request: our clock stands still while a host sleeps.
    """
    return time.time_ns() - now_ns()
