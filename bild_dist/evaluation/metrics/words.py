"""Metrics against references: BLEU, chrF and ROUGE-L, from 0 to 100.

BLEU's counts and ROUGE-L are those of sacrebleu and rouge-score. sacrebleu gives out no counts of
chrF, so those are taken here; the figures are sacrebleu's own.
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from bild_dist.errors import ConfigError
from bild_dist.evaluation.metrics.base import Array, Judged, Marks, mean

_WORDS: Final = 4
"""Longest n-gram of BLEU, words."""
_LETTERS: Final = 6
"""Longest n-gram of chrF, characters."""
_BETA2: Final = 2.0**2


@dataclass(frozen=True, slots=True)
class Bleu:
    """Corpus BLEU of sacrebleu with its defaults: 13a, mixed case, exponential smoothing."""

    name: str = "bleu"
    title: str = "BLEU"
    needs_references: bool = True
    higher_is_better: bool = True
    point: float = 1.0
    digits: int = 1

    def ready(self) -> None:
        _library("sacrebleu")

    def marks(self, texts: Sequence[Judged]) -> Marks:
        scorer = _library("sacrebleu").BLEU()
        rows = []
        for text in texts:
            # One stream for each reference of this text: its counts are what sacrebleu adds up.
            found = scorer.corpus_score([text.text], [[one] for one in text.references])
            rows.append([*found.counts, *found.totals, found.sys_len, found.ref_len])
        return Marks(np.array(rows, dtype=float), _bleu, _signature(scorer, texts))


def _bleu(sums: Array) -> Array:
    bleu = _library("sacrebleu").BLEU
    return np.array(
        [
            bleu.compute_bleu(
                correct=row[:_WORDS], total=row[_WORDS : 2 * _WORDS], sys_len=row[-2], ref_len=row[-1],
                smooth_method="exp",
            ).score
            for row in sums.astype(int).tolist()
        ]
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Chrf:
    """Corpus chrF of sacrebleu with its defaults: n-grams of up to 6 characters, beta 2."""

    name: str = "chrf"
    title: str = "chrF"
    needs_references: bool = True
    higher_is_better: bool = True
    point: float = 1.0
    digits: int = 1

    def ready(self) -> None:
        _library("sacrebleu")

    def marks(self, texts: Sequence[Judged]) -> Marks:
        scorer = _library("sacrebleu").CHRF()
        for text in texts[:1]:  # it knows its signature once it has scored something
            scorer.corpus_score([text.text], [[one] for one in text.references])
        rows = [_best(text.text, text.references) for text in texts]
        return Marks(np.array(rows, dtype=float), _chrf, _signature(scorer, texts))


def _best(text: str, references: Sequence[str]) -> list[int]:
    """The counts against the reference that the text is nearest to."""
    ours = _grams(text)
    counts = [_matches(ours, _grams(one)) for one in references]
    scores = _chrf(np.array(counts, dtype=float))
    return counts[int(scores.argmax())]


def _grams(text: str) -> list[Counter[str]]:
    letters = "".join(text.split())
    return [
        Counter(letters[at : at + n] for at in range(len(letters) - n + 1))
        for n in range(1, _LETTERS + 1)
    ]


def _matches(ours: list[Counter[str]], theirs: list[Counter[str]]) -> list[int]:
    """n-grams of the text, of the reference and of both, by order; an order that the reference does
    not have counts for neither.
    """
    found = []
    for text, reference in zip(ours, theirs, strict=True):
        both = (text & reference).total()
        found += [text.total() if reference else 0, reference.total(), both]
    return found


def _chrf(sums: Array) -> Array:
    text, reference, both = (sums[:, part::3] for part in range(3))
    there = (text > 0) & (reference > 0)
    orders = np.maximum(there.sum(axis=1), 1)
    precision, recall = (
        np.divide(both, whole, out=np.zeros_like(both), where=there).sum(axis=1) / orders
        for whole in (text, reference)
    )
    below = _BETA2 * precision + recall
    above = (1 + _BETA2) * precision * recall
    found: Array = 100 * np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return found


@dataclass(frozen=True, slots=True)
class RougeL:
    """ROUGE-L of rouge-score, F1 with its stemmer, mean over texts; the best of several references."""

    name: str = "rougeL"
    title: str = "ROUGE-L"
    needs_references: bool = True
    higher_is_better: bool = True
    point: float = 1.0
    digits: int = 1

    def ready(self) -> None:
        _library("rouge_score.rouge_scorer")

    def marks(self, texts: Sequence[Judged]) -> Marks:
        scorer = _library("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=True)
        found = [
            max(scorer.score(one, text.text)["rougeL"].fmeasure for one in text.references)
            for text in texts
        ]
        said = "rouge-score, rougeL, F1 with its stemmer, mean over texts, times 100"
        return mean(found, said, scale=100)


def _signature(scorer: Any, texts: Sequence[Judged]) -> str:
    counts = {len(text.references) for text in texts}
    if len(counts) != 1:
        # sacrebleu's own word for a corpus in which texts have different numbers of references.
        return re.sub(r"nrefs:\w+", "nrefs:var", str(scorer.get_signature()))
    return str(scorer.get_signature())


def _library(name: str) -> Any:
    """A library of the extra `eval`, loaded by those who judge texts. Raises ConfigError without it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ConfigError(
            f"{name.partition('.')[0]} is not installed: pip install 'bild-dist[eval]', or name metrics "
            "without references (agreement, perplexity)"
        ) from None
