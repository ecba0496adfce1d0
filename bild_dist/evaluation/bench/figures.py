"""From raw numbers to figures: what each round says of each contestant, and medians over rounds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

from bild_dist.errors import ConfigError
from bild_dist.evaluation.bench.contestants import Contestant, Peer
from bild_dist.evaluation.bench.job import Outcome
from bild_dist.evaluation.bench.prompts import Task
from bild_dist.evaluation.metrics.overlap import agreement
from bild_dist.types import Mode, Schedule

Figures: TypeAlias = dict[str, float]
"""Figures by name, without those that do not apply."""
Round: TypeAlias = dict[str, Outcome]
"""The outcomes of one round, by the contestants' names, in the order in which they ran."""

MIB: Final = 2**20


def of_outcome(outcome: Outcome) -> Figures:
    """What one outcome says by itself. Shares are of the texts' wall clock, from 0 to 1, or more
    where two workers compute at once.
    """
    texts = outcome["texts"]
    tokens = sum(len(text["tokens"]) for text in texts)
    wall_ns = sum(text["wall_ns"] for text in texts)
    figures = {
        "tokens_per_s": tokens / outcome["wall_ns"] * 1e9,
        "large_passes_per_token": outcome["large_passes"] / tokens if tokens else 0.0,
        "first_token_ms": statistics.median(text["first_token_ns"] for text in texts) / 1e6,
    }
    traces = [text["trace"] for text in texts]
    if all(traces):
        figures |= _of_traces(traces, wall_ns)
    if all(text["critical_ns"] is not None for text in texts):
        figures["efficiency"] = sum(text["critical_ns"] for text in texts) / wall_ns
    if outcome["cpu_ns"] is not None and outcome["answers"]:
        figures["cpu_ms_per_answer"] = outcome["cpu_ns"] / outcome["answers"] / 1e6
    memory = dict(outcome["memory"])
    own = memory.pop("orchestrator", None)
    if own is not None and memory:
        figures["orchestrator_mib"] = own / MIB
    rest = [own] if not memory else list(memory.values())
    if all(size is not None for size in rest):
        figures["models_mib"] = sum(rest) / MIB
    return figures


def _of_traces(traces: Sequence[Mapping[str, int]], wall_ns: int) -> Figures:
    total = {name: sum(trace[name] for trace in traces) for name in traces[0]}
    figures: Figures = {}
    if total["drafted"]:
        figures["wasted"] = total["wasted"] / total["drafted"]
    if "draft_ns" in total:
        figures["compute"] = (total["draft_ns"] + total["verify_ns"]) / wall_ns
        figures["wire"] = total["wire_ns"] / wall_ns
        figures["queue"] = total["queue_ns"] / wall_ns
    return figures


def against_references(texts: Sequence[Mapping[str, Any]], tasks: Sequence[Task]) -> Figures:
    """BLEU and chrF of the texts that have references, from 0 to 100. Empty where no task has a
    reference, or what counts them is not installed.
    """
    # With numpy, which is not to be in the process of a contestant.
    from bild_dist.evaluation.metrics.base import Judged
    from bild_dist.evaluation.metrics.words import Bleu, Chrf

    judged = [
        Judged(str(text["text"]), (), tuple(task.references))
        for text, task in zip(texts, tasks, strict=True)
        if task.references
    ]
    metrics = (Bleu(), Chrf())
    try:
        for metric in metrics:
            metric.ready()
    except ConfigError:
        return {}
    return {metric.name: metric.marks(judged).value for metric in metrics} if judged else {}


class Comparison:
    """Says who is compared with whom: speed with a base, text with the large model's own.

    The base is transformers' `generate`, or without it this program's mode `large` over the same
    transport. Immutable.
    """

    def __init__(
        self, field: Sequence[Contestant], tasks: Sequence[Task], *, sampled: bool = False
    ) -> None:
        self.field = tuple(field)
        # Other programs draw with noise of their own.
        self._exact = {c.name for c in field if c.exact and not (sampled and c.peer is not None)}
        self._names = [contestant.name for contestant in field]
        self._tasks = tuple(tasks)

    def base(self, contestant: Contestant) -> str | None:
        """Whose speed is 1."""
        others = [Peer.GENERATE.value, f"{Mode.LARGE}/{contestant.transport}"]
        return next((name for name in others if name in self._names), None)

    def paper(self, contestant: Contestant) -> str | None:
        """The same contestant on the schedule `paper`."""
        if contestant.peer is not None or contestant.schedule is None:
            return None
        return replace(contestant, schedule=Schedule.PAPER).name

    def of_round(self, ran: Round) -> dict[str, Figures]:
        """All figures of one round. Contestants that are not (yet) in it are left out."""
        done = {name: outcome for name, outcome in ran.items() if "error" not in outcome}
        found = {name: of_outcome(outcome) for name, outcome in done.items()}
        own = self._own_text(done)
        for contestant in self.field:
            figures = found.get(contestant.name)
            if figures is None:
                continue
            for name, other in (
                ("ratio", self.base(contestant)),
                ("over_paper", self.paper(contestant)),
            ):
                if other is not None and other in found:
                    figures[name] = figures["tokens_per_s"] / found[other]["tokens_per_s"]
            texts = done[contestant.name]["texts"]
            if own is not None:
                figures["agreement"] = _mean(agreement, texts, own)
                if contestant.name in self._exact:
                    figures["same_text"] = _mean(lambda a, b: float(a == b), texts, own)
            figures |= against_references(texts, self._tasks)
        return found

    def medians(self, rounds: Iterable[Round]) -> dict[str, dict[str, dict[str, float]]]:
        """By contestant and figure: median, lowest and highest of the rounds."""
        values: dict[str, dict[str, list[float]]] = {name: {} for name in self._names}
        for ran in rounds:
            for name, figures in self.of_round(ran).items():
                for key, value in figures.items():
                    values[name].setdefault(key, []).append(value)
        return {
            name: {
                key: {
                    "median": _rounded(statistics.median(numbers)),
                    "min": _rounded(min(numbers)),
                    "max": _rounded(max(numbers)),
                }
                for key, numbers in figures.items()
            }
            for name, figures in values.items()
        }

    def _own_text(self, done: Round) -> list[list[int]] | None:
        """What the large model writes alone, by the most trusted contestant that was measured."""
        trusted = sorted(
            (contestant for contestant in self.field if contestant.name in self._exact),
            key=lambda c: (c.peer is not Peer.GENERATE, c.peer is not None, c.mode is not Mode.LARGE),
        )  # fmt: skip
        for contestant in trusted:
            if contestant.name in done:
                return [text["tokens"] for text in done[contestant.name]["texts"]]
        return None


def _mean(
    measure: Callable[[list[int], list[int]], float],
    texts: Sequence[Mapping[str, Any]],
    own: Sequence[list[int]],
) -> float:
    return statistics.fmean(
        measure(text["tokens"], other) for text, other in zip(texts, own, strict=True)
    )


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
