"""What a table is, and the cells that several of them have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bild_dist.evaluation.report.runs import Kind, Row, Study, known
from bild_dist.evaluation.run.record import Part

WORDED: Final = frozenset(("setting", "small model", "family"))
"""Heads of columns with names in them, which may go on in another line; all others hold figures."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of words. The first column names the row; the others are figures. `number`: None of one
    that belongs to a sweep, and `letter` of one that goes on where another of its number ends. `says`:
    what comes of it, in sentences that stand above it.
    """

    number: int | None
    title: str
    note: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    letter: str = ""
    says: Sequence[str] = ()

    @property
    def label(self) -> str:
        """How a line of a terminal names it."""
        return self.title if self.number is None else f"table {self.number}{self.letter}"

    @property
    def heading(self) -> str:
        """Number and title."""
        label = f"{self.label.capitalize()}. " if self.number is not None else ""
        return label + self.title


def head_of(study: Study) -> list[str]:
    """What stands above the cells of `line`."""
    return [
        "", "setting", study.metric_title, "speedup", "ms a text (large alone)", "large passes a token",
    ]  # fmt: skip


def line(title: str, row: Row, study: Study) -> list[str]:
    """A setting with its figures, each by itself."""
    return [
        title,
        row.name,
        interval(row.part.figures.get(study.metric), study.judge.digits),
        interval(row.speedup, 2, "x") if row.kind is not Kind.LARGE else "1x",
        _ms(row),
        short(row.number("large_passes_per_token"), 3),
    ]


def interval(
    found: Mapping[str, Any] | None, digits: int, unit: str = "", *, signed: bool = False
) -> str:
    """A figure with its interval in brackets: `27.4 [26.1, 28.9]`. `signed`: of a difference."""
    if not isinstance(found, Mapping) or not known(found.get("value")):
        return "-"
    # Without z a difference that rounds to nothing would be one of -0.0.
    form = f"+z.{digits}f" if signed else f".{digits}f"
    text = f"{found['value']:{form}}{unit}"
    if known(found.get("low")) and known(found.get("high")):
        text += f" [{found['low']:{form}}, {found['high']:{form}}]"
    return text


def short(value: float | None, digits: int) -> str:
    """A number, or a dash for none."""
    return "-" if value is None else f"{value:.{digits}f}"


def _ms(row: Row) -> str:
    """Mean time of a text, and in brackets that of the large model in the same run: a machine may be
    slower in one run than in another.
    """
    found, beside = (_mean(part) for part in (row.part, row.record.large))
    return f"{found} ({beside})" if row.kind is not Kind.LARGE and beside != "-" else found


def _mean(part: Part | None) -> str:
    found = part.figures.get("latency_ms") if part else None
    mean = found.get("mean") if isinstance(found, Mapping) else None
    return f"{mean:.0f}" if known(mean) else "-"
