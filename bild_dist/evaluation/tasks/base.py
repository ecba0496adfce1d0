"""What a task is: items to write about, and what each model family has to be told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from bild_dist.errors import ConfigError
from bild_dist.types import nearest

SPLITS: Final = ("train", "validation", "test")
ALL: Final = "all"
"""The split of a file that has none."""
HALVES: Final = ("even items", "odd items")
"""What the halves of a split are called where there is no second one. No task knows these names."""
PLACE: Final = "{prompt}"
"""Where a template takes the text of an item."""


@dataclass(frozen=True, slots=True)
class Item:
    """One text to write. `references`: what a good one would be, empty where nobody knows. `where`:
    how errors name it, such as a file and a line; its id where that is empty.
    """

    id: str
    prompt: str
    references: tuple[str, ...] = ()
    where: str = ""

    @property
    def title(self) -> str:
        return self.where or f"item {self.id!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task by name. Items are read when a split is asked for: `read` gives the first so many of one, or
    all for None.

    `metric` is what it is judged by first; `options` are defaults of a request's options. `prefix`
    is what T5 was taught to expect in front of such a text, `template` an instruction for models
    that follow them, with `{prompt}` in it; `wording` says when each is used.
    """

    name: str
    read: Callable[[str, int | None], list[Item]]
    metric: str = "rougeL"
    options: Mapping[str, Any] = field(default_factory=dict)
    prefix: str = ""
    template: str = PLACE
    splits: tuple[str, ...] = SPLITS

    @property
    def default_split(self) -> str:
        """`test` where there is one."""
        return "test" if "test" in self.splits else self.splits[0]

    def check(self, split: str) -> None:
        """Raises ConfigError where there is no such split; offers the nearest name."""
        if split not in self.splits:
            raise ConfigError(
                f"task {self.name!r} has no split {split!r}{nearest(split, list(self.splits))}"
            )

    def items(self, split: str, count: int | None = None) -> list[Item]:
        """The first `count` items of a split, in a fixed order.

        Raises:
            ConfigError: no such split, it cannot be loaded, it is empty, or two items have one id.
        """
        self.check(split)
        found = self.read(split, count)
        if not found:
            raise ConfigError(f"split {split!r} of task {self.name!r} is empty: take another one")
        # Texts are kept by their ids.
        seen: dict[str, Item] = {}
        for item in found:
            first = seen.setdefault(item.id, item)
            if first is not item:
                raise ConfigError(
                    f"{item.title} has the id {item.id!r} of {first.title}: give each its own"
                )
        return found


@dataclass(frozen=True, slots=True)
class Wording:
    """What is put around the text of every item before a model reads it."""

    template: str = PLACE

    def __post_init__(self) -> None:
        if PLACE not in self.template:
            raise ConfigError(
                f"--template {self.template!r} has no {PLACE}, where the text of an item goes: put it in"
            )

    def of(self, item: Item) -> str:
        return self.template.replace(PLACE, item.prompt)


def wording(
    task: Task,
    *,
    decoder_only: bool,
    prefixed: bool,
    prefix: str | None = None,
    template: str | None = None,
) -> Wording:
    """What was asked for, or else what the family needs.

    A decoder-only model gets the task's template. An encoder-decoder model gets the bare text, unless
    it is `prefixed`: T5 as it was published, or trained further from that, whose config lists the
    prefixes that it was taught (`task_specific_params`). T5 1.1, mT5 and models made from nothing
    were not taught any, and a prefix is noise to them.

    Raises:
        ConfigError: both are given, or a template has no place for the text.
    """
    if prefix is not None and template is not None:
        raise ConfigError("--prefix and --template both say what stands around a text: give one")
    if template is not None:
        return Wording(template)
    if prefix is None and decoder_only:
        return Wording(task.template)
    if prefix is None:
        prefix = task.prefix if prefixed else ""
    return Wording(prefix + PLACE)
