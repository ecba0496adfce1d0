"""Texts that are drawn: each by chances of its own, the same for all that are compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from bild_dist.evaluation.metrics.base import Judged
from bild_dist.evaluation.metrics.registry import named
from bild_dist.evaluation.run.record import Record
from bild_dist.evaluation.run.running import seed_of
from bild_dist.evaluation.tasks.base import Item
from tests.spec.test_eval import _signals, evaluate  # noqa: F401

ALIKE = [Item(str(n), "the same text") for n in range(6)]


def test_every_text_has_a_seed_of_its_own() -> None:
    """With one for all, texts would end at the same positions, and be worth fewer than they are counted."""
    seeds = {seed_of(0, item) for item in ALIKE}
    assert len(seeds) == len(ALIKE)
    assert all(0 <= seed < 1 << 63 for seed in seeds)
    assert seed_of(0, ALIKE[0]) == seed_of(0, Item("0", "another text"))
    assert not seeds & {seed_of(1, item) for item in ALIKE}


def test_the_same_prompts_are_drawn_differently_and_alike_for_both(tmp_path: Path) -> None:
    """Six items with one prompt: six texts. Mode `exact` draws those of the large model beside it."""
    file = tmp_path / "alike.jsonl"
    lines = (
        f'{{"id": "{item.id}", "prompt": "{item.prompt}", "reference": "x"}}\n' for item in ALIKE
    )
    file.write_text("".join(lines), "utf-8")
    drawn = ("--baseline", "exact", "--temperature", "1")
    code, out = evaluate(tmp_path, *drawn, task=str(file))
    assert code == 0
    record = Record.read(out)
    assert record.large is not None
    assert len({text.tokens for text in record.texts}) > 3
    large = {text.id: text.tokens for text in record.large.texts}
    assert {text.id: text.tokens for text in record.texts} == large


@pytest.mark.parametrize("order", [(1, 2), (2, 1), (2, 10)])
@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_a_signature_says_that_the_number_of_references_varies(
    metric: str, order: tuple[int, int]
) -> None:
    """In whatever order the texts come."""
    texts = [Judged(text="a b c", tokens=(), references=("a b c",) * count) for count in order]
    assert "nrefs:var" in named(metric).marks(texts).signature.split("|")
