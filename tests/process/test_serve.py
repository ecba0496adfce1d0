"""`bild serve` as its operators meet it: a real process, real workers, signals, and exit codes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.process

SPEC = "seed=3&f=0.2&end=0&ms=5"
PAIR = ("--small", f"toy:small?{SPEC}", "--large", f"toy:large?{SPEC}")
LONG = {"prompt": "Hello", "max_tokens": 1500}
HELLO = {"prompt": "Hello", "max_tokens": 8}


class Program:
    """A `bild serve` at work. `lines` are what it has said so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.pids: dict[str, int] = {}
        self.address = ""

    def read(self, until: str) -> None:
        """Reads what it says up to a line that begins so."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            role, _, rest = line.partition(" worker ready: pid=")
            if rest:
                self.pids[role] = int(rest.split()[0])
            if line.startswith("serving at "):
                self.address = line.split()[2]
            if line.startswith(until):
                return
        raise AssertionError(f"it ended without {until!r}: {self.lines}")

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.address, trust_env=False, timeout=30)


@contextmanager
def program(*words: str, environment: dict[str, str] | None = None) -> Iterator[Program]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bild_dist", "serve", *PAIR, "--port", "0", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **(environment if environment is not None else {})},
    )  # fmt: skip
    assert process.stderr is not None
    # What it says on the side is drained, so that it never blocks.
    drain = threading.Thread(target=process.stderr.read)
    drain.start()
    try:
        running = Program(process)
        running.read("serving at ")
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        drain.join()
        assert process.stdout is not None
        process.stdout.close()
        process.stderr.close()


@pytest.mark.parametrize("transport", ["zmq", "grpc"])
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_server_survives_its_workers(transport: str, kind: signal.Signals) -> None:
    """One is killed or frozen under a request: that gets 503 within seconds and /health says so;
    then the worker is replaced, the other one goes on, and the next text is the same as before.
    """
    with program("--transport", transport) as running:
        async with running.client() as client:
            before = (await client.post("/v1/completions", json=HELLO)).json()
            large, small = running.pids["large"], running.pids["small"]
            async with asyncio.TaskGroup() as group:
                under_way = group.create_task(client.post("/v1/completions", json=LONG))
                await until_texts(client, 1)
                os.kill(small, kind)
            assert 503 == under_way.result().status_code
            assert 503 == (await client.get("/health")).status_code
            assert 503 == (await client.post("/v1/completions", json=HELLO)).status_code
            await asyncio.to_thread(running.read, "serving at ")
            assert 200 == (await client.get("/health")).status_code
            assert large == running.pids["large"]
            assert small != running.pids["small"]
            after = (await client.post("/v1/completions", json=HELLO)).json()
            assert before["choices"] == after["choices"]
            page = (await client.get("/metrics")).text
            reason = "signal"  # a frozen one is killed in the end
            assert f'bild_worker_restarts_total{{reason="{reason}",worker="small"}} 1.0' in page
            assert 'bild_worker_up{worker="small"} 1.0' in page
            assert 'bild_tokens_total{source="small"}' in page
        running.process.terminate()
        assert 0 == running.process.wait(20)


async def until_texts(client: httpx.AsyncClient, count: int) -> None:
    """Until so many texts are under way."""
    while (await client.get("/health")).json()["texts"] != count:  # noqa: ASYNC110 (nobody tells)
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("signals", [1, 2])
async def test_an_end_is_clean_or_says_that_it_was_not(signals: int) -> None:
    """Told once, it lets a text under way end, refuses the next, and ends with 0; told twice, it cuts
    the text and ends with 1. No worker is left behind.
    """
    with program("--set", "http.drain=20") as running:
        async with running.client() as client:
            body: dict[str, Any] = {**LONG, "max_tokens": 150}
            async with asyncio.TaskGroup() as group:

                async def ask() -> int:
                    try:
                        return (await client.post("/v1/completions", json=body)).status_code
                    except httpx.HTTPError:
                        return 0

                asked = group.create_task(ask())
                await until_texts(client, 1)
                running.process.terminate()
                while (await client.get("/ready")).status_code == 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                refused = await client.post("/v1/completions", json=HELLO)
                if signals == 2:
                    running.process.terminate()
            assert 503 == refused.status_code
            assert [200, 0][signals - 1] == asked.result()
        assert signals - 1 == await asyncio.to_thread(running.process.wait, 20)
        for pid in running.pids.values():
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


def bild(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bild_dist", "serve", *words],
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip


def test_what_cannot_be_served_is_said_before_it_is_tried() -> None:
    """Exit code 2: an open address without keys, a setting that there is not, models that do not fit."""
    for words, said in (
        ((*PAIR, "--host", "0.0.0.0"), "BILD_API_KEYS"),
        ((*PAIR, "--set", "http.prt=1"), "did you mean 'port'"),
        ((*PAIR, "--port", "99999"), "at most 65535"),
        (("--small", "toy:small?encdec=1", "--large", "toy:large", "--port", "0"), "same family"),
    ):
        done = bild(*words)
        assert 2 == done.returncode, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_help_loads_no_web_framework() -> None:
    """`bild --help` starts as fast as ever, and says that there is a server."""
    script = (
        "import sys\nfrom bild_dist.app import main\n"
        "try:\n    main(['serve', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([n for n in ('starlette', 'uvicorn', 'anyio', 'zmq', 'grpc') if n in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=50
    )
    assert "[]" == done.stdout.splitlines()[-1]
    assert "--texts" in done.stdout


def test_a_missing_package_is_named_with_its_remedy() -> None:
    """Without the extra the command says what to install, in place of a traceback."""
    script = (
        "import sys\nsys.modules['uvicorn'] = None\nfrom bild_dist.app import main\n"
        "raise SystemExit(main(['serve', '--port', '0']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=50
    )
    assert 2 == done.returncode
    assert "pip install 'bild-dist[serve]'" in done.stderr
    assert "Traceback" not in done.stderr
