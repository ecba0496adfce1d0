"""Table 3: BiLD against speculative sampling by rejection, and in words who wins by how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from bild_dist.evaluation.metrics.base import RESAMPLES
from bild_dist.evaluation.report.cells import Table, head_of, interval, line
from bild_dist.evaluation.report.paired import Compared, Comparison, Figure
from bild_dist.evaluation.report.runs import Kind, Row, Study
from bild_dist.evaluation.tasks.base import Item


class Terms(StrEnum):
    """On what terms a setting stands against rejection. The value is what a row is called by."""

    QUALITY = "at its quality"
    LATENCY = "at its latency"
    LOSSLESS = "exact"


@dataclass(frozen=True, slots=True)
class Contender:
    """A setting that stands against rejection. `reached`: whether it keeps the terms; else none does,
    and it is the one that comes nearest.
    """

    terms: Terms
    row: Row
    reached: bool
    compared: Compared

    @property
    def lossless(self) -> bool:
        return self.row.kind is Kind.EXACT

    @property
    def title(self) -> str:
        if self.terms is Terms.LOSSLESS:
            return "exact"
        if self.reached:
            return f"BiLD {self.terms}" + (": exact" if self.lossless else "")
        nearest = "best" if self.terms is Terms.QUALITY else "fastest"
        return f"none {self.terms}; the {nearest} BiLD"


def tables(study: Study, items: Mapping[str, Item]) -> list[Table]:
    """Table 3, and where there are runs of BiLD 3b, which compares them directly. `items`: of the task by
    id, empty where it cannot be read.
    """
    others = study.placed(Kind.REJECTION)
    if not others:
        return []
    rival = others[0][2]
    comparison = Comparison(study, items)
    found = _contenders(study, comparison)
    rows = [_line(f"speculative sampling, {row.small}", row, study) for _, _, row in others]
    rows += [_line(one.title, one.row, study) for one in found]
    note = (
        f"BiLD against the fastest of them, {rival.name}: the fastest setting of at least its quality, and the "
        "best one that is at least as fast; where no lossy one is, mode exact. Here each has an interval of "
        "its own: table 3b compares them."
    )
    first = Table(
        3,
        "Against speculative sampling by rejection",
        note if found else "No run of BiLD stands beside it.",
        head_of(study),
        rows,
    )
    if not found:
        return [first]
    judge = study.judge
    return [
        first,
        Table(
            3,
            f"BiLD against {_named(rival, study)}, on the same texts",
            _note(study, rival, found),
            ["", "setting", f"difference of {study.metric_title}", "times as fast", "same texts"],
            [
                [
                    one.title,
                    _named(one.row, study),
                    interval(one.compared.quality, judge.digits + 1, signed=True),
                    interval(one.compared.speed, 2),
                    f"{one.compared.same} of {one.compared.texts}",
                ]
                for one in found
            ],
            letter="b",
            says=[_sentence(one, study, rival) for one in found]
            + _unsaid(study, comparison.unfair),
        ),
    ]


def _line(title: str, row: Row, study: Study) -> list[str]:
    cells = line(title, row, study)
    return [cells[0], _named(row, study), *cells[2:]]


def _named(row: Row, study: Study) -> str:
    """A setting, with its small model where there are several."""
    several = len(study.smalls) > 1 and row.kind is not Kind.REJECTION
    return f"{row.name}, {row.small}" if several else row.name


def _contenders(study: Study, comparison: Comparison) -> list[Contender]:
    """At the quality of the fastest rejection, at its latency, and mode exact."""
    lossy = study.placed(Kind.BILD, Kind.EARLY_EXIT)
    exact = study.placed(Kind.EXACT)
    x, y, rival = study.placed(Kind.REJECTION)[0]
    # What rounding makes of the same texts is no loss.
    floor = study.worth(y) - 1e-9
    found: list[tuple[Terms, Row, bool]] = []
    if (lossy or exact) and not comparison.unfair:
        # Of mode exact the texts are the large model's own, or of its law, as those of rejection are.
        good = [point for point in lossy if study.worth(point[1]) >= floor] or exact
        best = good[0] if good else max(lossy, key=lambda p: study.worth(p[1]))
        found.append((Terms.QUALITY, best[2], bool(good)))
        fast = [p for p in lossy if p[0] <= x] or [p for p in exact if p[0] <= x]
        first = min([*lossy, *exact], key=lambda p: p[0])
        best = max(fast, key=lambda p: study.worth(p[1])) if fast else first
        found.append((Terms.LATENCY, best[2], bool(fast)))
    if exact and all(row is not exact[0][2] for _, row, _ in found):
        found.append((Terms.LOSSLESS, exact[0][2], True))
    return [
        Contender(terms, row, reached, comparison.of(row, rival)) for terms, row, reached in found
    ]


def _sentence(one: Contender, study: Study, rival: Row) -> str:
    """Who wins on these terms, by how much, and what the other figure does meanwhile."""
    name, other = _named(one.row, study), _named(rival, study)
    compared = one.compared
    fast = f"{interval(compared.speed, 2)} times as fast as {other}"
    speed = f"{name} is {fast}" if compared.speed else f"{name} and {other} were not both timed"
    if one.terms is Terms.LOSSLESS:
        same = _same(compared, study)
        return f"Mode exact, which loses nothing, {_verdict(compared.speed, 1)}: {speed}. {same}"
    if one.terms is Terms.QUALITY:
        lead = f"At equal quality {_verdict(compared.speed, 1)}: "
        if not one.reached:
            lead = (
                "At equal quality nothing can be compared: no setting of BiLD here is as good, and none ran in "
                "mode exact. The best: "
            )
        elif one.lossless:
            lead += "no lossy setting here is as good, so mode exact stands for BiLD: "
        return f"{lead}{speed}. {_quality(one, study)}"
    if not one.reached:
        return (
            f"At equal latency nothing can be compared: no setting of BiLD here is as fast. The fastest: {speed} "
            f"({_verdict(compared.speed, 1)}). {_quality(one, study)}"
        )
    lossless = "no lossy setting here is as fast, so mode exact stands for BiLD: "
    lead = f"At equal latency {_verdict(_better(compared.quality, study), 0)}: "
    return f"{lead}{lossless if one.lossless else ''}{speed}. {_quality(one, study)}"


def _quality(one: Contender, study: Study) -> str:
    """What a setting gains or loses in quality."""
    compared, title = one.compared, study.judge.title
    if compared.texts and compared.same == compared.texts:
        return _same(compared, study)
    if compared.quality is None:
        return f"By how much {title} differs is not known: {compared.why}."
    said = (
        f"Its {title} differs by {interval(compared.quality, study.judge.digits + 1, signed=True)}"
    )
    found = _better(compared.quality, study)
    if found is not None and found["low"] <= 0 <= found["high"]:
        return f"{said}: by it the two cannot be told apart."
    return f"{said}."


def _same(compared: Compared, study: Study) -> str:
    if study.drawn:
        return "Both draw from the large model's own law."
    if compared.same == compared.texts:
        return "Both wrote the same texts."
    return f"Of {compared.texts} texts both wrote {compared.same} alike."


def _better(quality: Figure | None, study: Study) -> Figure | None:
    """A difference of quality such that more is better."""
    if quality is None or study.judge.higher_is_better:
        return quality
    return {"value": -quality["value"], "low": -quality["high"], "high": -quality["low"]}


def _verdict(found: Figure | None, even: float) -> str:
    """`even`: what the figure would be of two that are the same."""
    if found is None:
        return "nobody can say who wins"
    if found["low"] > even:
        return "BiLD wins"
    return "speculative sampling wins" if found["high"] < even else "the two cannot be told apart"


def _unsaid(study: Study, unfair: str) -> list[str]:
    return [f"Of quality nothing can be said by {study.judge.title}: {unfair}."] if unfair else []


def _note(study: Study, rival: Row, found: list[Contender]) -> str:
    """How to read it, and what these runs are not."""
    compared = [one.compared for one in found]
    texts = min(one.texts for one in compared)
    words = [
        f"In brackets 95 % intervals over {RESAMPLES:,} resamples of the texts that both runs have ({texts}), the "
        "same for both settings. Times as fast: the speed of each is over the large model alone in its own run, "
        "in turns, and this is the ratio of the two, above 1 where BiLD is faster. Two cannot be told apart "
        "where the interval holds 1, or 0 of a difference.",
        f"{rival.name} was chosen as the fastest, and BiLD's settings by its figures, on these very texts, which "
        "flatters each a little; the intervals know nothing of the choice. bild tune chooses on other texts.",
    ]
    if study.drawn:
        words.append("One draw a text: the intervals hold what another would change.")
    beside = max(one.beside for one in compared)
    if beside:
        words.append(
            f"The large model alone wrote up to {beside} texts otherwise in one run than in another, by "
            "rounding or on another machine."
        )
    places = list(dict.fromkeys(name for one in compared for name in one.places))
    if places:
        words.append(f"The runs differ in {', '.join(places)}, which a ratio may not level out.")
    return " ".join(words)
