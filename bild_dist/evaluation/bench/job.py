"""What the program that compares says to the process that runs one contestant, and what comes back.

Both are JSON in files. The process writes its answer once, whole; one that writes none has died.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeAlias

from bild_dist.config import Config, OrchestratorConfig, WorkerConfig
from bild_dist.errors import BildError
from bild_dist.evaluation.bench.contestants import Contestant, Peer
from bild_dist.evaluation.bench.prompts import Task
from bild_dist.types import Mode, Options, Schedule

Outcome: TypeAlias = dict[str, Any]
"""One contestant's raw numbers of one round: `texts` (one entry a prompt, with `tokens`, `text`,
`wall_ns`, `first_token_ns`, `trace`), and of the round `wall_ns`, `cpu_ns`, `answers`,
`large_passes`, `memory` (bytes by process) and `runs_on`; None where something does not apply. Or
`error` with `type` and `message`.
"""

WARM_UP: Final = 32
"""Tokens of the text that is written before the clock starts."""


@dataclass(frozen=True, slots=True)
class Job:
    """One contestant, once: the models of `config` write every task. `built_in`: whether the tasks
    are our own, which suit decoder-only models.
    """

    contestant: Contestant
    config: Config
    tasks: tuple[Task, ...]
    built_in: bool = False

    def options(self) -> Options:
        """What holds for every text of the job."""
        changes: dict[str, Any] = {"mode": self.contestant.mode}
        if self.contestant.schedule is not None:
            changes["schedule"] = self.contestant.schedule
        return dataclasses.replace(self.config.generate, **changes)

    def write(self, path: Path) -> None:
        record = {
            "contestant": dataclasses.asdict(self.contestant),
            "config": dataclasses.asdict(self.config),
            "tasks": [task.as_dict() for task in self.tasks],
            "built_in": self.built_in,
        }
        path.write_text(json.dumps(record), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        record = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            contestant=_contestant(record["contestant"]),
            config=_config(record["config"]),
            tasks=tuple(Task(**task) for task in record["tasks"]),
            built_in=record["built_in"],
        )


def refusal(error: BildError) -> Outcome:
    """The outcome of a contestant that could not take part."""
    return {"error": {"type": type(error).__name__, "message": str(error)}}


def _contestant(record: Mapping[str, Any]) -> Contestant:
    peer, schedule = record["peer"], record["schedule"]
    return Contestant(
        peer=Peer(peer) if peer else None,
        mode=Mode(record["mode"]),
        schedule=Schedule(schedule) if schedule else None,
        transport=record["transport"],
    )


def _config(record: Mapping[str, Any]) -> Config:
    return Config(
        small=WorkerConfig(**record["small"]),
        large=WorkerConfig(**record["large"]),
        orchestrator=OrchestratorConfig(**record["orchestrator"]),
        generate=Options(**record["generate"]),
    )
