"""`bild serve`: its options, and the way to what it needs, which is loaded only now."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from bild_dist.config import Config, overlay
from bild_dist.errors import ConfigError
from bild_dist.tables import HttpConfig
from bild_dist.types import Role

if TYPE_CHECKING:
    from bild_dist.orchestrator.decoder import Decoder
    from bild_dist.orchestrator.session import Record

InProcess: TypeAlias = Callable[[Config, "Record | None"], AbstractAsyncContextManager["Decoder"]]

_NEEDED: Final = ("starlette", "uvicorn", "anyio", "h11")


def options(command: argparse.ArgumentParser) -> None:
    """Adds the options that only `bild serve` has. Defaults stand in `tables.py`."""
    default = HttpConfig()
    serving = command.add_argument_group("serving")
    serving.add_argument(
        "--host", metavar="ADDRESS", help=f"listen there (default: {default.host})"
    )
    serving.add_argument("--port", type=int, metavar="N", help=f"(default: {default.port})")
    serving.add_argument("--texts", type=int, metavar="N",
                         help=f"texts that are written at once (default: {default.concurrency})")  # fmt: skip
    serving.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE",
                         help="any setting of a configuration file, such as http.queue=32")  # fmt: skip


def configured(config: Config, given: Mapping[str, Any]) -> Config:
    """The configuration with what the command line says about serving.

    Raises:
        ConfigError: a value that does not fit.
    """
    values = {"host": given["host"], "port": given["port"], "concurrency": given["texts"]}
    config = config.overlaid(http={k: v for k, v in values.items() if v is not None})
    config = overlay(config, given["set"])
    # A server's requests side by side are its own affair: [orchestrator] speaks of files.
    return config.overlaid(orchestrator={"concurrency": config.http.concurrency})


def main(config: Config, addresses: Mapping[Role, str], inproc: InProcess) -> int:
    """Serves until a signal comes. Exit code 0 when all requests had ended by then, 1 when some were
    cut or the workers had to be given up.

    Raises:
        ConfigError: a package is missing, the address cannot be listened on, the models cannot be
            started.
    """
    try:
        from bild_dist.orchestrator.http.running import serve
    except ModuleNotFoundError as error:
        if error.name not in _NEEDED:
            raise
        raise ConfigError(
            f"bild serve needs {error.name}, which is not installed: pip install 'bild-dist[serve]'"
        ) from None
    from bild_dist.orchestrator.telemetry import logged

    logged(config.telemetry, service=True)
    return asyncio.run(serve(config, addresses, inproc))
