"""What the pages say, page by page and worker by worker. None stands for what nobody knows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from bild_dist import genai
from bild_dist.orchestrator.top.pages import Page
from bild_dist.types import FinishReason, Source

FINISHED = frozenset(reason.value for reason in FinishReason)


@dataclass(slots=True, kw_only=True)
class Worker:
    """One worker, put together from every page that knows it."""

    name: str
    model: str
    up: bool
    heartbeat_s: float | None = None
    round_trip_s: float | None = None
    slots: float | None = None
    open_slots: float | None = None
    passes: float | None = None
    """A second; so is the next, in seconds."""
    busy: float | None = None
    batch: float | None = None
    kv_tokens: float | None = None
    restarts: float | None = None


@dataclass(slots=True, kw_only=True)
class Service:
    """What an orchestrator's page says of its requests."""

    in_flight: float
    waiting: float
    ended: float
    failed: float
    tokens: dict[Source, float] = field(default_factory=dict)
    """A second, by who wrote them."""
    measured: bool = False
    """Whether there was a time before, so that there are rates."""
    accepted: float | None = None
    fallbacks: float | None = None
    rollbacks: float | None = None
    first_token_s: float | None = None
    per_token_s: float | None = None
    lag_s: float | None = None


@dataclass(slots=True, kw_only=True)
class Jobs:
    """What a consumer's page says of its queue."""

    since_fetch_s: float
    done: float
    dead: float
    redelivered: float
    rate: float | None


def service(page: Page) -> Service | None:
    """None for a page without requests."""
    now = page.now
    if now is None or "bild_requests_in_flight" not in now.values:
        return None
    outcomes = now.by("bild_requests_total", "outcome")
    ended = sum(outcomes.values())
    drafted, wasted = (
        page.rate("bild_drafted_tokens_total"),
        page.rate("bild_rollback_tokens_total"),
    )
    accepted = now.total("bild_accept_ratio")
    if drafted and wasted is not None:
        accepted = max(0.0, 1 - wasted / drafted)
    found = Service(
        in_flight=now.total("bild_requests_in_flight") or 0,
        waiting=now.total("bild_requests_waiting") or 0,
        ended=ended,
        failed=ended - sum(outcomes.get(word, 0) for word in (*FINISHED, "cancelled")),
        measured=page.before is not None,
        accepted=None if accepted is None or math.isnan(accepted) else accepted,
        fallbacks=page.rate("bild_fallbacks_total"),
        rollbacks=page.rate("bild_rollbacks_total"),
        first_token_s=_mean(page, genai.in_seconds(genai.TIME_TO_FIRST_TOKEN)),
        per_token_s=_mean(page, genai.in_seconds(genai.TIME_PER_OUTPUT_TOKEN)),
        lag_s=_mean(page, "bild_event_loop_lag_seconds"),
    )
    for source in Source:
        rate = page.rate("bild_tokens_total", source=source.value)
        if rate is not None:
            found.tokens[source] = rate
    return found


def jobs(page: Page) -> Jobs | None:
    """None for a page without a queue."""
    now = page.now
    if now is None or "bild_queue_seconds_since_fetch" not in now.values:
        return None
    return Jobs(
        since_fetch_s=now.total("bild_queue_seconds_since_fetch") or 0.0,
        done=now.total("bild_queue_jobs_total") or 0.0,
        dead=now.total("bild_queue_dead_letters_total") or 0.0,
        redelivered=now.total("bild_queue_redeliveries_total") or 0.0,
        rate=page.rate("bild_queue_jobs_total"),
    )


def workers(pages: Sequence[Page]) -> list[Worker]:
    """Every worker once: an orchestrator knows its role and its heartbeat, it itself its batches and its cache."""
    found: dict[str, Worker] = {}
    names: dict[str, str] = {}
    for page in pages:
        if page.now is None:
            continue
        for labels in page.now.values.get("bild_worker_info", {}):
            info = dict(labels)
            # Who only watches the process knows no generation; where it listens tells them apart.
            key = names.get(info["generation"]) or names.get(info["address"]) or info["generation"]
            names |= {info["generation"]: key, info["address"]: key}
            worker = _worker(page, info)
            found[key] = worker if key not in found else _merged(found[key], worker)
    return sorted(found.values(), key=lambda worker: worker.name)


def _worker(page: Page, info: dict[str, str]) -> Worker:
    name, now = info["worker"], page.now
    assert now is not None  # noqa: S101 - the caller asked
    passes = page.rate("bild_worker_passes_total", worker=name)
    served = page.rate("bild_worker_pass_requests_total", worker=name)
    return Worker(
        name=name if "://" not in name else "",
        model=info["model"],
        up=now.total("bild_worker_up", worker=name) == 1,
        heartbeat_s=now.total("bild_worker_heartbeat_age_seconds", worker=name),
        round_trip_s=now.total("bild_transport_rtt_seconds", worker=name),
        slots=now.total("bild_worker_slots", worker=name),
        open_slots=now.total("bild_worker_open_slots", worker=name),
        passes=passes,
        busy=page.rate("bild_worker_pass_seconds_total", worker=name),
        batch=served / passes if served and passes else None,
        kv_tokens=now.total("bild_kv_tokens", worker=name),
        restarts=now.total("bild_worker_restarts_total", worker=name),
    )


def _merged(one: Worker, other: Worker) -> Worker:
    """What either knows; the first where both do."""
    known = {
        name: value if value is not None and value != "" else getattr(other, name)
        for name, value in ((name, getattr(one, name)) for name in Worker.__dataclass_fields__)
    }
    return Worker(**{**known, "up": one.up and other.up})


def _mean(page: Page, name: str) -> float | None:
    """The mean of a histogram since the time before; over all time where nothing came since."""
    count, total = page.rate(f"{name}_count"), page.rate(f"{name}_sum")
    if count and total is not None:
        return total / count
    if page.now is None or not page.now.total(f"{name}_count"):
        return None
    return (page.now.total(f"{name}_sum") or 0.0) / (page.now.total(f"{name}_count") or 1.0)
