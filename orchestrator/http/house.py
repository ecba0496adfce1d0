"""What all endpoints of one server share, and what its pair of models is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from math import ceil
from typing import TypeAlias

from bild_dist import __version__
from bild_dist.errors import WorkerUnavailable
from bild_dist.orchestrator.client import BEAT_S, SILENT_NS
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.orchestrator.http.admission import Admission
from bild_dist.orchestrator.http.auth import Keys
from bild_dist.orchestrator.http.problems import RETRY_S, Problem, problem_of
from bild_dist.orchestrator.keeping import Keeping
from bild_dist.tables import HttpConfig
from bild_dist.types import Mode, Role, nearest

Metrics: TypeAlias = Callable[[], tuple[bytes, str]]
"""Gives the page of `/metrics` and its content type."""


@dataclass(frozen=True, slots=True)
class House:
    """Owned by the server; each part has an owner of its own."""

    config: HttpConfig
    keeping: Keeping
    keys: Keys
    metrics: Metrics | None = None
    admission: Admission = field(default_factory=Admission)

    @property
    def decoder(self) -> Decoder:
        """The decoder of now.

        Raises:
            Problem: 503, there is none, with the time until somebody tries to make one.
        """
        try:
            return self.keeping.decoder
        except WorkerUnavailable as error:
            problem = problem_of(error)
            wait_s = RETRY_S + ceil(self.keeping.pause_s)
            problem.headers["Retry-After"] = str(wait_s)
            raise problem from None

    def places(self, decoder: Decoder) -> int:
        """Texts that may be under way: written, or waiting for their turn."""
        return decoder.concurrency + self.config.queue

    def admit(self, decoder: Decoder, count: int = 1) -> None:
        """Raises Problem, 429 or 503, where there is no place for so many more texts."""
        self.admission.check(count, self.places(decoder), decoder.concurrency)

    def models(self, decoder: Decoder) -> dict[str, Mode | None]:
        """What requests may name as `model`, and the mode that each means; None for the pair, whose
        mode is free. Where a model is called as the pair or as a role, that one holds.
        """
        names = {self.config.name: None, "small": Mode.SMALL, "large": Mode.LARGE}
        for role, mode in ((Role.SMALL, Mode.SMALL), (Role.LARGE, Mode.LARGE)):
            names.setdefault(_called(decoder.workers[role].info.model), mode)
        return names

    def mode(self, decoder: Decoder, model: str | None) -> Mode | None:
        """The mode that a request's `model` stands for.

        Raises:
            Problem: 404, there is no such model; the nearest one is named.
        """
        if model is None:
            return None
        names = self.models(decoder)
        if model not in names:
            raise Problem(
                404, f"there is no model {model!r} here{nearest(model, list(names))}",
                param="model", code="model_not_found",
            )  # fmt: skip
        return names[model]

    def fingerprint(self, decoder: Decoder) -> str:
        """What a text depends on beside the request: the same one and the same seed give the same."""
        parts = [__version__]
        for role in Role:
            info = decoder.workers[role].info
            parts += [info.model, info.dtype, info.tokenizer, info.device.partition(":")[0]]
        return f"fp_{blake2b(chr(0).join(parts).encode(), digest_size=6).hexdigest()}"

    def health(self) -> tuple[bool, dict[str, object]]:
        """Whether both models make progress, and what is known of each."""
        decoder = self.keeping.current
        workers: dict[str, object] = {}
        good = decoder is not None
        for role in Role:
            worker = None if decoder is None else decoder.workers.get(role)
            if worker is None:
                # Between two decoders nobody asks them: which of them is well is not known.
                workers[role.value] = {"up": None}
                continue
            # The client itself says when a worker is frozen or stuck; a heartbeat more than that
            # without an answer, and nobody has said so yet.
            up = worker.lost is None and worker.silent_ns < SILENT_NS + int(BEAT_S * 1e9)
            good = good and up
            workers[role.value] = {
                "up": up,
                "heartbeat_age_s": round(worker.silent_ns / 1e9, 3),
                "round_trip_ms": round(worker.round_trip_ns / 1e6, 3),
            }
        admission = self.admission
        return good, {
            "status": "ok" if good else "unavailable",
            "workers": workers,
            "texts": admission.texts,
            "requests": admission.requests,
            "refused": admission.refused,
            "restarts": self.keeping.restarts,
            "draining": admission.draining,
        }


def _called(model: str) -> str:
    """A model's name as strangers may see it: a folder's own name, not where it lies."""
    return model.rstrip("/").rpartition("/")[2] if model.startswith(("/", ".")) else model
