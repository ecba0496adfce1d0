"""`POST /v1/completions` and `/v1/chat/completions`: from a body to texts, whole or as a stream."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from math import inf
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bild_dist.errors import BildError, InvalidRequest
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.orchestrator.http.bodies import DONE, Shape, sse
from bild_dist.orchestrator.http.house import House
from bild_dist.orchestrator.http.peer import Gone, attended, give, read_body
from bild_dist.orchestrator.http.problems import Problem, problem_of
from bild_dist.orchestrator.http.schema import Asked, parse
from bild_dist.orchestrator.http.texts import Item, Plan, Texts, plans
from bild_dist.orchestrator.text import Text
from bild_dist.types import Result


class Writing:
    """One of the two, as an ASGI application. Immutable; a request's state is in its own task."""

    def __init__(self, house: House, *, chat: bool) -> None:
        self._house = house
        self._chat = chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request.

        Raises (as long as nothing has gone out):
            Problem, BildError: why there is no text.
        """
        try:
            with self._house.admission.request():
                await self._answer(scope, receive, send)
        except Gone:
            return  # nobody is there to be told

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        house, headers = self._house, Headers(scope=scope)
        house.keys.check(headers)
        _check_type(headers)
        # Before anything of the body is read: a refusal must cost next to nothing.
        house.admit(house.keeping.decoder)
        config = house.config
        declared = headers.get("content-length")
        body = await read_body(receive, declared, config.body_limit, config.stall)
        decoder = house.keeping.decoder
        asked = parse(body, chat=self._chat, defaults=decoder.options)
        asked = self._settled(asked, decoder, headers)
        planned = plans(asked, decoder.options)
        if len(planned) > house.places(decoder):
            raise Problem(
                400, f"{len(planned)} texts are more than this server takes at once, which is "
                f"{house.places(decoder)}: ask for fewer at a time",
                param="n" if self._chat else "prompt",
            )  # fmt: skip
        house.admit(decoder, len(planned))
        texts = Texts(decoder, planned, house.admission, events=asked.show.events)
        text = decoder.text if decoder.text is not None else Text.from_files({})
        model = asked.model if asked.model is not None else config.name
        shape = Shape(asked, model, house.fingerprint(decoder), text)
        if asked.stream:
            await _Stream(texts, shape, planned, config.stall).send(receive, send)
            return
        async with texts, attended(receive) as group:
            texts.start(group)
            written = await texts.written()
        whole = Response(shape.whole(planned, written), media_type="application/json")
        await _bounded(whole, scope, receive, send, config.stall)

    def _settled(self, asked: Asked, decoder: Decoder, headers: Headers) -> Asked:
        """The request with what stands outside its body."""
        options: dict[str, Any] = dict(asked.options)
        mode = self._house.mode(decoder, asked.model)
        if mode is not None and options.setdefault("mode", mode) != mode:
            raise Problem(
                400, f"model {asked.model!r} writes alone, which is mode {mode.value!r}: leave out "
                f"the mode, or name the pair, {self._house.config.name!r}",
                param="mode",
            )  # fmt: skip
        own = options.get("deadline", decoder.options.deadline)
        options["deadline"] = min(own if own is not None else inf, self._house.config.deadline)
        trace = {"traceparent": headers.get("traceparent", "")}
        with contextlib.suppress(InvalidRequest):  # the standard: what is none is ignored
            decoder.options.merged(trace)
            options |= trace
        return dataclasses.replace(asked, options=options, prompts=_spoken(asked, decoder))


def _check_type(headers: Headers) -> None:
    """Only JSON that says so: other types a web page may send anywhere without asking first."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(
            415, f"the body is of type {kind or 'none'!r}: send the header 'Content-Type: application/json'",
            code="unsupported_media_type",
        )  # fmt: skip


def _spoken(asked: Asked, decoder: Decoder) -> tuple[Any, ...]:
    """The prompts. Where a model knows no conversations, one message of a user is its prompt: so
    clients that only know chats can use a model that translates.
    """
    text = decoder.text
    if not asked.chat or (text is not None and text.has_chat_template):
        return asked.prompts
    (messages,) = asked.prompts
    if len(messages) == 1 and isinstance(messages[0], dict) and messages[0]["role"] == "user":
        return (messages[0]["content"],)
    raise Problem(
        400, "the model has no chat template: send one message of the role 'user', or use "
        "/v1/completions",
        param="messages",
    )  # fmt: skip


async def _bounded(
    response: Response, scope: Scope, receive: Receive, send: Send, stall_s: float
) -> None:
    async def bounded(message: Any) -> None:
        await give(send, message, stall_s)

    await response(scope, receive, bounded)


class _Stream:
    """The answer to one request as server-sent events. Owned by the task that answers it."""

    def __init__(self, texts: Texts, shape: Shape, planned: list[Plan], stall_s: float) -> None:
        self._texts = texts
        self._shape = shape
        self._plans = planned
        self._stall_s = stall_s
        self._begun = False
        self._results: dict[int, Result] = {}

    async def send(self, receive: Receive, send: Send) -> None:
        """Writes all texts. The status goes out with the first thing that there is to say, so what
        fails before that has a status of its own.

        Raises:
            BildError: nothing has gone out, and this is why.
            Gone: the client went away, or fell too far behind.
        """
        try:
            async with self._texts, attended(receive) as group:
                self._texts.start(group)
                while not self._texts.over:
                    await self._pass_on(await self._texts.next(), send)
            await self._end(send)
        except BildError as error:
            if not self._begun:
                raise
            body = sse(problem_of(error).as_dict())
            await self._give(send, body, more=False)

    async def _pass_on(self, items: Iterable[tuple[int, Item]], send: Send) -> None:
        chunks: list[bytes] = []
        for number, item in items:
            plan = self._plans[number]
            if isinstance(item, Result):
                self._results[number] = item
                chunks += self._shape.end(plan, item)
            elif isinstance(item, list):
                chunks += self._shape.tokens(plan, item)
            else:
                chunks += self._shape.event(plan, item)
        if chunks:
            await self._give(send, b"".join(chunks), more=True)

    async def _end(self, send: Send) -> None:
        body = DONE
        if self._shape.asked.usage:
            results = [self._results[number] for number in range(len(self._plans))]
            body = self._shape.usage(self._plans, results) + DONE
        await self._give(send, body, more=False)

    async def _give(self, send: Send, body: bytes, *, more: bool) -> None:
        if not self._begun:
            self._begun = True
            headers = [
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"cache-control", b"no-cache"),
                (b"x-accel-buffering", b"no"),  # proxies must pass each token on
            ]
            start = {"type": "http.response.start", "status": 200, "headers": headers}
            await give(send, start, self._stall_s)
        message = {"type": "http.response.body", "body": body, "more_body": more}
        await give(send, message, self._stall_s)
