"""What a rollback costs, by the length of the text: it must not grow with it.

A rollback is a smaller length in the next command. Measured on one slot of the real cache, without
a model: cutting the slot back by eight ids and checking the prefix's digest, at lengths from 64 to
16,384; beside it, what copying the kept part of the same cache costs, which is what a cache that
grows by concatenation does. Then whole passes of the default pair's large model: one token behind a
rollback against one token straight on.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from benchmarks import record
from bild_dist.clock import now_ns
from bild_dist.config import WorkerConfig
from bild_dist.kv.cache import LayerShape, SlotStore
from bild_dist.kv.prefix import Prefix
from bild_dist.kv.slots import Slot
from bild_dist.messages import Rules
from bild_dist.model.base import Pass
from bild_dist.model.load import load

LENGTHS = (64, 256, 1024, 4096, 16384)
CUT = 8


def cutting(repeats: int) -> dict[str, dict[str, float]]:
    """Microseconds per rollback and per copy at each length; SmolLM2's shapes: 30 layers, 3 heads
    of 64.
    """
    shape = LayerShape(heads=3, key_size=64, value_size=64, dtype=torch.float32)
    store = SlotStore([shape] * 30, 1, max(LENGTHS), torch.device("cpu"))
    rules = Rules(vocabulary=1 << 16, begin=1, limit=max(LENGTHS))
    rows = {}
    for length in LENGTHS:
        cache = store.clean(0)
        for layer in cache.layers:
            layer.length = length
            layer.keys.zero_(), layer.values.zero_()
        slot = Slot(0, rules, Prefix(range(length)))
        tail = list(range(length - CUT, length))
        cut, copy = [], []
        for _ in range(repeats):
            start_ns = now_ns()
            slot.rewind(length - CUT, slot.prefix.digest(length - CUT))
            cache.rewind(length - CUT, CUT)
            cut.append((now_ns() - start_ns) / 1e3)
            slot.prefix.extend(tail)
            for layer in cache.layers:
                layer.length = length
        for _ in range(max(3, repeats // 100)):
            start_ns = now_ns()
            for layer in cache.layers:
                layer.keys[:, :, : length - CUT].clone(), layer.values[:, :, : length - CUT].clone()
            copy.append((now_ns() - start_ns) / 1e3)
        rows[str(length)] = {
            "rollback_us": round(statistics.median(cut), 2),
            "copy_us": round(statistics.median(copy), 1),
        }
    return rows


def passes(repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds per pass of one token, straight on and behind a rollback, in alternating
    order.
    """
    model = load(WorkerConfig(max_length=2048, threads=2))
    model.allocate(1)
    rows = {}
    for length in (64, 512, 1536):
        rules = Rules(vocabulary=model.info.rules.vocabulary, begin=1, limit=2048)
        model.open(0, (), rules)
        ids = [100 + i % 1000 for i in range(length + CUT + 1)]
        model.forward(Pass(0, 0, ids[:length], rows=0))
        on, behind = [], []
        for _ in range(repeats):
            model.forward(Pass(0, length, ids[: length + CUT], rows=0))
            start_ns = now_ns()
            model.forward(Pass(0, length, ids[: length + 1], rows=1))  # eight ids are rolled back
            behind.append((now_ns() - start_ns) / 1e6)
            start_ns = now_ns()
            model.forward(Pass(0, length + 1, ids[: length + 2], rows=1))
            on.append((now_ns() - start_ns) / 1e6)
        rows[str(length)] = {
            "straight_on_ms": round(statistics.median(on), 2),
            "behind_a_rollback_ms": round(statistics.median(behind), 2),
        }
    return rows


def main() -> None:
    """Measures and keeps the figures."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--repeats", type=int, default=2000)
    given = arguments.parse_args()
    figures = {
        "by_length": cutting(given.repeats),
        "whole_passes": passes(max(5, given.repeats // 50)),
    }
    record.write("rollback", figures)


if __name__ == "__main__":
    main()
