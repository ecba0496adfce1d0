"""How spans leave a process: with OpenTelemetry's exporter, patiently while the process runs and without patience
at its end, and with one plain line where nobody takes them. Imports OpenTelemetry: for `spans.py` alone.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

_log = logging.getLogger(__name__)

_LOUD: Final = ("opentelemetry.exporter", "opentelemetry.sdk.trace.export")
"""Loggers that tell each attempt, with the text of every library below them."""


class Sender(SpanExporter):
    """Sends spans to `endpoint`, empty for where OpenTelemetry's own variables say. The processor that it is given to
    calls it on a thread of its own.

    `last_s` is how long one attempt may take once `hurry` was called; until then a failure is tried
    again as OpenTelemetry does it, ten seconds unless its variables say otherwise.
    """

    def __init__(self, endpoint: str, last_s: float) -> None:
        self._usual = OTLPSpanExporter(endpoint=endpoint or None)
        # A second is waited before the second attempt: with less in all there is none.
        self._last = OTLPSpanExporter(endpoint=endpoint or None, timeout=last_s)
        self._where = endpoint or "the collector"
        self._hurried = False
        self._lost = 0
        """Spans that were not taken since some were."""
        for name in _LOUD:
            logger = logging.getLogger(name)
            # Whoever looks for the reason asks for everything.
            if logging.getLogger("bild_dist").getEffectiveLevel() > logging.DEBUG:
                logger.setLevel(logging.CRITICAL + 1)

    def hurry(self) -> None:
        """The process ends: a wait for the next attempt is given up, and what follows has one."""
        self._hurried = True
        self._usual.shutdown()  # type: ignore[no-untyped-call]

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Tells the first failure of a row, and the end of it."""
        hurried = self._hurried
        found = (self._last if hurried else self._usual).export(spans)
        if found is not SpanExportResult.SUCCESS and self._hurried and not hurried:
            # Given up in the middle of its patience; that was not the last attempt yet.
            found = self._last.export(spans)
        if found is SpanExportResult.SUCCESS:
            if self._lost:
                _log.warning("spans are taken again by %s; %d were lost", self._where, self._lost)
            self._lost = 0
            return found
        if not self._lost:
            _log.warning(
                "spans are lost: %s does not take them; is the collector there? (BILD_LOG=debug says more)",
                self._where,
            )
        self._lost += len(spans)
        return found

    def shutdown(self) -> None:
        if not self._hurried:
            self._usual.shutdown()  # type: ignore[no-untyped-call]
        self._last.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing is held here."""
        return True
