"""What a service does when its workers are lost: it starts them again, and knows when to give up."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from bild_dist.config import Config, WorkerConfig
from bild_dist.errors import BildError, WorkerFault, WorkerUnavailable
from bild_dist.orchestrator import keeping, patience
from bild_dist.orchestrator.keeping import Keeping, Processes
from bild_dist.orchestrator.patience import BACKOFF_S, STEADY_NS, Patience
from bild_dist.orchestrator.supervisor import Child, Supervisor
from bild_dist.types import Role


class Clock:
    """A clock that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ns = 0
        monkeypatch.setattr(patience, "now_ns", lambda: self.ns)


def test_what_comes_up_again_is_never_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is lost, each time soon after it came up: the pauses grow and stay at the longest."""
    Clock(monkeypatch)
    kept = Patience()
    pauses = []
    for _ in range(8):
        kept.up()
        pauses.append(kept.pause_s())
    assert [*BACKOFF_S, *[BACKOFF_S[-1]] * 4] == pauses


def test_what_fails_to_start_is_given_up() -> None:
    """After as many failures in a row as there are pauses, and one; a start that succeeds in between
    begins the count anew.
    """
    kept = Patience()
    assert list(BACKOFF_S) == [kept.pause_s() for _ in BACKOFF_S]
    kept.up()
    assert [BACKOFF_S[-1]] * 5 == [kept.pause_s() for _ in range(5)]
    assert None is kept.pause_s()


def test_time_to_start_is_no_time_of_steady_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that takes minutes to load and ends at once has longer and longer pauses; one that was up
    for a minute begins with the shortest.
    """
    clock, kept = Clock(monkeypatch), Patience()
    pauses = []
    for up_ns in (0, 0, 2 * STEADY_NS):
        clock.ns += 5 * STEADY_NS  # it loads
        kept.up()
        clock.ns += up_ns
        pauses.append(kept.pause_s())
    assert [BACKOFF_S[0], BACKOFF_S[1], BACKOFF_S[0]] == pauses


async def test_losses_do_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty incidents, each over within a moment, leave a service that serves; then its starts fail, and
    it ends with why.
    """
    monkeypatch.setattr(patience, "BACKOFF_S", (0.0,) * 4)
    monkeypatch.setattr(keeping, "BACKOFF_S", (0.0,) * 4)
    opened = 0

    @asynccontextmanager
    async def opening() -> AsyncIterator[Any]:
        nonlocal opened
        opened += 1
        if opened > 20:
            raise WorkerFault("the small worker ended with exit code 3")

        async def lost() -> BildError:
            return WorkerUnavailable("the small worker was killed")

        yield SimpleNamespace(lost=lost)

    said: list[str] = []
    kept = Keeping(opening, said.append)
    with pytest.raises(WorkerUnavailable, match=r"gave up after 5 failed starts: .* exit code 3"):
        await kept.run()
    assert (24, 25) == (kept.restarts, len(said))


async def test_a_pause_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has to wait for the models can be told for how long."""
    monkeypatch.setattr(patience, "BACKOFF_S", (20.0,))

    @asynccontextmanager
    async def opening() -> AsyncIterator[Any]:
        raise WorkerFault("no memory")
        yield

    said = asyncio.Event()
    kept = Keeping(opening, lambda line: said.set())
    assert 0 == kept.pause_s
    async with asyncio.TaskGroup() as group:
        keeper = group.create_task(kept.run())
        await said.wait()
        await asyncio.sleep(0)
        assert 19 < kept.pause_s <= 20
        keeper.cancel()


class Process:
    """As much of a process as is looked at."""

    pid = 7

    def __init__(self) -> None:
        self.returncode: int | None = None

    async def wait(self) -> None:
        await asyncio.Event().wait()  # frozen: it does not end by itself


@pytest.mark.parametrize("joined", [[], [Role.LARGE], [Role.LARGE, Role.SMALL]])
async def test_who_did_not_answer_is_replaced(
    joined: list[Role], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is joined, or later while its tokenizer is fetched; the other one stays."""

    class Deaf:
        def __init__(self, addresses: Any, **rest: Any) -> None:
            self.workers = {role: SimpleNamespace(lost=None) for role in joined}

        async def __aenter__(self) -> None:
            raise WorkerUnavailable("no answer")

        async def __aexit__(self, *exc: object) -> None:
            raise AssertionError("never entered")

    async def start(self: Supervisor, role: Role, config: WorkerConfig, listen: str) -> Child:
        process: Any = Process()
        return Child(role, process, address=listen)

    async def kill(self: Supervisor, child: Child) -> None:
        killed.append(child.role)

    killed: list[Role] = []
    monkeypatch.setattr(keeping, "Decoder", Deaf)
    monkeypatch.setattr(Supervisor, "start", start)
    monkeypatch.setattr(Supervisor, "kill", kill)
    async with Processes(Config(), lambda line: None) as processes:
        with pytest.raises(WorkerUnavailable, match="no answer"):
            async with processes.opened():
                pass
        gone = Role.SMALL if joined == [Role.LARGE] else Role.LARGE
        assert [gone] == killed
        assert {*Role} - {gone} == set(processes._children)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOMEM, errno.EAGAIN])
async def test_a_full_system_is_a_failed_start(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, memory or process left is a WorkerFault that says so, and tried again: it may pass."""

    async def full(*words: str, **rest: Any) -> None:
        raise OSError(code, "nothing left")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", full)
    async with Processes(Config(), lambda line: None) as processes:
        with pytest.raises(WorkerFault, match=r"nothing left: .* \(ulimit -n, ulimit -u\)"):
            async with processes.opened():
                pass
