"""What a model learns from, and how it is cut into batches."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

IGNORED: Final = -100
"""Label of a position that teaches nothing (torch's own convention)."""
_POOL: Final = 64
"""Batches whose texts are sorted by length together: little padding, still a mixed order."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One text to learn to write.

    Shapes, for T target ids and K choices: `top_ids` [T, K] int32 and `top_logprobs` [T, K]
    float16, the large model's most likely ids at each position, best first; None where only the
    text is known.
    """

    source: tuple[int, ...]
    """The encoder's ids, or the decoder's prompt."""
    target: tuple[int, ...]
    """What follows, end token included."""
    top_ids: np.ndarray[Any, Any] | None = None
    top_logprobs: np.ndarray[Any, Any] | None = None

    @property
    def size(self) -> int:
        return len(self.source) + len(self.target)


@dataclass(frozen=True, slots=True)
class Batch:
    """Lessons as padded tensors on a device.

    Shapes, for B lessons: encoder-decoder models: `source` [B, S], `fed` [B, T] (the decoder's
    start id, then the target without its last id), `labels` [B, T]. Decoder-only: `source` is
    empty, `fed` [B, S + T - 1] holds prompt and target, `labels` is IGNORED over the prompt.
    `top_ids` and `top_logprobs` [N, K] belong to the N positions that are not IGNORED, in row-major
    order.
    """

    source: torch.Tensor
    fed: torch.Tensor
    labels: torch.Tensor
    attended: torch.Tensor
    """1 where the encoder's ids (or, decoder-only, the fed ones) are no padding."""
    top_ids: torch.Tensor | None
    top_logprobs: torch.Tensor | None


def epoch(lessons: Sequence[Lesson], tokens: int, seed: int) -> Iterator[list[Lesson]]:
    """Every lesson once, in batches of at most `tokens` padded ids (or one lesson). The same seed
    gives the same batches.
    """
    order = random.Random(seed)
    mixed = list(lessons)
    order.shuffle(mixed)
    mean = sum(lesson.size for lesson in mixed) / max(len(mixed), 1)
    pool = max(1, int(_POOL * tokens / max(mean, 1)))
    for start in range(0, len(mixed), pool):
        batches = list(_cut(sorted(mixed[start : start + pool], key=_lengths), tokens))
        order.shuffle(batches)
        yield from batches


def batch_of(lessons: Sequence[Lesson], start: int | None, pad: int, device: torch.device) -> Batch:
    """The tensors of some lessons. `start`: the decoder's first id, None for decoder-only
    models.
    """
    if start is None:
        rows = [[*lesson.source, *lesson.target] for lesson in lessons]
        fed = [row[:-1] for row in rows]
        labels = [[IGNORED] * (len(x.source) - 1) + list(x.target) for x in lessons]
        attended = [[1] * len(row) for row in fed]
        source: list[list[int]] = [[] for _ in lessons]
    else:
        source = [list(lesson.source) for lesson in lessons]
        fed = [[start, *lesson.target[:-1]] for lesson in lessons]
        labels = [list(lesson.target) for lesson in lessons]
        attended = [[1] * len(row) for row in source]
    top_ids = top_logprobs = None
    if all(lesson.top_ids is not None for lesson in lessons):
        top_ids = torch.from_numpy(np.concatenate([x.top_ids for x in lessons])).long().to(device)
        top_logprobs = torch.from_numpy(np.concatenate([x.top_logprobs for x in lessons]))
        top_logprobs = top_logprobs.float().to(device)
    return Batch(
        _padded(source, pad).to(device), _padded(fed, pad).to(device), _padded(labels, IGNORED).to(device),
        _padded(attended, 0).to(device), top_ids, top_logprobs,
    )  # fmt: skip


def _lengths(lesson: Lesson) -> tuple[int, int]:
    return len(lesson.target), len(lesson.source)


def _cut(ordered: Sequence[Lesson], tokens: int) -> Iterator[list[Lesson]]:
    batch: list[Lesson] = []
    source = target = 0
    for lesson in ordered:
        source = max(source, len(lesson.source))
        target = max(target, len(lesson.target))
        if batch and (source + target) * (len(batch) + 1) > tokens:
            yield batch
            batch, source, target = [], len(lesson.source), len(lesson.target)
        batch.append(lesson)
    if batch:
        yield batch


def _padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    width = max((len(row) for row in rows), default=0)
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.long)
