"""The command line of `bild plan`: what is said, checked before anything starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from bild_dist.config import Config, settled
from bild_dist.errors import ConfigError
from bild_dist.evaluation.plan.predict import TOKENS
from bild_dist.orchestrator.cli import Parser, pair_options
from bild_dist.types import Mode, Options, Role

TRANSPORTS: Final = ("zmq", "grpc")
TRIPS_MS: Final = (0.5, 2.0, 10.0, 50.0)
"""Round trips between two hosts that are always shown."""
SHARES: Final = ("f", "q", "rho", "mild")

_PAIR: Final = (
    "pair", "small", "large", "small_worker", "large_worker", "exit_layer", "tokenizer", "dtype", "device",
    "small_device", "large_device", "threads", "small_threads", "large_threads", "transport",
    "config",
)  # fmt: skip
_THRESHOLDS: Final = ("alpha_fb", "alpha_rb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a command line says. `times` in milliseconds and `shares` by name, where given; `trips`
    are further round trips between two hosts, milliseconds, `gauged` the transports to measure.
    `options` are those of a request, `mode` None stands for `bild` and `exact`.
    """

    times: Mapping[str, float]
    shares: Mapping[str, float]
    files: tuple[str, ...]
    measure: bool
    config: Config
    addresses: Mapping[Role, str]
    trips: tuple[float, ...]
    gauged: tuple[str, ...]
    options: Options
    window_given: bool
    mode: Mode | None
    length: int | None
    concurrency: int
    tokens: int
    json: bool


def parser() -> Parser:
    """All options."""
    top = Parser(
        prog="bild plan",
        description="bild plan: predict the speed of a pair of models for given or measured costs, "
        "on each schedule and placement, and say what to do.",
    )
    costs = top.add_argument_group("costs (given ones go before measured ones)")
    for role in Role:
        costs.add_argument(f"--{role}-ms", type=float, metavar="MS",
                           help=f"a pass of the {role} model")  # fmt: skip
        costs.add_argument(f"--{role}-token-ms", type=float, metavar="MS",
                           help="and for each token of it (0)")  # fmt: skip
    costs.add_argument("--measure", action="store_true",
                       help="start the pair and measure its passes, round trips and rates")  # fmt: skip
    costs.add_argument("--from-trace", nargs="+", metavar="FILE.jsonl", default=(),
                       help="take costs and rates from the output of bild generate")  # fmt: skip
    costs.add_argument("--round-trip", nargs="+", metavar="zmq|grpc|MS", default=(),
                       help="measure a transport on this machine; show two hosts so far apart")  # fmt: skip
    rates = top.add_argument_group("rates, from 0 to 1")
    rates.add_argument(
        "--f", type=float, metavar="P", help="positions where the small model is unsure"
    )
    rates.add_argument("--q", type=float, metavar="P", help="of these: it is right nevertheless")
    rates.add_argument("--rho", type=float, metavar="P", help="of the others: it is overruled")
    rates.add_argument("--mild", type=float, metavar="P",
                       help="of the others: the two differ, but it stands (for mode exact; 0.05)")  # fmt: skip
    what = top.add_argument_group("what is written")
    what.add_argument("--mode", choices=[m.value for m in Mode], help="bild or exact (both)")
    what.add_argument("--window", type=int, metavar="N",
                      help=f"most small tokens in a row ({Options().window})")  # fmt: skip
    what.add_argument("--alpha-fb", type=float, metavar="P", help="threshold, for --measure")
    what.add_argument("--alpha-rb", type=float, metavar="D", help="threshold, for --measure")
    what.add_argument("--length", type=int, metavar="N",
                      help="tokens of a text (128, or as in the trace)")  # fmt: skip
    what.add_argument("--concurrency", type=int, metavar="N", help="texts at once (1)")
    top.add_argument("--tokens", type=int, default=TOKENS, metavar="N",
                     help=f"tokens to simulate for each number ({TOKENS}: good to about 2 %%)")  # fmt: skip
    top.add_argument("--json", action="store_true", help="print all of it as a JSON object")
    pair_options(top)
    return top


def asked(argv: Sequence[str]) -> Asked:
    """What a command line says.

    Raises:
        ConfigError: it contradicts itself, or a value is out of its range; names it and the remedy.
        InvalidRequest: an option of a request is out of its range.
    """
    words = vars(parser().parse_args(argv))
    _consistent(words)
    times = {
        f"{role}{kind}_ms": words[f"{role}{kind}_ms"] for role in Role for kind in ("", "_token")
    }
    times = {name: value for name, value in times.items() if value is not None}
    for name, value in times.items():
        least = "at least 0" if "token" in name else "above 0"
        _range(name, value, 0 <= value < math.inf and (value > 0 or "token" in name),
               f"a number of milliseconds {least}")  # fmt: skip
    shares = {name: words[name] for name in SHARES if words[name] is not None}
    for name, value in shares.items():
        _range(name, value, 0 <= value <= 1, "a share from 0 to 1")
    if shares.get("rho", 0.0) + shares.get("mild", 0.0) > 1:
        raise ConfigError("--rho and --mild are shares of the same positions: at most 1 together")
    if words["mode"] in (Mode.LARGE, Mode.SMALL):
        raise ConfigError(f"--mode {words['mode']} has nothing to plan: ask for bild or exact")
    for name, lowest, highest in (
        ("length", 2, 4096),
        ("concurrency", 1, 64),
        ("tokens", 64, 1 << 20),
    ):
        if words[name] is not None:
            ok = lowest <= words[name] <= highest
            _range(name, words[name], ok, f"from {lowest} to {highest}")
    names = (*_PAIR, "window", *_THRESHOLDS)
    config, addresses = settled({name: words[name] for name in names})
    trips, gauged = _round_trips(words["round_trip"])
    return Asked(
        times=times, shares=shares, files=tuple(words["from_trace"]), measure=words["measure"],
        config=config, addresses=addresses, trips=trips, gauged=gauged,
        options=replace(config.generate, branches=1, verify_tail=True, deadline=None),
        window_given=words["window"] is not None or words["config"] is not None,
        mode=Mode(words["mode"]) if words["mode"] else None, length=words["length"],
        concurrency=words["concurrency"] or 1, tokens=words["tokens"], json=words["json"],
    )  # fmt: skip


def _consistent(words: Mapping[str, Any]) -> None:
    if words["measure"]:
        return
    for name in (*_PAIR, *_THRESHOLDS):
        if words[name] is not None:
            flag = f"--{name.replace('_', '-')}"
            why = (
                "sets what a pair does when it is measured; given rates and those of a trace hold "
                "for the thresholds that they were counted at"
                if name in _THRESHOLDS
                else "says which pair to measure"
            )
            raise ConfigError(f"{flag} {why}: add --measure, or leave it out")
    given = [words[f"{role}_ms"] is not None for role in Role]
    if not all(given) and not words["from_trace"]:
        raise ConfigError(
            "nothing to plan with: give --small-ms and --large-ms, or --measure, or --from-trace "
            "FILE.jsonl (an output of bild generate)"
        )


def _round_trips(words: Sequence[str]) -> tuple[tuple[float, ...], tuple[str, ...]]:
    trips, gauged = [], []
    for word in words:
        if word in TRANSPORTS:
            gauged.append(word)
            continue
        try:
            ms = float(word.removesuffix("ms"))
        except ValueError:
            raise ConfigError(
                f"--round-trip {word}: write zmq, grpc or a number of milliseconds"
            ) from None
        _range("round_trip", ms, 0 <= ms < math.inf, "a number of milliseconds of at least 0")
        trips.append(ms)
    return tuple(trips), tuple(dict.fromkeys(gauged))


def _range(name: str, value: float, ok: bool, what: str) -> None:
    if not ok:
        raise ConfigError(f"--{name.replace('_', '-')} {value:g} must be {what}")
