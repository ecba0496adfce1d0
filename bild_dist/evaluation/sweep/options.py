"""The command line of `bild sweep`: what is asked for, checked before anything starts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from bild_dist.config import Config, settled
from bild_dist.errors import ConfigError
from bild_dist.evaluation.metrics import registry as metrics
from bild_dist.evaluation.metrics.base import Metric
from bild_dist.evaluation.run.files import made_room
from bild_dist.evaluation.run.identity import named
from bild_dist.evaluation.run.options import defaults, legible, taught_prefixes
from bild_dist.evaluation.run.running import worded
from bild_dist.evaluation.sweep.grid import Grid
from bild_dist.evaluation.sweep.replay import MOST
from bild_dist.evaluation.sweep.running import RECORDED, Sweep
from bild_dist.evaluation.tasks import registry as tasks
from bild_dist.evaluation.tasks.base import Item, Task, Wording, wording
from bild_dist.model import hub
from bild_dist.orchestrator.cli import Parser, model_options
from bild_dist.types import Mode, Options, Schedule, nearest

LISTS: Final = ("alpha_fb", "alpha_rb", "window", "schedule", "mode")
"""Options that take several values."""
OWN: Final = frozenset((
    *LISTS, "task", "split", "count", "metric", "prefix", "template", "out", "plot", "front", "measure",
    "record",
))  # fmt: skip
"""What this command knows and a configuration does not."""
_AGREEMENT: Final = "agreement"
_GREEDY: Final = ("temperature", "stop", "deadline")
_UNREAD: Final = ("policy", "confidence", "distance", "adapt")
"""Options that ask for what a recording does not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a command line asks for, but for the texts."""

    config: Config
    grid: Grid
    task: Task
    split: str
    count: int | None
    metrics: tuple[str, ...]
    prefix: str | None
    template: str | None
    out: Path
    plot: Path | None
    front: bool
    measure: bool
    record: str


def parser() -> Parser:
    """All options. Defaults of models and requests stand in `config.py` and `types.py`."""
    top = Parser(
        prog="bild sweep",
        description="bild sweep: predict many settings from one recording, then write and judge them.",
    )
    grid_options(top)
    run = top.add_argument_group("the sweep")
    run.add_argument("--out", metavar="FILE.json", required=True, help="everything that was found")
    run.add_argument("--plot", metavar="STEM", help="draw STEM.png and STEM.svg")
    run.add_argument("--front", action="store_true",
                     help="write and measure only settings near the predicted front")  # fmt: skip
    run.add_argument("--measure", action="store_true",
                     help="time every setting in worker processes too")  # fmt: skip
    run.add_argument("--record", choices=RECORDED, default=RECORDED[0],
                     help=f"the text that predictions are made from (default: {RECORDED[0]})")  # fmt: skip
    return top


def grid_options(top: Parser) -> None:
    """What the settings are tried on, and which they are: `bild tune` takes the same."""
    default = Grid(base=Options())
    task = top.add_argument_group("the task")
    task.add_argument("--task", metavar="NAME", required=True,
                      help=f"{', '.join(tasks.names())}, or a FILE.jsonl")  # fmt: skip
    task.add_argument("--count", type=int, metavar="N", help="take the first N items only")
    task.add_argument("--split", metavar="NAME", help="(default: validation where there is one)")
    cheap = ", ".join(name for name in metrics.names() if name != metrics.DEAR)
    task.add_argument("--metric", action="append", metavar="NAMES",
                      help=f"{cheap}; the front is of the task's own, or else of the first")  # fmt: skip
    task.add_argument("--prefix", metavar="TEXT", help="in front of every item (T5)")
    task.add_argument("--template", metavar="TEXT", help="around every item, with {prompt} in it")
    grid = top.add_argument_group("the grid: values with commas between them")
    grid.add_argument("--alpha-fb", metavar="P,...", help=_shown(default.alpha_fb))
    grid.add_argument("--alpha-rb", metavar="D,...",
                      help=f"of distance ce, nats, as in all of a sweep {_shown(default.alpha_rb)}")  # fmt: skip
    grid.add_argument("--window", metavar="N,...", help=_shown(default.windows))
    grid.add_argument(
        "--schedule",
        metavar="NAMES",
        help="paper, through, overlap (default: as the workers settle)",
    )
    grid.add_argument("--mode", metavar="NAMES", help="bild, exact, large, small (default: bild)")
    models = model_options(top)
    models.add_argument("--dtype", metavar="DTYPE", help="float32, bfloat16 or float16")
    text = top.add_argument_group("the texts")
    text.add_argument("--max-new-tokens", type=int, metavar="N", help="tokens of a text")
    text.add_argument("--no-verify-tail", dest="verify_tail", action="store_false", default=None,
                      help="do not check the last run (Algorithm 1 as printed)")  # fmt: skip
    text.add_argument("--first", metavar="ROLE", help="who may write the first token")
    text.add_argument("--truncate", action="store_true", default=None,
                      help="cut a prompt that is too long")  # fmt: skip
    text.add_argument("--no-chat-template", dest="chat_template", action="store_false", default=None,
                      help="give an instruct model the bare prompt")  # fmt: skip
    text.add_argument("--src-lang", metavar="CODE", help="source language (NLLB, M2M100, mBART)")
    text.add_argument("--tgt-lang", metavar="CODE", help="target language")


def asked(argv: Sequence[str], top: Parser | None = None) -> tuple[Asked, argparse.Namespace]:
    """What a command line asks for, and the words themselves. `top`: another parser with these
    options and more.

    Raises:
        ConfigError: something in it is wrong; names it and what is known.
        InvalidRequest: an option of a request is out of its range.
    """
    legible(argv)
    own = top is None
    words = (top or parser()).parse_args(argv)
    values: dict[str, Any] = vars(words)
    task = tasks.find(values["task"])
    known = {*vars(parser().parse_args(["--task", "x", "--out", "x"]))} - OWN
    settings = {name: value for name, value in values.items() if name in known}
    config, _ = settled(settings)
    base = _base(config.generate, task, values)
    config = config.overlaid(orchestrator={"concurrency": 1})
    out = made_room(values["out"])
    if own and values["plot"] is not None and not Path(values["plot"]).name:
        raise ConfigError(f"--plot {values['plot']!r} is no name: STEM makes STEM.png and STEM.svg")
    split = values["split"]
    if split is None:
        split = "validation" if "validation" in task.splits else task.default_split
    if values["count"] is not None and values["count"] < 2:
        raise ConfigError(
            f"--count {values['count']} must be at least 2: intervals need several texts"
        )
    return Asked(
        config=config, grid=_grid(base, values), task=task, split=split,
        count=values["count"], metrics=tuple(values["metric"] or ()), prefix=values["prefix"],
        template=values["template"], out=out,
        plot=Path(values["plot"]) if own and values["plot"] else None,
        front=own and values["front"], measure=own and values["measure"],
        record=values["record"] if own else RECORDED[0],
    ), words  # fmt: skip


def _base(given: Options, task: Task, said: Mapping[str, Any]) -> Options:
    """The options that all settings share: the task's own, unless the user said otherwise."""
    base = given.merged(defaults(task, given, said))
    default = Options()
    for name in (*_GREEDY, *_UNREAD):
        value = getattr(base, name)
        if value != getattr(default, name):
            why = "compares whole texts of the most likely tokens"
            if name in _UNREAD:
                why = "is predicted from the largest probability and -ln p alone"
            raise ConfigError(f"generate.{name} = {_plain(value)!r}: a sweep {why}: leave it out")
    return base


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, StrEnum) else value


def _grid(base: Options, values: Mapping[str, Any]) -> Grid:
    """The grid; a value given in the configuration file is no grid, so defaults stand, but for the schedule."""
    default = Grid(base=base)
    grid = Grid(
        base=base,
        alpha_fb=_numbers("--alpha-fb", values["alpha_fb"], float) or default.alpha_fb,
        alpha_rb=_numbers("--alpha-rb", values["alpha_rb"], float) or default.alpha_rb,
        windows=_numbers("--window", values["window"], int) or default.windows,
        schedules=_members("--schedule", values["schedule"], Schedule)
        or ((base.schedule,) if base.schedule is not None else ()),
        modes=_members("--mode", values["mode"], Mode) or default.modes,
    )
    grid.settings()  # a threshold out of its range is found here, before anything starts
    return grid


def _numbers(flag: str, text: str | None, kind: type[Any]) -> tuple[Any, ...]:
    words = _words(flag, text)
    try:
        return tuple(sorted({kind(word) for word in words}))
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise ConfigError(f"{flag} {text}: must be {what} with commas between them") from None


def _members(flag: str, text: str | None, kind: type[Any]) -> tuple[Any, ...]:
    known = [member.value for member in kind]
    words = _words(flag, text)
    for word in words:
        if word not in known:
            raise ConfigError(f"{flag} {word!r}: unknown{nearest(word, known)}")
    return tuple(kind(word) for word in dict.fromkeys(words))


def _words(flag: str, text: str | None) -> list[str]:
    words = [] if text is None else [word.strip() for word in text.split(",")]
    if "" in words:
        place = words.index("") + 1
        raise ConfigError(
            f"{flag} {text}: value {place} of {len(words)} is empty: write one, or take a comma out"
        )
    return words


def _shown(values: Sequence[float]) -> str:
    return f"(default: {','.join(f'{value:g}' for value in values)})"


def planned(
    found: Asked, *, split: str | None = None, count: int | None = None,
    without: Collection[str] = (),
) -> Sweep:  # fmt: skip
    """The sweep with its texts, of another split if one is named. `without`: names of prompts, as `named` has
    them, that are left out.

    Raises:
        ConfigError: the split cannot be read, or a metric does not fit it.
    """
    split = split or found.split
    count = count or found.count
    around = _wording(found)
    items = worded(found.task.items(split, count and count + len(without)), around)
    items = [item for item in items if named(item.prompt) not in without][:count]
    judges = _judges(found, items)
    # Where prompts are left out, whoever leaves them out says what came of it.
    if len(items) < 2 and not without:
        raise ConfigError(
            f"task {found.task.name!r}, split {split!r}, has one text: intervals need several, so add some, or name "
            "another split"
        )
    if len(items) > MOST:
        raise ConfigError(f"--count: a sweep takes up to {MOST} texts, not {len(items)}")
    if not judges:
        raise ConfigError("no metric fits these items: name one with --metric")
    return Sweep(
        config=found.config, grid=found.grid, task=found.task.name, split=split,
        items=tuple(items), template=around.template, metrics=tuple(judges),
        main=_main(found, [metric.name for metric in judges]),
        recorded=found.record, only_front=found.front, measure=found.measure,
    )  # fmt: skip


def _judges(found: Asked, items: Sequence[Item]) -> list[Metric]:
    """What the settings are judged by; all but perplexity where nobody names any."""
    if metrics.DEAR in _named(found):
        raise ConfigError(
            f"--metric {metrics.DEAR} is for `bild eval`: a sweep keeps no reading for it"
        )
    return [m for m in metrics.chosen(found.metrics, items) if m.name != metrics.DEAR]


def _main(found: Asked, names: Sequence[str]) -> str:
    """What the front is of: the task's own metric, or else the first that was named, or else how far a text is
    the large model's.
    """
    wanted = (found.task.metric, *_named(found), _AGREEMENT, *names)
    return next(name for name in wanted if name in names)


def _named(found: Asked) -> list[str]:
    """The metrics of the command line in its order."""
    return [word for text in found.metrics for word in _words("--metric", text)]


def _wording(found: Asked) -> Wording:
    """What stands around every item: the user's, or what the large model was taught."""
    model = found.config.large.model
    decoder_only = True
    if not model.startswith("toy:") and not model.endswith(".gguf"):
        file = hub.folder_of(model) / "config.json"
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file} cannot be read: {error}") from None
        decoder_only = not said.get("is_encoder_decoder", False)
    prefixed = not decoder_only and taught_prefixes(model)
    return wording(
        found.task, decoder_only=decoder_only, prefixed=prefixed, prefix=found.prefix,
        template=found.template,
    )  # fmt: skip
