"""What BiLD is compared with, as settings of the same decoder: a name and the options that mean it.

Everything here runs through the same machine, the same workers and the same transports as what it
is compared with, so that a difference is one of the method and not of the program.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any, Final, TypeAlias

from bild_dist.errors import InvalidRequest
from bild_dist.types import Options, nearest

Changes: TypeAlias = Mapping[str, Any]
"""Fields of `types.Options` with their values."""

_BILD: Final[Changes] = {"mode": "bild", "policy": "bild"}

BASELINES: Final[Mapping[str, Changes]] = {
    # The ends of the dial.
    **{mode: {"mode": mode, "policy": "bild"} for mode in ("large", "small", "exact")},
    # Figure 5 of the paper: each half of the policy without the other.
    "no rollback": {**_BILD, "alpha_rb": inf},
    "no fallback": {**_BILD, "alpha_fb": 0.0, "adapt": 0.0},
    # Lossless speculative sampling, the draft as long each time.
    **{
        f"rejection {n}": {
            "mode": "bild",
            "policy": "rejection",
            "window": n,
            "schedule": None,
            "adapt": 0.0,
            "confidence": "max",
            "distance": "ce",
            "verify_tail": True,
        }
        for n in range(3, 11)
    },
    # Table 5: nucleus sampling.
    "nucleus": {"policy": "bild", "temperature": 1.0, "top_k": 0, "top_p": 0.8},
}
"""What changes in a setting under each name; everything else stays as the setting has it."""


def alone(options: Options) -> Options:
    """The large model alone with the same bounds and draws: what every setting is measured by."""
    return baseline("large", options)


def baseline(name: str, options: Options) -> Options:
    """The baseline of that name for a setting.

    `no fallback` hands over every `window` tokens and nowhere else; `no rollback` lets every token
    of the small model stand.

    Raises:
        InvalidRequest: no such baseline (the nearest name is offered).
    """
    if name not in BASELINES:
        raise InvalidRequest(f"baseline = {name!r}: unknown{nearest(name, list(BASELINES))}")
    return options.merged(BASELINES[name])
