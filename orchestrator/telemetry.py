"""What a command tells about its requests while it runs: metrics, spans, a line of log for each.

async with told(config.telemetry, "bild-serve") as telemetry:
    async with launched(config) as decoder:
        telemetry.watch(decoder)
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from bild_dist import log
from bild_dist.orchestrator.watch import Progress
from bild_dist.tables import TelemetryConfig
from bild_dist.telemetry.spans import Spans
from bild_dist.types import Options, Role

if TYPE_CHECKING:
    from bild_dist.metrics import Metrics
    from bild_dist.orchestrator.client import WorkerClient
    from bild_dist.orchestrator.counting import Counted, JobCounts, Requests
    from bild_dist.orchestrator.decoder import Decoder
    from bild_dist.orchestrator.session import Record
    from bild_dist.orchestrator.spans import RequestSpans

_log = logging.getLogger(__name__)


class Telemetry:
    """A `watch.Watch` over the decoders of one process. Owned by the command that runs there.

    Without metrics and spans it only logs; where neither is on, a decoder needs none.
    """

    def __init__(self, metrics: Metrics | None = None, spans: Spans | None = None) -> None:
        self.metrics = metrics
        self.page = ""
        """Where the page with the metrics is served, if this process serves it here."""
        self._spans = spans
        self._decoder: Decoder | None = None
        self._requests: Requests | None = None

    def watch(self, decoder: Decoder) -> None:
        """Follows a decoder, in place of the one before: a pair that was lost and opened anew."""
        if self.metrics is not None and self._requests is None:
            # Only now: the page of a command without requests, `bild launch`, speaks of none.
            from bild_dist.orchestrator.counting import Connections, Requests

            self._requests = Requests(self.metrics)
            Connections(self.metrics, self._workers)
        self._decoder = decoder
        if self.metrics is not None or self._spans is not None or _log.isEnabledFor(logging.INFO):
            decoder.watch = self

    def consume(self, counts: JobCounts, full: Callable[[], bool]) -> None:
        """Shows what a consumer keeps of its jobs. `full`: whether it has no room for one more."""
        if self.metrics is not None:
            from bild_dist.orchestrator.counting import Jobs

            Jobs(self.metrics, counts, full)

    def begin(self, options: Options, started_ns: int) -> Request:
        """A request has arrived (`watch.Watch`)."""
        if _log.isEnabledFor(logging.INFO):
            log.bind(request_id=secrets.token_hex(8))
        counted = self._requests.begun(options, started_ns) if self._requests is not None else None
        traced = None
        if self._spans is not None:
            from bild_dist.orchestrator.spans import RequestSpans

            traced = RequestSpans(self._spans, options, started_ns, self._model())
        return Request(options, self._requests, counted, traced)

    def last(self) -> None:
        """No further request comes: the spans leave while the workers stop, not behind them."""
        if self._spans is not None:
            self._spans.leave()

    def _workers(self) -> Mapping[Role, WorkerClient]:
        return {} if self._decoder is None else self._decoder.workers

    def _model(self) -> str:
        large = self._workers().get(Role.LARGE)
        return large.info.model if large is not None else ""


class Request:
    """One request (`watch.Watched`). Owned by the task of the request."""

    def __init__(
        self,
        options: Options,
        requests: Requests | None,
        counted: Counted | None,
        traced: RequestSpans | None,
    ) -> None:
        self._mode = options.mode.value
        self._requests = requests
        self._counted = counted
        self._traced = traced
        self._progress: Progress | None = None

    @property
    def traceparent(self) -> str:
        return self._traced.traceparent if self._traced is not None else ""

    @property
    def record(self) -> Record | None:
        wanted = self._traced is not None and self._traced.wanted
        return self._traced.note if self._traced is not None and wanted else None

    def admitted(self, progress: Progress) -> None:
        """The request has a place."""
        self._progress = progress
        if self._requests is not None and self._counted is not None:
            self._requests.admitted(self._counted, progress)
        if self._traced is not None:
            self._traced.admitted(progress)

    def ended(self, outcome: str) -> None:
        """It is over."""
        if self._requests is not None and self._counted is not None:
            self._requests.ended(self._counted, outcome)
        if self._traced is not None:
            self._traced.ended(outcome)
        if _log.isEnabledFor(logging.INFO):
            self._say(outcome)

    def _say(self, outcome: str) -> None:
        fields: dict[str, object] = {"mode": self._mode, "outcome": outcome}
        if self._progress is not None:
            trace = self._progress.trace()
            fields |= {
                "prompt_tokens": self._progress.prompt_tokens,
                "tokens": len(self._progress.sources),
                "fallbacks": trace.fallbacks,
                "rollbacks": trace.rollbacks,
                "large_passes": trace.large_passes,
                "first_token_s": round(trace.first_token_ns / 1e9, 4),
                "wall_s": round(trace.wall_ns / 1e9, 4),
            }
        _log.info("request ended", extra=fields)


def logged(config: TelemetryConfig, *, service: bool) -> None:
    """Sets up the log of a command as [telemetry] says, otherwise as fits a service, or a person."""
    level = config.level or ("info" if service else "warning")
    log.configure(log.style_for(service, config.log), level)


@asynccontextmanager
async def told(
    config: TelemetryConfig, service: str, *, metrics: bool = False
) -> AsyncIterator[Telemetry]:
    """What [telemetry] asks for, as long as the context is open. `metrics` makes them without a page of
    their own, for a command that serves them itself (`Telemetry.metrics.render`).

    Raises:
        ConfigError: the page's address cannot be had, or OpenTelemetry is missing.
    """
    async with AsyncExitStack() as stack:
        spans = Spans.opened(config.traces, service)
        if spans is not None:
            stack.callback(spans.close)
        if not (metrics or config.metrics):
            yield Telemetry(None, spans)
            return
        from bild_dist.metrics import Metrics
        from bild_dist.telemetry.page import lag_watched, page

        telemetry = Telemetry(Metrics(), spans)
        if telemetry.metrics is not None:
            await stack.enter_async_context(lag_watched(telemetry.metrics))
            if config.metrics:
                shown = page(telemetry.metrics, config.metrics)
                telemetry.page = await stack.enter_async_context(shown)
                _log.info("metrics at %s", telemetry.page)
        yield telemetry
