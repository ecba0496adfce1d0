"""The command line of `bild bench`: what is asked for, checked before anything starts."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from bild_dist.config import Config, settled
from bild_dist.errors import ConfigError
from bild_dist.evaluation.bench import prompts
from bild_dist.evaluation.bench.contestants import TRANSPORTS, Contestant, chosen, lineup, members
from bild_dist.evaluation.bench.prompts import Task
from bild_dist.model.toy import Script, parse
from bild_dist.orchestrator.cli import Parser, model_options
from bild_dist.types import Mode, Options, Role, Schedule, nearest

_OWN: Final = frozenset((
    "modes", "schedules", "transports", "peers", "prompts", "count", "rounds", "paced", "output",
))  # fmt: skip
"""What this command knows and a configuration does not."""
_CONTEST: Final = frozenset(("mode", "schedule", "stop", "deadline", "logprobs", "traceparent"))
"""Options of a request that are not for the asking: contestants differ in the first two, the next
two leave no texts that can be compared, and of the rest nothing is reported."""
_HELP: Final = {
    "alpha_fb": "the large model writes where the small one is less sure",
    "alpha_rb": "and replaces what lies further from it than N, nats unless --distance is tv or l2",
    "window": "most small tokens in a row",
    "verify_tail": "do not check the last run (Algorithm 1 as printed)",
    "first": "who may write the first token",
    "branches": "guesses to follow during a check, schedule overlap",
    "temperature": "draw from p^(1/T); 0 takes the most likely",
    "top_k": "draw from the K most likely only",
    "top_p": "draw from the fewest tokens that hold a share of P",
    "seed": "of what is drawn",
    "max_new_tokens": "tokens of a text",
    "truncate": "cut a prompt that is too long",
    "chat_template": "give an instruct model the bare prompt",
    "src_lang": "source language (NLLB, M2M100, mBART)",
    "tgt_lang": "target language",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure."""

    field: tuple[Contestant, ...]
    config: Config
    tasks: tuple[Task, ...]
    built_in: bool
    rounds: int
    output: str | None
    paced: str | None


def parser() -> Parser:
    """All options. Defaults of models and requests stand in `config.py` and `types.py`."""
    top = Parser(
        prog="bild bench",
        description="bild bench: measure the speed of a pair of models against other ways to run them.",
    )
    contest = top.add_argument_group("the contest")
    contest.add_argument(
        "--modes", metavar="NAMES", help="of bild,exact,large,small (default: all)"
    )
    contest.add_argument(
        "--schedules", metavar="NAMES", help="of paper,through,overlap (default: all)"
    )
    contest.add_argument("--transports", metavar="NAMES", help="of zmq,grpc,inproc (default: zmq)")
    contest.add_argument("--peers", action=argparse.BooleanOptionalAction, default=None,
                         help="transformers' generate and assisted generation too (default: yes)")  # fmt: skip
    contest.add_argument("--prompts", metavar="FILE.jsonl",
                         help='one {"prompt" | "messages" | "prompt_tokens", "reference"?} a line '
                         "(default: a dozen short instructions)")  # fmt: skip
    contest.add_argument("--count", type=int, metavar="N", help="take the first N prompts only")
    contest.add_argument("--rounds", type=int, default=5, metavar="R", help="(default: 5)")
    contest.add_argument("--concurrency", type=int, metavar="N",
                         help="texts under way at once; transformers writes one after another")  # fmt: skip
    contest.add_argument("--paced", metavar="small=5ms,large=25ms[,f=0.2,...]",
                         help="toys that take that long for a pass, instead of models")  # fmt: skip
    contest.add_argument("--output", metavar="FILE.json", help="all numbers of every round")
    models = model_options(top)
    models.add_argument("--dtype", metavar="DTYPE", help="float32, bfloat16 or float16")
    _request_options(top)
    return top


def _request_options(top: Parser) -> None:
    """One option a field of Options, so that none is forgotten."""
    text = top.add_argument_group("the texts")
    default = Options()
    for spec in dataclasses.fields(Options):
        if spec.name in _CONTEST:
            continue
        value, flag = getattr(default, spec.name), spec.name.replace("_", "-")
        said = _HELP.get(spec.name, "as for bild generate")
        if isinstance(value, bool):
            text.add_argument(
                f"--no-{flag}" if value else f"--{flag}", dest=spec.name, default=None, help=said,
                action="store_false" if value else "store_true",
            )  # fmt: skip
        elif isinstance(value, int | float):
            said = f"{said} ({value:g})"
            text.add_argument(f"--{flag}", type=type(value), metavar="N", help=said)
        else:
            text.add_argument(f"--{flag}", metavar="NAME", help=said)


def planned(argv: Sequence[str]) -> Plan:
    """What a command line asks for.

    Raises:
        ConfigError: something in it is wrong; names it and what is known.
        InvalidRequest: an option of a request is out of its range.
    """
    asked = vars(parser().parse_args(argv))
    settings = {name: value for name, value in asked.items() if name not in _OWN}
    paced = asked["paced"]
    if paced is not None:
        settings |= _toys(paced, asked)
    config, _ = settled(settings)
    if config.generate.stop or config.generate.deadline is not None:
        raise ConfigError(
            "generate.stop and generate.deadline cut texts short: leave them out here"
        )
    transports = [config.orchestrator.transport]
    if asked["transports"] is not None:
        transports = chosen("--transports", asked["transports"], TRANSPORTS)
    tasks = prompts.built_in() if asked["prompts"] is None else prompts.read(asked["prompts"])
    for name in ("rounds", "count"):
        if asked[name] is not None and asked[name] < 1:
            raise ConfigError(f"--{name} {asked[name]} must be at least 1")
    return Plan(
        field=tuple(
            lineup(
                modes=members("--modes", asked["modes"], Mode),
                schedules=members("--schedules", asked["schedules"], Schedule),
                transports=transports,
                peers=paced is None if asked["peers"] is None else asked["peers"],
            )
        ),
        config=config,
        tasks=tuple(tasks[: asked["count"]]),
        built_in=asked["prompts"] is None,
        rounds=asked["rounds"],
        output=asked["output"],
        paced=paced,
    )


def _toys(paced: str, asked: Mapping[str, Any]) -> dict[str, str]:
    """The two toys of `--paced`: milliseconds of a pass of each, and how they agree.

    Raises:
        ConfigError: an unknown key, no time for one of them, or models besides.
    """
    if asked["small"] or asked["large"] or asked["peers"]:
        raise ConfigError(
            "--paced takes toys instead of models: leave out --small, --large, --peers"
        )
    script = [spec.name for spec in dataclasses.fields(Script)]
    known = [*(role.value for role in Role), *script]
    given: dict[str, str] = {}
    for part in paced.split(","):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals or key not in known:
            raise ConfigError(f"--paced {part.strip()!r}: unknown{nearest(key, known)}")
        given[key] = value
    missing = [role.value for role in Role if role.value not in given]
    if missing:
        raise ConfigError(f"--paced needs a time for each model, such as {missing[0]}=5ms")
    shared = {"end": "0"} | {name: given[name] for name in script if name in given}
    toys = {
        role.value: f"toy:{role}?{urlencode({**shared, 'ms': given[role].removesuffix('ms')})}"
        for role in Role
    }
    for spec in toys.values():
        parse(spec)
    return toys
