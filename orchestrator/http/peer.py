"""The client at the other end: what it sends, when it goes away, and that it keeps taking."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Message, Receive, Send

from bild_dist.orchestrator.http.problems import Problem


class Gone(Exception):
    """The client has gone, or takes nothing any more: there is nobody to answer."""


async def read_body(receive: Receive, declared: str | None, limit: int, stall_s: float) -> bytes:
    """A request's body.

    `declared` is its Content-Length, so that one that is too large is refused before it comes.

    Raises:
        Problem: 413 for more than `limit` bytes, 408 where nothing comes for `stall_s` seconds.
        Gone: the client went away meanwhile.
    """
    too_large = Problem(413, f"the body may have at most {limit} bytes", code="request_too_large")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise too_large
    body = bytearray()
    while True:
        try:
            async with asyncio.timeout(stall_s):
                message = await receive()
        except TimeoutError:
            raise Problem(
                408, f"nothing of the body came for {stall_s:g} s: send it at once",
                code="request_timeout", headers={"Connection": "close"},
            ) from None  # fmt: skip
        if message["type"] == "http.disconnect":
            raise Gone
        body += message.get("body", b"")
        if len(body) > limit:
            raise too_large
        if not message.get("more_body", False):
            return bytes(body)


@asynccontextmanager
async def attended(receive: Receive) -> AsyncIterator[asyncio.TaskGroup]:
    """The body runs while the client is there and is cancelled when it goes away; gives a group for
    tasks that end with it. An error of the body or of a task passes through as it is.

    Raises:
        Gone: the client went away.
    """
    try:
        async with asyncio.TaskGroup() as group:
            watcher = group.create_task(_until_gone(receive))
            yield group
            watcher.cancel()
    except BaseExceptionGroup as errors:
        raise _first(errors) from None


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    raise Gone


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one that tells most: what went wrong, before the client's going."""
    leaves = []
    waiting: list[BaseException] = [errors]
    while waiting:
        error = waiting.pop(0)
        if isinstance(error, BaseExceptionGroup):
            waiting.extend(error.exceptions)
        else:
            leaves.append(error)
    return next((leaf for leaf in leaves if not isinstance(leaf, Gone)), leaves[0])


async def give(send: Send, message: Message, stall_s: float) -> None:
    """Sends a message; waits while the client is behind, but no longer than it may be.

    Raises:
        Gone: the client took nothing for `stall_s` seconds.
    """
    try:
        async with asyncio.timeout(stall_s):
            await send(message)
    except TimeoutError:
        raise Gone from None
