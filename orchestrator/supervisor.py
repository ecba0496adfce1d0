"""Starts workers as child processes, waits until each is warm, notices when one ends, stops them in
order.

Children are executed anew, never forked copies: gRPC does not survive a fork. A child holds the
read end of a pipe on its standard input; when this process dies, however it dies, the pipe ends and
so does the child.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Self

from bild_dist.config import WorkerConfig
from bild_dist.errors import BildError, ConfigError, WorkerFault, WorkerUnavailable
from bild_dist.types import Role

STOP_S: Final = 5.0
"""A child that has not gone so long after SIGTERM is killed."""

_ENVIRONMENT: Final = {
    # How long an idle OpenMP thread spins before it sleeps. Spinning for ever takes the cores that
    # the other worker needs; not at all (OMP_WAIT_POLICY=PASSIVE) makes every operation of a pass
    # wake its threads anew. Measured with the default pair on two shared cores, tokens a second in
    # modes `large` and `bild`: 27 and 19 with this, 20 and 14 passive, 1 and 2 active.
    "GOMP_SPINCOUNT": "10000",
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    "PYTHONUNBUFFERED": "1",
}
"""What a worker's environment says where the operator's own does not."""


@dataclass(eq=False, slots=True)
class Child:
    """One worker process. Owned by the supervisor."""

    role: Role
    process: asyncio.subprocess.Process
    address: str = ""
    description: str = ""
    stderr: deque[str] = field(default_factory=lambda: deque(maxlen=40))
    stopping: bool = False

    @property
    def ready(self) -> str:
        """What is said of it once it serves; programs read this line."""
        return f"{self.role} worker ready: pid={self.process.pid} {self.address} {self.description}"

    def __repr__(self) -> str:
        return f"<Child {self.role} pid={self.process.pid} {self.address}>"


class Supervisor:
    """The worker processes of one orchestrator, as an async context.

    `on_exit(child, error)` is called when a child ends that nobody told to. `on_line(child, line)`
    gets what children write to standard error; nothing is printed without it.
    """

    def __init__(
        self,
        on_exit: Callable[[Child, BildError], None],
        on_line: Callable[[Child, str], None] = lambda child, line: None,
    ) -> None:
        self._on_exit = on_exit
        self._on_line = on_line
        self._children: list[Child] = []
        self._group = asyncio.TaskGroup()
        self._folder: str | None = None

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()
        await self._group.__aexit__(None, None, None)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def children(self) -> tuple[Child, ...]:
        return tuple(self._children)

    def private_address(self, role: Role, transport: str) -> str:
        """An address on this host that nobody else uses. Raises WorkerFault where none can be made."""
        if transport == "grpc":
            return "grpc://127.0.0.1:0"
        if self._folder is None:
            try:
                self._folder = tempfile.mkdtemp(prefix="bild-")
            except OSError as error:
                raise WorkerFault(
                    f"no folder for a socket: {error}: free some of its space"
                ) from None
        return f"zmq+ipc://{Path(self._folder) / role.value}.sock"

    async def start(self, role: Role, config: WorkerConfig, listen: str) -> Child:
        """Starts a worker and returns once it is ready to serve.

        Raises:
            ConfigError: it refused its configuration; the message is its own.
            WorkerFault: the system has no room for it, or it ended before it was ready.
        """
        arguments = replace(config, listen=listen).as_arguments()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "bild_dist", "worker", *arguments, "--with-parent",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**_ENVIRONMENT, **os.environ},
                # Ctrl-C goes to the foreground group: only the parent may hear it, and stop its
                # children in order.
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:  # no memory, no process, no file descriptor left, for the moment
            raise WorkerFault(
                f"the {role} worker cannot be started: {error}: give this program more memory, or "
                "higher limits of open files and processes (ulimit -n, ulimit -u)"
            ) from None
        child = Child(role, process)
        self._children.append(child)
        self._group.create_task(self._drain(child))
        try:
            await self._await_ready(child)
        except BaseException:
            child.stopping = True
            raise
        self._group.create_task(self._watch(child))
        return child

    async def kill(self, child: Child) -> None:
        """Ends a child at once, and returns when it has gone: it may be frozen, and then hears nothing else."""
        child.stopping = True
        with contextlib.suppress(ProcessLookupError):
            # Not `process.kill`, which takes the exit code of one that has just ended from under its watcher:
            # it would seem to have ended of its own accord.
            os.kill(child.process.pid, signal.SIGKILL)
        await child.process.wait()

    async def stop(self) -> None:
        """Stops all children at once. Returns when all have ended."""
        for child in self._children:
            child.stopping = True
            if child.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.process.terminate()
                    # One that stands still (SIGSTOP) hears it only when it goes on.
                    child.process.send_signal(signal.SIGCONT)
        for child in self._children:
            if child.process.returncode is None:
                try:
                    async with asyncio.timeout(STOP_S):
                        await child.process.wait()
                except TimeoutError:
                    with contextlib.suppress(ProcessLookupError):
                        child.process.kill()
            await child.process.wait()
        self._children.clear()

    async def _await_ready(self, child: Child) -> None:
        stdout = child.process.stdout
        while stdout is not None and (line := await stdout.readline()):
            word, _, rest = line.decode(errors="replace").strip().partition(" ")
            if word == "ready":
                child.address, _, child.description = rest.partition(" ")
                return
        code = await child.process.wait()
        await asyncio.sleep(0)  # lets the drain of standard error take the last lines
        said = [text for text in child.stderr if text.strip()]
        message = said[-1].removeprefix("bild worker: ") if said else "it said nothing"
        if code == 2:
            raise ConfigError(f"the {child.role} worker cannot start: {message}")
        raise WorkerFault(f"the {child.role} worker {_ended(code)} before it was ready: {message}")

    async def _drain(self, child: Child) -> None:
        """Takes what a child says, so that it never blocks on a full pipe."""
        stderr = child.process.stderr
        while stderr is not None and (line := await stderr.readline()):
            text = line.decode(errors="replace").rstrip()
            child.stderr.append(text)
            self._on_line(child, text)

    async def _watch(self, child: Child) -> None:
        code = await child.process.wait()
        if not child.stopping:
            said = f": {child.stderr[-1]}" if child.stderr and code > 0 else ""
            error = WorkerUnavailable(
                f"the {child.role} worker (pid {child.process.pid}) {_ended(code)}{said}"
            )
            self._on_exit(child, error)


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
