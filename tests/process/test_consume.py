"""`bild consume` and `bild submit` as their users meet them: real processes, real brokers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bild_dist.errors import ConfigError
from bild_dist.orchestrator.queue.brokers import job_desk, job_source
from bild_dist.tables import QueueConfig
from tests.brokers import Broker, free_ports
from tests.queues import Echo, Running, body, desk_of, results, settings

# A broker takes its time to start where others want the same cores.
pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
PAIR = (
    "--small",
    "toy:small?seed=1&f=0.3&end=0&ms=4",
    "--large",
    "toy:large?seed=1&f=0.3&end=0&ms=8",
)
only_nats = pytest.mark.parametrize("broker", ["nats"], indirect=True)


def bild(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bild_dist", *words], capture_output=True, text=True, timeout=50, check=False
    )  # fmt: skip


@contextmanager
def consuming(config: QueueConfig, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`bild consume`, from the line on that says so."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bild_dist", "consume", *PAIR, "--url", config.url, "--prefix", config.prefix,
         "--set", "queue.lease_s=2", "--concurrency", "2", *words],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if line.startswith("consuming"):
                break
        yield process
    finally:
        process.kill()
        process.communicate(timeout=10)


@only_nats
async def test_a_killed_consumer_loses_nothing(broker: Broker) -> None:
    """SIGKILL in the middle of two texts: the next consumer writes them, each job has one result, and
    it is the text that the prompt means. Told to end it ends with 0.
    """
    config = settings(broker.url)
    async with desk_of(config) as desk:
        for n in range(5):
            await desk.submit(f"j{n}", body(f"j{n}", f"Prompt {n}.", max_new_tokens=100))
        with consuming(config) as first:
            async for _ in desk.watch("j0"):
                break
            first.send_signal(signal.SIGKILL)
        with consuming(config) as second:
            found = await results(desk, 5)
            second.send_signal(signal.SIGTERM)
            assert 0 == await asyncio.to_thread(second.wait, 20)
        assert [] == await desk.collect("default", 0.3)
    assert {f"j{n}" for n in range(5)} == {r["id"] for r in found}
    assert 5 == len(found)
    assert max(r["attempt"] for r in found) == 2
    expected = json.loads(
        bild("generate", *PAIR, "--json", "--max-new-tokens", "100", "Prompt 0.").stdout
    )
    assert expected["tokens"] == next(r["tokens"] for r in found if r["id"] == "j0")


@only_nats
async def test_a_consumer_outlives_its_workers(broker: Broker) -> None:
    """A worker that is killed is started again by the same consumer; the job that it had goes back and
    is written in a second attempt.
    """
    config = settings(broker.url)
    async with desk_of(config) as desk:
        await desk.submit("j", body("j", max_new_tokens=300))
        with consuming(config, "--set", "queue.retry_s=0.1") as process:
            async for _ in desk.watch("j"):
                break
            (worker, *_) = children(process.pid)
            os.kill(worker, signal.SIGKILL)
            (result,) = await results(desk, 1)
            assert ("done", 2) == (result["status"], result["attempt"])
            process.send_signal(signal.SIGTERM)
            assert 0 == await asyncio.to_thread(process.wait, 20)
        assert [] == await desk.collect("default", 0.3)


@only_nats
async def test_a_consumer_outlives_its_workers_while_the_broker_is_away(broker: Broker) -> None:
    """Broker and worker are gone at once: the worker is started again, the consumer waits for the
    broker, and then it works.
    """
    config = settings(broker.url)
    with consuming(config) as process:
        broker.kill()
        try:
            (worker, *_) = children(process.pid)
            os.kill(worker, signal.SIGKILL)
            assert process.stderr is not None
            async with asyncio.timeout(60):
                while "no connection to the broker" not in await asyncio.to_thread(
                    process.stderr.readline
                ):
                    assert process.poll() is None
        finally:
            await asyncio.to_thread(broker.start)
        async with desk_of(config) as desk:
            await desk.submit("j", body("j"))
            assert ["done"] == [r["status"] for r in await results(desk, 1)]
        process.send_signal(signal.SIGTERM)
        assert 0 == await asyncio.to_thread(process.wait, 20)


def children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == parent:
                found.append(int(entry.name))
    return found


@only_nats
async def test_a_file_is_submitted_and_collected(broker: Broker, tmp_path: Path) -> None:
    """Bad lines are refused by number and the others go on; run again it finds what there is, submits
    nothing twice, and cuts off what a killed run wrote of a line.
    """
    config, writer = settings(broker.url), Echo()
    lines = [json.dumps({"id": n, "prompt": f"text {n}"}) for n in range(4)]
    lines += ["not json", '{"id": 2, "prompt": "again"}', '{"prompt": "bad one"}']
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join([*lines, '{"id": "x", "prompt": "a", "alpha_fbb": 1}', ""]))
    queue = ("--url", config.url, "--prefix", config.prefix, "--input", str(source))
    words = (*queue, "--output", str(target))

    done = await asyncio.to_thread(bild, "submit", *queue, "--no-wait")
    assert 1 == done.returncode
    assert ["5", "6", "8"] == re.findall(r"line (\d+):", done.stderr)
    assert "5 jobs" in done.stderr
    async with Running(config, writer, 4):
        done = await asyncio.to_thread(bild, "submit", *words)
        assert 1 == done.returncode
        found = {r["id"]: r for r in map(json.loads, target.read_text().splitlines())}
        assert {0, 1, 2, 3, "7"} == set(found)
        assert "text 3" == found[3]["text"]
        assert "failed" == found["7"]["status"]
        assert 5 == len(writer.begun)

        whole = target.read_text().splitlines(keepends=True)
        target.write_text("".join(whole[1:]) + whole[0][:20])
        again = await asyncio.to_thread(bild, "submit", *words)
        assert 1 == again.returncode
        assert sorted(whole) == sorted(target.read_text().splitlines(keepends=True))
        assert 5 == len(writer.begun)


@pytest.mark.parametrize("broker", ["rabbit"], indirect=True)
async def test_a_file_that_was_submitted_is_only_collected(broker: Broker, tmp_path: Path) -> None:
    """A broker that takes everything for a new job gets each once: submitted without waiting, then
    interrupted while it collected, then collected. With another output it begins anew.
    """
    config, writer = settings(broker.url), Echo()
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"id": n, "prompt": f"{n}"}) + "\n" for n in range(4)))
    queue = ("--url", config.url, "--prefix", config.prefix, "--input", str(source))
    for earlier in ("", "4 jobs were submitted by an earlier run"):
        done = await asyncio.to_thread(bild, "submit", *queue, "--no-wait")
        assert 0 == done.returncode
        assert earlier in done.stderr
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bild_dist", "submit", *queue, "--output", str(target)
    )
    async with asyncio.timeout(30):
        while not {"out.jsonl", "out.jsonl.submitted"} <= set(os.listdir(tmp_path)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    process.kill()
    await process.wait()
    assert {"in.jsonl", "out.jsonl", "out.jsonl.submitted"} == set(os.listdir(tmp_path))
    async with Running(config, writer, 2):
        done = await asyncio.to_thread(bild, "submit", *queue, "--output", str(target))
        assert 0 == done.returncode, done.stderr
        assert list(range(4)) == sorted(
            json.loads(line)["id"] for line in target.read_text().splitlines()
        )
        assert 4 == len(writer.begun)
        assert {"in.jsonl", "out.jsonl"} == set(os.listdir(tmp_path))
        other = ("--output", str(tmp_path / "other.jsonl"))
        assert 0 == (await asyncio.to_thread(bild, "submit", *queue, *other)).returncode
    assert 8 == len(writer.begun)


def snippets() -> list[str]:
    text = (ROOT / "docs" / "queue.md").read_text("utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


async def test_the_programs_of_the_manual_run(broker: Broker) -> None:
    """Each as it stands there, but for the broker's address: it submits a job and prints its result."""
    (program,) = [s for s in snippets() if f"{broker.url.partition('://')[0]}://" in s]
    program = re.sub(r'"(nats|amqp|redis)://[^"]*"', json.dumps(broker.url), program)
    config = QueueConfig(url=broker.url, lease_s=2)
    async with Running(config, Echo()):
        source = job_source(config)
        await source.open(1, lambda word: None)
        await source.close()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-c", program,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, error = await asyncio.wait_for(process.communicate(), 40)
    assert 0 == process.returncode, error.decode()
    assert "'status': 'done'" in said.decode()


BAD_USE: dict[str, tuple[tuple[str, ...], int, str]] = {
    "no broker there": (("consume", *PAIR, "--url", "nats://127.0.0.1:{port}"), 1, "127.0.0.1:"),
    "no such broker": (("consume", *PAIR, "--url", "kafka://host"), 2, "url"),
    "a deadline beyond the broker's": (
        ("consume", *PAIR, "--url", "amqp://h", "--set", "generate.deadline=9999"), 2, "consumer_timeout_s",
    ),
    "nowhere to write": (("submit", "--input", "/nowhere", "--url", "nats://h"), 2, "--output"),
    "no file": (("submit", "--input", "/nowhere", "--no-wait", "--url", "nats://h"), 2, "/nowhere"),
    "a misspelt setting": (("consume", *PAIR, "--set", "queue.lease=1"), 2, "did you mean 'lease_s'"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "code", "needle"), BAD_USE.values(), ids=BAD_USE)
def test_bad_use_is_refused_with_a_reason(words: tuple[str, ...], code: int, needle: str) -> None:
    """Before any worker starts where that can be known; on standard error."""
    (port,) = free_ports(1)
    done = bild(*(word.replace("{port}", str(port)) for word in words))
    assert code == done.returncode, done.stderr
    assert needle in done.stderr
    assert "Traceback" not in done.stderr


def test_help_loads_no_broker_library() -> None:
    """Neither the program's help nor the commands' own; what Redis cannot promise is said there."""
    program = (
        "import sys\n"
        "from bild_dist.app import main\n"
        "for words in (['--help'], ['consume', '--help'], ['submit', '--help']):\n"
        "    try:\n        main(words)\n    except SystemExit:\n        pass\n"
        "names = ('faststream', 'nats', 'aio_pika', 'redis', 'pydantic')\n"
        "print('loaded:', [n for n in names if n in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=True
    )  # fmt: skip
    assert "loaded: []" == done.stdout.splitlines()[-1]
    assert 2 == " ".join(done.stdout.split()).count("Redis Streams give weaker guarantees")


@pytest.mark.parametrize("scheme", ["nats", "amqp", "redis"])
def test_a_missing_library_names_its_remedy(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the extra says what to install, for either side of the queue."""
    kinds = {"nats": "nats", "amqp": "rabbit", "redis": "redis"}
    monkeypatch.setitem(sys.modules, f"bild_dist.orchestrator.queue.{kinds[scheme]}", None)
    makers: tuple[Any, ...] = (job_source, job_desk)
    for make in makers:
        with pytest.raises(ConfigError, match=r'pip install "bild-dist\[queue\]"'):
            make(QueueConfig(url=f"{scheme}://host"))
