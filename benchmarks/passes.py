"""What a pass of the default pair's models costs on a CPU, by how many tokens it checks.

Plain operations over packed weights, modules over packed weights, and plain operations over weights as torch has
them, in alternating order, at a context of 128; and beside them transformers' own forward over its own growing cache,
one token at a time. Of the small model its draft, which has a short head, and as many first layers with the whole one.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any
from unittest import mock

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from benchmarks import record
from bild_dist.clock import now_ns
from bild_dist.config import DEFAULT_LARGE, DEFAULT_SMALL, WorkerConfig
from bild_dist.messages import Rules
from bild_dist.model import draft, hub
from bild_dist.model.base import Model, Pass
from bild_dist.model.load import load
from bild_dist.model.plain import plain_of

CONTEXT = 128
ROWS = (1, 4, 8)


def ours(threads: int, *, packed: bool, modules: bool = False) -> Model:
    """The default large model with or without packed weights, by plain operations or by its modules,
    its slot filled with the context.
    """
    beside = (lambda model: None) if modules else plain_of
    with (
        mock.patch("bild_dist.model.startup.packs", return_value=packed),
        mock.patch("bild_dist.model.startup.plain_of", beside),
    ):
        return filled(WorkerConfig(threads=threads, max_length=512))


def filled(config: WorkerConfig) -> Model:
    """A model with the context in its slot."""
    model = load(config)
    model.allocate(1)
    model.open(0, (), Rules(vocabulary=model.info.rules.vocabulary, begin=1, limit=512))
    model.forward(Pass(0, 0, range(100, 100 + CONTEXT), rows=0))
    return model


def milliseconds(model: Model, rows: int) -> float:
    """One pass that checks so many tokens."""
    start_ns = now_ns()
    ids = range(100, 100 + CONTEXT + rows)
    model.forward(Pass(0, CONTEXT, ids, rows=rows, judge=(5,) * (rows - 1)))
    return (now_ns() - start_ns) / 1e6


@torch.inference_mode()
def plain_step(model: Any, cache: DynamicCache) -> float:
    """One token through transformers' own forward."""
    start_ns = now_ns()
    model(
        input_ids=torch.tensor([[77]]), past_key_values=cache, use_cache=True
    ).logits.argmax().item()
    return (now_ns() - start_ns) / 1e6


def measure(threads: int, repeats: int) -> dict[str, Any]:
    """Medians in milliseconds."""
    models = {
        "packed": ours(threads, packed=True),
        "modules": ours(threads, packed=True, modules=True),
        "unpacked": ours(threads, packed=False),
        "draft": filled(WorkerConfig(model=DEFAULT_SMALL, threads=threads, max_length=512)),
    }
    own = draft.read(hub.folder_of(DEFAULT_SMALL))
    if own is not None:
        models["first_layers"] = filled(
            WorkerConfig(exit_layer=own.layers, threads=threads, max_length=512)
        )
    theirs: Any = AutoModelForCausalLM.from_pretrained(hub.folder_of(DEFAULT_LARGE)).eval()
    with torch.inference_mode():
        cache = DynamicCache()
        theirs(
            input_ids=torch.arange(100, 100 + CONTEXT)[None], past_key_values=cache, use_cache=True
        )
    times: dict[tuple[str, int], list[float]] = {}
    steps: list[float] = []
    for _ in range(repeats):
        for rows in ROWS:
            for name, model in models.items():
                times.setdefault((name, rows), []).append(milliseconds(model, rows))
        steps.append(plain_step(theirs, cache))
    figures: dict[str, Any] = {
        name: {f"{rows}_rows_ms": round(statistics.median(times[name, rows]), 1) for rows in ROWS}
        for name in models
    }
    return {**figures, "transformers": {"1_rows_ms": round(statistics.median(steps), 1)}}


def main() -> None:
    """Measures with one thread and with two, and keeps the figures."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--repeats", type=int, default=40)
    given = arguments.parse_args()
    record.write("passes", {f"{n}_threads": measure(n, given.repeats) for n in (2, 1)})


if __name__ == "__main__":
    main()
