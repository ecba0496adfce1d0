"""One run of `bild serve`: the models, the server over them, and the end of both."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping

from bild_dist.config import Config
from bild_dist.errors import BildError, ConfigError
from bild_dist.orchestrator.fleet import Fleet, echo
from bild_dist.orchestrator.http.auth import Keys
from bild_dist.orchestrator.http.command import InProcess
from bild_dist.orchestrator.http.connection import make_room
from bild_dist.orchestrator.http.house import House
from bild_dist.orchestrator.http.server import Server, listen
from bild_dist.orchestrator.keeping import Keeping, keeping
from bild_dist.orchestrator.telemetry import told
from bild_dist.signals import heeded
from bild_dist.types import Role


async def serve(config: Config, addresses: Mapping[Role, str], inproc: InProcess) -> int:
    """Returns the exit code. The address is taken first, so that one which is not free is known
    before any model is loaded; until the models are there requests get 503.

    Raises:
        ConfigError: the address cannot be listened on, this process may not have as many connections,
            or the models cannot be started.
    """
    keys = Keys.of(config.http)
    make_room(config.http.connections)
    sock = listen(config.http)
    over = asyncio.Event()
    with sock:
        async with (
            told(config.telemetry, "bild-serve", metrics=True) as telemetry,
            keeping(config, addresses, inproc, _say, echo, fleet=Fleet(telemetry.metrics)) as kept,
        ):
            metrics = telemetry.metrics.render if telemetry.metrics is not None else None
            server = Server(House(config.http, kept, keys, metrics), sock)

            def stop() -> None:
                if over.is_set():  # told twice: does not want to wait
                    server.hurry.set()
                over.set()

            def up() -> None:
                telemetry.watch(kept.decoder)
                _say(f"serving at {server.address}")

            with heeded(stop):
                failure = await _until(over, server, kept, up)
    if isinstance(failure, ConfigError):
        raise failure
    if failure is not None:
        _say_error(str(failure))
    return 0 if failure is None and server.clean else 1


async def _until(
    over: asyncio.Event, server: Server, kept: Keeping, up: Callable[[], None]
) -> BildError | None:
    """Serves until somebody says to stop, or there is nothing left to serve with: then why."""
    failures: list[BildError] = []

    async def keep() -> None:
        try:
            await kept.run(up)
        except BildError as error:
            failures.append(error)
            over.set()

    async with asyncio.TaskGroup() as group:
        keeper = group.create_task(keep())
        async with server:
            await over.wait()
            if not failures:
                _say("stopping: requests under way may end")
        keeper.cancel()
    return failures[0] if failures else None


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def _say_error(line: str) -> None:
    print(f"bild serve: {line}", file=sys.stderr, flush=True)  # noqa: T201
