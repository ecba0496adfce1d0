"""What the recorded texts say of the times that predictions are made of.

Every time of a sweep that was not measured is passes times what a pass takes, plus what a text takes
besides. The large model alone is predicted the same way, since all others are divided by it: two times
taken at two moments of a busy machine say nothing about each other. What was measured is kept as a
check on what was timed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from statistics import median
from typing import Any, Final

from bild_dist.evaluation.run.record import TextRecord
from bild_dist.evaluation.sweep.replay import Played
from bild_dist.simulator import Costs
from bild_dist.types import Mode, Role

ALONE: Final = {Mode.LARGE: Role.LARGE, Mode.SMALL: Role.SMALL}
"""Modes in which one model writes, and which."""
PRICES: Final = ("", "_token", "_trip", "_opening", "_pass")
"""Of each model there is `ROLE_ns` and so on: what a pass takes and each of its tokens, a round trip, what a text
takes besides, and what a pass took in the recorded texts.
"""
FACTOR: Final = 1.5
"""By what times taken at two moments must differ to be called those of a busy machine. On a quiet one
passes of recorded texts were up to a quarter longer than those that were timed, which have little
behind them (the pairs de-en and default, two cores); beside a program that computes, up to 2.6 times.
"""


def counted(text: TextRecord) -> Played:
    """The passes and the time of a text that was written."""
    trace = text.trace
    return Played(
        tokens=len(text.tokens), small_passes=trace["small_passes"],
        large_passes=trace["large_passes"], fallbacks=trace["fallbacks"],
        rollbacks=trace["rollbacks"], windows=trace["windows"], wall_ns=text.wall_ns,
    )  # fmt: skip


def predicted(
    texts: Sequence[TextRecord], role: Role, times: Mapping[str, Any]
) -> tuple[Played, ...]:
    """Texts that one model wrote alone, each at the price of its passes. `times`: as `Study.costs` has them."""
    each, besides = _one(role, times), times[f"{role}_opening_ns"]
    return tuple(
        counted(text)._replace(wall_ns=_passes(text, role) * each + besides) for text in texts
    )


def paces(times: Mapping[str, Any], texts: Mapping[Role, Sequence[TextRecord]]) -> dict[str, int]:
    """Of each model that wrote alone: `ROLE_opening_ns`, what a text takes besides its passes, and
    `ROLE_pass_ns`, what a pass took in these texts, 0 where none has a second one.

    `times`: fields of `Costs`. Medians: one text that another program held up says nothing about the others.
    """
    found: dict[str, int] = {}
    for role, written in texts.items():
        # Each token is told as soon as it is there, so behind the first one there are passes and nothing else.
        later = [
            (text.wall_ns - text.first_token_ns) / (_passes(text, role) - 1)
            for text in written
            if _passes(text, role) > 1 and text.first_token_ns > 0
        ]
        found[f"{role}_pass_ns"] = round(median(later)) if later else 0
    steady = not unlike({**times, **found})
    for role, written in texts.items():
        gaps = [text.wall_ns - _passes(text, role) * _one(role, times) for text in written]
        found[f"{role}_opening_ns"] = max(0, besides(gaps, written, steady=steady))
    return found


def recorded(
    times: Mapping[str, Any], texts: Sequence[TextRecord], own: Sequence[Played]
) -> dict[str, int]:
    """Of the recorded setting: `opening_ns` and `residual_ns`, what settings of both models take besides; and
    `middle_ns`, what a text took, beside `middle_played_ns`, what its passes and all that may be before the first
    token take.

    `times`: with those of `paces`; `own`: its texts, as they are played.
    """
    gaps = [text.wall_ns - played.wall_ns for text, played in zip(texts, own, strict=True)]
    known = round(median(played.wall_ns for played in own))
    found = {
        "middle_ns": round(median(text.wall_ns for text in texts)),
        "middle_played_ns": known + max(0, besides(gaps, texts, steady=False)),
    }
    residual = besides(gaps, texts, steady=not doubts({**times, **found}))
    return {**found, "residual_ns": residual, "opening_ns": max(0, residual)}


def besides(gaps: Sequence[int], texts: Sequence[TextRecord], *, steady: bool) -> int:
    """What a text takes beside its passes: encoding, prefill and the orchestrator. Below 0 where passes were
    faster than when they were timed.

    `gaps`: of each text, by what it took longer than its passes. Where the machine was not `steady` that
    holds slower passes too, and all that is known is that it is over before the first token is there.
    """
    found = median(gaps)
    if not steady:
        found = min(found, median(text.first_token_ns for text in texts))
    return round(found)


def unlike(times: Mapping[str, Any]) -> list[Role]:
    """The models whose passes took another time in the recorded texts than when they were timed."""
    return [role for role in Role if _differ(times, role)]


def doubts(times: Mapping[str, Any]) -> list[str]:
    """Why no prediction of these times can be trusted, in words; nothing where they fit together."""
    found = [
        f"a pass of the {role} model took {_ms(times[f'{role}_pass_ns'])} in the recorded texts and "
        f"{_ms(_one(role, times))} when passes were timed"
        for role in unlike(times)
    ]
    ran, played = times.get("middle_ns", 0), times.get("middle_played_ns", 0)
    if not found and ran and max(ran, played) > FACTOR * min(ran, played):
        found = [f"the recorded setting took {_ms(ran)} a text, and {_ms(played)} by its passes"]
    if not found:
        return []
    return [
        f"The machine was busy with other things while texts were recorded or while passes were timed: "
        f"{'; '.join(found)}. Predicted latencies, in units of large too, may be far off: make the sweep again "
        "on a quiet machine, or with --measure."
    ]


def _differ(times: Mapping[str, Any], role: Role) -> bool:
    ran, timed = times[f"{role}_pass_ns"], _one(role, times)
    # The worker sends each token, which a short pass does not outweigh.
    most = FACTOR * (timed + times[f"{role}_trip_ns"])
    return bool(ran > 0 and (ran > most or ran * FACTOR < timed))


def _one(role: Role, times: Mapping[str, Any]) -> int:
    """What a pass over one token takes."""
    return int(times[f"{role}_ns"] + times[f"{role}_token_ns"])


def _passes(text: TextRecord, role: Role) -> int:
    return text.trace[f"{role}_passes"]


def _ms(time_ns: float) -> str:
    return f"{time_ns / 1e6:.4g} ms"


def priced(times: Mapping[str, Any]) -> Costs:
    """The costs of passes among these times."""
    return Costs(**{spec.name: times[spec.name] for spec in fields(Costs)})
