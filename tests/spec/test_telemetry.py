"""What is told about requests and workers: metrics that add up, spans that belong together, no word of a prompt."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

import bild_dist
from bild_dist import log
from bild_dist.config import WorkerConfig
from bild_dist.errors import BildError, ConfigError, DeadlineExceeded, InvalidRequest
from bild_dist.metrics import Metrics
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.orchestrator.telemetry import Telemetry, told
from bild_dist.orchestrator.watch import Progress
from bild_dist.tables import TelemetryConfig
from bild_dist.telemetry.spans import Spans
from bild_dist.types import Options, Role, Source
from bild_dist.workers.__main__ import load
from bild_dist.workers.lifecycle import Worker

SPEC = "seed=1&f=0.3&end=0"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@asynccontextmanager
async def pair(
    telemetry: Telemetry, spec: str = SPEC, **settings: object
) -> AsyncIterator[Decoder]:
    small, large = f"toy:small?{spec}", f"toy:large?{spec}"
    async with bild_dist.launch(small, large, transport="inproc", **settings) as decoder:
        telemetry.watch(decoder)
        yield decoder


def values(metrics: Metrics) -> dict[str, float]:
    """The page: each series under its name and labels."""
    page = metrics.render()[0].decode()
    lines = [line for line in page.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def test_counts_are_those_of_the_results() -> None:
    """Tokens by source, fallbacks, passes and requests on the page are the sums over the texts."""
    telemetry = Telemetry(Metrics())
    assert telemetry.metrics is not None
    async with pair(telemetry, concurrency=3) as decoder:
        texts = [decoder.stream(f"Prompt {n}", max_new_tokens=30 + n) for n in range(5)]
        results = [await text.result() for text in texts]
        await asyncio.sleep(0)
        page = values(telemetry.metrics)

    sources = Counter(source for result in results for source in result.sources)
    for source, count in sources.items():
        assert page[f'bild_tokens_total{{source="{source}"}}'] == count
    for name, field in (
        ("bild_fallbacks_total", "fallbacks"), ("bild_rollbacks_total", "rollbacks"), ("bild_windows_total", "windows"),
        ("bild_drafted_tokens_total", "drafted"), ("bild_rollback_tokens_total", "wasted"),
        ('bild_model_passes_total{role="small"}', "small_passes"),
        ('bild_model_passes_total{role="large"}', "large_passes"),
    ):  # fmt: skip
        assert page[name] == sum(getattr(result.trace, field) for result in results), name
    assert page['bild_requests_total{mode="bild",outcome="length"}'] == 5
    assert page['gen_ai_server_request_duration_seconds_count{mode="bild"}'] == 5
    assert page["bild_requests_in_flight"] == page["bild_requests_waiting"] == 0
    assert page["bild_draft_window_tokens_sum"] == sources[Source.SMALL]
    drafted, wasted = page["bild_drafted_tokens_total"], page["bild_rollback_tokens_total"]
    assert page["bild_accept_ratio"] == pytest.approx(1 - wasted / drafted)


async def test_a_long_text_is_counted_while_it_is_written() -> None:
    """A page that is read in the middle of a request has its tokens so far, and at the end none of them twice."""
    telemetry = Telemetry(Metrics())
    assert telemetry.metrics is not None
    async with pair(telemetry, SPEC + "&ms=1") as decoder:
        text = decoder.stream("Hello", max_new_tokens=60)
        seen = []
        async for event in text:
            if event.position % 20 == 10:
                page = values(telemetry.metrics)
                seen.append(sum(v for k, v in page.items() if k.startswith("bild_tokens_total")))
                assert page["bild_requests_in_flight"] == 1
        await text.result()
        await asyncio.sleep(0)
        page = values(telemetry.metrics)
    assert all(0 < count <= 60 for count in seen)
    assert seen == sorted(seen)
    assert 60 == sum(v for k, v in page.items() if k.startswith("bild_tokens_total"))


async def test_every_way_out_is_counted_once() -> None:
    """A bad prompt, a deadline, a cancelled text: each under its name, and nothing stays in flight or waiting."""
    telemetry = Telemetry(Metrics())
    assert telemetry.metrics is not None
    async with pair(telemetry, SPEC + "&ms=5") as decoder:
        with pytest.raises(InvalidRequest):
            await decoder.generate([999999])
        with pytest.raises(DeadlineExceeded):
            await decoder.generate("Hello", max_new_tokens=1000, deadline=0.05)
        first = decoder.stream("Hello", max_new_tokens=1000)
        await anext(first)
        second = decoder.stream("Hello", max_new_tokens=1000)
        await anext(first)  # some turns of the loop later
        assert values(telemetry.metrics)["bild_requests_waiting"] == 1
        for text in (second, first):
            await text.aclose()
        page = values(telemetry.metrics)
    outcomes = {k: v for k, v in page.items() if k.startswith("bild_requests_total")}
    assert outcomes == {
        'bild_requests_total{mode="bild",outcome="InvalidRequest"}': 1,
        'bild_requests_total{mode="bild",outcome="DeadlineExceeded"}': 1,
        'bild_requests_total{mode="bild",outcome="cancelled"}': 2,
    }
    assert page["bild_requests_in_flight"] == page["bild_requests_waiting"] == 0


async def test_the_workers_of_a_decoder_stand_on_its_page() -> None:
    """Up, heartbeat, slots and passes by role; a lost one is down, and its successor counts as the second."""
    telemetry = Telemetry(Metrics())
    assert telemetry.metrics is not None
    async with pair(telemetry) as decoder:
        await decoder.generate("Hello", max_new_tokens=5)
        await asyncio.sleep(0)
        for worker in decoder.workers.values():
            await worker.open_slots()
        page = values(telemetry.metrics)
        for role in Role:
            assert page[f'bild_worker_up{{worker="{role}"}}'] == 1
            assert page[f'bild_worker_generation{{worker="{role}"}}'] == 1
            assert page[f'bild_worker_slots{{worker="{role}"}}'] == 8
            assert page[f'bild_worker_passes_total{{worker="{role}"}}'] > 0
            assert 0 <= page[f'bild_worker_heartbeat_age_seconds{{worker="{role}"}}'] < 60
            assert page[f'bild_transport_rtt_seconds{{transport="inproc",worker="{role}"}}'] > 0
        decoder.worker_failed(Role.SMALL, DeadlineExceeded("gone"))
        assert values(telemetry.metrics)['bild_worker_up{worker="small"}'] == 0
    async with pair(telemetry):
        page = values(telemetry.metrics)
    assert page['bild_worker_generation{worker="small"}'] == 2
    assert 2 == len([name for name in page if name.startswith("bild_worker_info")])


async def test_a_watch_that_fails_harms_no_text(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever watches does not decide whether there is a text; the failure is logged once a request."""

    class Bad:
        def begin(self, options: Options, started_ns: int) -> Any:
            return self

        traceparent = ""
        record = None

        def admitted(self, progress: Progress) -> None:
            raise RuntimeError("bad watch")

        def ended(self, outcome: str) -> None:
            raise AssertionError("asked again")

    small, large = f"toy:small?{SPEC}", f"toy:large?{SPEC}"
    async with bild_dist.launch(small, large, transport="inproc") as decoder:
        decoder.watch = Bad()
        result = await decoder.generate("Hello", max_new_tokens=9)
    assert 9 == len(result.tokens)
    assert ["a watch failed and is told no more of a request"] == [
        record.message for record in caplog.records if record.levelno >= logging.ERROR
    ]


@pytest.fixture
def exported() -> Iterator[tuple[Spans, InMemorySpanExporter]]:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield Spans(provider), exporter
    provider.shutdown()


def named(spans: tuple[ReadableSpan, ...], name: str) -> list[ReadableSpan]:
    return [span for span in spans if span.name == name]


async def test_a_request_is_a_trace_of_both_workers(
    exported: tuple[Spans, InMemorySpanExporter],
) -> None:
    """The request joins the caller's trace; its draft, verify and rollback spans, and those that the
    workers write, are its children and as many as the answers were.
    """
    spans, exporter = exported
    workers = [
        Worker(partial(load, WorkerConfig(model=f"toy:{role}?{SPEC}")), f"inproc://traced-{role}", 2, spans)
        for role in Role
    ]  # fmt: skip
    telemetry = Telemetry(None, spans)
    async with workers[0], workers[1]:
        addresses = {role: worker.address for role, worker in zip(Role, workers, strict=True)}
        async with Decoder(addresses) as decoder:
            telemetry.watch(decoder)
            result = await decoder.generate(
                "Hello", max_new_tokens=80, schedule="paper", traceparent=PARENT
            )
            await asyncio.sleep(0)
    found = exporter.get_finished_spans()
    (root,) = [span for span in found if span.name.startswith("text_completion")]
    assert root.parent is not None
    assert root.context is not None
    assert f"{root.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{root.parent.span_id:016x}" == PARENT.split("-")[2]
    for span in found:
        assert span.context is not None
        assert span.context.trace_id == root.context.trace_id
        if span is not root:
            assert span.parent is not None
            assert span.parent.span_id == root.context.span_id
    drafts, checks = named(found, "bild.draft"), named(found, "bild.verify")
    assert len(checks) == result.trace.large_passes
    assert len(drafts) == len(named(found, "bild.worker.draft"))
    assert len(checks) == len(named(found, "bild.worker.verify"))
    assert len(named(found, "bild.rollback")) == result.trace.rollbacks > 0
    assert 1 == len(named(found, "bild.wait"))
    told_of = dict(root.attributes or {})
    assert told_of["gen_ai.usage.output_tokens"] == 80
    assert told_of["gen_ai.response.finish_reasons"] == ("length",)
    assert root.start_time is not None
    assert root.end_time is not None
    for span in drafts + checks:
        assert root.start_time <= (span.start_time or 0) <= (span.end_time or 0) <= root.end_time


async def test_a_trace_that_nobody_keeps_is_not_noted() -> None:
    """Where the sampler says no, nothing is written down while tokens are, and nothing is exported."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry = Telemetry(None, Spans(provider))
    request = telemetry.begin(Options(), 0)
    assert request.record is None
    assert 0 == int(request.traceparent.rpartition("-")[2], 16) & 1
    request.ended("length")
    assert exporter.get_finished_spans() == ()


async def test_a_failed_request_is_a_failed_span(
    exported: tuple[Spans, InMemorySpanExporter],
) -> None:
    """It has the name of its error, and not its message: that may quote the prompt."""
    spans, exporter = exported
    async with pair(Telemetry(None, spans)) as decoder:
        with pytest.raises(InvalidRequest):
            await decoder.generate([999999])
    (root,) = [s for s in exporter.get_finished_spans() if s.name.startswith("text_completion")]
    assert dict(root.attributes or {})["error.type"] == "InvalidRequest"
    assert not root.status.is_ok
    assert root.status.description is None


def test_spans_take_packages_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them, who asked for spans is told what to install; OpenTelemetry's own variables alone stop nothing."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r'pip install "bild-dist\[otel\]"'):
        Spans.opened("http://127.0.0.1:1", "bild-test")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    assert Spans.opened("", "bild-test") is None
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    assert Spans.opened("", "bild-test") is None


async def test_without_a_word_there_are_neither_page_nor_spans() -> None:
    """The default of [telemetry]: a decoder is not watched at all."""
    async with told(TelemetryConfig(), "bild-test") as telemetry:
        assert telemetry.metrics is None
        async with pair(telemetry) as decoder:
            assert decoder.watch is None


async def test_a_taken_address_is_refused_by_name() -> None:
    """Two processes cannot show one page; the second says so before it starts anything."""
    async with told(TelemetryConfig(metrics="127.0.0.1:0"), "bild-test") as telemetry:
        port = telemetry.page.removesuffix("/metrics").rpartition(":")[2]
        assert int(port) > 0
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}.*in use"):
            async with told(TelemetryConfig(metrics=f"127.0.0.1:{port}"), "bild-test"):
                pass


@pytest.mark.parametrize("style", log.STYLES)
async def test_a_prompt_is_never_told(
    style: str, exported: tuple[Spans, InMemorySpanExporter], caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Neither logs (down to debug, tracebacks too), nor metrics, nor spans hold a word of a prompt or of a
    text, whether the request succeeds, is refused, or meets a bug.
    """
    secret = "xylophone"
    spans, exporter = exported
    telemetry = Telemetry(Metrics(), spans)
    caplog.set_level(logging.DEBUG)
    async with pair(telemetry) as decoder:
        result = await decoder.generate(f"Hello {secret}", max_new_tokens=40)
        with pytest.raises(BildError):
            await decoder.generate(secret * 10_000)
        with pytest.raises(BildError):
            await decoder.generate(secret, max_new_tokens=8, src_lang=secret)

        def broken(*arguments: object) -> None:
            held = secret  # a local variable, as a traceback with locals would show it
            raise RuntimeError(f"a bug with {len(held)} letters")

        decoder._dispatcher.decode = broken  # type: ignore[method-assign, assignment]
        with pytest.raises(BildError, match="bug"):
            await decoder.generate(secret)
    assert telemetry.metrics is not None
    lines = log.Lines(style, logging.StreamHandler().stream)
    logged = "".join(lines.format(record) for record in caplog.records)
    assert "a bug with 9 letters" in logged
    traced = json.dumps([json.loads(span.to_json()) for span in exporter.get_finished_spans()])
    said = "".join(capfd.readouterr())
    for text in (logged, telemetry.metrics.render()[0].decode(), traced, said):
        assert secret not in text
        assert result.text not in text
