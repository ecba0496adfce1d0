"""The command line of `bild eval`: what is asked for, checked before anything starts."""

from __future__ import annotations

import argparse
import dataclasses
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from bild_dist.config import Config, settled
from bild_dist.errors import ConfigError
from bild_dist.evaluation.metrics import registry as metrics
from bild_dist.evaluation.oracle import replacing
from bild_dist.evaluation.run.files import made_room
from bild_dist.evaluation.run.record import Setting
from bild_dist.evaluation.tasks import registry as tasks
from bild_dist.evaluation.tasks.base import Task, Wording, wording
from bild_dist.messages import Info
from bild_dist.model import hub
from bild_dist.orchestrator.cli import Parser, pair_options
from bild_dist.policy.baselines import BASELINES, baseline
from bild_dist.types import Options, Role

_OWN: Final = frozenset((
    "task", "split", "count", "metric", "rounds", "prefix", "template", "name", "baseline", "oracle", "out",
))  # fmt: skip
"""What this command knows and a configuration does not."""
_BESIDE: Final = ("logprobs", "traceparent")
"""Options that are about what is told of a text; a record holds neither."""
_MOST_ROUNDS: Final = 1000
"""The order of all texts is held from the beginning."""
_PARTLY: Final = frozenset(("no rollback", "no fallback", "nucleus"))
"""Baselines that leave a threshold to whoever asks, which then belongs into the name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure. `addresses`: of running workers, empty where own ones are started."""

    task: Task
    split: str
    count: int | None
    metrics: tuple[str, ...]
    rounds: int
    prefix: str | None
    template: str | None
    name: str | None
    config: Config
    addresses: Mapping[Role, str]
    out: Path


def parser() -> Parser:
    """All options. Defaults of models and requests stand in `config.py` and `types.py`."""
    top = Parser(
        prog="bild eval",
        description="bild eval: quality and latency of one setting on one task, with the large model alone beside it.",
    )
    task_options(top)
    top.add_argument("--rounds", type=int, default=1, metavar="R",
                     help="write everything so often; a text's time is the median (default: 1)")  # fmt: skip
    top.add_argument("--name", metavar="NAME", help="of the setting in tables")
    other = top.add_mutually_exclusive_group()
    other.add_argument("--baseline", metavar="NAME",
                       help=f"what BiLD is compared with, as it is named: {', '.join(BASELINES)}")  # fmt: skip
    other.add_argument("--oracle", type=float, metavar="NATS",
                       help="the small model's token stands unless -ln p of it under the large one exceeds this "
                       "(figure 2 of the paper; inf is the small model's text, 0 the large one's)")  # fmt: skip
    top.add_argument("--out", metavar="FILE.json", required=True,
                     help="the record; an interrupted run goes on from FILE.json.partial.jsonl")  # fmt: skip
    pair_options(top)
    request_options(top)
    return top


def task_options(top: argparse.ArgumentParser) -> None:
    """What is written about, and how it is judged."""
    group = top.add_argument_group("the task")
    group.add_argument("--task", metavar="NAME", required=True,
                       help=f"{', '.join(tasks.names())}, or FILE.jsonl with prompt and reference")  # fmt: skip
    group.add_argument("--split", metavar="NAME", help="train, validation or test (default: test)")
    group.add_argument("--count", type=int, metavar="N", help="take the first N items only")
    group.add_argument("--metric", action="append", default=[], metavar="NAME",
                       help=f"of {', '.join(metrics.names())} or all; repeatable (default: all but perplexity, "
                       "which loads the large model again)")  # fmt: skip
    group.add_argument("--prefix", metavar="TEXT",
                       help="in front of every text (default: what T5 was taught, for T5 as published)")  # fmt: skip
    group.add_argument("--template", metavar="TEXT",
                       help="around every text, which goes where it says {prompt} (default: an instruction, for "
                       "decoder-only models)")  # fmt: skip


def request_options(top: argparse.ArgumentParser) -> None:
    """One option a field of Options that touches texts, so that none is forgotten; they mean what they
    mean for `bild generate`.
    """
    group = top.add_argument_group("the setting (as for bild generate)")
    hints, default = typing.get_type_hints(Options), Options()
    for spec in dataclasses.fields(Options):
        if spec.name in _BESIDE:
            continue
        flag, value = spec.name.replace("_", "-"), getattr(default, spec.name)
        kinds = [kind for kind in _kinds(hints[spec.name]) if kind is not type(None)]
        kind = kinds[0]
        if kind is bool:
            group.add_argument(f"--no-{flag}" if value else f"--{flag}", dest=spec.name, default=None,
                               action="store_false" if value else "store_true")  # fmt: skip
        elif issubclass(kind, StrEnum):
            group.add_argument(f"--{flag}", choices=[member.value for member in kind])
        elif kind is tuple:
            group.add_argument(f"--{flag}", action="append", metavar="TEXT")
        else:
            shown = None if value is None else f"({value:g})" if kind is not str else f"({value})"
            group.add_argument(f"--{flag}", type=kind, metavar="X", help=shown)


def _kinds(hint: Any) -> list[type]:
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        return [tuple]
    return [part for one in parts for part in _kinds(one)] if parts else [hint]


def planned(argv: Sequence[str]) -> Plan:
    """What a command line asks for.

    Raises:
        ConfigError: something in it is wrong; names it and what is known.
        InvalidRequest: an option of a request is out of its range.
    """
    legible(argv)
    asked = vars(parser().parse_args(argv))
    settings = {name: value for name, value in asked.items() if name not in _OWN}
    config, addresses = settled({**settings, "concurrency": 1})
    for name in ("rounds", "count"):
        if asked[name] is not None and asked[name] < 1:
            raise ConfigError(f"--{name} {asked[name]} must be at least 1")
    if asked["rounds"] > _MOST_ROUNDS:
        raise ConfigError(
            f"--rounds {asked['rounds']} must be at most {_MOST_ROUNDS}: a median needs few"
        )
    task = tasks.find(asked["task"])
    out = made_room(asked["out"])
    config = config.overlaid(generate=defaults(task, config.generate, asked))
    config, title = compared(config, asked)
    return Plan(
        task=task,
        split=task.default_split if asked["split"] is None else asked["split"],
        count=asked["count"],
        metrics=tuple(asked["metric"]),
        rounds=asked["rounds"],
        prefix=asked["prefix"],
        template=asked["template"],
        name=title,
        config=config,
        addresses=addresses,
        out=out,
    )


def legible(argv: Sequence[str]) -> None:
    """Raises ConfigError for a word that is no UTF-8, as names of files may be: a record has the command in it,
    and would fail behind the last text.
    """
    for word in argv:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{word!a} is no UTF-8: give the file another name") from None


def compared(config: Config, asked: Mapping[str, Any]) -> tuple[Config, str | None]:
    """The configuration of a baseline or of the oracle, where one is asked for, and the name by which a
    report knows it; else what there was.

    Raises:
        ConfigError: a threshold that is none, or the command line says of an option what the baseline does not;
            names it.
        InvalidRequest: no such baseline.
    """
    kind, nats, before = asked["baseline"], asked["oracle"], config.generate
    if kind is None and nats is None:
        return config, asked["name"]
    flag = "--baseline" if kind is not None else "--oracle"
    if nats is not None and not nats >= 0:
        raise ConfigError(
            f"--oracle {nats:g} must be a number of at least 0: nats, and inf for the small model's own text"
        )
    if asked["name"] is not None:
        raise ConfigError(f"{flag} names the setting itself: leave out --name {asked['name']!r}")
    options = baseline(kind, before) if kind is not None else replacing(before, nats)
    for spec in dataclasses.fields(Options):
        ours = getattr(options, spec.name)
        if asked.get(spec.name) is not None and ours != getattr(before, spec.name):
            raise ConfigError(
                f"{flag} sets {spec.name} to {ours}, which is not what --{spec.name.replace('_', '-')} says: "
                "leave one of the two out"
            )
    name = f"oracle {nats:g}" if kind is None else str(kind)
    if kind in _PARTLY:
        name += f", {Setting.of(options).name}"
    return dataclasses.replace(config, generate=options), name


def defaults(task: Task, given: Options, said: Mapping[str, Any]) -> dict[str, Any]:
    """What a task would have of a request, where that was not given. `said`: the command line, by which a
    value is given even if it is the usual one.
    """
    usual = Options()
    return {
        name: value
        for name, value in task.options.items()
        if getattr(given, name) == getattr(usual, name) and said.get(name) is None
    }


def named(plan: Plan, options: Options) -> Setting:
    """A plan's setting, as it is called in tables. `options`: with a settled schedule."""
    return Setting(plan.name, options) if plan.name else Setting.of(options)


def around(plan: Plan, large: Info) -> Wording:
    """What a plan puts around every text, for that large model."""
    decoder_only = large.kind == "decoder"
    # Of a worker that runs already, only its owner knows where its files are.
    looked = not decoder_only and plan.prefix is None and not plan.addresses
    return wording(
        plan.task,
        decoder_only=decoder_only,
        prefixed=looked and taught_prefixes(plan.config.large.model),
        prefix=plan.prefix,
        template=plan.template,
    )


def taught_prefixes(model: str) -> bool:
    """Whether a model is T5 as published, or trained further from that: its config lists the prefixes
    that it was taught.
    """
    if model.startswith("toy:"):
        return False
    try:
        file = hub.folder_of(model, weights=False) / "config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ConfigError, OSError, ValueError):
        return False  # whoever loads it says what is wrong with it
    return config.get("model_type") == "t5" and bool(config.get("task_specific_params"))
