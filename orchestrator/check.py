"""`bild check`: versions, devices, models and round-trip times; what works here and what does
not.
"""

from __future__ import annotations

import asyncio
import json
import platform
import statistics
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any, Final

from rich.console import Console

from bild_dist import __version__
from bild_dist.config import Config
from bild_dist.errors import BildError
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.orchestrator.opening import connected, launched
from bild_dist.types import Role

_OURS: Final = (
    "pyzmq", "grpcio", "msgpack", "protobuf", "tokenizers", "jinja2", "rich", "prometheus-client", "structlog",
)  # fmt: skip
_TOY: Final = "toy:{role}?seed=1&end=0"


def main(config: Config, addresses: Mapping[Role, str]) -> int:
    """Exit code 0 when everything works, 1 when something does not."""
    return asyncio.run(_Check().run(config, addresses))


class _Check:
    """One run. Counts what does not work."""

    def __init__(self) -> None:
        self._out = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._failed = 0

    async def run(self, config: Config, addresses: Mapping[Role, str]) -> int:
        self._out.print(
            f"bild-dist {__version__}, Python {platform.python_version()}", style="bold"
        )
        self._out.print("  " + ", ".join(f"{name} {metadata.version(name)}" for name in _OURS))
        await self._models()
        for transport in ("zmq", "grpc"):
            await self._round_trips(transport)
        await self._pair(config, addresses)
        return 1 if self._failed else 0

    async def _models(self) -> None:
        """What the workers have to work with."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bild_dist.model.probe",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        stdout, _ = await process.communicate()
        if process.returncode != 0:
            self._bad("models", "the probe of torch and its devices failed")
            return
        found: dict[str, Any] = json.loads(stdout)
        have = [f"{name} {version}" for name, version in found["versions"].items() if version]
        lack = [name for name, version in found["versions"].items() if not version]
        self._out.print("  " + ", ".join(have))
        if lack:
            self._out.print("  not installed: " + ", ".join(lack))
        for name, text in found["devices"].items():
            self._good(f"device {name}", text)
        for problem in found["problems"]:
            self._bad("models", problem)

    async def _round_trips(self, transport: str) -> None:
        """Two real processes with toy models: what a hand-over costs on this host beside the
        models.
        """
        toys = {role.value: {"model": _TOY.format(role=role)} for role in Role}
        config = Config().overlaid(orchestrator={"transport": transport}, **toys)
        try:
            async with launched(config) as decoder:
                times = await _times(decoder, 300)
        except BildError as error:
            self._bad(f"transport {transport}", str(error))
            return
        p99 = statistics.quantiles(times, n=100)[98]
        median = statistics.median(times)
        self._good(f"transport {transport}", f"round trip {median:.2f} ms median, {p99:.2f} ms p99")

    async def _pair(self, config: Config, addresses: Mapping[Role, str]) -> None:
        """The models that were named, or the default pair: do they start and fit together?"""
        opening = connected(config, addresses) if addresses else launched(config)
        try:
            async with opening as decoder:
                for role, worker in decoder.workers.items():
                    info = worker.info
                    self._good(
                        f"{role} model",
                        f"{info.model} ({info.architecture}, {info.dtype} on {info.device}, "
                        f"{info.threads} threads, {info.slots} slots of {info.max_length} tokens)",
                    )
                result = await decoder.generate("Hello.", max_new_tokens=8)
                seconds = result.trace.wall_ns / 1e9
                self._good("a text", f"{len(result.tokens)} tokens in {seconds:.2f} s")
        except BildError as error:
            self._bad("models", str(error))

    def _good(self, what: str, text: str) -> None:
        self._out.print("  works  ", style="green", end="")
        self._out.print(f"{what}: {text}")

    def _bad(self, what: str, text: str) -> None:
        self._failed += 1
        self._out.print("  fails  ", style="red", end="")
        self._out.print(f"{what}: {text}")


async def _times(decoder: Decoder, count: int) -> list[float]:
    """Round trips of heartbeats to the large worker, milliseconds."""
    worker = decoder.workers[Role.LARGE]
    times = []
    for _ in range(count):
        await worker.open_slots()
        times.append(worker.round_trip_ns / 1e6)
    return times
