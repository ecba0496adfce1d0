"""Many settings of one pair on one task, text by text beside each other: for each a record like that of `bild eval`.

A machine that is shared has another speed in an hour, and two runs of `bild eval` are of two hours. Here every
text is written by all settings, one after the other on the same workers, in an order that is drawn anew for each text.
The large model alone is one of them, and stands beside each in its record. What is written is kept in the
folder of the records, so that an interrupted run goes on.
"""

from __future__ import annotations

import random
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from bild_dist.errors import ConfigError
from bild_dist.evaluation.align.progress import Bar
from bild_dist.evaluation.bench import usage
from bild_dist.evaluation.metrics import registry
from bild_dist.evaluation.report.groups import ASKED, DRAWN
from bild_dist.evaluation.run import identity
from bild_dist.evaluation.run.figures import Judge, Written
from bild_dist.evaluation.run.held import held
from bild_dist.evaluation.run.options import Plan, around, named, planned
from bild_dist.evaluation.run.partial import Partial
from bild_dist.evaluation.run.record import Failure, Part, Record, Setting, TextRecord
from bild_dist.evaluation.run.running import Outcome, Step, warm_up, worded, write
from bild_dist.evaluation.tasks.base import Item
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.orchestrator.opening import launched
from bild_dist.policy.baselines import alone
from bild_dist.types import Options, Role, Schedule

SEED: Final = 7
"""Of the order in which settings write a text."""


async def side_by_side(commands: Sequence[Sequence[str]]) -> None:
    """Carries out some command lines of `bild eval`, all of one task and one pair, and writes their records.

    Raises:
        BildError: a worker failed, or a command line is wrong.
        ConfigError: the command lines are not of the same texts and workers.
    """
    plans = [planned(command) for command in commands]
    first = plans[0]
    for plan in plans[1:]:
        if _kept(plan) != _kept(first):
            raise ConfigError(f"{plan.out} is of other texts or workers than {first.out}")
    items = first.task.items(first.split, first.count)
    for plan in plans:
        # Now, not behind hours of texts.
        registry.chosen(plan.metrics, items, plan.task.metric)
    place = first.out.parent / "side-by-side"
    with held(place):
        async with launched(first.config) as decoder:
            settings = [named(plan, decoder.settled(plan.config.generate)) for plan in plans]
            asked = [setting.options for setting in settings]
            todo = list(dict.fromkeys([*map(_large, asked), *asked]))
            told = [shlex.join(["bild", "eval", *command]) for command in commands]
            with Partial(place, {"commands": told, **identity.surroundings()}) as partial:
                prompts = worded(items, around(first, decoder.workers[Role.LARGE].info))
                said = await _written(decoder, prompts, todo, partial)
                about = {
                    **usage.environment("python -m benchmarks.evaluation"),
                    "items": identity.asked(prompts),
                    "references": identity.references(items),
                }
                for plan, setting, command in zip(plans, settings, told, strict=True):
                    own = {**about, "command": command}
                    _record(plan, setting, items, said, decoder, own).write(plan.out)
            partial.remove()


def _kept(plan: Plan) -> tuple[Any, ...]:
    """What all of them must have in common."""
    workers = (plan.config.small, plan.config.large, plan.config.orchestrator)
    return (plan.task.name, plan.split, plan.count, plan.prefix, plan.template, *workers)


def _large(options: Options) -> Options:
    """The large model alone: one for all settings that differ in what it never looks at."""
    kept = {name: getattr(options, name) for name in ASKED + DRAWN}
    return alone(replace(Options(schedule=Schedule.PAPER), **kept))


async def _written(
    decoder: Decoder, items: Sequence[Item], settings: Sequence[Options], partial: Partial
) -> dict[Options, dict[str, Outcome]]:
    """What every setting wrote of every item."""
    # Otherwise each would begin as if it were its first text.
    decoder.expect(len(settings))
    await warm_up(decoder, items, settings)
    parts = {str(number): options for number, options in enumerate(settings)}
    drawn = random.Random(SEED)
    with Bar("side by side", len(items)) as bar:
        for number, item in enumerate(items, start=1):
            for part in drawn.sample(list(parts), len(parts)):
                step = Step(part, 0, item)
                if step not in partial:
                    partial.add(step, await write(decoder, item, parts[part]))
            bar.at(number)
    return {options: partial.outcomes(part, 0) for part, options in parts.items()}


def _record(
    plan: Plan, setting: Setting, items: Sequence[Item],
    said: Mapping[Options, Mapping[str, Outcome]], decoder: Decoder, about: Mapping[str, Any],
) -> Record:  # fmt: skip
    beside = Setting.of(_large(setting.options))
    both = {"part": setting, "large": beside}
    texts = {name: _texts(said[each.options]) for name, each in both.items()}
    written = {name: Written(found, {}) for name, found in texts.items()}
    metrics = registry.chosen(plan.metrics, items, plan.task.metric)
    judge = Judge(items, metrics, written["large"], [written["part"]])
    parts = {
        name: Part(
            setting=each,
            texts=tuple(texts[name][item.id] for item in items if item.id in texts[name]),
            failed=tuple(one for one in said[each.options].values() if isinstance(one, Failure)),
            figures=judge.figures(written[name]),
        )
        for name, each in both.items()
    }
    infos = {role: decoder.workers[role].info for role in Role}
    models = {
        role.value: asdict(infos[role])
        | identity.model(infos[role], getattr(plan.config, role.value), joined=False)
        for role in Role
    }
    environment = {
        **about, "threads_small": infos[Role.SMALL].threads, "threads_large": infos[Role.LARGE].threads,
        "dtype": infos[Role.LARGE].dtype, "transport": plan.config.orchestrator.transport, "rounds": 1,
    }  # fmt: skip
    return Record(
        task=plan.task.name, split=plan.split, part=parts["part"], large=parts["large"],
        models=models, environment=environment,
    )  # fmt: skip


def _texts(said: Mapping[str, Outcome]) -> dict[str, TextRecord]:
    return {name: one for name, one in said.items() if isinstance(one, TextRecord)}
