"""What people see of a run: a column for the large model alone and one for the setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bild_dist.evaluation.metrics import registry
from bild_dist.evaluation.run.record import Part, Record

WIDE: Final = 110
"""Characters that all columns need."""
HEADS: Final = {
    "bleu": "BLEU",
    "rougeL": "ROUGE-L",
    "chrf": "chrF",
    "agreement": "agreement with large",
    "perplexity": "perplexity under large",
}
"""Heads of the rows. A figure has the decimals of its metric, its difference to the large model's one more."""
_FIGURES: Final = (
    ("ms a text, mean", ("latency_ms", "mean"), ".1f"),
    ("ms a text, p50", ("latency_ms", "p50"), ".1f"),
    ("ms a text, p99", ("latency_ms", "p99"), ".1f"),
    ("ms to the first token", ("first_token_ms",), ".1f"),
    ("tokens/s", ("tokens_per_s",), ".1f"),
    ("tokens a text", ("tokens_per_text",), ".1f"),
    ("large passes a token", ("large_passes_per_token",), ".3f"),
    ("fallbacks", ("fallback_rate",), ".1%"),
    ("rollbacks", ("rollback_rate",), ".1%"),
    ("ended by length", ("ended_by_length",), ".1%"),
)
MOST: Final = 5
"""Failures that are named; the rest is in the record."""


def show(record: Record) -> None:
    """Prints a record to standard output."""
    out = Console(highlight=False, markup=False, emoji=False)
    # Where a terminal is narrower its lines go on in the next; nothing is cut off.
    out.width = max(out.width, WIDE)
    parts = [part for part in (record.large, record.part) if part is not None]
    texts = parts[-1].figures.get("texts", 0)
    out.print(f"{record.task}, {record.split}: {texts} texts; in brackets intervals of 95 %")
    if texts:
        out.print(table(parts))
    for line in [*lines(parts), *written_by(record.environment)]:
        out.print(line, soft_wrap=True)


def table(parts: Sequence[Part]) -> Table:
    """A row a figure; a metric has its interval, and the last part its difference to the large
    model's.
    """
    grid = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    grid.add_column("", no_wrap=True)
    for part in parts:
        grid.add_column(part.setting.name, justify="right", no_wrap=True)
    grid.add_column("to large" if len(parts) > 1 else "", justify="right", no_wrap=True)
    grid.add_row("speed-up", *(_spread(part.figures["speedup"], ".2f") for part in parts))
    for name, head in HEADS.items():
        if all(name in part.figures for part in parts):
            found = [part.figures[name] for part in parts]
            digits = registry.named(name).digits
            cells = [_spread(figure, f".{digits}f") for figure in found]
            # What agreement loses to the large model is what it lacks to 1.
            difference = found[-1].get("difference") if name != "agreement" else None
            change = "" if difference is None else _spread(difference, f"+.{digits + 1}f")
            grid.add_row(head, *cells, change)
    for head, path, form in _FIGURES:
        grid.add_row(head, *(_cell(part.figures, path, form) for part in parts))
    return grid


def lines(parts: Sequence[Part]) -> list[str]:
    """What no column says."""
    found = []
    for part in parts:
        name, figures = part.setting.name, part.figures
        shared = figures.get("agreement", {}).get("identical")
        if shared is not None and part is not parts[0]:
            found.append(f"{name}: {shared:.0%} of the texts are the large model's own")
        if figures.get("repeats") is False:
            found.append(f"{name}: texts differ from round to round")
        found += [f"{name}: {one.id} failed: {one.message}" for one in part.failed[:MOST]]
        if len(part.failed) > MOST:
            found.append(f"{name}: and {len(part.failed) - MOST} more failed, see the record")
    return found


def written_by(environment: Mapping[str, Any]) -> list[str]:
    """A warning where texts of one file were written by more than one state of this program."""
    commits = environment.get("commits") or ()
    if len(commits) < 2:
        return []
    return [
        f"The program changed on the way (commits {', '.join(commits)}): remove what was written and begin anew "
        "unless what changed touches neither texts nor times"
    ]


def _spread(numbers: Mapping[str, Any], form: str) -> str:
    value, low, high = (_said(numbers.get(name), form) for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})" if low != high else value


def _cell(figures: Mapping[str, Any], path: Sequence[str], form: str) -> str:
    value: Any = figures
    for name in path:
        value = value[name]
    return _said(value, form)


def _said(value: float | None, form: str) -> str:
    """A number, or a dash for one that nobody knows."""
    return "-" if value is None or not isfinite(value) else format(value, form)
