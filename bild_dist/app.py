"""The composition root: the one place that knows both the orchestrator and the workers.

It is what `bild`, `python -m bild_dist` and `bild_dist.launch` start from. Imports are late: `bild
--help` loads neither torch nor a transport.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from bild_dist.errors import ConfigError

if TYPE_CHECKING:
    from bild_dist.config import Config
    from bild_dist.orchestrator.decoder import Decoder
    from bild_dist.orchestrator.prompt import Prompt
    from bild_dist.orchestrator.session import Record
    from bild_dist.types import Result


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Exit code: 0 all done, 1 some failed, 2 bad usage or configuration, 130 interrupted."""
    try:
        return _main(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        # While a command is being loaded: later it hears of it itself, and says what it leaves.
        return 130


def _main(arguments: list[str]) -> int:
    if arguments[:1] == ["worker"]:
        from bild_dist.workers.__main__ import main as worker

        return worker(arguments[1:])
    if arguments[:1] == ["bench"]:
        from bild_dist.evaluation.bench.main import main as bench

        return bench(arguments[1:], inproc)
    if arguments[:1] == ["plan"]:
        from bild_dist.evaluation.plan.main import main as plan

        return plan(arguments[1:], inproc)
    if arguments[:1] == ["align"]:
        from bild_dist.evaluation.align.main import main as align

        return align(arguments[1:], inproc)
    if arguments[:1] == ["sweep"]:
        from bild_dist.evaluation.sweep.main import main as sweep

        return sweep(arguments[1:], inproc)
    if arguments[:1] == ["tune"]:
        from bild_dist.evaluation.tune.main import main as tune

        return tune(arguments[1:], inproc)
    if arguments[:1] == ["eval"]:
        from bild_dist.evaluation.run.main import main as evaluate

        return evaluate(arguments[1:], inproc)
    if arguments[:1] == ["report"]:
        from bild_dist.evaluation.report.main import main as report

        return report(arguments[1:])
    if arguments[:1] == ["consume"]:
        from bild_dist.orchestrator.queue.command import main as consume

        return consume(arguments[1:], inproc)
    if arguments[:1] == ["submit"]:
        from bild_dist.orchestrator.queue.submit import main as submit

        return submit(arguments[1:])
    from bild_dist.orchestrator.cli import main as cli

    return cli(arguments, inproc)


def launch(
    small: str | None = None, large: str | None = None, **settings: Any
) -> AbstractAsyncContextManager[Decoder]:
    """Starts a worker process for each model and gives a decoder over them, as an async context.

    Without models the default pair is taken. `settings` are named as on the command line of `bild
    generate`: `config="FILE.toml"`, `transport`, `concurrency`, `device`, `small_threads`, ... and
    the options of a request as defaults.

    Raises:
        ConfigError: a setting is wrong, or a worker cannot start.
        InvalidRequest: a per-request option is out of its range.
    """
    from bild_dist.config import settled
    from bild_dist.orchestrator.opening import launched

    config, addresses = settled({"small": small, "large": large, **settings})
    if addresses:
        raise ConfigError("launch starts its own workers: to join running ones use connect")
    return inproc(config) if config.orchestrator.transport == "inproc" else launched(config)


def connect(small: str, large: str, **settings: Any) -> AbstractAsyncContextManager[Decoder]:
    """A decoder over two running workers, named by their addresses. Settings and errors as for
    `launch`.
    """
    from bild_dist.config import settled
    from bild_dist.orchestrator.opening import connected

    config, addresses = settled({"small_worker": small, "large_worker": large, **settings})
    return connected(config, addresses)


def generate(
    prompt: Prompt, small: str | None = None, large: str | None = None, **settings: Any
) -> Result:
    """Writes one text, for people without an event loop: starts both workers, and stops them again.

    Settings and errors as for `launch`. For more than one text use `launch`: starting takes
    seconds.
    """
    import asyncio

    async def once() -> Result:
        async with launch(small, large, **settings) as decoder:
            return await decoder.generate(prompt)

    return asyncio.run(once())


@asynccontextmanager
async def inproc(config: Config, record: Record | None = None) -> AsyncIterator[Decoder]:
    """Both workers and the orchestrator in this process, over the in-process transport. `record` is
    told of every step of every request.
    """
    from bild_dist.orchestrator.decoder import Decoder
    from bild_dist.types import Role
    from bild_dist.workers.__main__ import load
    from bild_dist.workers.lifecycle import Worker

    async with AsyncExitStack() as stack:
        addresses = {}
        for role, worker in ((Role.SMALL, config.small), (Role.LARGE, config.large)):
            listen = f"inproc://{role}-{id(stack)}"
            running = Worker(partial(load, worker), listen, worker.slots)
            await stack.enter_async_context(running)
            addresses[role] = running.address
        concurrency = config.orchestrator.concurrency
        decoder = Decoder(
            addresses, options=config.generate, concurrency=concurrency, record=record
        )
        yield await stack.enter_async_context(decoder)
