"""The command line of `bild align`: what is asked for, checked before anything starts."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bild_dist.config import DEFAULT_LARGE
from bild_dist.errors import ConfigError, InvalidRequest
from bild_dist.evaluation.align.models import Source
from bild_dist.evaluation.align.outputs import Asked
from bild_dist.evaluation.align.training import Plan
from bild_dist.evaluation.corpora import named
from bild_dist.orchestrator.cli import Parser
from bild_dist.types import Options

_AT_LEAST_ONE: Final = ("max_new_tokens", "batch", "choices", "batch_tokens", "held_out")
_DTYPES: Final = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """What to align with what, on what, and how."""

    small: Source
    large: Source
    corpus: str
    out: Path
    limit: int
    held_out: int
    max_length: int
    writing: Asked
    training: Plan
    minutes: float
    joint: bool
    """Train the large model's own layers too, and write one model for both."""
    head: int
    """Ids of a short head, 0 for the whole vocabulary."""
    storage: str
    """What the weights are on disk."""
    replays: tuple[tuple[float, float], ...]
    """Thresholds, alpha_fb and alpha_rb, to write the held-out texts at when all is done."""
    threads: int
    src_lang: str
    tgt_lang: str

    @property
    def shared(self) -> bool:
        """Whether the small model is the first layers of the large one, beside its embedding and
        head.
        """
        return self.small.exit_layer > 0 and self.small.model == self.large.model and not self.joint

    def identity(self, fingerprints: Sequence[str]) -> dict[str, Any]:
        """What a run must have in common with the one that it goes on with."""
        return {
            **asdict(self.training),
            "choices": self.writing.choices,
            "head": self.head,
            "joint": self.joint,
            "models": list(fingerprints),
        }


def parser() -> Parser:
    """All options."""
    plan, writing = Plan(), Asked()
    top = Parser(
        prog="bild align",
        description="bild align: teach a small model to write what the large one writes, so that the two agree more "
        "often (Big Little Decoder, sections 3.5.1 and 4.4). Interrupted, the same command goes on.",
    )
    models = top.add_argument_group("models")
    models.add_argument(
        "--small",
        metavar="MODEL",
        help="hub id or folder (default: the large one, with --early-exit)",
    )
    models.add_argument("--large", metavar="MODEL", default=DEFAULT_LARGE,
                        help="hub id, folder or GGUF (default: own)")  # fmt: skip
    models.add_argument("--early-exit", type=int, default=0, metavar="K",
                        help="small = a copy of the first K (decoder) layers of the large one, beside its embedding "
                        "and head; the large one stays as it is")  # fmt: skip
    models.add_argument("--layers", default="", metavar="I,J,...",
                        help="with --early-exit K: the K layers to begin as, from 0 (default: the first). Some of both "
                        "ends learn faster: 0,1,28,29 of 30")  # fmt: skip
    models.add_argument("--joint", action="store_true",
                        help="with --early-exit: train the large one itself, on the mean of the exit's loss and its "
                        "own, and write one model for both")  # fmt: skip
    models.add_argument("--head", type=int, default=0, metavar="N",
                        help="with --early-exit: the small model writes only the N ids that the large one writes most "
                        "often; the large one writes the rest")  # fmt: skip
    models.add_argument("--storage", choices=("float32", "bfloat16", "int8"),
                        help="of the weights that are written (default: bfloat16 for what --early-exit writes without "
                        "--joint, else as --dtype); int8 is for drafts, float32 for whole models")  # fmt: skip
    texts = top.add_argument_group("calibration")
    texts.add_argument("--corpus", required=True, metavar="NAME|FILE.jsonl",
                       help=f'{", ".join(named.names())}, or a file with one {{"prompt" | "messages" | '
                       '"prompt_tokens"} a line')  # fmt: skip
    texts.add_argument(
        "--limit", type=int, default=0, metavar="N", help="prompts to learn from (default: all)"
    )
    texts.add_argument("--held-out", type=int, default=60, metavar="N",
                       help="prompts to measure agreement on, before and after (default: 60)")  # fmt: skip
    texts.add_argument("--max-new-tokens", type=int, default=writing.max_new_tokens, metavar="N",
                       help=f"tokens of a text (default: {writing.max_new_tokens})")  # fmt: skip
    texts.add_argument("--max-length", type=int, default=1024, metavar="N",
                       help="longest prompt and text together; longer prompts are skipped (default: 1024)")  # fmt: skip
    texts.add_argument("--replay", action="append", default=[], metavar="FB/RB",
                       help="then write the held-out texts at thresholds such as 0.5/2; repeatable")  # fmt: skip
    texts.add_argument("--batch", type=int, default=writing.batch, metavar="N",
                       help=f"texts that the large model writes at once (default: {writing.batch})")  # fmt: skip
    texts.add_argument("--choices", type=int, default=writing.choices, metavar="K",
                       help=f"best ids to keep of each of its distributions (default: {writing.choices})")  # fmt: skip
    texts.add_argument(
        "--src-lang", default="", metavar="CODE", help="source language (NLLB, M2M100, mBART)"
    )
    texts.add_argument("--tgt-lang", default="", metavar="CODE", help="target language")
    training = top.add_argument_group("training")
    training.add_argument(
        "--epochs", type=float, default=plan.epochs, metavar="N", help=f"(default: {plan.epochs:g})"
    )
    training.add_argument("--minutes", type=float, default=float("inf"), metavar="N",
                          help="stop after this long; the same command goes on")  # fmt: skip
    training.add_argument("--rate", type=float, default=plan.rate, metavar="R",
                          help=f"learning rate of Adafactor (default: {plan.rate:g})")  # fmt: skip
    training.add_argument("--schedule", choices=("constant", "decay"), default=plan.schedule,
                          help="of the learning rate (default: constant, as in the paper)")  # fmt: skip
    training.add_argument("--distil", type=float, default=0.5, metavar="SHARE",
                          help="share of the loss that compares distributions (default: 0.5; paper: 0)")  # fmt: skip
    training.add_argument("--batch-tokens", type=int, default=plan.tokens, metavar="N",
                          help=f"padded tokens of a step (default: {plan.tokens})")  # fmt: skip
    training.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the order (default: 0)"
    )
    house = top.add_argument_group("house")
    house.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="the aligned model, and its report.json",
    )
    house.add_argument(
        "--device", default="cpu", metavar="DEVICE", help="cpu or cuda:N (default: cpu)"
    )
    house.add_argument("--dtype", choices=_DTYPES, default="float32",
                       help="to compute in; weights that learn are float32 (default: float32)")  # fmt: skip
    house.add_argument(
        "--threads", type=int, default=0, metavar="N", help="CPU threads (default: one a core)"
    )
    house.add_argument("--ignore-generation", default="", metavar="FIELDS",
                       help="fields of the models' generation configs to leave out, with commas")  # fmt: skip
    house.add_argument(
        "--trust-remote-code", action="store_true", help="run code that comes with a checkpoint"
    )
    return top


def asked(argv: Sequence[str]) -> Alignment:
    """What a command line asks for.

    Raises:
        ConfigError: something in it is wrong; names it and the remedy.
    """
    given: argparse.Namespace = parser().parse_args(argv)
    _check(given)
    common = {
        "dtype": given.dtype,
        "device": given.device,
        "trust_remote_code": given.trust_remote_code,
        "ignored": tuple(name for name in given.ignore_generation.split(",") if name),
    }
    large = Source(model=given.large, **common)
    copied = given.early_exit > 0 and not given.joint
    small = Source(
        model=given.small or given.large, exit_layer=given.early_exit if copied else 0,
        layers=_layers(given.layers), **common,
    )  # fmt: skip
    return Alignment(
        small=small, large=large, corpus=given.corpus, out=given.out, limit=given.limit,
        held_out=given.held_out, max_length=given.max_length,
        writing=Asked(max_new_tokens=given.max_new_tokens, batch=given.batch, choices=given.choices),
        training=Plan(
            epochs=given.epochs, rate=given.rate, schedule=given.schedule, tokens=given.batch_tokens,
            seed=given.seed, distil=given.distil, exit_layer=given.early_exit if given.joint else 0,
        ),
        minutes=given.minutes, joint=given.joint, head=given.head,
        storage=given.storage or ("bfloat16" if copied else given.dtype),
        replays=tuple(_thresholds(text) for text in given.replay),
        threads=given.threads, src_lang=given.src_lang, tgt_lang=given.tgt_lang,
    )  # fmt: skip


def _layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(",")) if text else ()
    except ValueError:
        raise ConfigError(
            f"--layers {text}: give numbers of layers with commas, such as 0,1,28,29"
        ) from None


def _thresholds(text: str) -> tuple[float, float]:
    try:
        alpha_fb, alpha_rb = (float(part) for part in text.split("/"))
        Options(alpha_fb=alpha_fb, alpha_rb=alpha_rb)
    except (ValueError, InvalidRequest):
        raise ConfigError(
            f"--replay {text}: give two thresholds, alpha_fb/alpha_rb, such as 0.5/2"
        ) from None
    return alpha_fb, alpha_rb


def _check(given: argparse.Namespace) -> None:
    for name in _AT_LEAST_ONE:
        if getattr(given, name) < 1:
            raise ConfigError(f"{_flag(name)} {getattr(given, name)} must be at least 1")
    for name in ("limit", "early_exit", "head", "threads"):
        if getattr(given, name) < 0:
            raise ConfigError(f"{_flag(name)} {getattr(given, name)} must not be negative")
    for name in ("epochs", "rate", "minutes"):
        if not getattr(given, name) > 0:
            raise ConfigError(f"{_flag(name)} {getattr(given, name):g} must be above 0")
    said = next((line for wrong, line in _wrong(given) if wrong), None)
    if said is not None:
        raise ConfigError(said)


def _wrong(given: argparse.Namespace) -> Iterator[tuple[bool, str]]:
    """What cannot be done, and what to do instead."""
    early = given.early_exit > 0
    yield not 0 <= given.distil <= 1, f"--distil {given.distil:g} is a share, from 0 to 1"
    yield (
        given.max_length <= given.max_new_tokens,
        "--max-length must leave room for a prompt beside --max-new-tokens",
    )
    yield (
        re.fullmatch(r"cpu|cuda(:\d+)?", given.device) is None,
        f"--device {given.device!r} must be cpu, cuda or cuda:N",
    )
    yield (
        given.small is None and not early,
        "name the model that shall learn: --small MODEL, or --early-exit K for a copy of the large one's first layers",
    )
    yield (
        early and given.small not in (None, given.large),
        "--early-exit makes the small model out of the large one: leave out --small",
    )
    begin = _layers(given.layers)
    yield (
        begin != () and (given.joint or len(begin) != given.early_exit),
        "--layers goes with --early-exit K, without --joint, and names K layers",
    )
    yield (given.joint or given.head > 0) and not early, "--joint and --head go with --early-exit K"
    yield (
        given.storage == "int8" and (given.joint or not early),
        "--storage int8 is for what --early-exit K writes: leave it out",
    )
    yield (
        given.joint and given.head > 0,
        "--joint trains the whole model, with the whole head: leave out --head",
    )
    yield (
        given.out.exists() and not given.out.is_dir(),
        f"--out {given.out} is a file: name a folder",
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
