"""The report as Markdown: the same tables and notes, figures as files beside it, texts with their letters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bild_dist.evaluation.report.cells import Table
from bild_dist.evaluation.report.report import Section
from bild_dist.evaluation.report.texts import MEANING, SIGNS
from bild_dist.evaluation.run.files import write_whole

_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]<>#|~&!])")
_DECLARED: Final = '<?xml version="1.0" encoding="utf-8" standalone="no"?>\n'


def written(parts: Sequence[Section], folder: Path, name: str = "report.md") -> Path:
    """Writes the text and its figures into a folder, and returns the text's path."""
    lines = ["# Big Little Decoder: tables and figures of these runs", ""]
    for number, part in enumerate(parts, 1):
        lines += [f"## {escaped(part.title)}", ""]
        lines += [f"Measured on: {escaped(_joined(part.ran_on))}.", ""] if part.ran_on else []
        for table in part.tables:
            lines += [f"### {escaped(table.heading)}", ""]
            lines += [*(f"- {escaped(said)}" for said in table.says), ""] if table.says else []
            lines += [*_table(table), ""]
            lines += [escaped(table.note), ""]
        for chart in part.charts:
            file = folder / f"figure-{chart.number}-{number}.svg"
            write_whole(file, _DECLARED + chart.svg + "\n")
            lines += [f"### Figure {chart.number}. {escaped(chart.title)}", "",
                      f"![{escaped(chart.title)}]({file.name})", "", escaped(chart.says), ""]  # fmt: skip
        if part.texts:
            lines += ["### Figure 9. Who wrote which token", "", _legend(), ""]
            for text in part.texts:
                lines += [f"- {escaped(text.id)}, {escaped(text.setting)}: {escaped(text.text)}",
                          f"  - tokens: `{text.signs}`",
                          f"  - large alone: {escaped(text.large)}"]  # fmt: skip
            lines.append("")
        if part.lacks:
            lines += ["### What is left out", ""]
            lines += [f"- {escaped(lack.what)}: `{_code(lack.command)}`" for lack in part.lacks]
            lines.append("")
        lines += [*(f"- {escaped(note)}" for note in part.notes), ""] if part.notes else []
    path = folder / name
    write_whole(path, "\n".join(lines).rstrip() + "\n")
    return path


def escaped(text: str) -> str:
    """A text that Markdown shows as it is, on one line: what a model wrote may be markup."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    return " ".join(text.replace("`", "'").split())


def _joined(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in found.items())


def _table(table: Table) -> list[str]:
    rows = [table.head, ["---", *["---:"] * (len(table.head) - 1)], *table.rows]
    return [
        "| " + " | ".join(cell if index == 1 else escaped(cell) for cell in row) + " |"
        for index, row in enumerate(rows)
    ]


def _legend() -> str:
    return "; ".join(f"`{SIGNS[source]}` {meaning}" for source, meaning in MEANING.items()) + "."
