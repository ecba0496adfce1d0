"""Who takes part in a measurement: other programs on the same two models, and this one in each mode,
schedule and transport.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from bild_dist.errors import ConfigError
from bild_dist.types import Mode, Schedule, nearest

TRANSPORTS: Final = ("zmq", "grpc", "inproc")

_Kind = TypeVar("_Kind", bound=StrEnum)


class Peer(StrEnum):
    """Another program that writes with the same weights."""

    GENERATE = "generate"
    """transformers' `generate` on the large model."""
    ASSISTED = "assisted"
    """transformers' assisted generation: the large model, with the small one as its assistant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One of those that are compared. `schedule` is None where the mode has none to choose."""

    peer: Peer | None = None
    mode: Mode = Mode.BILD
    schedule: Schedule | None = None
    transport: str = ""

    @property
    def name(self) -> str:
        """Its row in the table: `generate`, `bild/overlap/zmq`, `large/grpc`."""
        if self.peer is not None:
            return self.peer.value
        parts = [self.mode.value, self.schedule.value if self.schedule else "", self.transport]
        return "/".join(part for part in parts if part)

    @property
    def exact(self) -> bool:
        """Whether it promises the large model's own text."""
        if self.peer is not None:
            return True
        return self.mode in (Mode.EXACT, Mode.LARGE)


def lineup(
    *, modes: Sequence[Mode], schedules: Sequence[Schedule], transports: Sequence[str], peers: bool
) -> list[Contestant]:
    """Everybody who takes part, peers first. A mode in which one model writes alone has no
    schedule.
    """
    field = [Contestant(peer=peer) for peer in Peer] if peers else []
    for transport in transports:
        for mode in modes:
            alone = mode in (Mode.LARGE, Mode.SMALL)
            field += [
                Contestant(mode=mode, schedule=schedule, transport=transport)
                for schedule in ([None] if alone else schedules)
            ]
    return field


def chosen(option: str, text: str, known: Sequence[str]) -> list[str]:
    """The names of a list with commas, each once, in the order in which they were given.

    Raises:
        ConfigError: one is unknown (the nearest known one is offered), or there is none.
    """
    names = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    for name in names:
        if name not in known:
            raise ConfigError(f"{option}: unknown contestant {name!r}{nearest(name, list(known))}")
    if not names:
        raise ConfigError(f"{option}: name at least one of {', '.join(known)}")
    return names


def members(option: str, text: str | None, kind: type[_Kind]) -> list[_Kind]:
    """As `chosen`, for the members of an enumeration; all of them where nothing was given."""
    if text is None:
        return list(kind)
    return [kind(name) for name in chosen(option, text, [member.value for member in kind])]
