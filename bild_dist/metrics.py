"""What a process counts, and the page that Prometheus reads: one registry, owned by the root of the process.
 Nothing here is told of a pass or of a hand-over while it happens. Counters that live elsewhere (in a
machine's books, in an engine) are read when somebody asks for the page: whoever owns them registers a
`refresh`, which carries them over.

Names and units stand here alone, with what they mean; docs/telemetry.md says what to watch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from threading import Lock
from typing import Final, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric

from bild_dist import __version__, genai

Refresh: TypeAlias = Callable[[], None]
"""Brings metrics up to date. Called on the thread that asks for the page, one at a time."""

WINDOW_TOKENS: Final = (1, 2, 3, 4, 6, 8, 10, 16, 32, 64)
WAIT_S: Final = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
LAG_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Tally:
    """Carries a count that is kept elsewhere into a counter: only what was added since the last time.

    Owned by a `refresh`. A count that has shrunk belongs to somebody who began anew (a worker's next
    process), and is added whole.
    """

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._last = 0.0

    def reads(self, value: float) -> None:
        """The count stands at `value` now."""
        added = value - self._last if value >= self._last else value
        self._last = value
        if added > 0:
            self._counter.inc(added)


class Requests:
    """What an orchestrator counts of its requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.in_flight = Gauge("bild_requests_in_flight", "Requests under way.", registry=registry)
        self.waiting = Gauge(
            "bild_requests_waiting", "Requests that wait for a place.", registry=registry
        )
        self.ended = Counter(
            "bild_requests", "Requests that ended; outcome is a finish reason, cancelled, or the name of an error.",
            ("mode", "outcome"), registry=registry,
        )  # fmt: skip
        self.tokens = Counter(
            "bild_tokens", "Tokens of texts, by the row of the decision table that wrote them.",
            ("source",), registry=registry,
        )  # fmt: skip
        self.prompt_tokens = Counter(
            "bild_prompt_tokens", "Tokens of prompts, source texts included.", registry=registry
        )
        self.duration = Histogram(
            genai.in_seconds(genai.REQUEST_DURATION), "From a request's arrival to its last token.",
            ("mode",), registry=registry, buckets=genai.REQUEST_DURATION_S,
        )  # fmt: skip
        self.first_token = Histogram(
            genai.in_seconds(genai.TIME_TO_FIRST_TOKEN), "From a request's arrival to its first token.",
            ("mode",), registry=registry, buckets=genai.TIME_TO_FIRST_TOKEN_S,
        )  # fmt: skip
        self.per_token = Histogram(
            genai.in_seconds(genai.TIME_PER_OUTPUT_TOKEN), "Time for each token after the first, a request's mean.",
            ("mode",), registry=registry, buckets=genai.TIME_PER_OUTPUT_TOKEN_S,
        )  # fmt: skip
        self.waited = Histogram(
            "bild_request_wait_seconds", "From a request's arrival until it got a place.",
            registry=registry, buckets=WAIT_S,
        )  # fmt: skip
        self.parts = Counter(
            "bild_request_part_seconds", "Where requests spend their time: draft, verify, queue (in workers), wire.",
            ("part",), registry=registry,
        )  # fmt: skip


class Policy:
    """What an orchestrator counts of the decisions of its machines."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.fallbacks = Counter(
            "bild_fallbacks",
            "Tokens of the large model where the small one was unsure.",
            registry=registry,
        )
        self.windows = Counter(
            "bild_windows",
            "Tokens of the large model after a full window of small ones.",
            registry=registry,
        )
        self.rollbacks = Counter(
            "bild_rollbacks",
            "Tokens of the large model in place of one of the small model.",
            registry=registry,
        )
        self.drafted = Counter(
            "bild_drafted_tokens", "Tokens that the small model proposed.", registry=registry
        )
        self.wasted = Counter(
            "bild_rollback_tokens", "Proposed tokens that were thrown away: rolled back, or behind a wrong guess.",
            registry=registry,
        )  # fmt: skip
        self.window = Histogram(
            "bild_draft_window_tokens", "Small tokens in a row in finished texts.",
            registry=registry, buckets=WINDOW_TOKENS,
        )  # fmt: skip
        self.accepted = Gauge(
            "bild_accept_ratio",
            "Share of the proposed tokens that stood, over the latest requests.",
            registry=registry,
        )
        self.passes = Counter(
            "bild_model_passes",
            "Forward passes that requests asked for.",
            ("role",),
            registry=registry,
        )


class Workers:
    """What is known of workers: on an orchestrator's page `worker` is the role, on a worker's own page
    its address.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        who = ("worker",)
        self.info = Gauge(
            "bild_worker_info", "Always 1; says who the worker is.",
            ("worker", "model", "address", "generation"), registry=registry,
        )  # fmt: skip
        self.up = Gauge("bild_worker_up", "1 while the worker serves.", who, registry=registry)
        self.generation = Gauge(
            "bild_worker_generation",
            "Processes that have stood for this worker so far.",
            who,
            registry=registry,
        )
        self.heartbeat_age = Gauge(
            "bild_worker_heartbeat_age_seconds",
            "Since the worker's last heartbeat.",
            who,
            registry=registry,
        )
        self.restarts = Counter(
            "bild_worker_restarts", "Ends of a worker that was to be started again: exit, signal or start.",
            ("worker", "reason"), registry=registry,
        )  # fmt: skip
        self.round_trip = Gauge(
            "bild_transport_rtt_seconds", "Round trip of the last heartbeat.",
            ("worker", "transport"), registry=registry,
        )  # fmt: skip
        self.slots = Gauge("bild_worker_slots", "Slots for requests.", who, registry=registry)
        self.open_slots = Gauge(
            "bild_worker_open_slots", "Slots given out.", who, registry=registry
        )
        self.waiting = Gauge(
            "bild_worker_waiting_requests", "Requests that wait for a slot.", who, registry=registry
        )
        self.passes = Counter(
            "bild_worker_passes", "Forward passes of the model.", who, registry=registry
        )
        self.busy = Counter(
            "bild_worker_pass_seconds", "Time in forward passes.", who, registry=registry
        )
        self.served = Counter(
            "bild_worker_pass_requests", "Requests in those passes: divided by the passes, the batch size.",
            who, registry=registry,
        )  # fmt: skip
        self.fed = Counter(
            "bild_worker_fed_tokens", "Tokens fed in those passes.", who, registry=registry
        )
        self.kv_tokens = Gauge(
            "bild_kv_tokens",
            "Tokens that the KV cache holds for open requests.",
            who,
            registry=registry,
        )


class Queue:
    """What a consumer counts of its jobs."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.jobs = Counter(
            "bild_queue_jobs",
            "Jobs that ended as they should, by the status of their result: done or cancelled.",
            ("status",),
            registry=registry,
        )
        self.lease_renewals = Counter(
            "bild_queue_lease_renewals",
            "Leases of jobs under way that were renewed.",
            registry=registry,
        )
        self.redeliveries = Counter(
            "bild_queue_redeliveries", "Jobs that came a second time or more.", registry=registry
        )
        self.dead_letters = Counter(
            "bild_queue_dead_letters",
            "Jobs given up, by the dead-letter queue.",
            ("queue",),
            registry=registry,
        )
        for queue in ("unprocessable", "failed"):
            # From the start: Prometheus sees no increase in a series that begins at 1.
            self.dead_letters.labels(queue)
        self.since_fetch = Gauge(
            "bild_queue_seconds_since_fetch",
            "Since the broker last answered a request for jobs; 0 while there is no room for one.",
            registry=registry,
        )


class Metrics:
    """The metrics of one process. Owned by its root; whoever counts gets it, or a part, handed down.

    The parts are made when they are first asked for, so that a worker's page has no queue on it.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._refresh = _Refresh()
        # First, so that the rest is read after it: a registry asks its collectors in their order.
        self.registry.register(self._refresh)
        build = Gauge("bild_build_info", "Always 1.", ("version",), registry=self.registry)
        build.labels(__version__).set(1)
        self.loop_lag = Histogram(
            "bild_event_loop_lag_seconds", "How late the event loop comes to a task that slept.",
            registry=self.registry, buckets=LAG_S,
        )  # fmt: skip

    @cached_property
    def requests(self) -> Requests:
        return Requests(self.registry)

    @cached_property
    def policy(self) -> Policy:
        return Policy(self.registry)

    @cached_property
    def workers(self) -> Workers:
        return Workers(self.registry)

    @cached_property
    def queue(self) -> Queue:
        return Queue(self.registry)

    def refreshed_by(self, refresh: Refresh) -> None:
        """Calls `refresh` before each reading of the page."""
        self._refresh.calls.append(refresh)

    def render(self) -> tuple[bytes, str]:
        """The page and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_PLAIN_0_0_4


class _Refresh:
    """A collector without metrics of its own. Owned by `Metrics`; pages are read on any thread."""

    def __init__(self) -> None:
        self.calls: list[Refresh] = []
        self._lock = Lock()

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            for call in self.calls:
                call()
        return ()
