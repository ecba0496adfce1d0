"""`bild tune`: tries settings on one split, takes the fastest that is surely good enough, checks it on
another split, and writes it down.
"""

from __future__ import annotations

import dataclasses
import shlex
import signal
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from rich.console import Console

from bild_dist import log
from bild_dist.errors import BildError, ConfigError, InvalidRequest
from bild_dist.evaluation.metrics.base import Array, Resamples, mean, percentiles
from bild_dist.evaluation.run.files import write_whole
from bild_dist.evaluation.run.held import held
from bild_dist.evaluation.run.identity import first_difference, named
from bild_dist.evaluation.run.record import Setting, stored
from bild_dist.evaluation.sweep.alone import doubts
from bild_dist.evaluation.sweep.identity import difference, identity, prompts
from bild_dist.evaluation.sweep.main import swept, told
from bild_dist.evaluation.sweep.options import Asked, asked, grid_options, planned
from bild_dist.evaluation.sweep.running import Sweep
from bild_dist.evaluation.sweep.study import MEASURED, Study, measured
from bild_dist.evaluation.tasks.base import HALVES
from bild_dist.evaluation.tune import settings
from bild_dist.evaluation.tune.choice import Choice, Evidence, Floor, bounds, chosen
from bild_dist.orchestrator.cli import Parser
from bild_dist.policy import baselines
from bild_dist.types import Options

if TYPE_CHECKING:
    from bild_dist.orchestrator.cli import InProcess

_DRAFTS: Final = ("alpha_fb", "alpha_rb", "window", "schedule")
_MUTE: Final = (
    "Look at what the large model writes and at the references: a wrong --prefix, --template or language, texts that "
    "are cut too soon (--max-new-tokens) and references of another task all give 0. Or take a floor in points "
    "(METRIC=-POINTS), another metric, or mode exact, whose text is the large model's own."
)
"""What to do where the large model has no figure to take a share of."""
_SAME: Final = ("small", "large", "orchestrator", "wording")
"""Of the identity of a sweep, what the check must share with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do. `source`: a sweep that was made already, or None to make one."""

    asked: Asked
    floors: tuple[Floor, ...]
    confidence: float
    test_split: str
    test_count: int | None
    source: Path | None
    command: str


def parser() -> Parser:
    """All options."""
    top = Parser(
        prog="bild tune",
        description="bild tune: find the fastest setting whose quality stays above a floor.",
    )
    tune = top.add_argument_group("the choice")
    tune.add_argument("--floor", action="append", required=True, metavar="METRIC=F",
                      help="share of the large model's figure (rougeL=0.99), or points below it "
                      "(bleu=-0.5); repeatable")  # fmt: skip
    tune.add_argument("--confidence", type=float, default=0.95, metavar="P",
                      help="that the check finds it above the floor (default: 0.95)")  # fmt: skip
    tune.add_argument("--out", required=True, metavar="FILE.toml", help="for bild generate -c")
    tune.add_argument("--from", dest="source", metavar="SWEEP.json",
                      help="choose from a sweep that is there, instead of making one")  # fmt: skip
    tune.add_argument("--measure", action="store_true",
                      help="time every setting in worker processes, instead of predicting it")  # fmt: skip
    tune.add_argument("--test-split", metavar="NAME", help="to check on (default: test)")
    tune.add_argument("--test-count", type=int, metavar="N", help="(default: as --count)")
    grid_options(top)
    return top


def planned_tune(argv: Sequence[str]) -> Plan:
    """What a command line asks for.

    Raises:
        ConfigError: something in it is wrong; names it and what is known.
        InvalidRequest: an option of a request is out of its range.
    """
    found, words = asked(argv, parser())
    if not 0.5 <= words.confidence < 1:
        raise ConfigError(f"--confidence {words.confidence:g} must be from 0.5 to below 1")
    floors = tuple(dict.fromkeys(Floor.parse(text) for text in words.floor))
    names = tuple(dict.fromkeys(floor.metric for floor in floors))
    if found.metrics and not {*names} <= {*found.metrics}:
        raise ConfigError("--metric and --floor name different metrics: leave out --metric")
    if words.test_count is not None and words.test_count < 2:
        raise ConfigError(
            f"--test-count {words.test_count} must be at least 2: intervals need several texts"
        )
    split = words.test_split
    if split is None:
        split = "test" if "test" in found.task.splits else found.split
    # Now, and not behind hours of the choice.
    found.task.check(split)
    if split == found.split and {"validation", "test"} <= {*found.task.splits}:
        raise ConfigError(
            f"--split and --test-split are both {split!r}: a choice is checked on texts that it was not made on"
        )
    return Plan(
        asked=dataclasses.replace(found, metrics=names, measure=words.measure), floors=floors,
        confidence=words.confidence, test_split=split, test_count=words.test_count or found.count,
        source=Path(words.source) if words.source else None,
        command=shlex.join(["bild", "tune", *argv]),
    )  # fmt: skip


def main(argv: Sequence[str], inproc: InProcess) -> int:
    """Exit code: 0 found and checked (mode `large` where no setting that passes is faster), 1 no setting
    is sure to stay above the floor, or the check did not confirm it, 2 bad usage or configuration, 130 interrupted.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        log.configure()
        plan = planned_tune(argv)
        with held(plan.asked.out):
            return Tune(plan, inproc).run()
    except BildError as error:
        print(f"bild tune: {told(error)}", file=sys.stderr)  # noqa: T201
        return 2 if isinstance(error, ConfigError | InvalidRequest) else 1
    except KeyboardInterrupt:
        print("bild tune: interrupted; the same command goes on", file=sys.stderr)  # noqa: T201
        return 130


class Tune:
    """One choice and its check. The sweeps stay beside --out, so that nothing is done twice."""

    def __init__(self, plan: Plan, inproc: InProcess) -> None:
        self._plan = plan
        self._inproc = inproc
        self._out = Console(highlight=False, markup=False, emoji=False)

    def run(self) -> int:
        """Exit code as `main`."""
        plan = self._plan
        study, test = self._chosen_from()
        evidence = Evidence.of(study, plan.floors)
        found = chosen(evidence, check=len(test.items), confidence=plan.confidence)
        if found.passed == 0:
            return self._nothing(study, evidence, len(test.items))
        points = {point.setting.name: point for point in study.points}
        if not measured(point for point in study.points if point.texts):
            for line in doubts(study.costs):
                self._say(line)
        timed = found.place is None or points[found.name].source == MEASURED
        self._say(f"Chosen of {len(evidence.names)} settings, {found.passed} of which pass: {found.name}, "
                  f"{found.speed:.2f} times the speed of large{'' if timed else ' (predicted)'}.")  # fmt: skip
        if found.place is None:
            lines = ["No setting that passes is faster than the large model alone on this machine."]
            self._say(lines[0])
            return self._write(study, self._alone(study), lines)
        setting = points[found.name].setting
        checked = self._checked(test, setting)
        lines, met, speed = self._verdict(found, checked)
        for line in lines:
            self._say(line)
        if not met:
            self._say("The check did not confirm it, so nothing is written. Take more texts (--count, --test-count) "
                      "or another --test-split. A second choice that is checked on these same texts is worth less: of "
                      "several tries one passes by luck. Or take mode exact, whose text is the large model's own, or "
                      "a lower floor.")  # fmt: skip
            return self._none()
        if speed < 1:
            lines.append(
                f"{setting.name} was slower than the large model alone in the check, so that is taken."
            )
            self._say(lines[-1])
            setting = self._alone(study)
        return self._write(study, setting, lines)

    def _alone(self, study: Study) -> Setting:
        """The large model alone with what else the settings of the sweep have; what only drafts have goes
        back to its default.
        """
        default = Options()
        alone = baselines.alone(study.middle.setting.options)
        return Setting.of(alone.merged({name: getattr(default, name) for name in _DRAFTS}))

    def _write(self, study: Study, setting: Setting, lines: Sequence[str]) -> int:
        """Writes it down. Exit code as `main`."""
        plan = self._plan
        remarks = [f"Made by: {plan.command}", f"On {study.task}, {study.split}: {len(study.items)} texts.",
                   f"Setting: {setting.name}.", *lines]  # fmt: skip
        out = plan.asked.out
        write_whole(out, settings.as_toml(plan.asked.config, setting.options, remarks), "--out")
        self._say(f"mode {setting.options.mode} written to {out}: bild generate -c {out} PROMPT")
        return 0

    def _chosen_from(self) -> tuple[Study, Sweep]:
        """What to choose from, and the sweep to check on, none of whose texts is among those of the choice."""
        plan = self._plan
        if plan.source is None:
            validation, test = self._sweeps()
            return self._swept(validation, "validation"), test
        study = Study.read(plan.source)
        test = self._others(study.environment.get("prompts", ()))
        self._fits(study, test)
        return study, test

    def _sweeps(self) -> tuple[Sweep, Sweep]:
        """On the texts to choose by, and on those to check on: two splits, or halves of the only one."""
        plan = self._plan
        validation = planned(plan.asked)
        if plan.test_split != plan.asked.split:
            return validation, self._others(prompts(validation))
        if len(validation.items) < 4:
            raise ConfigError(
                f"task {validation.task!r} has one split of {len(validation.items)} items: to choose on one half and "
                "check on the other takes at least 4"
            )
        half = dataclasses.replace(validation, items=validation.items[::2], split=HALVES[0])
        chosen_by, odd = {*prompts(half)}, validation.items[1::2]
        left = tuple(item for item in odd if named(item.prompt) not in chosen_by)
        self._dropped(len(odd) - len(left), len(left))
        left = left[: plan.test_count]
        return half, dataclasses.replace(validation, items=left, split=HALVES[1])

    def _others(self, known: Collection[str]) -> Sweep:
        """The sweep to check on, without the prompts of these names."""
        plan = self._plan
        asked = dataclasses.replace(plan.asked, count=plan.test_count)
        test = planned(asked, split=plan.test_split)
        twice = sum(name in {*known} for name in prompts(test))
        if twice:
            test = planned(asked, split=plan.test_split, without={*known})
        self._dropped(twice, len(test.items))
        return test

    def _dropped(self, twice: int, left: int) -> None:
        """Says how many texts are not checked on, since the choice is made on them. `left`: how many are.

        Raises:
            ConfigError: next to none.
        """
        if not twice:
            return
        if left > 1:
            self._say(
                f"{twice} of the texts to check on are among those of the choice, and are left out."
            )
            return
        plan, remedy = self._plan, "take another --test-split"
        if len(plan.asked.task.splits) == 1:
            remedy = "add texts with other prompts"
            if plan.source is not None:
                remedy = "choose from a sweep of its first texts (bild sweep --count N), and the rest is checked on"
        raise ConfigError(
            f"{plan.source or 'the choice'} holds texts of split {plan.test_split!r}, which the choice is checked "
            f"on, and without them {left} are left: {remedy}"
        )

    def _swept(self, sweep: Sweep, part: str) -> Study:
        out = self._plan.asked.out
        # Behind the whole name: of `t-0.2` the 2 is no suffix.
        path = out.with_name(f"{out.name}.{part}.json")
        if path.exists():
            # An interrupted command goes on: what it had finished is not made again.
            try:
                found = Study.read(path)
            except ConfigError as error:
                # This command's own file: nobody else would make it again.
                self._say(f"{error}; this command does so")
            else:
                differs = difference(found, sweep)
                if differs is None:
                    return found
                name, was, now = differs
                self._say(f"{path}: its {name} is {was}, not {now}; it is made again")
        with held(path):
            return swept(sweep, path, self._plan.command, self._inproc)

    def _fits(self, study: Study, test: Sweep) -> None:
        """Refuses a sweep of something else."""
        source = self._plan.source
        if study.task != test.task:
            raise ConfigError(
                f"--from {source} is of task {study.task!r}, not {test.task!r}: name its own"
            )
        theirs = study.environment.get("identity")
        if not isinstance(theirs, dict):
            raise ConfigError(f"--from {source} does not say what it was made with: make it again")
        ours = stored(identity(test))
        old, new = ({name: said.get(name) for name in _SAME} for said in (theirs, ours))
        differs = first_difference(old, new)
        if differs is not None:
            name, was, now = differs
            raise ConfigError(
                f"--from {source} was made with another {name} ({was}, now {now}): a setting is checked with what "
                "it was chosen with, so give the same"
            )

    def _nothing(self, study: Study, evidence: Evidence, check: int) -> int:
        """No setting passes: says how near the best one comes, and what is left. `check`: texts to check on."""
        plan = self._plan
        floors = " and ".join(map(str, plan.floors))
        self._say(f"No setting of the {len(evidence.names)} is sure to stay above {floors} with confidence "
                  f"{plan.confidence:g} on {len(study.items)} texts.")  # fmt: skip
        lower = bounds(evidence, check=check, confidence=plan.confidence)
        for floor in plan.floors:
            self._say(nearest_to(floor, evidence, lower[floor]))
        if any(map(evidence.mute, plan.floors)):
            self._say(_MUTE)
            return self._none()
        self._say("Mode exact writes the large model's own text, faster where drafting pays; mode large is that "
                  "model alone: bild generate --mode exact. Or give more texts (--count), higher --alpha-fb and "
                  "lower --alpha-rb, or a lower floor.")  # fmt: skip
        return self._none()

    def _none(self) -> int:
        """No answer: says so of a file that holds one of an earlier run. Exit code as `main`."""
        out = self._plan.asked.out
        if out.exists():
            self._say(
                f"{out} is of an earlier run, and no answer to this one: it was left as it is."
            )
        return 1

    def _checked(self, test: Sweep, setting: Setting) -> Study:
        """The chosen setting on the other texts, with all options that it was chosen with, timed in worker
        processes beside large.
        """
        options = setting.options
        if options.schedule is None:
            raise ConfigError(f"setting {setting.name} names no schedule: make the sweep again")
        grid = dataclasses.replace(
            test.grid, base=options, modes=(options.mode,), alpha_fb=(options.alpha_fb,),
            alpha_rb=(options.alpha_rb,), windows=(options.window,), schedules=(options.schedule,),
        )  # fmt: skip
        return self._swept(dataclasses.replace(test, grid=grid, measure=True), "test")

    def _verdict(self, found: Choice, study: Study) -> tuple[list[str], bool, float]:
        """How the check came out, in words; whether every floor was met; the speed in units of large."""
        evidence = Evidence.of(study, self._plan.floors)
        resamples = Resamples(len(evidence))
        lines, met = [], True
        for floor in self._plan.floors:
            margin, own = float(evidence.margins(floor)[0]), evidence.own[floor].value
            value = evidence.marks[floor][0].value
            # A share of nothing confirms nothing, but for texts that are the large model's own.
            mute = evidence.mute(floor) and not evidence.exact[0]
            met = met and margin >= 0 and not mute
            said = (
                f"{'above' if margin >= 0 else 'BELOW'} the floor {floor} by {floor.told(abs(margin))} "
                f"(the choice was sure of {floor.told(found.lower[floor])} above it)."
            )
            if mute:
                said = f"no share of that can be told, so the floor {floor} says nothing."
            lines.append(
                f"{floor.metric} on {study.split}, {len(study.items)} texts: {value:.3f}, large {own:.3f}; {said}"
            )
        ours = resamples.scores(mean(list(evidence.walls_ns[0]), ""))
        large = resamples.scores(mean(list(evidence.large_ns), ""))
        low, high = percentiles(large / ours)
        ratio = float(evidence.large_ns.mean() / evidence.latency_ns[0])
        lines.append(
            f"Speed: {ratio:.2f} times large (95 %: {low:.2f} to {high:.2f}), "
            f"{np.mean(evidence.walls_ns[0]) / 1e6:.0f} ms a text."
        )
        return lines, met, ratio

    def _say(self, line: str) -> None:
        self._out.print(line, soft_wrap=True)


def nearest_to(floor: Floor, evidence: Evidence, lower: Array) -> str:
    """Of the setting that is nearest to being sure of a floor: where it seems to be, and why that is not enough."""
    if evidence.mute(floor):
        return (
            f"{floor}: the {floor.metric} of the large model itself is 0 on these {len(evidence)} texts, and every "
            "share of 0 is 0: nothing can lie above this floor or below it."
        )
    margins = evidence.margins(floor)
    best = max(range(len(margins)), key=lambda place: (lower[place], margins[place]))
    said = f"Nearest to {floor}: {evidence.names[best]}, which seems to lie {floor.told(abs(margins[best]))} "
    if margins[best] < 0:
        return f"{said}below it on these {len(evidence)} texts."
    bound = (
        f"it may lie {floor.told(-lower[best])} below it"
        if np.isfinite(lower[best])
        else "it never moves, so there is no lower bound"
    )
    return f"{said}above it, but {len(evidence)} texts are too few to be sure: {bound}."
