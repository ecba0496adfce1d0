"""Real brokers for tests: child processes on free ports, each with a folder of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PROGRAMS = {
    "nats": ("nats-server", ""),
    "rabbit": ("rabbitmq-server", "/usr/lib/rabbitmq/bin"),
    "redis": ("redis-server", ""),
}
START_S = 120
LARGEST = 2**20
"""Bytes of one message, on NATS and RabbitMQ."""


class Broker:
    """One broker. `kill` and `start` may be called in turns; what it stored is there again."""

    def __init__(self, kind: str, program: str, folder: Path) -> None:
        self.kind, self._program, self._folder = kind, program, folder
        self.port, *self._others = free_ports(4)
        self._process: subprocess.Popen[bytes] | None = None
        scheme = {"nats": "nats", "rabbit": "amqp", "redis": "redis"}[kind]
        user = "guest:guest@" if kind == "rabbit" else ""
        self.url = f"{scheme}://{user}127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it answers."""
        environment = dict(os.environ)
        if self.kind == "nats":
            words = [self._program, "-a", "127.0.0.1", "-p", str(self.port), "-js",
                     "-sd", str(self._folder)]  # fmt: skip
        elif self.kind == "redis":
            words = [self._program, "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._folder),
                     "--appendonly", "yes", "--appendfsync", "always", "--save", ""]  # fmt: skip
        else:
            words, environment = [self._program], {**environment, **self._rabbit()}
        log = (self._folder / "log").open("ab")
        self._process = subprocess.Popen(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        log.close()
        self._await()

    def _rabbit(self) -> dict[str, str]:
        dist, epmd, _ = self._others
        home = self._folder
        (home / "enabled_plugins").write_text("[].\n")
        (home / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            "log.console = true\nlog.console.level = error\n"
            # As much as NATS takes, so that both can be asked for too much.
            f"max_message_size = {LARGEST}\n"
            # Tests declare and drop many queues on a small disk.
            "disk_free_limit.absolute = 1MB\n"
        )
        return {
            "HOME": str(home),
            "RABBITMQ_NODENAME": f"bild{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(dist),
            "ERL_EPMD_PORT": str(epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(home / "pid"),
            # Two cores are shared with the workers under test.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
        }

    def _await(self) -> None:
        ends = time.monotonic() + START_S
        while not self._answers():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(f"{self.kind}: {(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        """Each of the three says something as soon as it serves; an open port alone says little."""
        hello = {"nats": b"", "rabbit": b"AMQP\0\0\x09\1", "redis": b"PING\r\n"}[self.kind]
        with contextlib.suppress(OSError), socket.create_connection(
            ("127.0.0.1", self.port), 1
        ) as line:  # fmt: skip
            line.settimeout(2)
            line.sendall(hello)
            answer = line.recv(64)
            return answer.startswith((b"INFO", b"\1", b"+PONG"))
        return False

    def kill(self) -> None:
        """As a power switch would, but for what the system still writes to the disk."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        if self.kind == "rabbit":
            self._end_strays()

    def freeze(self, signals: signal.Signals) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signals)

    def _end_strays(self) -> None:
        """The launcher starts the machine and its name server in groups of their own."""
        mark = f"ERL_EPMD_PORT={self._others[1]}".encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)

    def restart(self) -> None:
        self.kill()
        self.start()


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def running(kind: str, folder: Path) -> Iterator[Broker]:
    """A broker that has started. Skips the test where its program is not installed."""
    name, beside = PROGRAMS[kind]
    program = shutil.which(f"{beside}/{name}") or shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed: apt-get install {name}")
    broker = Broker(kind, program, folder)
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()
