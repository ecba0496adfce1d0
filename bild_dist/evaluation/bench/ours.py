"""One round of this program's own: workers start, a text warms them up, the tasks are timed, the
workers stop.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bild_dist.clock import now_ns
from bild_dist.errors import ConfigError
from bild_dist.evaluation.bench.chain import critical_ns
from bild_dist.evaluation.bench.job import WARM_UP, Job, Outcome
from bild_dist.evaluation.bench.usage import forget_peak, peak_bytes
from bild_dist.messages import Info
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.orchestrator.opening import launched
from bild_dist.orchestrator.recording import Recording
from bild_dist.orchestrator.timeline import stories
from bild_dist.policy.events import FromWorker
from bild_dist.types import Result, Role

if TYPE_CHECKING:
    from bild_dist.orchestrator.cli import InProcess


async def measure(job: Job, inproc: InProcess) -> Outcome:
    """Runs a contestant of our own.

    Raises:
        BildError: it cannot start, or a text fails.
    """
    config = job.config.overlaid(orchestrator={"transport": job.contestant.transport})
    recording = Recording()
    alone = job.contestant.transport == "inproc"
    opening = inproc(config, recording) if alone else launched(config, record=recording)
    async with opening as decoder:
        info = {role: client.info for role, client in decoder.workers.items()}
        refuse_kind(job, info[Role.LARGE])
        options = dataclasses.asdict(job.options())
        await _warm_up(job, decoder, options)
        recording.moments.clear()
        pids = {"orchestrator": os.getpid()}
        pids |= {} if alone else {role.value: info[role].pid for role in Role}
        for pid in pids.values():
            forget_peak(pid)
        cpu_ns, started_ns = time.process_time_ns(), now_ns()
        results = await _write(job, decoder, options)
        wall_ns, cpu_ns = now_ns() - started_ns, time.process_time_ns() - cpu_ns
        memory = {name: peak_bytes(pid) for name, pid in pids.items()}
    return {
        "texts": _texts(results, recording, config.orchestrator.concurrency),
        "wall_ns": wall_ns,
        # In one process the models' time cannot be told from the orchestrator's.
        "cpu_ns": None if alone else cpu_ns,
        "answers": None if recording.missed else _answers(recording),
        "large_passes": sum(result.trace.large_passes for result in results),
        "memory": memory,
        "runs_on": _runs_on(info),
    }


def refuse_kind(job: Job, info: Info) -> None:
    """The built-in prompts ask for an answer, which only a decoder-only model gives.

    Raises:
        ConfigError: the models need prompts of their own.
    """
    if job.built_in and info.kind != "decoder" and info.architecture != "toy":
        raise ConfigError(
            f"{info.model} is an {info.kind} model, and what it can be asked depends on its training: "
            "give --prompts FILE.jsonl"
        )


async def _warm_up(job: Job, decoder: Decoder, options: Mapping[str, Any]) -> None:
    task = job.tasks[0]
    changed = {**options, **task.options}
    changed["max_new_tokens"] = min(WARM_UP, changed["max_new_tokens"])
    await decoder.generate(task.prompt, **changed)


async def _write(job: Job, decoder: Decoder, options: Mapping[str, Any]) -> list[Result]:
    """All texts, as many at once as the configuration says. A request's own clock starts when it
    is its turn.
    """
    room = asyncio.Semaphore(job.config.orchestrator.concurrency)

    async def one(prompt: Any, changes: Mapping[str, Any]) -> Result:
        async with room:
            return await decoder.generate(prompt, **{**options, **changes})

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(task.prompt, task.options)) for task in job.tasks]
    except BaseExceptionGroup as errors:
        raise next(iter(errors.exceptions)) from None
    return [task.result() for task in tasks]


def _texts(results: list[Result], recording: Recording, concurrency: int) -> list[dict[str, Any]]:
    told = stories(recording.moments)
    # Requests that share the workers wait for each other, which is no path of their own.
    known = concurrency == 1 and not recording.missed and len(told) == len(results)
    paths = [critical_ns(story) if known else None for story in told]
    paths += [None] * (len(results) - len(paths))
    return [
        {
            "tokens": list(result.tokens),
            "text": result.text,
            "wall_ns": result.trace.wall_ns,
            "first_token_ns": result.trace.first_token_ns,
            "critical_ns": path,
            "trace": dataclasses.asdict(result.trace),
        }
        for result, path in zip(results, paths, strict=False)
    ]


def _answers(recording: Recording) -> int:
    """Messages of workers that were handled. A round trip has one; the pieces of a draft that is
    reported while it goes on are one each.
    """
    return sum(isinstance(moment.what, FromWorker) for moment in recording.moments)


def _runs_on(info: Mapping[Role, Info]) -> str:
    parts = [
        f"{role} {i.model} ({i.architecture}), {i.dtype} on {i.device}, {i.threads} threads"
        for role, i in sorted(info.items())
    ]
    return "this program's workers: " + "; ".join(parts)
