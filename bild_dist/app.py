"""The composition root: the one place that knows both the orchestrator and the workers.

It is what `bild`, `python -m bild_dist` and `bild_dist.launch` start from. Imports are late: `bild --help` loads neither
torch nor a transport.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bild_dist.config import Config
    from bild_dist.orchestrator.decoder import Decoder


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Exit code: 0 all done, 1 some failed, 2 bad usage or configuration."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["worker"]:
        from bild_dist.workers.__main__ import main as worker

        return worker(arguments[1:])
    from bild_dist.orchestrator.cli import main as cli

    return cli(arguments, inproc)


@asynccontextmanager
async def inproc(config: Config) -> AsyncIterator[Decoder]:
    """Both workers and the orchestrator in this process, over the in-process transport."""
    from bild_dist.orchestrator.decoder import Decoder
    from bild_dist.types import Role
    from bild_dist.workers.__main__ import load
    from bild_dist.workers.lifecycle import Worker

    async with AsyncExitStack() as stack:
        addresses = {}
        for role, worker in ((Role.SMALL, config.small), (Role.LARGE, config.large)):
            listen = f"inproc://{role.value}-{id(stack)}"
            running = Worker(lambda worker=worker: load(worker), listen, worker.slots)
            await stack.enter_async_context(running)
            addresses[role] = running.address
        yield await stack.enter_async_context(
            Decoder(addresses, options=config.generate, concurrency=config.orchestrator.concurrency)
        )
