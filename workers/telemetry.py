"""What a worker tells about itself: its page of metrics, and spans of the commands that belong to a trace.
 Nothing here stands between a command and its pass. The metrics are the engine's own counts, read when
somebody asks for the page; spans are written as answers leave, where spans are on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from bild_dist.clock import now_ns
from bild_dist.messages import Close, Drafted, Failed, Info, Message, Open, Verified
from bild_dist.telemetry.spans import Spans, since_1970_ns
from bild_dist.transport.base import Channel, Handler
from bild_dist.workers.turns import Readings

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from bild_dist.metrics import Metrics


class Shown(Protocol):
    """What is asked of a worker: `lifecycle.Worker`."""

    info: Info

    @property
    def address(self) -> str: ...

    def readings(self) -> Readings:
        """What its engine has done so far. Called on the thread that serves the page."""
        ...


@asynccontextmanager
async def shown(listen: str, worker: Shown) -> AsyncIterator[str]:
    """Serves the page of a worker at HOST:PORT as long as the context is open, and gives its address;
    empty for an empty `listen`.

    Raises:
        ConfigError: the address cannot be had.
    """
    if not listen:
        yield ""
        return
    from bild_dist.metrics import Metrics
    from bild_dist.telemetry.page import lag_watched, page

    metrics = Metrics()
    _Engine(metrics, worker)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(lag_watched(metrics))
        yield await stack.enter_async_context(page(metrics, listen))


class _Engine:
    """Carries an engine's counts to the metrics. Owned by them; called on the thread that serves the page."""

    def __init__(self, metrics: Metrics, worker: Shown) -> None:
        from bild_dist.metrics import Tally

        workers, self._read = metrics.workers, worker.readings
        address, info = worker.address, worker.info
        workers.info.labels(address, info.model, address, info.generation).set(1)
        workers.up.labels(address).set(1)
        workers.slots.labels(address).set(info.slots)
        self._passes = Tally(workers.passes.labels(address))
        self._busy = Tally(workers.busy.labels(address))
        self._served = Tally(workers.served.labels(address))
        self._fed = Tally(workers.fed.labels(address))
        self._open_slots = workers.open_slots.labels(address)
        self._waiting = workers.waiting.labels(address)
        self._kv_tokens = workers.kv_tokens.labels(address)
        metrics.refreshed_by(self._refresh)

    def _refresh(self) -> None:
        now = self._read()
        self._passes.reads(now.passes)
        self._busy.reads(now.spent_ns / 1e9)
        self._served.reads(now.served)
        self._fed.reads(now.fed)
        self._open_slots.set(now.open_slots)
        self._waiting.set(now.waiting)
        self._kv_tokens.set(now.kv_tokens)


def traced(serve: Handler, spans: Spans | None) -> Handler:
    """A handler of connections that also writes a span for each draft and check of a traced request."""
    if spans is None:
        return serve
    known = spans

    async def handle(channel: Channel) -> None:
        await serve(_Traced(channel, known))

    return handle


@dataclass(eq=False, slots=True)
class _Traced:
    """A channel that looks at what passes. Owned by the task that serves the connection."""

    channel: Channel
    spans: Spans
    traces: dict[int, Context] = field(default_factory=dict)
    """Of the open requests that belong to a trace, by their sessions."""

    async def send(self, message: Message) -> None:
        await self.channel.send(message)
        self._sent(message)

    def try_send(self, message: Message) -> bool:
        """As `Channel`."""
        taken = self.channel.try_send(message)
        if taken:
            self._sent(message)
        return taken

    async def receive(self) -> Message:
        message = await self.channel.receive()
        self._came(message)
        return message

    def deliver_to(self, sink: Callable[[Message], None]) -> None:
        """As `Channel`."""

        def both(message: Message) -> None:
            self._came(message)
            sink(message)

        self.channel.deliver_to(both)

    async def close(self) -> None:
        await self.channel.close()

    def _came(self, message: Message) -> None:
        if isinstance(message, Open) and message.traceparent:
            self.traces[message.session] = self.spans.joined(message.traceparent)
        elif isinstance(message, Close):
            self.traces.pop(message.session, None)

    def _sent(self, message: Message) -> None:
        if isinstance(message, Drafted | Verified):
            self._write(message)
        elif isinstance(message, Failed):
            self.traces.pop(message.session, None)

    def _write(self, reply: Drafted | Verified) -> None:
        """The answer's own times say when its passes began: it leaves as soon as they are done."""
        trace = self.traces.get(reply.session)
        if trace is None:
            return
        end_ns = now_ns() + since_1970_ns()
        drafted = isinstance(reply, Drafted)
        self.spans.write(
            "bild.worker.draft" if drafted else "bild.worker.verify", trace,
            end_ns - reply.compute_ns, end_ns,
            {
                "bild.passes": reply.passes,
                "bild.queue_s": reply.queue_ns / 1e9,
                "bild.tokens": len(reply.tokens) if isinstance(reply, Drafted) else reply.accepted,
            },
        )  # fmt: skip
