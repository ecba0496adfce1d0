"""From the raw numbers of the rounds to what is said about the pair."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from lineup import BASE, Entry
from scores import Judge, Marks, same_text

from bild_dist.evaluation.bench import figures
from bild_dist.evaluation.bench.job import Outcome

Round: TypeAlias = Mapping[str, Outcome]
"""The outcomes of one round, by the entries' names."""

_COUNTS: Final = ("fallbacks", "rollbacks", "windows")


class Summary:
    """What some rounds say. Texts are judged once, from the first round: they must not change from
    one round to the next, and `repeats` says whether they did.
    """

    def __init__(self, field: Sequence[Entry], rounds: Sequence[Round], judge: Judge) -> None:
        self._field = field
        self._rounds = rounds
        self._errors = {
            name: outcome["error"]
            for ran in rounds
            for name, outcome in ran.items()
            if "error" in outcome
        }
        self._able = [e for e in field if rounds and e.name not in self._errors]
        self._marks: dict[str, Marks] = {
            e.name: judge.marks([text["text"] for text in rounds[0][e.name]["texts"]])
            for e in self._able
        }

    def as_dict(self) -> dict[str, Any]:
        rows = [self._row(entry) for entry in self._field]
        return {
            "contestants": rows,
            "aligned_against_unaligned": self._alignment(rows),
            "best": {
                "not_below_the_interval_of_large": self._best(rows, "not_below"),
                "within_one_point": self._best(rows, "within_one_point"),
            },
        }

    def texts(self, name: str) -> Sequence[Mapping[str, Any]] | None:
        """What a contestant wrote in the first round; None where it could not take part."""
        if name not in self._marks:
            return None
        found: Sequence[Mapping[str, Any]] = self._rounds[0][name]["texts"]
        return found

    def _row(self, entry: Entry) -> dict[str, Any]:
        row: dict[str, Any] = {
            "name": entry.name,
            "way": entry.way,
            "small": entry.small,
            "setting": str(entry.setting or ""),
            "error": self._errors.get(entry.name),
        }
        if entry not in self._able:
            return row
        marks, base = self._marks[entry.name], self._marks.get(BASE)
        written = [[t["tokens"] for t in ran[entry.name]["texts"]] for ran in self._rounds]
        quality = marks.as_dict()
        if base is not None:
            own = self.texts(BASE) or ()
            quality |= marks.against(base)
            quality["same_text"] = round(same_text(self._rounds[0][entry.name]["texts"], own), 4)
        return row | {
            "runs_on": self._rounds[0][entry.name]["runs_on"],
            "repeats": all(texts == written[0] for texts in written),
            "tokens": sum(len(tokens) for tokens in written[0]),
            "quality": quality,
            "figures": _medians([self._figures(entry.name, ran) for ran in self._rounds]),
        }

    def _figures(self, name: str, ran: Round) -> dict[str, float]:
        """One contestant in one round; `speedup` is over the base in the same round, in time a
        text, `speedup_per_token` in tokens a second.
        """
        outcome = ran[name]
        found = {**figures.of_outcome(outcome), **_latency(outcome), **_rates(outcome)}
        if BASE in self._marks:
            base = ran[BASE]
            found["speedup"] = _latency(base)["latency_mean_ms"] / found["latency_mean_ms"]
            found["speedup_per_token"] = (
                found["tokens_per_s"] / figures.of_outcome(base)["tokens_per_s"]
            )
        return found

    def _alignment(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The same way with the one and with the other small model, where both were measured."""
        able = {(row["way"], row["small"]): row for row in rows if "quality" in row}
        found = []
        for entry in self._field:
            pair = [able.get((entry.way, small)) for small in ("unaligned", "aligned")]
            if entry.small != "aligned" or not entry.ours or None in pair:
                continue
            before, after = (_brief(row) for row in pair if row is not None)
            line: dict[str, Any] = {"way": entry.way, "unaligned": before, "aligned": after}
            if "rollback_rate" in after and entry.setting is not None:
                line["fewer_rollbacks"] = after["rollback_rate"] < before["rollback_rate"]
                line["fewer_fallbacks"] = after["fallback_rate"] < before["fallback_rate"]
            found.append(line)
        return found

    def _best(self, rows: Sequence[Mapping[str, Any]], rule: str) -> dict[str, Any] | None:
        """The fastest that uses both models and keeps to the rule; None where nobody does."""
        paired = {entry.name for entry in self._field if entry.paired}
        kept = [
            row for row in rows if row["name"] in paired and row.get("quality", {}).get(rule, False)
        ]
        if not kept:
            return None
        row = max(kept, key=lambda row: row["figures"]["speedup"]["median"])
        return {"name": row["name"], **_brief(row)}


def _latency(outcome: Outcome) -> dict[str, float]:
    walls = [text["wall_ns"] / 1e6 for text in outcome["texts"]]
    return {
        "latency_mean_ms": statistics.fmean(walls),
        "latency_p50_ms": statistics.median(walls),
    }


def _rates(outcome: Outcome) -> dict[str, float]:
    """Who wrote, as shares of all tokens, and how many of the guesses at the large model's
    positions were right. Empty for other programs.
    """
    traces = [text["trace"] for text in outcome["texts"]]
    if not all(trace and "fallbacks" in trace for trace in traces):
        return {}
    tokens = sum(len(text["tokens"]) for text in outcome["texts"])
    found = {
        f"{name.removesuffix('s')}_rate": sum(trace[name] for trace in traces) / tokens
        for name in _COUNTS
    }
    guessed = sum(trace["guessed"] for trace in traces)
    if guessed:
        found["guess_hit_rate"] = sum(trace["hits"] for trace in traces) / guessed
    return found


def _brief(row: Mapping[str, Any]) -> dict[str, Any]:
    """What two contestants are compared by."""
    names = (
        "speedup", "latency_mean_ms", "large_passes_per_token", "fallback_rate", "rollback_rate",
        "guess_hit_rate", "wasted",
    )  # fmt: skip
    found = {name: row["figures"][name]["median"] for name in names if name in row["figures"]}
    kept = ("bleu", "bleu_difference", "rouge_l", "same_text")
    return {**{name: row["quality"][name] for name in kept if name in row["quality"]}, **found}


def _medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {
        name: {
            "median": _short(statistics.median(ran[name] for ran in rounds)),
            "min": _short(min(ran[name] for ran in rounds)),
            "max": _short(max(ran[name] for ran in rounds)),
        }
        for name in rounds[0]
        if all(name in ran for ran in rounds)
    }


def _short(value: float) -> float:
    return float(f"{value:.6g}")
