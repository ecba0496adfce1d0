"""The whole report: for each study its tables, figures and texts, and what it lacks with the command for it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from bild_dist.evaluation.costs.bill import Bill, bill_of
from bild_dist.evaluation.costs.work import Meter
from bild_dist.evaluation.report import calm, swept
from bild_dist.evaluation.report.cells import Table
from bild_dist.evaluation.report.charts import Chart, charts, grid_charts
from bild_dist.evaluation.report.files import Found
from bild_dist.evaluation.report.models import Models, items_of, models_of
from bild_dist.evaluation.report.runs import Key, Kind, Study, studies
from bild_dist.evaluation.report.tables import tables
from bild_dist.evaluation.report.texts import Shown, shown
from bild_dist.evaluation.sweep.study import Study as Sweep
from bild_dist.evaluation.tasks.base import Item
from bild_dist.types import Options, Role

_PLACES: Final = ("cpu", "threads_small", "threads_large", "torch", "transformers", "transport")
"""Fields of an environment that decide about speed and may be another in each run of a study."""
TEXTS: Final = 6
"""Coloured texts of a study."""


@dataclass(frozen=True, slots=True)
class Lack:
    """Something that is left out, and what would fill it: a command, or a sentence."""

    what: str
    command: str


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
    parts = [section(study, given, texts) for study in studies(found.records)]
    parts += [of_sweep(sweep, given, texts) for sweep in found.sweeps]
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
    lacks = []
    if not swept.measured(sweep):
        notes.append(
            "Latencies of settings are predicted: the passes over a text, times what a pass took, and what a text "
            "takes besides. That of the large model alone was measured."
        )
        how = str(sweep.environment.get("command", "bild sweep ..."))
        lacks.append(Lack("Measured latencies", f"{how} --measure"))
    split = swept.split_of(sweep)
    evaluated = f"bild eval --task {shlex.quote(sweep.task)}"
    evaluated += f" --split {shlex.quote(split)}" if split else ""
    both = "" if split == sweep.split else ", over both halves"
    lacks.append(
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
        lacks,
        notes,
    )


def section(study: Study, given: Mapping[Role, str], texts: int) -> Section:
    """One study. Raises as `sections`."""
    models = models_of(study.rows[0].record, given)
    needed = models.shapes or study.of(Kind.REJECTION)
    items = items_of(study.task, study.split) if needed else {}
    drawn = charts(study, _bills(study, models, given, items))
    listed = tables(study, models.shapes, items)
    told = shown(study, models, texts)
    notes = [*models.complaints, *_failed(study), *_places(study), *calm.notes(study)]
    if any(chart.number == 8 for chart in drawn):
        notes.append(
            "Figure 8: the number of passes is exact; how many tokens they fed and where is worked out from "
            "counts, an upper bound where guesses are thrown out unread. Prompts are the task's own texts: what "
            "a prefix, a template or a chat template puts around them is left out."
        )
    if told and not told[0].spelled:
        notes.append(
            "Figure 9: without the models' tokenizer each token is a letter: name it with --large."
        )
    return Section(
        study.title, _ran_on(study), listed, drawn, told, _lacks(study, listed, drawn, told), notes
    )


def _bills(
    study: Study, models: Models, given: Mapping[Role, str], items: Mapping[str, Item]
) -> dict[Key, Bill]:
    """What rows cost, by their key, as far as shapes and prompts are known."""
    first = study.rows[0].small
    found, known = {}, {first: models}
    for row in study.rows:
        if row.small not in known:
            # Who names a small model means the first one.
            others: dict[Role, str] = {
                role: name for role, name in given.items() if role is not Role.SMALL
            }
            known[row.small] = models_of(row.record, others)
        own = known[row.small]
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


def _failed(study: Study) -> list[str]:
    return [
        f"{row.name}: {len(row.part.failed)} texts failed and are in no figure."
        for row in study.rows
        if row.part.failed
    ]


def _draws(study: Study) -> str:
    """Options that make further runs draw as these do: else they would stand in another section."""
    options = study.rows[0].options
    names = ("temperature", "top_k", "top_p", "seed")
    values = [(name, getattr(options, name)) for name in names]
    said = [f" --{n.replace('_', '-')} {v}" for n, v in values if v != getattr(Options(), n)]
    return "".join(said) if study.drawn else ""


def _lacks(
    study: Study, listed: Sequence[Table], drawn: Sequence[Chart], told: Sequence[Shown]
) -> list[Lack]:
    have = {table.number for table in listed}
    figures = {chart.number for chart in drawn}
    base = f"bild eval --task {shlex.quote(study.task)} --split {study.split} --small S --large L"
    base += _draws(study)
    many = "bild eval with --alpha-fb .5 .. .9 and --alpha-rb 1 .. 10, a record each"
    found = [
        (1, "Table 1, quality and speed", f"{base} --alpha-fb 0.6 --alpha-rb 2 --out FILE.json"),
        (2, "Table 2, the models", "bild report ... --small S --large L"),
        (
            3,
            "Table 3, speculative sampling",
            f"{base} --baseline 'rejection 4' --out FILE.json, and other lengths",
        ),
        (4, "Table 4, rates", f"{base} --alpha-fb 0.6 --alpha-rb 2 --out FILE.json"),
        (
            5,
            "Table 5, nucleus sampling",
            f"{base} --alpha-fb 0.6 --alpha-rb 2 --out FILE.json"
            if study.drawn
            else f"{base} --baseline nucleus --out FILE.json",
        ),
    ]
    # Table 5 stands where table 1 would, for studies of texts that were drawn.
    unfit = 1 if study.drawn else 5
    lacks = [
        Lack(what, how) for number, what, how in found if number not in have and number != unfit
    ]
    if not study.drawn:
        lacks += [Lack(what, how) for number, what, how in found if number == unfit]
    if 3 in have and not study.of(Kind.EXACT):
        exact = f"{base} --baseline exact --out FILE.json"
        lacks.append(Lack("Mode exact in table 3b", exact))
    charted = [
        (
            2,
            "Figure 2, the oracle",
            f"{base} --oracle 3 --out A.json, and other thresholds; {base} --mode small --out B.json",
        ),
        (4, "Figure 4, quality against latency", many),
        (
            5,
            "Figure 5, ablation",
            f"{base} --baseline 'no rollback' --out A.json; {base} --baseline 'no fallback' --out B.json",
        ),
        (
            6,
            "Figure 6, early exit",
            base.replace("--small S --large L", "--large L --exit-layer K") + " --out FILE.json",
        ),
        (
            7,
            "Figure 7, CALM",
            f"{base.replace('--small S --large L', '-c FILE.toml')} --mode small --name 'calm 0.9' --out FILE.json, "
            "where [large] names L, and [small] L with calm = 0.9; and --name 'calm 1' with calm = 1 and calm_decay = 0",
        ),
        (8, "Figure 8, costs", "bild report ... --small S --large L, where the task can be read"),
        (10, "Figure 10, thresholds", many),
    ]
    lacks += [Lack(what, how) for number, what, how in charted if number not in figures]
    if not told:
        lacks.append(Lack("Figure 9, texts", f"{base} --mode bild --out FILE.json"))
    return lacks
