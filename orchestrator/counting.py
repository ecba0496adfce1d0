"""What requests, workers and jobs add to the metrics of an orchestrator.
 A request is counted where it begins, gets a place and ends; what it writes in between is read from its
books when somebody asks for the page, and at its end.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from threading import Lock
from typing import Final, Protocol

from bild_dist.clock import now_ns
from bild_dist.metrics import Metrics, Tally
from bild_dist.orchestrator.client import WorkerClient
from bild_dist.orchestrator.watch import Progress
from bild_dist.types import FinishReason, Options, Role, Source, Trace

LATEST: Final = 64
"""Requests over which the share of accepted tokens is taken."""

FINISHED: Final = frozenset(reason.value for reason in FinishReason)


class Counted:
    """One request under way. Owned by `Requests`, whose lock guards it."""

    def __init__(self, options: Options, started_ns: int) -> None:
        self.mode = options.mode.value
        self.started_ns = started_ns
        self.progress: Progress | None = None
        self.trace = Trace()
        """What of its costs stands in the metrics already; so `seen` of its tokens."""
        self.seen = 0


class Requests:
    """All requests of an orchestrator, as metrics. Told on its event loop, read on the thread that
    serves the page.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._requests, self._policy = metrics.requests, metrics.policy
        self._live: set[Counted] = set()
        self._latest: deque[tuple[int, int]] = deque(maxlen=LATEST)
        self._lock = Lock()
        self._policy.accepted.set(math.nan)  # until a request has ended
        metrics.refreshed_by(self._refresh)

    def begun(self, options: Options, started_ns: int) -> Counted:
        request = Counted(options, started_ns)
        with self._lock:
            self._live.add(request)
        self._requests.in_flight.inc()
        self._requests.waiting.inc()
        return request

    def admitted(self, request: Counted, progress: Progress) -> None:
        self._requests.waiting.dec()
        self._requests.waited.observe((now_ns() - request.started_ns) / 1e9)
        self._requests.prompt_tokens.inc(progress.prompt_tokens)
        with self._lock:
            request.progress = progress

    def ended(self, request: Counted, outcome: str) -> None:
        with self._lock:
            self._live.discard(request)
            self._settle(request)
        self._requests.in_flight.dec()
        self._requests.ended.labels(request.mode, outcome).inc()
        if request.progress is None:
            self._requests.waiting.dec()
        elif outcome in FINISHED:
            self._finish(request, request.progress.sources, request.trace)

    def _finish(self, request: Counted, sources: Iterable[Source], trace: Trace) -> None:
        metrics, mode = self._requests, request.mode
        metrics.duration.labels(mode).observe(trace.wall_ns / 1e9)
        metrics.first_token.labels(mode).observe(trace.first_token_ns / 1e9)
        if request.seen > 1:
            later_ns = trace.wall_ns - trace.first_token_ns
            metrics.per_token.labels(mode).observe(later_ns / 1e9 / (request.seen - 1))
        for source, run in groupby(sources):
            if source is Source.SMALL:
                self._policy.window.observe(sum(1 for _ in run))
        if trace.drafted > 0:
            self._latest.append((trace.drafted, trace.wasted))
            drafted, wasted = (sum(part) for part in zip(*self._latest, strict=True))
            self._policy.accepted.set(1 - wasted / drafted)

    def _refresh(self) -> None:
        with self._lock:
            for request in self._live:
                self._settle(request)

    def _settle(self, request: Counted) -> None:
        """Carries what was added since the last time into the counters."""
        if request.progress is None:
            return
        now, before, policy = request.progress.trace(), request.trace, self._policy
        # Only as many as there are now: the request writes on while this thread counts.
        fresh = request.progress.sources[request.seen :]
        for source, count in Counter(fresh).items():
            self._requests.tokens.labels(source.value).inc(count)
        policy.fallbacks.inc(now.fallbacks - before.fallbacks)
        policy.windows.inc(now.windows - before.windows)
        policy.rollbacks.inc(now.rollbacks - before.rollbacks)
        policy.drafted.inc(now.drafted - before.drafted)
        policy.wasted.inc(now.wasted - before.wasted)
        for role, added in (
            (Role.SMALL, now.small_passes - before.small_passes),
            (Role.LARGE, now.large_passes - before.large_passes),
        ):
            policy.passes.labels(role.value).inc(added)
        for part in ("draft", "verify", "queue", "wire"):
            added_ns = getattr(now, f"{part}_ns") - getattr(before, f"{part}_ns")
            self._requests.parts.labels(part).inc(added_ns / 1e9)
        request.trace, request.seen = now, request.seen + len(fresh)


class Connections:
    """The workers that an orchestrator is connected to, as metrics; read when the page is asked for.

    `workers` gives the connections of now: a decoder that is opened anew has others.
    """

    def __init__(
        self, metrics: Metrics, workers: Callable[[], Mapping[Role, WorkerClient]]
    ) -> None:
        self._metrics = metrics.workers
        self._workers = workers
        self._processes: dict[Role, int] = {}
        self._known: dict[Role, WorkerClient] = {}
        self._passes: dict[Role, Tally] = {}
        metrics.refreshed_by(self._refresh)

    def _refresh(self) -> None:
        for role, worker in list(self._workers().items()):
            self._read(role, worker)

    def _read(self, role: Role, worker: WorkerClient) -> None:
        metrics, name = self._metrics, role.value
        if self._known.get(role) is not worker:
            self._meet(role, worker)
        up = worker.lost is None
        metrics.up.labels(name).set(up)
        metrics.heartbeat_age.labels(name).set(worker.silent_ns / 1e9)
        if worker.round_trip_ns > 0:
            transport = worker.address.partition("://")[0]
            metrics.round_trip.labels(name, transport).set(worker.round_trip_ns / 1e9)
        if worker.pong is not None:
            metrics.open_slots.labels(name).set(worker.pong.open_slots if up else 0)
            self._passes[role].reads(worker.pong.progress)

    def _meet(self, role: Role, worker: WorkerClient) -> None:
        """A connection that was not there the last time."""
        metrics, name, info, known = self._metrics, role.value, worker.info, self._known.get(role)
        if known is not None:
            old = known.info
            metrics.info.remove(name, old.model, known.address, old.generation)
        metrics.info.labels(name, info.model, worker.address, info.generation).set(1)
        if known is None or known.info.generation != info.generation:
            self._processes[role] = self._processes.get(role, 0) + 1
            metrics.generation.labels(name).set(self._processes[role])
            # Another process counts its passes from 0.
            self._passes[role] = Tally(metrics.passes.labels(name))
        metrics.slots.labels(name).set(info.slots)
        self._known[role] = worker


class JobCounts(Protocol):
    """What a consumer keeps of its jobs; only read."""

    done: int
    cancelled: int
    failed: int
    unprocessable: int
    redelivered: int
    renewals: int
    last_pull_ns: int
    """When the broker last answered, with a job or with none; 0 before the first time."""


class Jobs:
    """A consumer's jobs, as metrics; read when the page is asked for.

    `full` says whether there is no room for a job: then nobody asks for one, and silence means
    nothing.
    """

    def __init__(self, metrics: Metrics, counts: JobCounts, full: Callable[[], bool]) -> None:
        self._counts = counts
        self._full = full
        self._since = metrics.queue.since_fetch
        self._began_ns = now_ns()
        queue = metrics.queue
        self._tallies = {
            "done": Tally(queue.jobs.labels("done")),
            "cancelled": Tally(queue.jobs.labels("cancelled")),
            "failed": Tally(queue.dead_letters.labels("failed")),
            "unprocessable": Tally(queue.dead_letters.labels("unprocessable")),
            "redelivered": Tally(queue.redeliveries),
            "renewals": Tally(queue.lease_renewals),
        }
        metrics.refreshed_by(self._refresh)

    def _refresh(self) -> None:
        for name, tally in self._tallies.items():
            tally.reads(getattr(self._counts, name))
        heard_ns = self._counts.last_pull_ns or self._began_ns
        self._since.set(0 if self._full() else (now_ns() - heard_ns) / 1e9)
