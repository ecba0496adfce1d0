"""Tasks by name."""

from __future__ import annotations

from bild_dist.errors import ConfigError
from bild_dist.evaluation.tasks import debian, hub, jsonl
from bild_dist.evaluation.tasks.base import Task
from bild_dist.types import nearest


def names() -> list[str]:
    """The tasks there are, beside files."""
    return [task.name for task in _known()]


def find(name: str) -> Task:
    """A task by its name, or of a file that ends in .jsonl.

    Raises:
        ConfigError: no such task; offers the nearest name.
    """
    if name.endswith(jsonl.SUFFIX):
        return jsonl.task(name)
    known = {task.name: task for task in _known()}
    if name not in known:
        raise ConfigError(
            f"task {name!r} is unknown{nearest(name, list(known), listed=False)}: there are {', '.join(known)}, "
            "and any FILE.jsonl with prompt and reference"
        )
    return known[name]


def _known() -> list[Task]:
    return [*debian.tasks(), *hub.tasks()]
