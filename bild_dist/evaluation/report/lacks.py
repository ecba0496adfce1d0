"""What a section lacks, and the command that would fill it: as its runs were asked for, or what it writes
would stand in a section of its own.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bild_dist.evaluation.report.cells import Table
from bild_dist.evaluation.report.charts import Chart
from bild_dist.evaluation.report.groups import ASKED, DRAWN, asked
from bild_dist.evaluation.report.runs import Kind, Study
from bild_dist.evaluation.report.texts import Shown
from bild_dist.evaluation.sweep.study import Study as Sweep
from bild_dist.types import Options

_OWN: Final = frozenset((
    "--out", "--name", "--baseline", "--oracle", "--mode", "--alpha-fb", "--alpha-rb", "--policy", "--confidence",
    "--distance", "--adapt", "--window", "--schedule", "--first", "--branches",
    *(f"--{name.replace('_', '-')}" for name in DRAWN),
))  # fmt: skip
"""Options that say which setting a run is of, and where it went. How texts are drawn is said anew, because a
baseline may have said it.
"""
_BARE: Final = frozenset(("--no-verify-tail",))
"""Such options without a value."""
_SMALL: Final = frozenset(("--pair", "--small", "--small-worker", "--exit-layer"))
"""Options that name the small model."""
_LARGE: Final = frozenset(("--large", "--large-worker"))
_CONFIG: Final = frozenset(("-c", "--config"))


@dataclass(frozen=True, slots=True)
class Lack:
    """Something that is left out, and what would fill it: a command, or a sentence."""

    what: str
    command: str


def lacks(
    study: Study, listed: Sequence[Table], drawn: Sequence[Chart], told: Sequence[Shown]
) -> list[Lack]:
    """What a study with these tables, figures and texts lacks."""
    found = [*_of_tables(study, {table.number for table in listed})]
    found += _of_figures(study, {chart.number for chart in drawn})
    if not told:
        found.append(Lack("Figure 9, texts", f"{_said(_base(study))} --mode bild --out FILE.json"))
    return found


def _of_tables(study: Study, have: set[int | None]) -> list[Lack]:
    base = _said(_base(study))
    thresholds = f"{base} --alpha-fb 0.6 --alpha-rb 2 --out FILE.json"
    nucleus = f"{_said(_base(study, drawn=False))} --baseline nucleus --out FILE.json"
    found = [
        (1, "Table 1, quality and speed", thresholds),
        (2, "Table 2, the models", "bild report ... --small S --large L"),
        (
            3,
            "Table 3, speculative sampling",
            f"{base} --baseline 'rejection 4' --out FILE.json, and other lengths",
        ),
        (4, "Table 4, rates", thresholds),
        (5, "Table 5, nucleus sampling", thresholds if study.drawn else nucleus),
    ]
    # Table 5 stands where table 1 would, for studies of texts that were drawn.
    unfit = 1 if study.drawn else 5
    lacks = [
        Lack(what, how) for number, what, how in found if number not in have and number != unfit
    ]
    if not study.drawn:
        lacks += [Lack(what, how) for number, what, how in found if number == unfit]
    if 3 in have and not study.of(Kind.EXACT):
        lacks.append(Lack("Mode exact in table 3b", f"{base} --baseline exact --out FILE.json"))
    return lacks


def _of_figures(study: Study, have: set[int]) -> list[Lack]:
    words = _base(study)
    base = _said(words)
    many = (
        f"{base} --alpha-fb 0.6 --alpha-rb 2 --out FILE.json, and other thresholds, a record each"
    )
    exits = _without(words, _SMALL)
    exits += [] if _LARGE & {word.partition("=")[0] for word in exits} else ["--large", "L"]
    modules = _said([*_without(words, _SMALL | _LARGE | _CONFIG), "-c", "FILE.toml"])
    found = [
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
        (6, "Figure 6, early exit", f"{_said(exits)} --exit-layer K --out FILE.json"),
        (
            7,
            "Figure 7, CALM",
            f"{modules} --mode small --name 'calm 0.9' --out FILE.json, where [large] names L, and [small] L with "
            "calm = 0.9; and --name 'calm 1' with calm = 1 and calm_decay = 0",
        ),
        (8, "Figure 8, costs", "bild report ... --small S --large L, where the task can be read"),
        (10, "Figure 10, thresholds", many),
    ]
    return [Lack(what, how) for number, what, how in found if number not in have]


def _base(study: Study, *, drawn: bool = True) -> list[str]:
    """A command whose runs stand in this study but for their setting. `drawn`: as the study draws, where it
    does.
    """
    first = _first(study)
    words = _without(_words(str(first.get("command", "")), "eval"), _OWN, _BARE)
    if not words:
        words = ["bild", "eval", "--task", study.task, "--split", study.split]
        words += ["--small", "S", "--large", "L"]
    options, usual = asked(study.rows[0].record), Options()
    for name in ASKED + DRAWN * (drawn and bool(study.drawn)):
        value, flag = getattr(options, name), f"--{name.replace('_', '-')}"
        if value == getattr(usual, name) or flag in {word.partition("=")[0] for word in words}:
            continue
        if isinstance(value, bool):
            flag = flag if value else f"--no-{name.replace('_', '-')}"
            words += [] if flag in words else [flag]
        else:
            for one in value if isinstance(value, tuple) else (value,):
                words.append(f"{flag}={one}")
    return words


def _first(study: Study) -> Mapping[str, object]:
    """The surroundings of the first run whose command can be given on: one of a pair, and not of CALM."""
    rest = [row for row in study.rows[1:] if row.kind not in (Kind.CALM, Kind.WHOLE)]
    pairs = [row for row in rest if row.kind is not Kind.EARLY_EXIT]
    return next(iter([*pairs, *rest, *study.rows])).record.environment


def _words(command: str, *commands: str) -> list[str]:
    """Of a command line of one of these commands; empty of anything else."""
    try:
        words = shlex.split(command)
    except ValueError:
        return []
    return words if words[:1] == ["bild"] and words[1:2] and words[1] in commands else []


def again(sweep: Sweep, *more: str) -> str:
    """The command of a sweep with further options. What is there already stays: it gets a file of its own."""
    words = _words(str(sweep.environment.get("command", "")), "sweep", "tune")
    kept = _said(_without(words, frozenset(("--out", "--plot")))) if words else "bild sweep ..."
    return " ".join([kept, *more, "--out", "FILE.toml" if "tune" in words[1:2] else "FILE.json"])


def _without(
    words: Sequence[str], valued: frozenset[str], bare: frozenset[str] = frozenset()
) -> list[str]:
    """Words of a command line but these options, with their values or without any."""
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in valued:
            skip = True
        elif word not in bare and word.partition("=")[0] not in valued:
            kept.append(word)
    return kept


def _said(words: Sequence[str]) -> str:
    return shlex.join(words)
