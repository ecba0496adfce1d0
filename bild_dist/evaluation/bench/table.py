"""What people see of a measurement: a table with a row for each contestant."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.table import Table

WIDE: Final = 180
"""Characters that all columns need."""


class Column(NamedTuple):
    """A column: its head, the figure that it shows, and how."""

    head: str
    figure: str
    form: str
    spread: bool = False


COLUMNS: Final = (
    Column("tokens/s", "tokens_per_s", ".1f", spread=True),
    Column("ratio", "ratio", ".2f", spread=True),
    Column("over\npaper", "over_paper", ".2f"),
    Column("effi-\nciency", "efficiency", ".3f"),
    Column("large\npasses\n/token", "large_passes_per_token", ".3f"),
    Column("first\ntoken\nms", "first_token_ms", ".0f"),
    Column("wasted", "wasted", ".0%"),
    Column("com-\npute", "compute", ".0%"),
    Column("wire", "wire", ".1%"),
    Column("queue", "queue", ".1%"),
    Column("CPU ms\n/answer", "cpu_ms_per_answer", ".2f"),
    Column("models\nMiB", "models_mib", ".0f"),
    Column("orch.\nMiB", "orchestrator_mib", ".0f"),
    Column("agree-\nment", "agreement", ".3f"),
    Column("same\ntext", "same_text", ".0%"),
    Column("BLEU", "bleu", ".1f"),
    Column("chrF", "chrf", ".1f"),
)
_PACED_ONLY: Final = ("over_paper", "efficiency")


def show(report: Mapping[str, Any]) -> None:
    """Prints the table of a report to standard output, and below it who could not take part."""
    out = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    # Where a terminal is narrower its lines go on in the next; nothing is cut off.
    out.width = max(out.width, WIDE)
    out.print(table(report))
    for contestant in report["contestants"]:
        if contestant["error"] is not None:
            out.print(f"{contestant['name']}: {contestant['error']['message']}", soft_wrap=True)
    if not report["complete"]:
        out.print(
            f"interrupted: {len(report['rounds'])} of {report['settings']['rounds']} rounds begun"
        )


def table(report: Mapping[str, Any]) -> Table:
    """Medians over the rounds, with the lowest and the highest where rounds differ most. Columns
    that nobody fills are left out.
    """
    rows = report["contestants"]
    columns = [
        column
        for column in COLUMNS
        if any(column.figure in row["figures"] for row in rows)
        and (report["settings"]["paced"] or column.figure not in _PACED_ONLY)
    ]
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column("", no_wrap=True)
    for column in columns:
        grid.add_column(column.head, justify="right", no_wrap=True)
    for row in rows:
        figures = row["figures"]
        grid.add_row(
            row["name"], *(_cell(column, figures.get(column.figure)) for column in columns)
        )
    return grid


def _cell(column: Column, numbers: Mapping[str, float] | None) -> str:
    if numbers is None:
        return ""
    text = format(numbers["median"], column.form)
    if not column.spread or numbers["min"] == numbers["max"]:
        return text
    low, high = (format(numbers[name], column.form) for name in ("min", "max"))
    return f"{text} ({low}-{high})"
