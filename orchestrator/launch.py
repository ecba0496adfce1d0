"""`bild launch`: starts the workers of a configuration, keeps them running, stops them in order."""

from __future__ import annotations

import asyncio
import signal

from bild_dist.config import Config, WorkerConfig
from bild_dist.errors import BildError, ConfigError, WorkerUnavailable
from bild_dist.orchestrator.fleet import Fleet, echo
from bild_dist.orchestrator.patience import BACKOFF_S, Patience
from bild_dist.orchestrator.supervisor import Child, Supervisor
from bild_dist.orchestrator.telemetry import logged, told
from bild_dist.types import Role


def main(config: Config) -> int:
    """Runs until a signal comes (exit code 0) or a worker has to be given up (1)."""
    logged(config.telemetry, service=True)
    return asyncio.run(_launch(config))


async def _launch(config: Config) -> int:
    async with told(config.telemetry, "bild-launch") as telemetry:
        if telemetry.page:
            _say(f"metrics: {telemetry.page}")
        return await _Launch(config, Fleet(telemetry.metrics)).run()


class _Launch:
    """One `bild launch`. Owned by its main task."""

    def __init__(self, config: Config, fleet: Fleet) -> None:
        self._config = config
        self._fleet = fleet
        self._over = asyncio.Event()
        self._ended: dict[Child, asyncio.Future[BildError]] = {}
        self._failure: BildError | None = None

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for kind in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(kind, self._over.set)
        async with Supervisor(self._on_exit, echo) as supervisor:
            async with asyncio.TaskGroup() as group:
                keepers = [
                    group.create_task(self._keep(supervisor, role, worker))
                    for role, worker in (
                        (Role.LARGE, self._config.worker(Role.LARGE)),
                        (Role.SMALL, self._config.worker(Role.SMALL)),
                    )
                ]
                await self._over.wait()
                for keeper in keepers:
                    keeper.cancel()
            _say("stopping the workers")
        if isinstance(self._failure, ConfigError):
            raise self._failure
        return 0 if self._failure is None else 1

    async def _keep(self, supervisor: Supervisor, role: Role, worker: WorkerConfig) -> None:
        """One worker, started again when it ends, until that has failed too often."""
        patience = Patience()
        while True:
            child = None
            try:
                child = await supervisor.start(role, worker, worker.listen)
                patience.up()
                ended = self._ended[child] = asyncio.get_running_loop().create_future()
                _say(child.ready)
                self._fleet.ready(child, worker)
                error = await ended
            except ConfigError as refusal:
                self._give_up(refusal)
                return
            except BildError as failure:
                error = failure
            _say(f"{role} worker lost: {error}")
            self._fleet.lost(role, error, child)
            pause_s = patience.pause_s()
            if pause_s is None:
                self._give_up(
                    WorkerUnavailable(f"gave up after {len(BACKOFF_S) + 1} failed starts: {error}")
                )
                return
            _say(f"{role} worker starts again in {pause_s:g} s")
            await asyncio.sleep(pause_s)

    def _give_up(self, error: BildError) -> None:
        if self._failure is None:
            self._failure = error
            if not isinstance(error, ConfigError):
                _say(str(error))
        self._over.set()

    def _on_exit(self, child: Child, error: BildError) -> None:
        ended = self._ended.pop(child, None)
        if ended is not None and not ended.done():
            ended.set_result(error)


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201
