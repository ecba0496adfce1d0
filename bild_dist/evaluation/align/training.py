"""The training loop: a plain one, for one device, that can be interrupted at any step.

In bfloat16 the model computes and a float32 copy of its weights learns: single steps are smaller
than what bfloat16 can add.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any, Final

import torch
from torch.nn.utils import clip_grad_norm_
from transformers.optimization import Adafactor

from bild_dist.clock import now_ns
from bild_dist.errors import ConfigError
from bild_dist.evaluation.align.checkpoint import Checkpoints
from bild_dist.evaluation.align.lessons import Lesson, batch_of, epoch
from bild_dist.evaluation.align.losses import Aim, loss_of

_CLIP: Final = 1.0
_WARM: Final = 0.06
"""Share of the steps in which the rate of a `decay` schedule rises."""
_TABLE: Final = 10.0
"""How much faster the embedding of a new model learns under AdamW: its weights are that much larger
than all others. Measured on a T5 of 6 and 12 layers, after 110 s: loss 6.17 against 6.74."""
_SECONDS: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train. With the same plan and lessons a run gives the same model, interrupted or
    not.
    """

    epochs: float = 1.0
    rate: float = 1e-4
    """Learning rate (paper, 7.1.1: Adafactor at a constant rate)."""
    schedule: str = "constant"
    """`constant`, or `decay`: up for 6 % of the steps, then down to 0 as a cosine."""
    optimizer: str = "adafactor"
    """`adafactor`, or `adamw` for models that start from nothing."""
    tokens: int = 4096
    """Padded ids in a batch."""
    seed: int = 0
    distil: float = 0.0
    exit_layer: int = 0

    @property
    def aim(self) -> Aim:
        return Aim(self.distil, self.exit_layer)


@dataclass(frozen=True, slots=True)
class Step:
    """How far a run is."""

    step: int
    steps: int
    loss: float
    """Mean over the last hundred steps or so, in nats a token."""
    targets: int
    """Target ids learned from since this process began."""


class Run:
    """One model that learns. Owner of the model's weights until `go` returns.

    `head`: see `losses.loss_of`. Raises ConfigError where no lesson is left or nothing can be
    trained.
    """

    def __init__(
        self, model: Any, lessons: Sequence[Lesson], plan: Plan, checkpoints: Checkpoints,
        head: torch.Tensor | None = None,
    ) -> None:  # fmt: skip
        if not lessons:
            raise ConfigError("there is nothing to learn from: every calibration line was skipped")
        self._model = model
        self._lessons = lessons
        self._plan = plan
        self._checkpoints = checkpoints
        self._head = head
        self._device = model.device
        self._start = start_id(model)
        self._pad = int(model.config.get_text_config().pad_token_id or 0)
        per_epoch = sum(1 for _ in epoch(lessons, plan.tokens, plan.seed))
        self._per_epoch = per_epoch
        self._steps = max(1, round(per_epoch * plan.epochs))
        self._trained = [p for p in model.parameters() if p.requires_grad]
        if not self._trained:
            raise ConfigError("every weight of the small model is frozen")
        self._masters = [p.detach().float().clone().requires_grad_() for p in self._trained]
        self._same = all(p.dtype == torch.float32 for p in self._trained)
        if self._same:
            self._masters = self._trained
        table = model.get_input_embeddings().weight
        rates = [_TABLE if weight is table else 1.0 for weight in self._trained]
        self._factors = rates if plan.optimizer == "adamw" else [1.0] * len(rates)
        self._optimizer = _optimizer(plan, self._masters)
        self._done = 0
        self._loss = math.nan
        self._lost = False
        """Whether the weights are not worth keeping."""

    @property
    def steps(self) -> int:
        return self._steps

    @property
    def done(self) -> int:
        return self._done

    def go(
        self, *, tell: Callable[[Step], None] = lambda _: None, minutes: float = math.inf,
        every_s: float = 300.0,
    ) -> bool:  # fmt: skip
        """Trains to the end, or for so many minutes; a checkpoint every so many seconds and at the
        stop, also when it is interrupted. Returns whether the run is complete.
        """
        self._restore()
        begun = saved = now_ns()
        targets = 0
        self._model.train()
        try:
            for lessons in self._batches():
                loss = self._step(lessons)
                self._loss = loss if math.isnan(self._loss) else 0.98 * self._loss + 0.02 * loss
                targets += sum(len(lesson.target) for lesson in lessons)
                tell(Step(self._done, self._steps, self._loss, targets))
                now = now_ns()
                if (now - begun) * _SECONDS > 60 * minutes:
                    break
                if (now - saved) * _SECONDS > every_s:
                    self._save()
                    saved = now_ns()
        finally:
            if not self._lost:
                self._save()
            self._model.eval()
        return self._done >= self._steps

    def _batches(self) -> Iterator[list[Lesson]]:
        """What is still to be learned."""
        number, offset = divmod(self._done, self._per_epoch)
        while True:
            for n, lessons in enumerate(
                epoch(self._lessons, self._plan.tokens, self._plan.seed + number)
            ):
                if n < offset:
                    continue
                if self._done >= self._steps:
                    return
                yield lessons
            number, offset = number + 1, 0
            if self._done >= self._steps:
                return

    def _step(self, lessons: Sequence[Lesson]) -> float:
        # Dropout too is a function of the step alone.
        torch.manual_seed(self._plan.seed + self._done)
        batch = batch_of(lessons, self._start, self._pad, self._device)
        loss = loss_of(self._model, batch, self._plan.aim, self._head)
        if not math.isfinite(found := float(loss.detach())):
            self._lost = True
            raise ConfigError(
                f"the loss became {found} at step {self._done}: start again with a lower --rate and another --out"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        if not self._same:
            for master, weight in zip(self._masters, self._trained, strict=True):
                master.grad = None if weight.grad is None else weight.grad.float()
                weight.grad = None
        with shielded():
            self._learn()
        return found

    def _learn(self) -> None:
        """Takes the step whose gradients are there. Weights and count move together or not at all."""
        clip_grad_norm_(self._masters, _CLIP)
        rate = self._rate()
        for group, factor in zip(self._optimizer.param_groups, self._factors, strict=True):
            group["lr"] = rate * factor
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if not self._same:
            with torch.no_grad():
                torch._foreach_copy_(self._trained, self._masters)
        self._done += 1

    def _rate(self) -> float:
        if self._plan.schedule == "constant":
            return self._plan.rate
        share = (self._done + 1) / self._steps
        if share < _WARM:
            return self._plan.rate * share / _WARM
        return self._plan.rate * 0.5 * (1 + math.cos(math.pi * (share - _WARM) / (1 - _WARM)))

    def _save(self) -> None:
        tensors = {f"weight.{n}": weight for n, weight in enumerate(self._masters)}
        numbers: dict[str, Any] = {
            "step": self._done,
            "steps": self._steps,
            "loss": self._loss,
            "optimizer": {},
        }
        for n, weight in enumerate(self._masters):
            for name, value in self._optimizer.state.get(weight, {}).items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimizer.{n}.{name}"] = value
                elif isinstance(value, int | float):
                    numbers["optimizer"][f"{n}.{name}"] = value
        self._checkpoints.save(numbers, tensors)

    @torch.no_grad()
    def _restore(self) -> None:
        found = self._checkpoints.load()
        if found is None:
            return
        numbers, tensors = found
        for n, weight in enumerate(self._masters):
            weight.copy_(tensors[f"weight.{n}"])
        torch._foreach_copy_(self._trained, self._masters)
        for key, value in [
            *tensors.items(),
            *((f"optimizer.{k}", v) for k, v in numbers["optimizer"].items()),
        ]:
            kind, _, rest = key.partition(".")
            if kind == "optimizer":
                index, _, name = rest.partition(".")
                held = value.to(self._device) if isinstance(value, torch.Tensor) else value
                self._optimizer.state[self._masters[int(index)]][name] = held
        self._done, self._loss = int(numbers["step"]), float(numbers["loss"])


@contextmanager
def shielded() -> Iterator[None]:
    """Puts Ctrl-C and `kill` off until the end, where signals can be caught (the main thread)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {
        n: signal.signal(n, lambda number, frame: came.append((number, frame))) for n in numbers
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for caught, frame in came[:1]:
        handler = before[signal.Signals(caught)]
        if callable(handler):
            handler(caught, frame)
        elif handler == signal.SIG_DFL:
            signal.raise_signal(caught)


def start_id(model: Any) -> int | None:
    """The id that a decoder starts from; None for decoder-only models, which start from a
    prompt.
    """
    if not model.config.is_encoder_decoder:
        return None
    for holder in (model.generation_config, model.config):
        found = getattr(holder, "decoder_start_token_id", None)
        if isinstance(found, int):
            return found
    raise ConfigError(
        "the model names no decoder_start_token_id: put it into generation_config.json"
    )


def as_numbers(plan: Plan) -> dict[str, Any]:
    """A plan as JSON."""
    return asdict(plan)


def _optimizer(plan: Plan, weights: Sequence[torch.Tensor]) -> torch.optim.Optimizer:
    # A group a weight, so that each can have its own rate.
    groups = [{"params": [weight]} for weight in weights]
    if plan.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.01)
    adafactor: Any = Adafactor
    made: torch.optim.Optimizer = adafactor(
        groups, lr=plan.rate, scale_parameter=False, relative_step=False, warmup_init=False
    )
    return made
