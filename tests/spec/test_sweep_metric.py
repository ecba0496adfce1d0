"""Which metric a sweep is judged by first."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from bild_dist.errors import ConfigError
from bild_dist.evaluation.sweep.options import asked, planned
from tests.spec.test_sweep import TOYS


def judged(folder: Path, own: str, *more: str) -> tuple[str, list[str]]:
    """The first metric and all, for a task that is judged by `own`."""
    file = folder / "task.jsonl"
    lines = [json.dumps({"prompt": f"number {n}", "reference": "one"}) for n in range(3)]
    file.write_text("\n".join(lines))
    found, _ = asked([*TOYS, "--task", str(file), "--out", str(folder / "sweep.json"), *more])
    task = dataclasses.replace(found.task, metric=own)
    sweep = planned(dataclasses.replace(found, task=task))
    return sweep.main, [metric.name for metric in sweep.metrics]


@pytest.mark.parametrize(
    ("own", "words", "first"),
    [
        ("rougeL", ["--metric", "bleu", "--metric", "rougeL"], "rougeL"),
        ("bleu", ["--metric", "chrf", "--metric", "rougeL"], "chrf"),
        ("bleu", ["--metric", "rougeL,bleu"], "bleu"),
        ("rougeL", [], "rougeL"),
        ("rougeL", ["--metric", "all"], "rougeL"),
        ("perplexity", [], "agreement"),
    ],
)
def test_a_sweep_is_judged_by_what_its_task_is(
    tmp_path: Path, own: str, words: Sequence[str], first: str
) -> None:
    """The task's own metric where it is among them, else the first as given: front, picture and report are of
    it. Perplexity, which a sweep keeps no reading for, is nobody's default.
    """
    found, names = judged(tmp_path, own, *words)
    assert found == first
    assert "perplexity" not in names


def test_perplexity_is_refused_where_it_is_asked_for(tmp_path: Path) -> None:
    """By whoever named it, and by nobody else."""
    with pytest.raises(ConfigError, match="--metric perplexity is for `bild eval`"):
        judged(tmp_path, "rougeL", "--metric", "perplexity")
