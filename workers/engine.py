"""The engine: one thread that owns the device, the slots and the cache.

The event loop only passes messages: `submit` from there, `deliver` back to it. The thread takes
what has arrived, gives one pass to the request whose turn it is (`turns.py`), and looks again.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import replace

from bild_dist.errors import BildError, WorkerFault
from bild_dist.model.base import Model, Pass
from bild_dist.workers.turns import Command, Deliver, Readings, Turns


class Engine:
    """Runs one model on a thread of its own.

    `deliver(connection, reply)` is called on that thread and must only pass on. Everything but
    `submit`, `disconnect`, `stop` and the readings belongs to the thread.

    `load` makes the model, on that thread too: what a model sets up for the thread that makes it
    (torch's pool of CPU threads) is not made a second time for the thread that runs it. Measured
    with SmolLM2 on two cores: a step takes 37 ms so, and 51 to 58 ms when another thread loads.

    `ready` is set to the model once that is warm. `ended` is set when the thread ends: with a
    result after `stop`, with a WorkerFault (or what the model raised) otherwise.
    """

    def __init__(self, load: Callable[[], Model], slots: int, deliver: Deliver) -> None:
        self.ready: Future[Model] = Future()
        self.ended: Future[None] = Future()
        # A running future cannot be cancelled from the event loop, so the thread can always set it.
        self.ready.set_running_or_notify_cancel()
        self.ended.set_running_or_notify_cancel()
        self._load = load
        self._turns: Turns | None = None
        """All that is under way; None until the model is loaded."""
        self._slots = slots
        self._deliver = deliver
        self._inbox: queue.SimpleQueue[Callable[[Turns], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)

    # Called from the event loop.

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the pass that is running. Waits for it."""
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, connection: Hashable, command: Command) -> None:
        self._inbox.put(lambda turns: turns.take(connection, command))

    def disconnect(self, connection: Hashable) -> None:
        """Frees every slot of a connection that has ended."""
        self._inbox.put(lambda turns: turns.forget(connection))

    def busy(self) -> tuple[int, int]:
        """How long the present pass has run, and how long its like usually take; 0 for nothing or
        unknown.
        """
        return (0, 0) if self._turns is None else self._turns.busy()

    @property
    def progress(self) -> int:
        """Passes so far."""
        return 0 if self._turns is None else self._turns.passes

    @property
    def open_slots(self) -> int:
        return 0 if self._turns is None else self._turns.open_slots

    def readings(self) -> Readings:
        """What it has done so far, for whoever reads the metrics."""
        return Readings() if self._turns is None else self._turns.readings()

    # The thread.

    def _main(self) -> None:
        try:
            model = self._load()
            model.allocate(self._slots)
            _warm_up(model)
            turns = self._turns = Turns(model, self._slots, self._deliver)
            self.ready.set_result(model)
            while self._receive(turns):
                turns.step()
        except BaseException as error:
            fault = error if isinstance(error, BildError) else _fault(error)
            if not self.ready.done():
                self.ready.set_exception(fault)
            self.ended.set_exception(fault)
        else:
            self.ended.set_result(None)

    def _receive(self, turns: Turns) -> bool:
        """Takes what has arrived; waits only when there is nothing to do."""
        if turns.idle:
            turns.check()
            call = self._inbox.get()
            if call is None:
                return False
            call(turns)
        while not self._inbox.empty():
            call = self._inbox.get()
            if call is None:
                return False
            call(turns)
        return True


def _warm_up(model: Model) -> None:
    """Runs the shapes of a draft step and of a check once, so that the first request does not
    pay.
    """
    info = model.info
    ids = [*(info.decoder_prompt or (0,)), *[0] * 8]
    length = min(len(ids), info.max_length)
    rules = replace(info.rules, begin=1, limit=length)
    model.open(0, (0,) if info.max_source else (), rules)
    model.forward(Pass(0, 0, ids[:1], rows=1))
    for _ in range(2):
        model.forward(Pass(0, 1, ids[:length], rows=1))


def _fault(error: BaseException) -> WorkerFault:
    logging.getLogger(__name__).error("the engine failed", exc_info=error)
    return WorkerFault(f"the engine failed: {type(error).__name__}: {error}")
