"""Metrics: sacrebleu's and rouge-score's own figures, and intervals that score nothing again."""

from __future__ import annotations

import math
import random
import sys

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from bild_dist.config import WorkerConfig
from bild_dist.errors import ConfigError
from bild_dist.evaluation.metrics import registry
from bild_dist.evaluation.metrics.base import Judged, Resamples, mean
from bild_dist.evaluation.metrics.own import Agreement, Perplexity, identical
from bild_dist.evaluation.metrics.reading import Reading, nats
from bild_dist.evaluation.metrics.words import Bleu, Chrf, RougeL
from bild_dist.evaluation.tasks.base import Item

WORDS = [
    "the", "a", "small", "large", "model", "writes", "checks", "text", "of", "files", "and", "quickly,", "well.",
]  # fmt: skip


def sentences(count: int, seed: int, least: int = 1) -> list[str]:
    chance = random.Random(seed)
    return [
        " ".join(chance.choice(WORDS) for _ in range(chance.randint(least, 14)))
        for _ in range(count)
    ]


def judged(texts: list[str], *streams: list[str]) -> list[Judged]:
    references = zip(*streams, strict=True)
    return [Judged(text, (), tuple(found)) for text, found in zip(texts, references, strict=True)]


TEXTS = ["", *sentences(39, 1)]
FIRST, SECOND = sentences(40, 2), sentences(40, 3)


@pytest.mark.parametrize("streams", [(FIRST,), (FIRST, SECOND)], ids=["one", "two"])
def test_bleu_is_sacrebleus(streams: tuple[list[str], ...]) -> None:
    """Adding up the counts of single texts gives the corpus figure, empty texts among them; so does
    the signature that goes into a record.
    """
    scorer = BLEU()
    marks = Bleu().marks(judged(TEXTS, *streams))
    assert marks.value == pytest.approx(scorer.corpus_score(TEXTS, list(streams)).score, abs=1e-9)
    if len(streams) == 1:
        assert marks.signature == str(scorer.get_signature())


@pytest.mark.parametrize("streams", [(FIRST,), (FIRST, SECOND)], ids=["one", "two"])
def test_chrf_is_sacrebleus(streams: tuple[list[str], ...]) -> None:
    """Its counts are taken here because sacrebleu gives none out; a text counts against the reference
    that it is nearest to.
    """
    scorer = CHRF()
    marks = Chrf().marks(judged(TEXTS, *streams))
    assert marks.value == pytest.approx(scorer.corpus_score(TEXTS, list(streams)).score, abs=1e-9)
    if len(streams) == 1:
        assert marks.signature == str(scorer.get_signature())


def test_rouge_is_rouge_scores_mean() -> None:
    """F1 with the stemmer, mean over texts, times 100; of several references the best counts."""
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    one, other = (
        [scorer.score(r, t)["rougeL"].fmeasure for r, t in zip(stream, TEXTS, strict=True)]
        for stream in (FIRST, SECOND)
    )
    assert RougeL().marks(judged(TEXTS, FIRST)).value == pytest.approx(100 * np.mean(one))
    best = 100 * np.mean(np.maximum(one, other))
    assert RougeL().marks(judged(TEXTS, FIRST, SECOND)).value == pytest.approx(best)


@pytest.mark.parametrize("metric", [Bleu(), Chrf(), RougeL()], ids=lambda m: m.name)
def test_a_resample_is_scored_from_sums(metric: Bleu | Chrf | RougeL) -> None:
    """The figure of a resample is that of the texts in it, scored from the start."""
    texts = judged(TEXTS, FIRST)
    marks = metric.marks(texts)
    drawn = np.random.default_rng(5).multinomial(40, np.full(40, 1 / 40), 3)
    for counts in drawn:
        again = [text for text, n in zip(texts, counts, strict=True) for _ in range(n)]
        found = marks.score(counts.astype(float)[None] @ marks.rows)[0]
        assert found == pytest.approx(metric.marks(again).value, abs=1e-9)


def test_an_interval_is_the_same_every_time_and_holds_the_figure() -> None:
    """The resamples are seeded, so two people with the same texts publish the same interval."""
    marks = Bleu().marks(judged(TEXTS, FIRST))
    low, high = Resamples(40).interval(marks)
    assert (low, high) == Resamples(40).interval(marks)
    assert low < marks.value < high


def test_a_difference_is_paired() -> None:
    """Texts that differ a lot from each other and little between two settings: the interval of the
    difference is narrow where those of the figures are wide.
    """
    chance = random.Random(4)
    base = [chance.uniform(0, 100) for _ in range(50)]
    better = [value + 1 + chance.uniform(-0.1, 0.1) for value in base]
    draws = Resamples(50)
    low, high = draws.difference(mean(better, ""), mean(base, ""))
    assert 0.9 < low < 1 < high < 1.1
    wide = draws.interval(mean(base, ""))
    assert wide[1] - wide[0] > 5


def test_agreement_is_one_for_the_large_models_own_text() -> None:
    """The F1 of the common subsequence, and the share of identical texts beside it."""
    texts = [
        Judged("", (1, 2, 3), own=(1, 2, 3)),
        Judged("", (1, 9, 3, 4), own=(1, 2, 3)),
        Judged("", (), own=()),
    ]
    assert Agreement().marks(texts).value == pytest.approx((1 + 4 / 7 + 1) / 3)
    assert identical(texts) == pytest.approx(2 / 3)
    with pytest.raises(ConfigError, match="own text"):
        Agreement().marks([Judged("", (1,))])


def test_perplexity_weighs_tokens_alike() -> None:
    """A long text counts for more than a short one: it is of the tokens, not of the texts."""
    texts = [Judged("", (1,) * 3, nats=3 * math.log(2)), Judged("", (1,), nats=math.log(32))]
    assert Perplexity().marks(texts).value == pytest.approx(4)
    with pytest.raises(ConfigError, match="reading"):
        Perplexity().marks([Judged("", (1,))])


def test_a_toy_cannot_read() -> None:
    """There is no model behind a toy that could be loaded a second time; the message says what to do."""
    with pytest.raises(ConfigError, match="leave out"):
        nats(WorkerConfig(model="toy:large"), [Reading((1,), (2,))])


def items(*references: tuple[str, ...]) -> list[Item]:
    return [Item(str(n), "text", found) for n, found in enumerate(references, 1)]


def test_without_a_name_all_that_is_cheap_is_taken() -> None:
    """References decide whether words can be compared; perplexity loads a model, so it is asked for,
    or what the task is judged by.
    """
    full, bare = items(("a",), ("b",)), items((), ())
    assert [m.name for m in registry.chosen([], full)] == ["bleu", "rougeL", "chrf", "agreement"]
    assert [m.name for m in registry.chosen([], bare)] == ["agreement"]
    assert [m.name for m in registry.chosen([], bare, "perplexity")] == ["agreement", "perplexity"]
    assert [m.name for m in registry.chosen(["all"], full)] == registry.names()
    assert [m.name for m in registry.chosen(["chrf,bleu", "bleu"], full)] == ["bleu", "chrf"]


@pytest.mark.parametrize(
    ("asked", "found", "needle"),
    [
        (["blue"], items(("a",)), "did you mean 'bleu'"),
        (["bleu"], items(("a",), ()), "item '2' has no reference, which bleu needs"),
        ([], items(("a",), ()), "item '2' has no reference"),
        (["rougeL"], items((), ()), "item '1' has no reference"),
    ],
    ids=["a misspelt name", "one reference missing", "the same without a name", "none at all"],
)
def test_a_metric_that_cannot_be_had_is_refused(
    asked: list[str], found: list[Item], needle: str
) -> None:
    """Before anything is measured: the message names the item, or the nearest metric."""
    with pytest.raises(ConfigError, match=needle):
        registry.chosen(asked, found)


@pytest.mark.parametrize(("asked", "library"), [("bleu", "sacrebleu"), ("rougeL", "rouge_score")])
def test_a_missing_library_is_found_before_anything_is_written(
    asked: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks for a metric hears at once what to install, and not behind hours of texts."""
    for name in (library, "rouge_score.rouge_scorer"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=f"{library} is not installed"):
        registry.chosen([asked], items(("a",)))
    assert registry.chosen(["agreement"], items(("a",)))


def test_every_metric_says_what_a_point_of_it_is() -> None:
    """And is shown so that a tenth of a point is seen."""
    for metric in registry.METRICS:
        assert registry.named(metric.name) is metric
        assert 10**-metric.digits <= metric.point / 10 * 1.001
    with pytest.raises(ConfigError, match="did you mean 'bleu'"):
        registry.named("blue")
