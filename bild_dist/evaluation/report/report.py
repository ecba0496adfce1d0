"""The whole report: for each study its tables, figures and texts, and what it lacks with the command for it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from statistics import mean
from typing import Any, Final

from bild_dist.evaluation.align.progress import Bar
from bild_dist.evaluation.costs.bill import Bill, bill_of
from bild_dist.evaluation.costs.work import Meter
from bild_dist.evaluation.report import calm, swept
from bild_dist.evaluation.report.cells import Table
from bild_dist.evaluation.report.charts import Chart, charts, grid_charts
from bild_dist.evaluation.report.files import Found
from bild_dist.evaluation.report.lacks import Lack, again, lacks
from bild_dist.evaluation.report.models import Items, Models, items_of, models_of
from bild_dist.evaluation.report.paired import far_apart
from bild_dist.evaluation.report.runs import Key, Kind, Study, studies
from bild_dist.evaluation.report.tables import tables
from bild_dist.evaluation.report.texts import Shown, shown
from bild_dist.evaluation.sweep.alone import doubts
from bild_dist.evaluation.sweep.study import Study as Sweep
from bild_dist.evaluation.tasks.base import Item
from bild_dist.types import Role

_PLACES: Final = ("cpu", "threads_small", "threads_large", "torch", "transformers", "transport")
"""Fields of an environment that decide about speed and may be another in each run of a study."""
_PAIRS: Final = tuple(kind for kind in Kind if kind not in (Kind.LARGE, Kind.CALM, Kind.WHOLE))
TEXTS: Final = 6
"""Coloured texts of a study."""


@dataclass(frozen=True, slots=True)
class Section:
    """All about one study. `ran_on`: what it was measured on, by name."""

    title: str
    ran_on: Mapping[str, str]
    tables: Sequence[Table]
    charts: Sequence[Chart]
    texts: Sequence[Shown]
    lacks: Sequence[Lack]
    notes: Sequence[str]


def sections(
    found: Found,
    given: Mapping[Role, str],
    texts: int = TEXTS,
    notes: Sequence[str] = (),
) -> list[Section]:
    """The report of these runs and sweeps. `given`: where the models are, by role; `notes`: of what was not
    read, which stand with the first section.

    Raises:
        ConfigError: a model that was named cannot be used, or matplotlib is not installed.
    """
    # Studies of one task read its texts once.
    items = cache(items_of)
    asked = studies(found.records)
    steps, done = sum(len(study.rows) + 1 for study in asked) + len(found.sweeps), count(1)
    parts = []
    with Bar("tables and figures", steps) as bar:

        def step() -> None:
            bar.at(next(done))

        for study in asked:
            parts.append(section(study, given, texts, items, step))
            step()
        for sweep in found.sweeps:
            parts.append(of_sweep(sweep, given, texts))
            step()
    if notes:
        parts[0] = replace(parts[0], notes=[*notes, *parts[0].notes])
    return parts


def of_sweep(sweep: Sweep, given: Mapping[Role, str], texts: int) -> Section:
    """One sweep. Raises as `sections`."""
    study = swept.study_of(sweep, texts)
    models = models_of(study.rows[0].record, given)
    told = shown(study, models, texts)
    notes = [*models.complaints] if told else []
    bare = sum(not point.texts for point in sweep.points)
    if bare:
        notes.append(f"{bare} settings were predicted and not written: they are in no figure.")
    if sweep.failed:
        notes.append(f"{len(sweep.failed)} texts failed and are in no figure.")
    missing = []
    if not swept.measured(sweep):
        notes.append(
            "Latencies are predicted, that of the large model alone too: the passes over a text, times what a pass "
            "took, and what a text takes besides."
        )
        notes += doubts(sweep.costs)
        missing.append(Lack("Measured latencies", again(sweep, "--measure")))
    split = swept.split_of(sweep)
    evaluated = f"bild eval --task {shlex.quote(sweep.task)}"
    evaluated += f" --split {shlex.quote(split)}" if split else ""
    both = "" if split == sweep.split else ", over both halves"
    missing.append(
        Lack(
            f"All other tables and figures{both}",
            f"{evaluated} --small S --large L --out FILE.json",
        )
    )
    return Section(
        study.title,
        _ran_on(study),
        swept.tables(sweep, study),
        grid_charts(study),
        told,
        missing,
        notes,
    )


def section(
    study: Study,
    given: Mapping[Role, str],
    texts: int,
    load: Callable[[str, str], Items],
    step: Callable[[], None] = lambda: None,
) -> Section:
    """One study. `load`: the items of a task and split; `step` is called once a row. Raises as `sections`."""
    # Of CALM the command names a file at most.
    first = next(iter(study.of(*_PAIRS)), study.rows[0])
    models = models_of(first.record, given)
    needed = models.shapes or study.of(Kind.REJECTION)
    texts_of = load(study.task, study.split) if needed else Items({})
    items = texts_of.items
    drawn = charts(study, _bills(study, models, first.small, given, items, step))
    listed = tables(study, models.shapes, items)
    told = shown(study, models, texts)
    notes = [*models.complaints, *_unread(study, models, texts_of.why), *_failed(study)]
    notes += [*_places(study), *_drift(study), *calm.notes(study)]
    if any(chart.number == 8 for chart in drawn):
        notes.append(
            "Figure 8: the number of passes is exact; how many tokens they fed and where is worked out from "
            "counts, an upper bound where guesses are thrown out unread. Prompts are the task's own texts, read "
            "again from this machine and cut where the models' length ends: what a prefix, a template or a chat "
            "template puts around them is left out. CALM is in no bill: how many layers it ran is in no record."
        )
    if told and not told[0].spelled:
        notes.append(
            "Figure 9: without the models' tokenizer each token is a letter: name it with --large."
        )
    return Section(
        study.title, _ran_on(study), listed, drawn, told, lacks(study, listed, drawn, told), notes
    )


def _bills(
    study: Study,
    models: Models,
    first: str,
    given: Mapping[Role, str],
    items: Mapping[str, Item],
    step: Callable[[], None],
) -> dict[Key, Bill]:
    """What rows cost, by their key, as far as shapes and prompts are known. `models`: those of
    the small model called `first`; `step` is called once a row. Nothing of CALM: how many layers ran is in no
    record.
    """
    found, known = {}, {first: models}
    for row in study.rows:
        step()
        if row.kind in (Kind.CALM, Kind.WHOLE):
            continue
        # The large model alone is the same beside every small one.
        small = first if row.kind is Kind.LARGE else row.small
        if small not in known:
            # Who names a small model means the first one.
            others: dict[Role, str] = {
                role: name for role, name in given.items() if role is not Role.SMALL
            }
            known[small] = models_of(row.record, others)
        own = known[small]
        if not own.shapes:
            continue
        said = row.record.models
        meters = {
            role: Meter.of(shape, str(said.get(role.value, {}).get("dtype", "float32")))
            for role, shape in own.shapes.items()
        }
        bill = bill_of(row.part, meters, own.lengths(row.record, items))
        if bill.texts:
            found[row.key] = bill
    return found


def _unread(study: Study, models: Models, why: str) -> list[str]:
    """What is left out where the task's texts are not on this machine."""
    lost = ["figure 8, which needs its prompts"] if models.shapes else []
    if study.of(Kind.REJECTION) and study.judge.needs_references:
        lost.append("differences of quality in table 3b, which need its references")
    if not why or not lost:
        return []
    return [
        f"The texts of {study.task} cannot be read on this machine, and a report asks no network ({why}). Left "
        f"out: {'; '.join(lost)}."
    ]


def _ran_on(study: Study) -> dict[str, str]:
    """What the first run says of itself, and whether others say something else."""
    named = (
        "cpu",
        "threads_small",
        "threads_large",
        "dtype",
        "torch",
        "transformers",
        "commit",
        "date",
    )
    found: dict[str, Any] = {}
    for name in named:
        values = {str(row.record.environment.get(name)) for row in study.rows}
        values -= {"None"}
        if values:
            several = f" and {len(values) - 1} more" if len(values) > 1 else ""
            found[name.replace("_", " ")] = min(values) + several
    return found


def _places(study: Study) -> list[str]:
    """What the runs differ in that decides about speed."""
    found = []
    for name in _PLACES:
        said = [row.record.environment.get(name) for row in study.rows]
        values = list(dict.fromkeys(str(value) for value in said if value is not None))
        if len(values) > 1:
            found.append(f"{name.replace('_', ' ')} ({'; '.join(values)})")
    if not found:
        return []
    return [
        f"The runs differ in {', '.join(found)}. Each speed is over the large model alone in its own run, which may "
        "not level that out: measure on one machine what you compare."
    ]


def _drift(study: Study) -> list[str]:
    """Where the machine was another one from run to run, for all speeds of the section."""
    beside = [row.record.large.texts for row in study.rows if row.record.large is not None]
    times = [mean(text.wall_ns for text in texts) / 1e6 for texts in beside if texts]
    if not (times and far_apart((min(times), max(times)))):
        return []
    return [
        f"The large model alone took {min(times):.0f} to {max(times):.0f} ms a text in these runs. Each speed is over "
        "that of its own run, so small differences between two runs may be the machine's."
    ]


def _failed(study: Study) -> list[str]:
    return [
        f"{row.name}: {len(row.part.failed)} texts failed and are in no figure."
        for row in study.rows
        if row.part.failed
    ]
