"""Table 3: BiLD against speculative sampling by rejection, and in words who wins by how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from bild_dist.evaluation.metrics.base import RESAMPLES
from bild_dist.evaluation.report.cells import Table, head_of, interval, line
from bild_dist.evaluation.report.paired import (
    DRIFT,
    Compared,
    Comparison,
    Figure,
    remedy,
    unlike,
)
from bild_dist.evaluation.report.runs import Kind, Row, Study
from bild_dist.evaluation.tasks.base import Item

_FAST: Final = 2
"""Decimals of a ratio of speeds."""


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
    note = "No run of BiLD stands beside it."
    if found:
        note = (
            f"BiLD against the fastest of them, {rival.name}: the fastest setting of at least its quality, and "
            "the best one that is at least as fast; where no lossy one is, or none of that quality is faster than "
            "it, mode exact. Here each has an interval of its own: table 3b compares them."
        )
    elif study.placed(Kind.BILD, Kind.EARLY_EXIT):
        note = " ".join(_unsaid(study, comparison.unfair))
    first = Table(
        3,
        "Against speculative sampling by rejection",
        note,
        head_of(study),
        rows,
    )
    if not found:
        return [first]
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
                    interval(one.compared.quality, _digits(study), signed=True),
                    _speed_cell(one.compared),
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
        good = [*(point for point in lossy if study.worth(point[1]) >= floor), *exact]
        best = (
            min(good, key=lambda p: p[0]) if good else max(lossy, key=lambda p: study.worth(p[1]))
        )
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
    """Who wins on these terms and by how much, and what the other figure does meanwhile."""
    compared = one.compared
    if compared.drifted:
        return _untold(one, study, rival)
    by_speed = _verdict(compared.speed, 1, "speed", _FAST)
    fast = f"{interval(compared.speed, _FAST)} times as fast as {_named(rival, study)}"
    name = _named(one.row, study)
    if one.terms is Terms.LOSSLESS:
        same = _same(compared, study)
        return f"In mode exact, which loses nothing, {by_speed}: {name} is {fast}. {same}"
    stands = (
        "no lossy setting here is as {}, so mode exact stands for BiLD: " if one.lossless else ""
    )
    if one.terms is Terms.QUALITY and one.reached:
        lead = f"At equal quality {by_speed}: {stands.format('good and faster')}"
        return f"{lead}{name} is {fast}. {_quality(one, study)}"
    if one.terms is Terms.QUALITY:
        return (
            "At equal quality nothing can be compared: no setting of BiLD here is as good, and none ran in mode "
            f"exact. The best, {name}, is {fast}. {_quality(one, study)}"
        )
    if one.reached:
        by_quality = _by_quality(one, study)
        lead = f"At equal latency {by_quality}: {stands.format('fast')}"
        return f"{lead}{name} is {fast}. {_quality(one, study, said=True)}"
    return (
        f"At equal latency nothing can be compared: no setting of BiLD here is as fast. The fastest, {name}, is "
        f"{fast}: {by_speed}. {_quality(one, study)}"
    )


def _speed_cell(compared: Compared) -> str:
    """How many times as fast; where the machine drifted without an interval, which would be too narrow."""
    if not compared.drifted or compared.speed is None:
        return interval(compared.speed, _FAST)
    first, second = compared.beside_ms
    return f"{compared.speed['value']:.{_FAST}f} (large alone {first:.0f} and {second:.0f} ms)"


def _untold(one: Contender, study: Study, rival: Row) -> str:
    """What is said where the machine was so much slower in one of the runs that no speed can be compared."""
    first, second = one.compared.beside_ms
    terms = {
        Terms.QUALITY: "At equal quality",
        Terms.LATENCY: "At equal latency",
        Terms.LOSSLESS: "In mode exact",
    }[one.terms]
    reached = "" if one.reached else ", which no setting of BiLD here reaches,"
    why = unlike(one.compared.places)
    return (
        f"{terms}{reached} it cannot be told {why} whether {_named(one.row, study)} or "
        f"{_named(rival, study)} is faster: the large model alone took {first:.0f} ms a text beside the first and "
        f"{second:.0f} ms beside the second. Of quality: {_lower(_quality(one, study, said=True))}"
    )


def _lower(said: str) -> str:
    return said[0].lower() + said[1:]


def _quality(one: Contender, study: Study, *, said: bool = False) -> str:
    """What a setting gains or loses in quality. `said`: who wins by it stands there already."""
    compared, title = one.compared, study.judge.title
    if compared.quality is None:
        return f"By how much {title} differs is not known: {compared.why}."
    if compared.same == compared.texts or (one.lossless and study.drawn):
        return _same(compared, study)
    figure = interval(compared.quality, _digits(study), signed=True)
    if said:
        return f"Its {title} differs by {figure}."
    verdict = _by_quality(one, study)
    return f"{verdict[0].upper()}{verdict[1:]}: {figure}."


def _same(compared: Compared, study: Study) -> str:
    """What two lossless settings have in common."""
    if compared.same == compared.texts:
        return "Both wrote the same texts."
    if study.drawn:
        return "Both draw from the large model's own law: whatever else differs is chance."
    return f"Of {compared.texts} texts both wrote {compared.same} alike."


def _by_quality(one: Contender, study: Study) -> str:
    return _verdict(_gain(one, study), 0, study.judge.title, _digits(study))


def _digits(study: Study) -> int:
    """Decimals of a difference: one more than of a figure."""
    return study.judge.digits + 1


def _gain(one: Contender, study: Study) -> Figure | None:
    """A difference of quality such that more is better."""
    found = one.compared.quality
    if found is not None and one.lossless and study.drawn:
        return {"value": 0.0, "low": 0.0, "high": 0.0}  # of one law, whatever was drawn
    if found is None or study.judge.higher_is_better:
        return found
    return {"value": -found["value"], "low": -found["high"], "high": -found["low"]}


def _verdict(found: Figure | None, even: float, by: str, digits: int) -> str:
    """`even`: what the figure would be of two that are the same; `digits`: decimals that it is shown with,
    since an interval that shows as one up to 1.00 must not prove that it ends below.
    """
    if found is None:
        return f"nobody can say who wins by {by}"
    if round(found["low"], digits) > even:
        return f"BiLD wins by {by}"
    if round(found["high"], digits) < even:
        return f"speculative sampling wins by {by}"
    return f"the two cannot be told apart by {by}"


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
        f"The fastest of rejection, {rival.name}, and the settings of BiLD were chosen on these very texts, which "
        "flatters each a little; the intervals know nothing of the choice. bild tune chooses on other texts.",
    ]
    if study.drawn:
        words.append(
            "One draw a text, each with random numbers of its own. Runs of other seeds (--seed) make sections "
            "of their own, to compare with."
        )
    beside = max(one.beside for one in compared)
    if beside:
        words.append(
            f"The large model alone wrote up to {beside} texts otherwise in one run than in another, by "
            "rounding or on another machine."
        )
    places = list(dict.fromkeys(name for one in compared for name in one.places))
    if any(one.drifted for one in compared):
        words.append(
            f"Where the large model alone took over {DRIFT:.0%} longer in one run than in another no speeds are "
            "compared: what slowed it down need not slow a setting down as much, and the intervals know nothing of "
            f"it. {remedy(places)}"
        )
    if places:
        words.append(f"The runs differ in {', '.join(places)}, which a ratio may not level out.")
    return " ".join(words)
