"""A model at work: runs batches of passes and knows how long their like usually take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from bild_dist.errors import InvalidRequest
from bild_dist.model.base import Batched, Choice, Model, Pass

Clock: TypeAlias = Callable[[], int]


class Device:
    """One model under a clock that gives ns. Owned by the engine thread."""

    def __init__(self, model: Model, clock: Clock) -> None:
        self._model = model
        self._clock = clock
        self._started_ns = 0
        self._length = 0
        self._usual_ns: dict[int, int] = {}
        self._batched = model if isinstance(model, Batched) else None
        self.batching = "single" if self._batched is None else model.info.batching
        """Which passes may run together, as in `messages.Info`."""
        self.passes = 0
        """Passes so far, each batch counted once."""
        self.served = 0
        """Requests in those passes, one for each that it had part in."""
        self.fed = 0
        """Tokens in those passes."""
        self.total_ns = 0
        """How long all of them took."""
        self.spent_ns = 0
        """How long the last one took."""

    def busy(self) -> tuple[int, int]:
        """How long the present pass has run, and how long its like usually take; 0 for nothing or
        unknown. Safe to read from other threads.
        """
        started = self._started_ns
        if started == 0:
            return 0, 0
        return self._clock() - started, self._usual_ns.get(_bucket(self._length), 0)

    def run(self, tasks: Sequence[Pass]) -> list[list[Choice] | InvalidRequest]:
        """Runs passes of different slots as one; for each what it gives, or why it alone cannot be
        served.
        """
        length = sum(len(task.ids) - task.at for task in tasks)
        self._length, self._started_ns = length, self._clock()
        try:
            found = self._forward(tasks)
            self.spent_ns = spent_ns = self._clock() - self._started_ns
        finally:
            self._started_ns = 0
        self.passes += 1
        self.served += len(tasks)
        self.fed += length
        self.total_ns += spent_ns
        usual_ns = self._usual_ns.get(_bucket(length), spent_ns)
        self._usual_ns[_bucket(length)] = usual_ns + (spent_ns - usual_ns) // 8
        return found

    def _forward(self, tasks: Sequence[Pass]) -> list[list[Choice] | InvalidRequest]:
        if self._batched is not None and len(tasks) > 1:
            return self._batched.forward_batch(tasks)
        try:
            return [self._model.forward(task) for task in tasks]
        except InvalidRequest as error:
            return [error]


def _bucket(length: int) -> int:
    """Passes of about the same length: powers of two."""
    return length.bit_length()
