"""The face that Python users see: a decoder over two workers, and the texts that it is writing."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

from bild_dist.clock import now_ns
from bild_dist.errors import BildError, LocalProtocolError, WorkerUnavailable
from bild_dist.orchestrator.client import WorkerClient
from bild_dist.orchestrator.dispatcher import Dispatcher, both
from bild_dist.orchestrator.pairing import check_pair, schedule_for
from bild_dist.orchestrator.prompt import Prompt, prepare
from bild_dist.orchestrator.session import Record
from bild_dist.orchestrator.text import Stream, Text
from bild_dist.orchestrator.watch import Quiet, Watch
from bild_dist.policy.events import Emit
from bild_dist.types import Options, Result, Role, TokenEvent


class Generation:
    """One text on its way: iterate over it for its tokens, `await result()` for the whole.

    Dropping the last reference, or `await aclose()`, cancels it on both workers.
    """

    def __init__(self) -> None:
        self._events: asyncio.Queue[TokenEvent | None] = asyncio.Queue()
        self._result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    def __del__(self) -> None:
        self._cancel()

    def __aiter__(self) -> AsyncIterator[TokenEvent]:
        return self

    async def __anext__(self) -> TokenEvent:
        event = await self._events.get()
        if event is None:
            self._events.put_nowait(None)
            await self.result()
            raise StopAsyncIteration
        return event

    @property
    def done(self) -> bool:
        """Whether the text is complete, or will never be."""
        return self._result.done()

    def ready(self) -> list[TokenEvent]:
        """The tokens that nobody has taken yet, without waiting for more."""
        events: list[TokenEvent] = []
        while not self._events.empty():
            event = self._events.get_nowait()
            if event is None:  # the end stays, for whoever waits for it
                self._events.put_nowait(None)
                break
            events.append(event)
        return events

    async def result(self) -> Result:
        """The finished text.

        Raises:
            BildError: why there is none.
        """
        return await asyncio.shield(self._result)

    async def aclose(self) -> None:
        """Cancels what is left. Idempotent."""
        self._cancel()
        if self._task is not None:
            await asyncio.wait([self._task])

    def _cancel(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)


class Decoder:
    """Two workers that write one text, as an async context.

    `addresses` names where the workers listen; `record` is told of every step of every request, `watch`
    of requests as a whole. A later value of `watch` holds for the requests that begin after it.
    Raises on entering:
        WorkerUnavailable: nobody answers there.
        ConfigError: the two models do not fit together.
    """

    def __init__(
        self,
        addresses: Mapping[Role, str],
        *,
        options: Options | None = None,
        concurrency: int = 1,
        connect_timeout: float = 5.0,
        text: Text | None = None,
        record: Record | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._addresses = addresses
        self._options = options if options is not None else Options()
        self._concurrency = concurrency
        self._timeout = connect_timeout
        self._text = text
        self._record = record
        self.watch = watch
        self._stack = AsyncExitStack()
        self._dispatcher: Dispatcher
        self.workers: dict[Role, WorkerClient] = {}

    async def __aenter__(self) -> Self:
        try:
            for role in (Role.LARGE, Role.SMALL):
                address = self._addresses[role]
                client = await WorkerClient.open(role, address, timeout=self._timeout)
                self.workers[role] = client
            small, large = self.workers[Role.SMALL], self.workers[Role.LARGE]
            check_pair(small.info, large.info)
            self._dispatcher = await self._stack.enter_async_context(
                Dispatcher(self.workers, self.concurrency, self._record)
            )
            if self._text is None:
                self._text = await _fetch_text(large)
        except BaseException:
            await self._stack.aclose()
            for client in self.workers.values():
                await client.abandon()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    @property
    def text(self) -> Text | None:
        """The tokenizer of the pair, once the decoder has been entered."""
        return self._text

    @property
    def concurrency(self) -> int:
        """How many texts are written at once: what was asked for, or what the workers hold."""
        return min(self._concurrency, *(worker.info.slots for worker in self.workers.values()))

    async def lost(self) -> BildError:
        """Waits until a worker is lost, and says why. From then on nothing more is written."""
        await self._dispatcher.broken()
        errors = [worker.lost for worker in self.workers.values() if worker.lost is not None]
        return errors[0] if errors else WorkerUnavailable("the decoder was closed")

    def expect(self, settings: int) -> None:
        """So many settings take turns: what requests of each have learned is kept until its turn comes again."""
        self._dispatcher.expect(settings)

    def worker_failed(self, role: Role, error: BildError) -> None:
        """Somebody who watches the process knows that it has gone."""
        if role in self.workers:
            self.workers[role].fail(error)

    @property
    def options(self) -> Options:
        """What a request gets that does not choose for itself."""
        return self._options

    def settled(self, options: Options) -> Options:
        """With the schedule that this pair takes by itself, where none is asked for."""
        if options.schedule is not None:
            return options
        small, large = self.workers[Role.SMALL].info, self.workers[Role.LARGE].info
        return options.merged({"schedule": schedule_for(small, large, options)})

    def stream(self, prompt: Prompt, *, record: Record | None = None, **options: Any) -> Generation:
        """Starts a text; its tokens come as TokenEvents once they can no longer change.

        `options` are the fields of `types.Options`; `record` is told of every step of this request.

        Raises (here or while iterating):
            InvalidRequest: a bad option or prompt.
            DeadlineExceeded, WorkerUnavailable, WorkerFault, Overloaded: see `errors.py`.
        """
        merged = self.settled(self._options.merged(options))
        generation = Generation()
        started_ns = now_ns()
        work = self._write(
            prompt, merged, generation._events, generation._result, started_ns, record
        )
        generation._task = self._dispatcher.spawn(work)
        return generation

    async def generate(self, prompt: Prompt, **options: Any) -> Result:
        """Writes one text. Options and errors as for `stream`."""
        generation = self.stream(prompt, **options)
        try:
            return await generation.result()
        finally:
            await generation.aclose()

    async def _write(
        self,
        prompt: Prompt,
        options: Options,
        events: asyncio.Queue[TokenEvent | None],
        result: asyncio.Future[Result],
        started_ns: int,
        record: Record | None,
    ) -> None:
        """The task of one request. Every way out sets `result` and ends `events`."""
        watched, outcome = Quiet(self.watch, options, started_ns), "cancelled"
        try:
            value = await self._decode(prompt, options, events, started_ns, record, watched)
            outcome = value.finish_reason.value
            if not result.done():
                result.set_result(value)
        except asyncio.CancelledError:
            result.cancel()
            raise
        except BildError as error:
            outcome = type(error).__name__
            _refuse(result, error)
        except Exception as error:
            outcome = LocalProtocolError.__name__
            # One request's bug must not take down the others: it is logged and told to its caller.
            logging.getLogger(__name__).exception("a request failed")
            _refuse(result, LocalProtocolError(f"a bug in the orchestrator: {error!r}"))
        finally:
            events.put_nowait(None)
            watched.ended(outcome)

    async def _decode(
        self,
        prompt: Prompt,
        options: Options,
        events: asyncio.Queue[TokenEvent | None],
        started_ns: int,
        record: Record | None,
        watched: Quiet,
    ) -> Result:
        if self._text is None:
            raise LocalProtocolError("the decoder has not been entered")
        if watched.traceparent:
            options = options.merged({"traceparent": watched.traceparent})
        work = await prepare(prompt, options, self.workers, self._text)
        writer = _Writer(self._text.stream(options.stop), events)
        outcome = await self._dispatcher.decode(
            work, writer, writer.give, started_ns, both(record, watched.record), watched.admitted
        )
        finish = outcome.finish
        if finish.reason is None:
            raise (
                finish.error if finish.error is not None else LocalProtocolError("no reason given")
            )
        return Result(
            text=writer.text,
            tokens=outcome.tokens,
            sources=outcome.sources,
            finish_reason=finish.reason,
            trace=outcome.trace,
            prompt_tokens=len(work.source or work.ids),
            logprobs=tuple(writer.logprobs),
            top=tuple(writer.top) if options.logprobs else (),
        )


class _Writer:
    """Turns committed tokens into text: the machine's stop test and the reader's events in one
    place.

    Owned by the task of its request.
    """

    def __init__(self, stream: Stream, events: asyncio.Queue[TokenEvent | None]) -> None:
        self._stream = stream
        self._events = events
        self._pieces: deque[str] = deque()
        self.text = ""
        self.logprobs: list[float] = []
        self.top: list[tuple[tuple[int, float], ...]] = []

    def push(self, token: int) -> bool:
        self._pieces.append(self._stream.push(token))
        return self._stream.stopped

    def ahead(self, tokens: Sequence[int]) -> int | None:
        return self._stream.ahead(tokens)

    def give(self, emit: Emit, last: bool) -> None:
        for i, token in enumerate(emit.tokens, start=1):
            piece = self._pieces.popleft()
            if last and i == len(emit.tokens):
                piece += self._stream.finish()
            self.text += piece
            if token.logprob is not None:
                self.logprobs.append(token.logprob)
                self.top.append(token.top)
            self._events.put_nowait(
                TokenEvent(
                    position=token.position,
                    token=token.token,
                    text=piece,
                    source=token.source,
                    confidence=token.confidence,
                    distance=token.distance,
                    logprob=token.logprob,
                    top=token.top,
                )
            )


async def _fetch_text(worker: WorkerClient) -> Text:
    """The tokenizer of a worker's model, or a Text that knows ids only."""
    files: dict[str, bytes] = {}
    if worker.info.tokenizer:
        for name in ("tokenizer.json", "chat.json"):
            files[name] = await worker.fetch(name)
    return Text.from_files(files)


def _refuse(result: asyncio.Future[Result], error: BildError) -> None:
    if not result.done():
        result.set_exception(error)
        result.exception()  # read once, so that a text nobody waits for leaves no warning
