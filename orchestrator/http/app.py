"""All paths of the server, and one shape for everything that goes wrong on any of them."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bild_dist.clock import now_ns
from bild_dist.errors import TABLE
from bild_dist.log import bound
from bild_dist.orchestrator.http.admission import Admission
from bild_dist.orchestrator.http.front import Front
from bild_dist.orchestrator.http.house import House
from bild_dist.orchestrator.http.problems import Problem, problem_of
from bild_dist.orchestrator.http.writing import Writing

_PROBES: Final = ("/health", "/ready", "/metrics")
_REQUEST_ID: Final = re.compile("[A-Za-z0-9._:-]{1,128}")


def application(house: House) -> ASGIApp:
    """The server's application. `docs/http.md` describes its paths."""
    handlers: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {
        Problem: _on_problem,
        HTTPException: _on_http,
        Exception: _on_bug,
        **dict.fromkeys(TABLE, _on_error),
    }
    small = _Small(house)
    routes = [
        Route("/v1/completions", Writing(house, chat=False), methods=["POST"]),
        Route("/v1/chat/completions", Writing(house, chat=True), methods=["POST"]),
        Route("/v1/models", small.models, methods=["GET"]),
        Route("/v1/models/{name:path}", small.model, methods=["GET"]),
        Route("/health", small.health, methods=["GET"]),
        Route("/ready", small.ready, methods=["GET"]),
        Route("/metrics", small.metrics, methods=["GET"]),
        *Front(house).routes(),
    ]
    return _Stamped(Starlette(routes=routes, exception_handlers=handlers), house.admission)


class _Small:
    """The endpoints that answer at once."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def models(self, request: Request) -> Response:
        """What requests may name as `model`."""
        self._house.keys.check(request.headers)
        names = self._house.models(self._house.decoder)
        return JSONResponse({"object": "list", "data": [_model(name) for name in names]})

    async def model(self, request: Request) -> Response:
        """One of them."""
        self._house.keys.check(request.headers)
        name = request.path_params["name"]
        self._house.mode(self._house.decoder, name)
        return JSONResponse(_model(name))

    async def health(self, request: Request) -> Response:
        """200 where both models make progress."""
        good, told = self._house.health()
        return JSONResponse(told, 200 if good else 503)

    async def ready(self, request: Request) -> Response:
        """200 where requests should be sent here."""
        good, _ = self._house.health()
        ready = good and not self._house.admission.draining
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        """What is measured, for Prometheus."""
        if self._house.metrics is None:
            raise Problem(404, "this server measures nothing", code="unknown_url")
        body, kind = self._house.metrics()
        return Response(body, media_type=kind)


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "bild-dist"}


async def _on_problem(request: Request, problem: Problem) -> Response:
    return Response(
        problem.body(), problem.status, headers=problem.headers, media_type="application/json"
    )


async def _on_error(request: Request, error: Any) -> Response:
    return await _on_problem(request, problem_of(error))


async def _on_http(request: Request, error: HTTPException) -> Response:
    """A path or a method that there is not."""
    path = request.url.path
    problem = Problem(
        error.status_code, f"there is nothing at {path}: see /v1/models, /v1/completions, "
        "/v1/chat/completions, /health, /ready, /metrics",
        code="unknown_url",
    )  # fmt: skip
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        problem = Problem(
            405, f"{path} is not for {request.method}: use {allowed}",
            code="method_not_allowed", headers=error.headers,
        )  # fmt: skip
    return await _on_problem(request, problem)


async def _on_bug(request: Request, error: Exception) -> Response:
    """Nothing we know of: the log has it, the client only that it happened. The connection ends with it,
    as uvicorn has it where an application fails.
    """
    problem = Problem(
        500, "an internal error: the server's log says more",
        kind="server_error", code="internal_error", headers={"Connection": "close"},
    )  # fmt: skip
    return await _on_problem(request, problem)


class _Stamped:
    """An application whose answers carry the request's number, and while the server drains the word
    that the connection ends with them. One line a request goes to the log; never a prompt.
    """

    def __init__(self, inner: ASGIApp, admission: Admission) -> None:
        self._inner = inner
        self._admission = admission
        self._log = logging.getLogger(__name__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        number = given if _REQUEST_ID.fullmatch(given) is not None else f"req-{uuid.uuid4().hex}"
        started_ns, status = now_ns(), 0

        async def stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = number
                if self._admission.draining:
                    headers["Connection"] = "close"
            await send(message)

        try:
            with bound(request_id=number):
                await self._inner(scope, receive, stamped)
        finally:
            spent_ms = (now_ns() - started_ns) / 1e6
            fields = {"request_id": number, "status": status, "wall_ms": round(spent_ms, 1)}
            # Those who ask every few seconds whether all is well would fill the log.
            quiet = scope["path"] in _PROBES and status < 400
            level = logging.DEBUG if quiet else logging.INFO
            self._log.log(level, "%s %s", scope["method"], scope["path"], extra=fields)
