"""How good the texts of a contestant are, and how sure that is.

Intervals are of 95 %, by bootstrap over sentences: the same 1,000 resamples for every contestant,
so that two of them can be compared on the same sentences (Koehn 2004, "Statistical significance
tests for machine translation evaluation").
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

RESAMPLES: Final = 1000
SEED: Final = 0
Interval = tuple[float, float]


class Judge:
    """Knows the references, one a text, and the resamples. Immutable."""

    def __init__(self, references: Sequence[str]) -> None:
        self._references = list(references)
        self._bleu, self._chrf = BLEU(), CHRF()
        self._rouge = RougeScorer(["rougeL"], use_stemmer=True)
        size = len(self._references)
        even = np.full(size, 1 / size)
        # How often each sentence is in each resample: [1000, N].
        self._drawn = np.random.default_rng(SEED).multinomial(size, even, RESAMPLES)

    def marks(self, texts: Sequence[str]) -> Marks:
        """Marks one contestant's texts, in the order of the references."""
        rouge = [
            self._rouge.score(reference, text)["rougeL"].fmeasure
            for reference, text in zip(self._references, texts, strict=True)
        ]
        return Marks(
            bleu=self._bleu.corpus_score(list(texts), [self._references]).score,
            chrf=self._chrf.corpus_score(list(texts), [self._references]).score,
            rouge_l=100 * statistics.fmean(rouge),
            resampled=self._resampled(texts),
        )

    @cached_property
    def signatures(self) -> dict[str, str]:
        """How each figure is computed."""
        self.marks(self._references)  # sacrebleu knows its signature once it has scored something
        return {
            "bleu": str(self._bleu.get_signature()),
            "chrf": str(self._chrf.get_signature()),
            "rouge_l": "rouge-score, rougeL, F1 with its stemmer, mean over texts, times 100",
            "interval": f"95 %, percentiles of {RESAMPLES} paired bootstrap resamples, seed {SEED}",
        }

    def _resampled(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        """BLEU of every resample, [1000]: BLEU of a set of sentences is a function of sums."""
        scorer = BLEU(effective_order=False)
        rows = []
        for text, reference in zip(texts, self._references, strict=True):
            score = scorer.corpus_score([text], [[reference]])
            rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
        sums = self._drawn @ np.array(rows, dtype=np.int64)
        order = BLEU().max_ngram_order
        return np.array(
            [
                BLEU.compute_bleu(
                    correct=row[:order], total=row[order : 2 * order],
                    sys_len=row[-2], ref_len=row[-1], smooth_method=scorer.smooth_method,
                ).score
                for row in sums.tolist()
            ]
        )  # fmt: skip


class Marks:
    """Marks of one contestant. `resampled`: BLEU of every resample."""

    def __init__(
        self, *, bleu: float, chrf: float, rouge_l: float, resampled: np.ndarray[Any, Any]
    ) -> None:
        self.bleu, self.chrf, self.rouge_l = bleu, chrf, rouge_l
        self._resampled = resampled

    @property
    def interval(self) -> Interval:
        """Of BLEU."""
        return _interval(self._resampled)

    def against(self, base: Marks) -> dict[str, Any]:
        """Where this BLEU stands beside the base's.

        `inside`: it lies in the base's interval. `not_below`: in it or above. `within_one_point`:
        at most one point of BLEU is lost.
        """
        low, high = base.interval
        return {
            "bleu_difference": round(self.bleu - base.bleu, 3),
            "bleu_difference_interval": _rounded(_interval(self._resampled - base._resampled)),
            "inside": low <= self.bleu <= high,
            "not_below": low <= self.bleu,
            "within_one_point": self.bleu >= base.bleu - 1,
        }

    def as_dict(self) -> dict[str, Any]:
        return {
            "bleu": round(self.bleu, 3),
            "bleu_interval": _rounded(self.interval),
            "chrf": round(self.chrf, 3),
            "rouge_l": round(self.rouge_l, 3),
        }


def same_text(texts: Sequence[Mapping[str, Any]], own: Sequence[Mapping[str, Any]]) -> float:
    """Share of the texts that are, token for token, the large model's own."""
    pairs = zip(texts, own, strict=True)
    return statistics.fmean(float(text["tokens"] == other["tokens"]) for text, other in pairs)


def _interval(values: np.ndarray[Any, Any]) -> Interval:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def _rounded(values: Interval) -> list[float]:
    return [round(value, 3) for value in values]
