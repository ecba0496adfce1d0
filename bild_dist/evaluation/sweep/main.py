"""`bild sweep`: records a pair on a task, predicts a grid of settings, writes and judges it, draws it."""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from bild_dist import log
from bild_dist.errors import BildError, ConfigError, InvalidRequest, WorkerUnavailable
from bild_dist.evaluation.bench import usage
from bild_dist.evaluation.run.held import held
from bild_dist.evaluation.run.sheet import HEADS, MOST, written_by
from bild_dist.evaluation.sweep import plot
from bild_dist.evaluation.sweep.alone import doubts
from bild_dist.evaluation.sweep.grid import front
from bild_dist.evaluation.sweep.identity import finished, identity, prompts
from bild_dist.evaluation.sweep.journal import Journal
from bild_dist.evaluation.sweep.options import asked, planned
from bild_dist.evaluation.sweep.running import Stages, Sweep
from bild_dist.evaluation.sweep.study import Point, Study, measured
from bild_dist.evaluation.sweep.timing import recorded
from bild_dist.types import Mode

if TYPE_CHECKING:
    from bild_dist.orchestrator.cli import InProcess


_COMMITS: Final = "commits"
"""Under which name the journal has the commits of all that wrote it."""


def main(argv: Sequence[str], inproc: InProcess) -> int:
    """Exit code: 0 done, 1 some items could not be written, or a worker failed, 2 bad usage or
    configuration, 130 interrupted.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        log.configure()
        found, _ = asked(argv)
        if found.plot is not None:
            plot.ready(found.plot)
        with held(found.out, again=False):
            sweep = planned(found)
            before = finished(found.out, sweep)
            command = shlex.join(["bild", "sweep", *argv])
            study = before or swept(sweep, found.out, command, inproc)
        show(study)
        err = Console(stderr=True, highlight=False)
        if before is not None:
            err.print(f"{found.out} is there already: remove it to begin anew", soft_wrap=True)
        if found.plot is not None:
            for path in plot.draw(study, found.plot):
                err.print(f"drawn: {path}")
        return 1 if study.failed else 0
    except BildError as error:
        print(f"bild sweep: {told(error)}", file=sys.stderr)  # noqa: T201
        return 2 if isinstance(error, ConfigError | InvalidRequest) else 1
    except KeyboardInterrupt:
        print("bild sweep: interrupted; the same command goes on", file=sys.stderr)  # noqa: T201
        return 130


def told(error: BildError) -> str:
    """What ended a command, and what is left of it: a worker that is lost takes nothing with it."""
    if not isinstance(error, WorkerUnavailable):
        return str(error)
    return f"{error}. What is recorded and written so far is kept, and the same command goes on"


def swept(sweep: Sweep, out: Path, command: str, inproc: InProcess) -> Study:
    """Carries out a sweep, or what is left of it, and writes its file. Says first what it is about to do.

    Raises:
        BildError: a worker failed, or a file cannot be read or written.
    """
    journal = Journal.beside(out, identity(sweep))
    about = {
        **usage.environment(command), "identity": identity(sweep), "prompts": prompts(sweep),
    }  # fmt: skip
    commits: list[str] = []
    if _COMMITS in journal:
        commits += journal[_COMMITS]
    if about["commit"] not in (None, *commits):
        commits.append(about["commit"])
        journal.put(_COMMITS, commits)
    about["commits"] = commits
    # Not wrapped, so that it can be found in a log.
    Console(stderr=True, highlight=False, markup=False).print(
        announced(sweep, journal), soft_wrap=True
    )
    study = asyncio.run(Stages(sweep, journal, about, inproc).run())
    study = study.write(out)
    journal.close()
    return study


def announced(sweep: Sweep, journal: Journal) -> str:
    """What a sweep is about to do."""
    items, settings = len(sweep.items), len(sweep.grid.settings())
    texts = (
        "texts of those near the predicted front are written"
        if sweep.only_front
        else "their texts are written"
    )
    timed = ", and timed in worker processes" if sweep.measure else ""
    there = recorded(sweep.items, journal)
    goes_on = f" Recorded already: {there}." if there else ""
    return (
        f"{sweep.task}, {sweep.split}: {items} texts, {settings} {'setting' if settings == 1 else 'settings'}. "
        "Recording first: worker processes write each text three times (large, small, and bild in the middle of the "
        f"grid). Then both models read them, the settings are predicted, and {texts}{timed}.{goes_on}"
    )


def show(study: Study) -> None:
    """The front and what the predictions are worth, for people."""
    out = Console(highlight=False, markup=False, emoji=False)
    judged = [point for point in study.points if study.metric in point.figures]

    def quality(point: Point) -> float:
        return float(point.figures[study.metric]["value"])

    best = front(judged, quality=quality, latency=lambda p: p.latency_ms)
    count = f"{len(best)} of {len(judged)} settings"
    if len(judged) < len(study.points):
        count = f"{len(best)} of {len(judged)} written, {len(study.points)} predicted"
    table = Table(
        title=f"{study.task}, {study.split}: the front ({count}), and large beside it", box=None
    )
    for column in (
        "setting",
        HEADS[study.metric],
        "95 %",
        "latency / large" if measured(judged) else "latency / large (predicted)",
        "large passes / token",
        "prediction off by",
    ):
        table.add_column(column, justify="left" if column == "setting" else "right")
    own, large_ms = study.large.figures[study.metric], study.large_ms
    for point in best:
        figure = point.figures[study.metric]
        table.add_row(
            point.setting.name, f"{figure['value']:.2f}",
            f"{figure['low']:.2f} to {figure['high']:.2f}",
            f"{point.latency_ms / large_ms:.2f}", f"{point.run_passes or 0:.3f}",
            "-" if point.gap is None else f"{point.gap:+.1%}",
        )  # fmt: skip
    table.add_row("large", f"{own['value']:.2f}", f"{own['low']:.2f} to {own['high']:.2f}",
                  "1.00", "1.000", "")  # fmt: skip
    out.print(table)
    doubted = [] if measured(judged) else doubts(study.costs)
    for line in [*doubted, *_worth(study), *_others(judged), *_schedule(study)]:
        out.print(line, soft_wrap=True)
    spent = ", ".join(f"{stage} {ns / 1e9:.1f} s" for stage, ns in study.spent_ns.items())
    out.print(f"Time: {spent}.", soft_wrap=True)
    failed = [f"{one.id}: {one.type}: {one.message}" for one in study.failed]
    for line in [*written_by(study.environment), *failed]:
        out.print(line, soft_wrap=True)


def _schedule(study: Study) -> list[str]:
    """When each model runs, of settings that both of them write."""
    both = (Mode.BILD, Mode.EXACT)
    found = {
        p.setting.options.schedule: None for p in study.points if p.setting.options.mode in both
    }
    names = ", ".join(str(schedule) for schedule in found)
    return [f"Schedule: {names}."] if names else []


def _worth(study: Study) -> list[str]:
    """What predictions are worth."""
    lines = []
    for kind, found in study.difference.items():
        lines.append(
            f"Predicted from the {kind} text, large passes a token lie within 10 % of those "
            f"{_sources(found['sources'])} {_spread(found)}."
        )
        if "latency" in found:
            lines.append(f"So do latencies in units of large, {_spread(found['latency'])}.")
    cut_ns = study.costs.get("residual_ns", 0)
    if cut_ns < 0:
        lines.append(
            f"The recorded texts took {-cut_ns / 1e6:.1f} ms less (median) than their passes, which were timed behind "
            "them: predicted latencies are too long by about that much. --measure takes the place of predictions."
        )
    return lines


def _spread(found: Mapping[str, Any]) -> str:
    return (
        f"for {found['within_10_percent']:.0%} of {found['settings']} settings (median {found['median']:.1%}, "
        f"most {found['most']:.1%})"
    )


def _others(points: Sequence[Point]) -> list[str]:
    """A warning where quality and time of a setting are not of the same texts."""
    other = [(p.same_texts, p) for p in points if p.same_texts is not None and p.same_texts < 1]
    if not other:
        return []
    other.sort(key=lambda pair: pair[0])
    named = ", ".join(f"{point.setting.name} ({same:.0%})" for same, point in other[:MOST])
    rest = f" and {len(other) - MOST} more" if len(other) > MOST else ""
    return [
        f"Of {len(other)} settings the texts that were timed are not all those that were judged (share of equal "
        f"texts): {named}{rest}. Passes of other lengths round otherwise; far below 100 %, time and quality are of "
        "different texts, and bild eval measures both on one."
    ]


def _sources(found: Mapping[str, int]) -> str:
    """Where the passes that a prediction is held against come from."""
    said = {"measured": "measured", "counted": "counted", "own text": "played over their own text"}
    only = next(iter(found))
    if len(found) == 1:
        return said[only]
    return " or ".join(f"{said[name]} ({count})" for name, count in found.items())
