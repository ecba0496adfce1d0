"""`bild`: parses the command line and hands over. Nothing heavy is imported before a command
runs.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

from bild_dist import __version__, log
from bild_dist.config import Config, OrchestratorConfig, WorkerConfig, configured, settled, shipped
from bild_dist.errors import BildError, ConfigError, InvalidRequest
from bild_dist.orchestrator.http import command as serving
from bild_dist.types import (
    Confidence,
    Distance,
    Mode,
    Options,
    Policy,
    Role,
    Schedule,
    nearest,
)

if TYPE_CHECKING:
    from bild_dist.orchestrator.decoder import Decoder
    from bild_dist.orchestrator.session import Record

InProcess: TypeAlias = Callable[[Config, "Record | None"], AbstractAsyncContextManager["Decoder"]]

PLANNED: Final = frozenset(
    [
        "--on-small-loss",
    ]
)
"""Names that are settled for later versions; using one says so instead of guessing at a typo."""

_OWN: Final = frozenset(
    ("command", "prompt", "input", "output", "json", "timeline", "host", "port", "texts", "set")
)
"""What the command line knows and a configuration does not."""
_COMMANDS: Final = {
    "generate": "write texts with a small and a large model",
    "worker": "run one model as a worker process",
    "launch": "start and watch the workers of a configuration",
    "serve": "offer the pair over HTTP, as OpenAI's clients expect it",
    "consume": "take jobs from a message broker and publish their texts",
    "submit": "put a file of jobs on a queue and collect the results",
    "bench": "measure speed against other ways to run the same models",
    "plan": "predict the speed of a pair of models for given or measured costs, and advise",
    "align": "teach a small model to agree with a large one",
    "sweep": "try many settings of a pair on a task: quality against time",
    "tune": "find the fastest setting whose quality stays above a floor",
    "eval": "measure quality and latency of a setting on a task",
    "report": "tables and figures of measured runs, as one page and one text",
    "top": "watch running services: workers, requests, tokens, queue",
    "check": "say what works on this machine and what does not",
}


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations, with the nearest name for a misspelt option. What begins as a negative
    number does (`-1,2`) is a value, so that whoever checks the option says what is wrong with it.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)
        self._negative_number_matcher = re.compile(r"-(\.?\d|inf\b)")

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2].split()
        names = [word.partition("=")[0] for word in unknown if word.startswith("--")]
        if names and names[0] in PLANNED:
            message = f"{names[0]} is planned, but not in version {__version__}"
        elif names:
            known = [option for option in self._option_string_actions if option.startswith("--")]
            message = f"unknown option {names[0]}{nearest(names[0], known)}"
        super().error(message)


def parser() -> Parser:
    """All commands and their options."""
    top = Parser(
        prog="bild",
        description="Two-model text generation: a small model writes, a large one checks.",
    )
    top.add_argument("--version", action="version", version=f"bild-dist {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, help_text in _COMMANDS.items():
        command = commands.add_parser(
            name, help=help_text, description=f"bild {name}: {help_text}."
        )
        if name == "generate":
            _generate_options(command)
        elif name == "launch":
            command.add_argument("-c", "--config", metavar="FILE.toml", required=True)
        elif name == "serve":
            pair_options(command)
            serving.options(command)
        elif name == "top":
            top_options(command)
        elif name == "check":
            pair_options(command)
    return top


def main(argv: Sequence[str], inproc: InProcess) -> int:
    """Exit code: 0 all done, 1 some failed, 2 bad usage or configuration, 130 interrupted.

    `inproc` makes a decoder whose workers live in this process; only the composition root can.
    """
    arguments = _parse(argv)
    try:
        log.configure()
        return _run(arguments, inproc)
    except BildError as error:
        print(f"bild {arguments.command}: {error}", file=sys.stderr)  # noqa: T201
        return 2 if isinstance(error, ConfigError | InvalidRequest) else 1
    except KeyboardInterrupt:
        return 130


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    top = parser()
    arguments, unknown = top.parse_known_args(argv)
    if unknown:
        commands = next(a for a in top._actions if isinstance(a, argparse._SubParsersAction))
        commands.choices[arguments.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    return arguments


def _run(arguments: argparse.Namespace, inproc: InProcess) -> int:
    if arguments.command == "launch":
        from bild_dist.orchestrator import launch

        return launch.main(configured(arguments.config))
    if arguments.command == "top":
        from bild_dist.orchestrator.top import command

        return command.main(arguments.pages, arguments.every, once=arguments.once)
    settings = {k: v for k, v in vars(arguments).items() if k not in _OWN}
    config, addresses = settled(settings)
    if arguments.command == "serve":
        return serving.main(serving.configured(config, vars(arguments)), addresses, inproc)
    if arguments.command == "check":
        from bild_dist.orchestrator import check

        return check.main(config, addresses)
    from bild_dist.orchestrator import generate

    return generate.main(generate.Job.from_arguments(arguments), config, addresses, inproc)


def top_options(command: argparse.ArgumentParser) -> None:
    """What `bild top` watches."""
    command.add_argument(
        "pages", nargs="+", metavar="ADDRESS",
        help="where metrics are served: bild serve, consume, launch or a worker (http://127.0.0.1:8000)",
    )  # fmt: skip
    command.add_argument("--every", type=float, default=2.0, metavar="SECONDS", help="(default: 2)")
    command.add_argument("--once", action="store_true", help="print one picture and end")


def model_options(command: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Which models, and what each runs on. Defaults stand in `config.py`, so that a file can give
    them too. Returns the group, for more of the kind.
    """
    models = command.add_argument_group("models")
    models.add_argument(
        "--pair", metavar="NAME", help=f"a shipped pair: {', '.join(shipped())} (default: default)"
    )
    for role in Role:
        models.add_argument(
            f"--{role}", metavar="MODEL", help="hub id, folder or GGUF (default: own pair)"
        )
    models.add_argument(
        "--exit-layer",
        type=int,
        metavar="K",
        help="small = its first K layers, those of the large one where no small one is named",
    )
    models.add_argument(
        "--tokenizer", metavar="FOLDER", help="tokenizer of both, if not with the model"
    )
    for prefix, of in (
        ("", "both models"),
        ("small-", "the small one"),
        ("large-", "the large one"),
    ):
        models.add_argument(f"--{prefix}device", metavar="DEVICE", help=f"cpu or cuda:N of {of}")
        models.add_argument(
            f"--{prefix}threads", type=int, metavar="N", help=f"CPU threads of {of}"
        )
    command.add_argument("-c", "--config", metavar="FILE.toml", help="configuration file")
    return models


def pair_options(command: argparse.ArgumentParser) -> None:
    """The models of a pair, and how to reach them."""
    models = model_options(command)
    worker, house = WorkerConfig(), OrchestratorConfig()
    for role in Role:
        models.add_argument(f"--{role}-worker", metavar="ADDRESS", help="join a running worker")
    models.add_argument("--dtype", choices=("float32", "bfloat16", "float16"),
                        help=f"(default: {worker.dtype})")  # fmt: skip
    models.add_argument("--transport", choices=("inproc", "grpc", "zmq"),
                        help=f"between the processes (default: {house.transport})")  # fmt: skip


def _generate_options(command: argparse.ArgumentParser) -> None:
    default = Options()
    command.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="text, or - for standard input"
    )
    files = command.add_argument_group("files")
    files.add_argument("--input", metavar="FILE.jsonl",
                       help='one {"id", "prompt" | "messages" | "prompt_tokens", ...options} a line')  # fmt: skip
    files.add_argument(
        "--output", metavar="FILE.jsonl", help="one result a line (default: standard output)"
    )
    files.add_argument("--json", action="store_true", help="print a JSON object instead of text")
    files.add_argument("--timeline", metavar="FILE.html",
                       help="draw who ran when; a trace for Perfetto beside it, FILE.json")  # fmt: skip
    files.add_argument("--concurrency", type=int, metavar="N", help="requests under way at once")
    pair_options(command)
    text = command.add_argument_group("the text")
    text.add_argument("--mode", choices=[m.value for m in Mode], help=f"(default: {default.mode})")
    text.add_argument("--alpha-fb", type=float, metavar="P",
                      help=f"the large model writes where the small one is less sure ({default.alpha_fb})")  # fmt: skip
    text.add_argument("--alpha-rb", type=float, metavar="D",
                      help="and replaces what lies further from it than D, nats unless --distance "
                      f"is tv or l2 ({default.alpha_rb})")  # fmt: skip
    text.add_argument("--window", type=int, metavar="N",
                      help=f"most small tokens in a row ({default.window})")  # fmt: skip
    text.add_argument("--policy", choices=[p.value for p in Policy],
                      help="rejection: speculative sampling, lossless, without thresholds")  # fmt: skip
    text.add_argument("--confidence", choices=[c.value for c in Confidence],
                      help=f"what alpha-fb is compared with ({default.confidence})")  # fmt: skip
    text.add_argument("--distance", choices=[d.value for d in Distance],
                      help=f"what alpha-rb is compared with ({default.distance})")  # fmt: skip
    text.add_argument("--adapt", type=float, metavar="SHARE",
                      help="let alpha-fb follow the text, so that this share falls below it")  # fmt: skip
    text.add_argument("--no-verify-tail", dest="verify_tail", action="store_false", default=None,
                      help="do not check the last run (Algorithm 1 as printed)")  # fmt: skip
    text.add_argument(
        "--first", choices=[r.value for r in Role], help="who may write the first token"
    )
    text.add_argument(
        "--schedule",
        choices=[s.value for s in Schedule],
        help="when the large model runs; the text is the same (default: overlap where each model "
        "has a device, else through)",
    )
    text.add_argument("--branches", type=int, metavar="M",
                      help=f"guesses to follow during a check, schedule overlap ({default.branches})")  # fmt: skip
    text.add_argument("--temperature", type=float, metavar="T",
                      help=f"draw from p^(1/T); 0 takes the most likely ({default.temperature:g})")  # fmt: skip
    text.add_argument("--top-k", type=int, metavar="K", help="draw from the K most likely only")
    text.add_argument("--top-p", type=float, metavar="P",
                      help="draw from the fewest tokens that hold a share of P")  # fmt: skip
    text.add_argument("--seed", type=int, metavar="N",
                      help=f"of what is drawn: same seed, same text ({default.seed})")  # fmt: skip
    text.add_argument("--max-new-tokens", type=int, metavar="N", help=f"({default.max_new_tokens})")
    text.add_argument(
        "--stop", action="append", metavar="TEXT", help="end at this text; repeatable"
    )
    text.add_argument("--deadline", type=float, metavar="SECONDS", help="give up after this long")
    text.add_argument(
        "--truncate", action="store_true", default=None, help="cut a prompt that is too long"
    )
    text.add_argument("--no-chat-template", dest="chat_template", action="store_false", default=None,
                      help="give an instruct model the bare prompt")  # fmt: skip
    text.add_argument("--logprobs", type=int, metavar="N",
                      help="tell ln p of each token, and of the N likeliest there, in the JSON")  # fmt: skip
    text.add_argument("--src-lang", metavar="CODE", help="source language (NLLB, M2M100, mBART)")
    text.add_argument("--tgt-lang", metavar="CODE", help="target language")
