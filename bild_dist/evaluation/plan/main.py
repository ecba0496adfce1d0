"""`bild plan`: from given, measured or recorded costs to predicted speeds and advice."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from rich.console import Console

from bild_dist import log
from bild_dist.errors import BildError, ConfigError, InvalidRequest
from bild_dist.evaluation.plan import gauge, sheet
from bild_dist.evaluation.plan.advice import advice
from bild_dist.evaluation.plan.known import Known, assumed, given
from bild_dist.evaluation.plan.observed import Observed, read
from bild_dist.evaluation.plan.options import SHARES, TRANSPORTS, TRIPS_MS, Asked, asked
from bild_dist.evaluation.plan.predict import Pair, Placement, Predictor, Row
from bild_dist.evaluation.plan.study import rows_of, study
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.orchestrator.opening import connected, launched
from bild_dist.types import Mode, Role

if TYPE_CHECKING:
    from bild_dist.orchestrator.cli import InProcess

USUAL_MS: Final = {"zmq": 0.3, "grpc": 0.4}
"""Round trips between two processes of one idle host, where nobody measures them. A busy host takes
several times as long."""
USUAL: Final = {"f": 0.2, "q": 0.3, "rho": 0.03, "mild": 0.05}
"""Rates, where nobody knows them. The design's pair, but for q, which is on the careful side."""
_LENGTH: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was measured or read before anything is predicted."""

    timed: Mapping[Role, gauge.Timed] = field(default_factory=dict)
    trips: Mapping[str, Known] = field(default_factory=dict)
    """Round trips by transport."""
    observed: Observed | None = None


def main(argv: Sequence[str], inproc: InProcess) -> int:
    """Exit code: 0 planned, 1 a pair that was to be measured failed, 2 bad usage or configuration,
    130 interrupted.
    """
    try:
        log.configure()
        return _main(asked(argv), inproc)
    except BildError as error:
        print(f"bild plan: {error}", file=sys.stderr)  # noqa: T201
        return 2 if isinstance(error, ConfigError | InvalidRequest) else 1
    except KeyboardInterrupt:
        return 130


def _main(ask: Asked, inproc: InProcess) -> int:
    err = Console(file=sys.stderr, highlight=False, markup=False, emoji=False)
    with err.status("reading") as status:
        say = status.update if err.is_terminal else _silence
        seen = asyncio.run(_see(ask, inproc, say))
        pair, observed = pair_of(ask, seen), seen.observed
        rows = rows_of(pair, ask.mode)
        if len(rows) == 1:
            raise ConfigError(
                f"these texts say nothing about mode {ask.mode}: write some in it, or give --f, --q "
                "and --rho"
            )
        window, length = ask.options.window, ask.length
        if observed is not None and ask.files:
            length = length or max(2, min(round(observed.length), 4096))
            window = window if ask.window_given else observed.window or window
        predictor = Predictor(
            pair, replace(ask.options, window=window), length=length or _LENGTH,
            concurrency=ask.concurrency, tokens=ask.tokens, tick=lambda: say("simulating"),
        )  # fmt: skip
        trips = _trips(seen)
        findings = study(predictor, pair, _placements(trips, ask.trips), rows, window)
    sentences, numbers = advice(findings), _numbers(pair, rows, seen, trips)
    complaints = observed.complaints if observed is not None else ()
    if not ask.json:
        sheet.show(findings, numbers, sentences, complaints)
        return 0
    shown = {
        "numbers": {name: known.as_dict() for name, known in numbers.items()},
        "length": length or _LENGTH, "concurrency": ask.concurrency, "tokens": ask.tokens,
        **findings.as_dict(), "advice": sentences, "left_out": list(complaints),
    }  # fmt: skip
    print(json.dumps(shown, ensure_ascii=False))  # noqa: T201
    return 0


def _silence(line: str) -> None:
    """Nobody is there to read it."""


async def _see(ask: Asked, inproc: InProcess, say: Callable[[str], None]) -> Seen:
    """Reads the trace and measures what is asked for.

    Raises:
        BildError: a file or a pair cannot be used.
    """
    observed = read(ask.files) if ask.files else None
    trips = {}
    for transport in ask.gauged:
        say(f"measuring {transport}")
        trips[transport] = await gauge.round_trip(transport)
    if not ask.measure:
        return Seen(trips=trips, observed=observed)
    opening: AbstractAsyncContextManager[Decoder]
    if ask.addresses:
        opening = connected(ask.config, ask.addresses)
    elif ask.config.orchestrator.transport == "inproc":
        opening = inproc(ask.config, None)
    else:
        opening = launched(ask.config)
    say("starting the workers")
    async with opening as decoder:
        say("timing passes")
        timed = await gauge.passes(decoder)
        if observed is None and not {"f", "q", "rho"} <= set(ask.shares):
            modes = [ask.mode] if ask.mode else [Mode.BILD, Mode.EXACT]
            observed = await gauge.agreement(decoder, modes, say)
    transport = ask.config.orchestrator.transport
    if transport in TRANSPORTS and not ask.addresses and transport not in trips:
        small, large = timed[Role.SMALL].trip_ms, timed[Role.LARGE].trip_ms
        trips[transport] = replace(large, value=(small.value + large.value) / 2)
    return Seen(timed=timed, trips=trips, observed=observed)


def pair_of(ask: Asked, seen: Seen) -> Pair:
    """What is known of the pair: what was said, else what was measured, else what was recorded.

    Raises:
        ConfigError: a time is known from nowhere.
    """
    observed, times = seen.observed or Observed(), {}
    for role in Role:
        timed = seen.timed.get(role)
        recorded = observed.small_ms if role is Role.SMALL else observed.large_ms
        base = timed.base_ms if timed is not None else recorded
        slope = timed.token_ms if timed is not None else None
        if timed is None and role is Role.LARGE:
            slope = observed.large_token_ms
        name = f"{role}_ms"
        if name in ask.times:
            # A measured slope belongs to the measured base.
            base, slope = given(ask.times[name]), None
        if f"{role}_token_ms" in ask.times:
            slope = given(ask.times[f"{role}_token_ms"])
        why = "any length takes the same"
        if role is Role.LARGE and base is observed.large_ms:
            why = "a single step takes as long as a check; texts of mode large too would tell"
        token = slope or assumed(0.0, why)
        if base is None:
            raise ConfigError(
                f"no {role} passes in {' '.join(ask.files)}: give --{role}-ms, or write texts with "
                "bild generate --mode bild"
            )
        if base.value + token.value <= 0:
            raise ConfigError(f"a pass of the {role} model took no time: give --{role}-ms")
        times[name], times[f"{role}_token_ms"] = base, token
    rates = {name: given(share) for name, share in ask.shares.items()}
    recorded_rates = {name: getattr(observed, name) for name in ("f", "q", "rho")}
    only_exact = observed.agreement is not None and observed.f is None and not rates
    for name in SHARES:
        found = recorded_rates.get(name)
        if name not in rates and found is not None:
            rates[name] = found
        elif name not in rates and (name == "mild" or not only_exact):
            rates[name] = assumed(USUAL[name], "nothing tells")
    agreement = None if ask.shares else observed.agreement
    return Pair(**times, **rates, agreement=agreement)


def _trips(seen: Seen) -> dict[str, Known]:
    """Round trips between processes of one host, by name."""
    trips = {name: assumed(ms, "usual on one host") for name, ms in USUAL_MS.items()}
    trips.update(seen.trips)
    if seen.observed is not None and seen.observed.trip_ms is not None and not seen.timed:
        trips["recorded"] = seen.observed.trip_ms
    return trips


def _placements(trips: Mapping[str, Known], further: Sequence[float]) -> list[Placement]:
    """One shared device first, then two devices on one host, then two hosts by distance."""
    near = trips["zmq"].value
    shared = Placement(name="one device", small_trip_ms=near, large_trip_ms=near, devices=1)
    one_host = [
        Placement(name=f"two devices, {name}", small_trip_ms=known.value, large_trip_ms=known.value)
        for name, known in trips.items()
    ]
    two_hosts = [
        Placement(name=f"two hosts, {ms:g} ms", small_trip_ms=near, large_trip_ms=ms, hosts=2)
        for ms in sorted({*TRIPS_MS, *further})
    ]
    return [shared, *one_host, *two_hosts]


def _numbers(
    pair: Pair, rows: Sequence[Row], seen: Seen, trips: Mapping[str, Known]
) -> dict[str, Known]:
    """What the plan rests on, by name."""
    modes = {row.mode for row in rows}
    derived = Mode.EXACT in modes and pair.agreement is None
    found = {
        "small_ms": pair.small_ms, "small_token_ms": pair.small_token_ms,
        "large_ms": pair.large_ms, "large_token_ms": pair.large_token_ms,
        **({"f": pair.f, "q": pair.q, "rho": pair.rho} if Mode.BILD in modes or derived else {}),
        "mild": pair.mild if derived else None,
        "agreement": pair.agreement if Mode.EXACT in modes else None,
        **{f"round_trip_{name}_ms": known for name, known in trips.items()},
        "tokens_per_s": seen.observed.tokens_per_s if seen.observed else None,
    }  # fmt: skip
    return {name: known for name, known in found.items() if known is not None}
