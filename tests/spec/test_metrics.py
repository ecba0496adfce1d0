"""The metrics: their page, what is carried over from elsewhere, and the files that speak of them."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from bild_dist.clock import now_ns
from bild_dist.config import Config, WorkerConfig
from bild_dist.errors import ConfigError
from bild_dist.metrics import Metrics, Tally
from bild_dist.orchestrator.fleet import Fleet
from bild_dist.orchestrator.telemetry import Telemetry
from bild_dist.tables import TelemetryConfig
from bild_dist.telemetry.page import lag_watched, page
from bild_dist.types import Role
from bild_dist.workers.__main__ import load
from bild_dist.workers.lifecycle import Worker
from bild_dist.workers.telemetry import shown

ROOT = Path(__file__).parents[2]
SPOKEN = ["configs/grafana/bild.json", "configs/prometheus/alerts.yml", "docs/telemetry.md"]
NAME = re.compile(r"\b(?:bild|gen_ai)_[a-z_]*[a-z]\b")


def everything() -> Metrics:
    metrics = Metrics()
    for part in (metrics.requests, metrics.policy, metrics.workers, metrics.queue):
        assert part is not None
    return metrics


def known() -> dict[str, set[str]]:
    """Every metric that there is, with the names of its series."""
    ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count", ""]}
    return {
        family.name: {family.name + end for end in ends.get(family.type, [""])}
        for family in everything().registry.collect()
    }


@pytest.mark.parametrize("file", SPOKEN)
def test_files_name_only_metrics_that_exist(file: str) -> None:
    """A panel, a rule or a sentence about a metric that nobody exports would be empty for ever."""
    text = (ROOT / file).read_text(encoding="utf-8")
    names = set(NAME.findall(text)) - {"bild_dist"}
    assert len(names) > 8
    assert names - {series for family in known().values() for series in family} == set()


def test_every_metric_is_drawn_and_explained() -> None:
    """The dashboard shows each, and docs/telemetry.md says what it is."""
    drawn = (ROOT / SPOKEN[0]).read_text(encoding="utf-8")
    explained = (ROOT / SPOKEN[2]).read_text(encoding="utf-8")
    aside = {"bild_worker_info", "bild_prompt_tokens", "bild_build_info"}
    for name, series in known().items():
        assert name in aside or any(one in drawn for one in series), name
        assert any(one in explained for one in series), name


def test_the_dashboard_is_one() -> None:
    """Every panel has a place of its own, a title, and something to show."""
    dashboard = json.loads((ROOT / SPOKEN[0]).read_text(encoding="utf-8"))
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells
        assert panel["title"]
        assert panel["type"] == "row" or all(target["expr"] for target in panel["targets"])


def test_a_tally_adds_only_what_is_new() -> None:
    """A count that is kept elsewhere is carried over once; one that began anew is added whole."""
    metrics = Metrics()
    counter = metrics.policy.fallbacks
    tally = Tally(counter)
    for value, total in ((3, 3), (3, 3), (10, 10), (4, 14), (4, 14), (5, 15)):
        tally.reads(value)
        assert metrics.registry.get_sample_value("bild_fallbacks_total") == total


def test_what_is_kept_elsewhere_is_read_first() -> None:
    """A page never shows what was true at the last reading."""
    metrics = Metrics()
    gauge = metrics.workers.kv_tokens.labels("w")
    counts = iter([5.0, 6.0])
    metrics.refreshed_by(lambda: gauge.set(next(counts)))
    assert b'bild_kv_tokens{worker="w"} 5.0' in metrics.render()[0]
    assert b'bild_kv_tokens{worker="w"} 6.0' in metrics.render()[0]


def fetched(url: str) -> tuple[str, str]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode(), answer.headers["Content-Type"]


async def test_the_page_is_served_and_goes_away() -> None:
    """In the text format, at the port that the system chose; afterwards nobody listens there."""
    metrics = everything()
    async with lag_watched(metrics), page(metrics, "127.0.0.1:0") as address:
        text, kind = fetched(address)
        assert kind.startswith("text/plain; version=")
        assert "bild_requests_in_flight 0.0" in text
    with pytest.raises(urllib.error.URLError, match="refused"):
        fetched(address)


async def test_a_worker_shows_what_its_engine_counts() -> None:
    """Passes, their time and tokens, slots and cache: the engine's own numbers, under the worker's address."""
    config = WorkerConfig(model="toy:small?seed=1")
    async with Worker(lambda: load(config), "inproc://shown", 3) as worker:
        async with shown("127.0.0.1:0", worker) as address:
            text, _ = fetched(address)
        for series in (
            'bild_worker_up{worker="inproc://shown"} 1.0', 'bild_worker_slots{worker="inproc://shown"} 3.0',
            'bild_worker_open_slots{worker="inproc://shown"} 0.0', 'bild_kv_tokens{worker="inproc://shown"} 0.0',
            'bild_worker_waiting_requests{worker="inproc://shown"} 0.0',
            'bild_worker_passes_total{worker="inproc://shown"} 0.0',
        ):  # fmt: skip
            assert series in text
        assert f'generation="{worker.info.generation}"' in text
        async with shown("", worker) as address:
            assert address == ""


def test_lost_workers_are_counted_from_the_start() -> None:
    """Every reason stands at 0 before anything is lost: Prometheus sees no increase in a series that
    begins at 1.
    """
    metrics = Metrics()
    fleet = Fleet(metrics)
    text = metrics.render()[0].decode()
    for role in Role:
        for reason in ("exit", "signal", "start"):
            assert f'bild_worker_restarts_total{{reason="{reason}",worker="{role}"}} 0.0' in text
    fleet.lost(Role.SMALL, ConfigError("no such model"), None)
    text = metrics.render()[0].decode()
    assert 'bild_worker_restarts_total{reason="start",worker="small"} 1.0' in text
    assert 'bild_worker_up{worker="small"} 0.0' in text


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("metrics", "9464", "metrics = '9464' must be HOST:PORT"),
        ("metrics", "127.0.0.1:99999", "must be HOST:PORT"),
        ("traces", "127.0.0.1:4318", "traces = '127.0.0.1:4318' must begin with http://"),
        (
            "log",
            "xml",
            "log = 'xml' must be one of console, json|log = 'xml' must be one of json, console",
        ),
        ("level", "loud", "level = 'loud' must be one of debug"),
    ],
)
def test_a_bad_word_is_refused(field: str, value: str, words: str) -> None:
    """What [telemetry] cannot mean is said before anything starts."""
    with pytest.raises(ConfigError, match=words):
        TelemetryConfig(**{field: value})


def test_what_holds_for_all_holds_for_the_workers() -> None:
    """A worker that is started here sends its spans, and writes its log, as [telemetry] says, unless its own table says
    otherwise. Its page is its own: two cannot share one.
    """
    config = Config().overlaid(
        telemetry={"metrics": "127.0.0.1:1", "traces": "http://a", "log": "json"},
        small={"traces": "http://b", "metrics": "127.0.0.1:2"},
    )
    small, large = config.worker(Role.SMALL), config.worker(Role.LARGE)
    assert (small.traces, small.log, small.metrics) == ("http://b", "json", "127.0.0.1:2")
    assert (large.traces, large.log, large.metrics) == ("http://a", "json", "")


@dataclass(slots=True)
class Counts:
    """What a consumer keeps, as far as the metrics read it."""

    done: int = 0
    cancelled: int = 0
    failed: int = 0
    unprocessable: int = 0
    redelivered: int = 0
    renewals: int = 0
    last_pull_ns: int = 0


def test_jobs_are_read_from_the_consumers_own_counts() -> None:
    """Each under its name; the time since the last fetch stands still at 0 while there is no room for a job."""
    metrics, counts, full = Metrics(), Counts(), [False]
    telemetry = Telemetry(metrics)
    telemetry.consume(counts, lambda: full[0])
    counts.done, counts.cancelled, counts.failed, counts.unprocessable = 7, 1, 2, 3
    counts.redelivered, counts.renewals, counts.last_pull_ns = 4, 5, now_ns() - 30_000_000_000
    page = metrics.render()[0].decode()
    for line in (
        'bild_queue_jobs_total{status="done"} 7.0', 'bild_queue_jobs_total{status="cancelled"} 1.0',
        'bild_queue_dead_letters_total{queue="failed"} 2.0', 'bild_queue_dead_letters_total{queue="unprocessable"} 3.0',
        "bild_queue_redeliveries_total 4.0", "bild_queue_lease_renewals_total 5.0",
    ):  # fmt: skip
        assert line in page
    assert 30 <= (metrics.registry.get_sample_value("bild_queue_seconds_since_fetch") or 0) < 90
    full[0] = True
    assert metrics.registry.get_sample_value("bild_queue_seconds_since_fetch") == 0
