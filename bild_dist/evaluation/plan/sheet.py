"""What people see of a plan: its numbers and their sources, the table, the advice."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from bild_dist.evaluation.plan.known import Known
from bild_dist.evaluation.plan.predict import Row
from bild_dist.evaluation.plan.study import Column, Findings

_WIDTH = 16, 13
"""Columns of the terminal for the names of the rows, and for each placement."""
_MEANINGS: Final = {
    "small_ms": "a pass of the small model, ms",
    "small_token_ms": "and for each token of it, ms",
    "large_ms": "a pass of the large model, ms",
    "large_token_ms": "and for each token of it, ms",
    "f": "f: unsure positions",
    "q": "q: of these, guessed right",
    "rho": "rho: of the others, overruled",
    "mild": "mild: of the others, only different",
    "agreement": "mode exact: both draw the same",
    "tokens_per_s": "these texts themselves, tokens/s",
}


def show(
    findings: Findings,
    numbers: Mapping[str, Known],
    sentences: Sequence[str],
    complaints: Sequence[str],
) -> None:
    """Prints a plan to standard output, and what was left out of a trace to standard error."""
    least = _WIDTH[0] + _WIDTH[1] * len(findings.columns)
    out = Console(highlight=False, markup=False, emoji=False)
    out = Console(highlight=False, markup=False, emoji=False, width=max(out.width, least))
    for name, known in numbers.items():
        out.print(
            f"{_said(name):<34}{known.value:>8.4g}   {known.source}{_interval(known)}",
            soft_wrap=True,
        )
    out.print()
    out.print(_table(findings))
    out.print("tokens/s, times the speed of the large model alone, large passes a token\n")
    for sentence in sentences:
        out.print(sentence, soft_wrap=True)
    err = Console(file=sys.stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)
    for complaint in complaints:
        err.print(f"left out: {complaint}")


def _said(name: str) -> str:
    if name in _MEANINGS:
        return _MEANINGS[name]
    return f"round trip {name.removeprefix('round_trip_').removesuffix('_ms')}, ms"


def _interval(known: Known) -> str:
    if known.interval is None:
        return ""
    low, high = known.interval
    return f" (95 %: {low:.3f} to {high:.3f})"


def _table(findings: Findings) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("", no_wrap=True)
    for column in findings.columns:
        table.add_column(column.at.name.replace(", ", "\n"), justify="right")
    for row in [cell.row for cell in findings.columns[0].cells]:
        table.add_row(str(row), *[_cell(column, row) for column in findings.columns])
    return table


def _cell(column: Column, row: Row) -> str:
    cell = next(cell for cell in column.cells if cell.row == row)
    mark = "*" if cell.row == column.best.row else " "
    return f"{cell.tokens_per_s:.4g}{mark}\n{cell.ratio:.2f}x {cell.large_passes_per_token:.2f} "
