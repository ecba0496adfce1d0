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

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""OpenTelemetry's own variables that ask for spans."""

FLUSH_S: Final = 1.0
"""How long a process that ends waits for its last spans to leave."""


class Spans:
    """Where this process's spans go. Owned by its root, which closes it.

    `provider` is a TracerProvider of OpenTelemetry's SDK.
    """

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import trace

        self._trace = trace
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
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
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
        exporter = OTLPSpanExporter(endpoint=endpoint or None)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        return cls(provider)

    def close(self) -> None:
        """Sends what is left, for a second at most: a collector that is away holds no process up."""
        last = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(FLUSH_S)

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
