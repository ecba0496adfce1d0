"""How far a long step is: a bar on a terminal, a line now and then anywhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bild_dist.clock import now_ns

if TYPE_CHECKING:
    from bild_dist.evaluation.align.training import Step

_EVERY_NS: Final = 30_000_000_000
_ESTIMATE_S: Final = 600.0
"""The last so many seconds say how fast it goes: a text may take a minute."""


class Bar:
    """Shows one long step on standard error. `done`: what an earlier start did. `unit`: of what there are
    so many a second, where nothing else is said.
    """

    def __init__(self, name: str, total: int, done: int = 0, unit: str = "") -> None:
        self._console = Console(stderr=True)
        self._name = name
        self._total = total
        self._unit = unit
        self._begun = self._told = now_ns()
        self._first = done
        self._progress = Progress(
            TextColumn(name), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(), console=self._console, disable=not self._console.is_terminal,
            speed_estimate_period=_ESTIMATE_S,
        )  # fmt: skip
        self._task = self._progress.add_task(name, total=total, completed=done, said="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def tell(self, step: Step) -> None:
        """A step of training is done."""
        rate = step.targets / max((now_ns() - self._begun) / 1e9, 1e-9)
        self.at(step.step, f"loss {step.loss:.3f}, {rate:,.0f} tokens/s")

    def at(self, done: int, said: str = "") -> None:
        """So much of the whole is done. Said of what was done before, it begins now: what there was to load is no
        part of how fast it goes.
        """
        now = now_ns()
        if done == self._first and done < self._total:
            self._begun = now
            return
        each_s = max(now - self._begun, 1) / 1e9 / max(done - self._first, 1)
        if self._unit and not said and done > self._first:
            rate = 1 / each_s
            said = f"{rate:,.0f} {self._unit}/s" if rate >= 10 else f"{rate:.2g} {self._unit}/s"
        self._progress.update(self._task, completed=done, said=said)
        if not self._console.is_terminal and (now - self._told > _EVERY_NS or done == self._total):
            self._told = now
            left = f", {_spoken((self._total - done) * each_s)} left" if done < self._total else ""
            fast = f", {said}" if said else ""
            self._console.print(
                f"{self._name}: {done} of {self._total}{fast}{left}", highlight=False
            )


def _spoken(seconds: float) -> str:
    """A time as short as it is worth knowing."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
