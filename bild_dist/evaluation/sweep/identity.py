"""What makes two sweeps the same, and what becomes of a file that is there already."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from bild_dist.config import WorkerConfig
from bild_dist.errors import ConfigError
from bild_dist.evaluation.run import identity as identities
from bild_dist.evaluation.run.record import Setting, stored
from bild_dist.evaluation.sweep.running import Sweep
from bild_dist.evaluation.sweep.study import Study
from bild_dist.types import Role


def identity(sweep: Sweep) -> dict[str, Any]:
    """What the pieces of a sweep depend on, with names for the texts and the weights."""
    grid = sweep.grid
    return {
        "task": sweep.task, "split": sweep.split, "items": identities.asked(sweep.items),
        "wording": sweep.template, **{role.value: _model(sweep, role) for role in Role},
        "orchestrator": dataclasses.asdict(sweep.config.orchestrator),
        "middle": _asked(Setting.of(grid.middle)),
        "settings": [_asked(setting) for setting in grid.settings()],
        "front": sweep.only_front, "record": sweep.recorded, "measure": sweep.measure,
        **identities.surroundings(),
    }  # fmt: skip


def _asked(setting: Setting) -> dict[str, Any]:
    """A setting as it was asked for: what the workers settle is not known before they are there."""
    found = setting.as_dict()
    return (
        found
        if found["schedule"] is not None
        else {**found, "schedule": "as the workers settle it"}
    )


def _model(sweep: Sweep, role: Role) -> dict[str, Any]:
    """What a worker is told, and its weights; where it listens is another place every time, and where a
    folder lies says nothing about what it holds.
    """
    config: WorkerConfig = getattr(sweep.config, role.value)
    looked = identities.folder(config, joined=False)
    left = {"listen", *(("model",) if looked else ())}
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in left} | looked


def prompts(sweep: Sweep) -> list[str]:
    """A name for each prompt, to tell whether two sweeps share texts."""
    return [identities.named(item.prompt) for item in sweep.items]


def difference(study: Study, sweep: Sweep) -> tuple[str, str, str] | None:
    """In what a finished sweep differs from one that is asked for, by name, and what each has there: what its
    pieces depend on, its metrics and its references.
    """
    there = {item.id for item in study.items}  # without those that could not be written
    asked = [item for item in sweep.items if item.id in there]
    theirs = study.environment.get("identity")
    old = {
        **(theirs if isinstance(theirs, dict) else {}),
        "metric": study.metric, "metrics": sorted(study.large.figures),
        "references": identities.references(study.items),
    }  # fmt: skip
    new = {
        **identity(sweep),
        "metric": sweep.main, "metrics": sorted(metric.name for metric in sweep.metrics),
        "references": identities.references(asked),
    }  # fmt: skip
    return identities.first_difference(stored(old), stored(new))


def finished(out: Path, sweep: Sweep) -> Study | None:
    """The sweep that is there already, None where there is nothing yet.

    Raises:
        ConfigError: there is another one, or something else.
    """
    if not out.exists():
        return None
    try:
        study = Study.read(out)
    except ConfigError as error:
        raise ConfigError(f"--out: {error}, or remove it first, or name another --out") from None
    differs = difference(study, sweep)
    if differs is not None:
        name, was, now = differs
        raise ConfigError(
            f"{out} is the finished file of another sweep: its {name} is {was}, not {now}; name another --out, or "
            "remove the file to begin anew"
        )
    return study
