"""The worker processes that a command keeps running, as metrics and log lines: up, lost, started again."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Final

from bild_dist.config import WorkerConfig
from bild_dist.errors import BildError
from bild_dist.types import Role

if TYPE_CHECKING:
    from bild_dist.metrics import Metrics
    from bild_dist.orchestrator.supervisor import Child

REASONS: Final = ("exit", "signal", "start")
"""How a worker was lost: it ended, it was killed, or it could not start."""

_log = logging.getLogger(__name__)


class Fleet:
    """Told by whoever keeps the workers, where one is ready and where one has ended. Owned by that keeper.

    Where a decoder is connected to the workers too, what it knows of them stands on the same page.
    """

    def __init__(self, metrics: Metrics | None) -> None:
        self._metrics = metrics.workers if metrics is not None else None
        self._starts = dict.fromkeys(Role, 0)
        self._info: dict[Role, tuple[str, ...]] = {}
        if self._metrics is not None:
            for role in Role:
                self._metrics.up.labels(role.value).set(0)
                for reason in REASONS:
                    # From the start: Prometheus sees no increase in a series that begins at 1.
                    self._metrics.restarts.labels(role.value, reason)

    def ready(self, child: Child, config: WorkerConfig) -> None:
        """A worker serves."""
        role = child.role
        self._starts[role] += 1
        fields = {"worker": role.value, "pid": child.process.pid, "address": child.address}
        _log.info("worker ready", extra=fields)
        if self._metrics is None:
            return
        if role in self._info:
            self._metrics.info.remove(*self._info[role])
        # A process is known here by its number; the generation that it gave itself, to those who are connected.
        self._info[role] = (role.value, config.model, child.address, f"pid {child.process.pid}")
        self._metrics.info.labels(*self._info[role]).set(1)
        self._metrics.up.labels(role.value).set(1)
        self._metrics.slots.labels(role.value).set(config.slots)
        self._metrics.generation.labels(role.value).set(self._starts[role])

    def lost(self, role: Role, error: BildError, child: Child | None) -> None:
        """A worker has ended, or could not start (no `child`)."""
        reason = "start"
        if child is not None:
            code = child.process.returncode
            reason = "signal" if code is not None and code < 0 else "exit"
        _log.warning("worker lost: %s", error, extra={"worker": role.value, "reason": reason})
        if self._metrics is not None:
            self._metrics.up.labels(role.value).set(0)
            self._metrics.restarts.labels(role.value, reason).inc()


def echo(child: Child, line: str) -> None:
    """Passes on what a worker says to standard error."""
    # Its JSON is a whole line of log already: a prefix would spoil it.
    said = line if line.startswith("{") else f"[{child.role}] {line}"
    print(said, file=sys.stderr, flush=True)  # noqa: T201
