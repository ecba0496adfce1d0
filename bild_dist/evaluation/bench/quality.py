"""How near texts are to what they ought to be: in tokens to the large model's own, in words to
references.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from bild_dist.evaluation.bench.prompts import Task


def agreement(tokens: Sequence[int], own: Sequence[int]) -> float:
    """How much of two texts is the same, from 0 to 1: the F1 of their longest common subsequence,
    over tokens (ROUGE-L, Lin 2004, without its stemming).
    """
    if not tokens and not own:
        return 1.0
    row = [0] * (len(own) + 1)
    for token in tokens:
        before = 0
        for place, other in enumerate(own, start=1):
            here = before + 1 if token == other else max(row[place], row[place - 1])
            before, row[place] = row[place], here
    return 2 * row[-1] / (len(tokens) + len(own))


def against_references(
    texts: Sequence[Mapping[str, Any]], tasks: Sequence[Task]
) -> dict[str, float]:
    """BLEU and chrF of the texts that have references, as sacrebleu computes them (0 to 100).

    Empty where no task has a reference, or sacrebleu is not installed.
    """
    pairs = [
        (str(text["text"]), task.references)
        for text, task in zip(texts, tasks, strict=True)
        if task.references
    ]
    if not pairs or not installed():
        return {}
    sacrebleu = importlib.import_module("sacrebleu")
    most = max(len(references) for _, references in pairs)
    # One stream for each n-th reference, None where a text has fewer.
    streams = [[dict(enumerate(references)).get(n) for _, references in pairs] for n in range(most)]
    spoken = [text for text, _ in pairs]
    return {
        "bleu": sacrebleu.corpus_bleu(spoken, streams).score,
        "chrf": sacrebleu.corpus_chrf(spoken, streams).score,
    }


def installed() -> bool:
    """Whether sacrebleu is there; it is no dependency."""
    return importlib.util.find_spec("sacrebleu") is not None
