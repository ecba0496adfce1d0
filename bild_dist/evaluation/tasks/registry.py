"""Tasks by name."""

from __future__ import annotations

from bild_dist.errors import ConfigError
from bild_dist.evaluation.tasks import debian, hub, jsonl
from bild_dist.evaluation.tasks.base import Task
from bild_dist.types import nearest


def names() -> list[str]:
    """The tasks there are, beside files."""
    return [task.name for task in _known(False)]


def find(name: str, *, cached: bool = False) -> Task:
    """A task by its name, or of a file that ends in .jsonl. `cached`: its texts are read from this machine, and
    no network is asked for those that are not there.

    Raises:
        ConfigError: no such task; offers the nearest name.
    """
    if name.endswith(jsonl.SUFFIX):
        return jsonl.task(name)
    known = {task.name: task for task in _known(cached)}
    if name not in known:
        raise ConfigError(
            f"task {name!r} is unknown{nearest(name, list(known), listed=False)}: there are {', '.join(known)}, "
            "and any FILE.jsonl with prompt and reference"
        )
    return known[name]


def _known(cached: bool) -> list[Task]:
    return [*debian.tasks(cached=cached), *hub.tasks(cached=cached)]
