"""Who takes part in the measurement of a pair, and what each is asked to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from bild_dist.config import Config, OrchestratorConfig, WorkerConfig
from bild_dist.errors import ConfigError
from bild_dist.evaluation.bench.contestants import Contestant, Peer
from bild_dist.evaluation.bench.job import Job
from bild_dist.evaluation.bench.prompts import Task
from bild_dist.types import Mode, Options, Schedule

BASE: Final = "generate"
"""transformers' `generate` on the large model: whose speed is 1 and whose text is the right one."""
ALONE: Final = "large"
"""This program's mode `large`."""
TRANSPORT: Final = "zmq"


@dataclass(frozen=True, slots=True)
class Setting:
    """Thresholds of mode `bild`: a probability, and nats."""

    alpha_fb: float
    alpha_rb: float

    @classmethod
    def read(cls, text: str) -> Setting:
        """As on the command line, `0.5/3`.

        Raises:
            ConfigError: it is not of that form.
        """
        parts = text.split("/")
        try:
            alpha_fb, alpha_rb = (float(part) for part in parts)
        except ValueError:
            raise ConfigError(f"setting {text!r}: write ALPHA_FB/ALPHA_RB, such as 0.5/3") from None
        return cls(alpha_fb, alpha_rb)

    def __str__(self) -> str:
        return f"{self.alpha_fb:g}/{self.alpha_rb:g}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A contestant, with the small model that it works with ("" for none) and its thresholds."""

    contestant: Contestant
    small: str = ""
    setting: Setting | None = None

    @property
    def name(self) -> str:
        """Its row: `generate`, `assisted aligned`, `bild unaligned 0.5/3`."""
        kind = self.contestant.peer or self.contestant.mode
        return " ".join(part for part in (kind.value, self.small, str(self.setting or "")) if part)

    @property
    def way(self) -> str:
        """The same without the small model: what aligned and unaligned are compared at."""
        return replace(self, small="").name

    @property
    def ours(self) -> bool:
        return self.contestant.peer is None

    @property
    def paired(self) -> bool:
        """Whether it is this program with both models."""
        return self.ours and self.contestant.mode in (Mode.EXACT, Mode.BILD)


def lineup(
    smalls: Sequence[str], settings: Sequence[Setting], schedule: Schedule | None
) -> list[Entry]:
    """Everybody, the base first. `smalls`: names of the small models."""

    def ours(mode: Mode) -> Contestant:
        known = schedule if mode in (Mode.EXACT, Mode.BILD) else None
        return Contestant(mode=mode, schedule=known, transport=TRANSPORT)

    return [
        Entry(Contestant(peer=Peer.GENERATE)),
        *(Entry(Contestant(peer=Peer.ASSISTED), small) for small in smalls),
        Entry(ours(Mode.LARGE)),
        *(Entry(ours(Mode.SMALL), small) for small in smalls),
        *(Entry(ours(Mode.EXACT), small) for small in smalls),
        *(
            Entry(ours(Mode.BILD), small, setting)
            for setting in dict.fromkeys(settings)
            for small in smalls
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """Makes jobs of entries. `models`: folders by name, "large" among them."""

    models: Mapping[str, str]
    tasks: tuple[Task, ...]
    threads: int
    device: str
    dtype: str
    max_new_tokens: int

    def job(self, entry: Entry) -> Job:
        """What its process is told. Who works alone has the first small model standing by."""
        other = entry.small or next(name for name in self.models if name != ALONE)
        # A setting out of its range is refused here, before anything starts.
        options = Options(max_new_tokens=self.max_new_tokens)
        if entry.setting is not None:
            options = replace(
                options, alpha_fb=entry.setting.alpha_fb, alpha_rb=entry.setting.alpha_rb
            )
        config = Config(
            small=self._worker(other),
            large=self._worker(ALONE),
            orchestrator=OrchestratorConfig(transport=TRANSPORT, concurrency=1),
            generate=options,
        )
        return Job(entry.contestant, config, self.tasks)

    def _worker(self, name: str) -> WorkerConfig:
        return WorkerConfig(
            model=self.models[name], threads=self.threads, device=self.device, dtype=self.dtype
        )
