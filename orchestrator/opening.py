"""A decoder from a configuration: joins running workers, or starts its own and watches over
them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from bild_dist.config import Config
from bild_dist.errors import BildError, ConfigError, WorkerUnavailable
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.orchestrator.session import Record
from bild_dist.orchestrator.supervisor import Child, Supervisor
from bild_dist.types import Role

EXIT_S: Final = 1.0
"""How long the end of a process may take to be heard behind that of its connection."""


def check_folders(config: Config) -> None:
    """Raises ConfigError where a model is named by a way to a folder or file that is not there: a worker would say
    it, too, when everything for it is loaded.
    """
    for role in Role:
        model = config.worker(role).model
        way = model.startswith(("/", "./", "../", "~")) or model.endswith(".gguf")
        if way and not Path(model).expanduser().exists():
            raise ConfigError(
                f"the {role} model {model} is not there: name a folder, a .gguf file or a hub id"
            )


@asynccontextmanager
async def connected(
    config: Config, addresses: Mapping[Role, str], record: Record | None = None
) -> AsyncIterator[Decoder]:
    """A decoder over workers that run already. `record` is told of every step of every request."""
    concurrency = config.orchestrator.concurrency
    async with Decoder(
        addresses, options=config.generate, concurrency=concurrency, record=record
    ) as decoder:
        yield decoder


@asynccontextmanager
async def launched(
    config: Config,
    say: Callable[[str], None] = lambda line: None,
    record: Record | None = None,
) -> AsyncIterator[Decoder]:
    """A decoder over two worker processes of its own, which end with it.

    `say` gets a line when each worker is ready; `record` is told of every step of every request.

    Raises:
        ConfigError, WorkerFault: a worker cannot start; the message is its own.
        WorkerUnavailable: whoever uses it has let one out, and a process has ended: says which, and how.
    """
    decoders: list[Decoder] = []
    ended: asyncio.Future[BildError] = asyncio.get_running_loop().create_future()

    def on_exit(child: Child, error: BildError) -> None:
        if not ended.done():
            ended.set_result(error)
        for decoder in decoders:
            decoder.worker_failed(child.role, error)

    async with Supervisor(on_exit) as supervisor:
        children = await start_pair(supervisor, config, say)
        addresses = {child.role: child.address for child in children}
        concurrency = config.orchestrator.concurrency
        async with Decoder(
            addresses, options=config.generate, concurrency=concurrency, record=record
        ) as decoder:
            decoders.append(decoder)
            try:
                yield decoder
            except WorkerUnavailable as error:
                # The end of a connection is often heard before that of the process, which says more.
                done, _ = await asyncio.wait([ended], timeout=EXIT_S)
                raise (ended.result() if done else error) from None


async def start_pair(
    supervisor: Supervisor, config: Config, say: Callable[[str], None]
) -> list[Child]:
    """Starts both workers side by side; if one fails, its own error is raised."""
    transport = config.orchestrator.transport

    async def start(role: Role) -> Child:
        child = await supervisor.start(
            role, config.worker(role), supervisor.private_address(role, transport)
        )
        say(child.ready)
        return child

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(start(role)) for role in (Role.LARGE, Role.SMALL)]
    except BaseExceptionGroup as errors:
        raise next(iter(errors.exceptions)) from None
    return [task.result() for task in tasks]
