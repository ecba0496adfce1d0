"""Jobs while consumers are killed and brokers restarted: how many are lost, how many done twice.

200 jobs for paced toys in real worker processes. The consumer is killed (SIGKILL) 20 times at random
moments of its work, the broker three times among them. Every result that the broker hands out is
counted, before anything drops a second one, and its text compared with the undisturbed one.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import os
import random
import signal
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import bild_dist
from benchmarks import record
from bild_dist.clock import now_ns
from bild_dist.errors import BrokerUnavailable
from bild_dist.orchestrator.queue.brokers import job_desk
from bild_dist.orchestrator.queue.source import JobDesk
from bild_dist.tables import QueueConfig
from tests.brokers import Broker, running

SMALL: Final = "toy:small?seed=1&f=0.3&end=0&ms=4"
LARGE: Final = "toy:large?seed=1&f=0.3&end=0&ms=12"
TOKENS: Final = 80
PLACES: Final = 4
QUIET_S: Final = 8.0
"""Longer than any lease here: a second result would have come by then."""
GIVEN_UP_S: Final = 60.0
"""A job that has not come by then is lost."""


class Collector:
    """All results that a broker hands out. Owned by the task that reads them."""

    def __init__(self, desk: JobDesk) -> None:
        self._desk = desk
        self._bodies: set[bytes] = set()
        self.found: list[dict[str, Any]] = []
        self.last_ns = now_ns()

    async def run(self) -> None:
        """Reads until cancelled, however often the broker goes."""
        while True:
            try:
                answers = await self._desk.collect("default", 1.0)
                for answer in answers:
                    # The same result may be read again after a lost connection. Another one of the
                    # same job has other times in it.
                    if answer.body not in self._bodies:
                        self._bodies.add(answer.body)
                        self.found.append(json.loads(answer.body))
                        self.last_ns = now_ns()
                await self._desk.taken(answers)
            except BrokerUnavailable:
                await asyncio.sleep(0.3)
                await self._desk.close()
                with contextlib.suppress(BrokerUnavailable):
                    await self._desk.open()


async def consumer(config: QueueConfig, group: asyncio.TaskGroup) -> asyncio.subprocess.Process:
    """`bild consume`, from the moment on when it takes jobs."""
    ready = asyncio.Event()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bild_dist", "consume", "--small", SMALL, "--large", LARGE,
        "--url", config.url, "--prefix", config.prefix, "--concurrency", str(PLACES),
        "--set", f"queue.lease_s={config.lease_s}", "--set", "queue.attempts=100", "--set", "queue.stall_s=10",
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip

    async def read() -> None:
        if process.stderr is not None:
            async for line in process.stderr:
                if line.startswith(b"consuming"):
                    ready.set()
        ready.set()

    group.create_task(read())
    await ready.wait()
    return process


async def trial(broker: Broker, jobs: int, kills: int, restarts: int, seed: int) -> dict[str, Any]:
    """One broker: what became of the jobs."""
    config = QueueConfig(url=broker.url, lease_s=3.0)
    luck = random.Random(seed)
    desk, producer = job_desk(config), job_desk(config)
    await producer.open()
    started_ns = now_ns()
    for n in range(jobs):
        job = {"id": f"j{n}", "prompt": f"Prompt number {n}.", "max_new_tokens": TOKENS}
        await producer.submit(f"j{n}", json.dumps(job).encode())
    submit_ms = (now_ns() - started_ns) / 1e6 / jobs
    await producer.close()
    await desk.open()
    collector = Collector(desk)
    at = set(luck.sample(range(1, kills), restarts))
    before: list[int] = []
    recovery_s: list[float] = []
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(collector.run())
        for number in range(kills):
            process = await consumer(config, group)
            await asyncio.sleep(luck.uniform(0.2, 3.0))
            if number in at:
                await asyncio.to_thread(broker.kill)
                await asyncio.sleep(0.5)
                await asyncio.to_thread(broker.start)
                back_ns, known = now_ns(), collector.last_ns
                async with asyncio.timeout(60):
                    while collector.last_ns == known:  # noqa: ASYNC110 (a measurement)
                        await asyncio.sleep(0.02)
                recovery_s.append((collector.last_ns - back_ns) / 1e9)
            process.send_signal(signal.SIGKILL)
            await process.wait()
            before.append(len({r["id"] for r in collector.found}))
        last = await consumer(config, group)
        quiet_ns = 0
        while quiet_ns < QUIET_S * 1e9 or (
            missing(collector, jobs) and quiet_ns < GIVEN_UP_S * 1e9
        ):
            await asyncio.sleep(0.2)
            quiet_ns = now_ns() - collector.last_ns
        last.send_signal(signal.SIGTERM)
        code = await last.wait()
        reading.cancel()
    await desk.close()
    finals = collections.Counter(r["id"] for r in collector.found)
    expected = await texts(jobs)
    return {
        "jobs": jobs,
        "consumer_killed": kills,
        "broker_killed": restarts,
        "done_before_last_kill": before[-1],
        "lost": missing(collector, jobs),
        "done_twice": sum(count > 1 for count in finals.values()),
        "wrong_texts": sum(r.get("text") != expected[r["id"]] for r in collector.found),
        "attempts": dict(
            sorted(collections.Counter(r["attempt"] for r in collector.found).items())
        ),
        "last_exit_code": code,
        "submit_ms": round(submit_ms, 2),
        "first_result_after_restart_s": round(statistics.median(recovery_s), 2)
        if recovery_s
        else None,
        "seconds": round((now_ns() - started_ns) / 1e9, 1),
    }


async def long_job(broker: Broker, leases: int) -> dict[str, Any]:
    """One job that takes so many leases of a second, with two consumers: how often it is begun."""
    config = QueueConfig(url=broker.url, lease_s=1.0, prefix="long")
    desk = job_desk(config)
    await desk.open()
    async with asyncio.TaskGroup() as group:
        # 80 passes of 12 ms are about a second, and each token of this mode has one.
        job = {"id": "long", "prompt": "Long.", "mode": "large", "max_new_tokens": leases * 80}
        await desk.submit("long", json.dumps(job).encode())
        consumers = [await consumer(config, group) for _ in range(2)]
        started_ns, answers = now_ns(), []
        while not answers:
            answers = await desk.collect("default", 1.0)
        seconds = (now_ns() - started_ns) / 1e9
        await asyncio.sleep(3)
        answers += await desk.collect("default", 1.0)
        for one in consumers:
            one.send_signal(signal.SIGTERM)
            await one.wait()
    await desk.close()
    found = [json.loads(answer.body) for answer in answers]
    return {
        "lease_s": config.lease_s,
        "seconds": round(seconds, 1),
        "results": len(found),
        "attempts": [r["attempt"] for r in found],
    }


def missing(collector: Collector, jobs: int) -> int:
    """Jobs that have no result yet."""
    return jobs - len({r["id"] for r in collector.found})


async def texts(jobs: int) -> dict[str, str]:
    """What each job must give, written without pauses and without a queue."""
    plain = (SMALL.partition("&ms")[0], LARGE.partition("&ms")[0])
    async with bild_dist.launch(*plain, transport="inproc", max_new_tokens=TOKENS) as decoder:
        return {
            f"j{n}": (await decoder.generate(f"Prompt number {n}.")).text for n in range(jobs)
        }  # fmt: skip


def main() -> None:
    """Tries the brokers that are named and keeps the figures."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--brokers", default="nats,rabbit,redis")
    arguments.add_argument("--jobs", type=int, default=200)
    arguments.add_argument("--kills", type=int, default=20)
    arguments.add_argument("--restarts", type=int, default=3)
    arguments.add_argument("--seed", type=int, default=1)
    given = arguments.parse_args()
    figures = {}
    for kind in given.brokers.split(","):
        with tempfile.TemporaryDirectory() as folder, running(kind, Path(folder)) as broker:
            os.environ["OMP_NUM_THREADS"] = "1"
            figures[kind] = asyncio.run(
                trial(broker, given.jobs, given.kills, given.restarts, given.seed)
            )
            figures[kind]["ten_leases"] = asyncio.run(long_job(broker, 10))
    record.write("queue", figures)


if __name__ == "__main__":
    main()
