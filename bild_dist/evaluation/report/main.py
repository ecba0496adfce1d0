"""`bild report`: reads records and sweeps, works out the tables and figures, writes a page and a text."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bild_dist import log
from bild_dist.errors import BildError, ConfigError
from bild_dist.evaluation.report import markdown, page
from bild_dist.evaluation.report.files import read
from bild_dist.evaluation.report.report import TEXTS, sections
from bild_dist.orchestrator.cli import Parser
from bild_dist.types import Role


def main(argv: Sequence[str]) -> int:
    """Exit code: 0 written, 2 bad usage or a file that is neither record nor sweep, 130 interrupted."""
    try:
        log.configure()
        return _main(argv)
    except BildError as error:
        print(f"bild report: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        return 130


def _main(argv: Sequence[str]) -> int:
    asked = parser().parse_args(argv)
    if asked.texts < 0:
        raise ConfigError(f"--texts = {asked.texts} must be a whole number of at least 0")
    if asked.out.exists() and not asked.out.is_dir():
        raise ConfigError(f"--out {asked.out} is no folder, which a report is: name another one")
    given = {role: name for role in Role if (name := getattr(asked, role.value)) is not None}
    notes: list[str] = []
    parts = sections(read(asked.records, notes.append), given, asked.texts, notes)
    try:
        asked.out.mkdir(parents=True, exist_ok=True)
        paths = page.written(parts, asked.out), markdown.written(parts, asked.out)
    except OSError as error:
        raise ConfigError(f"{asked.out} cannot be written: {error.strerror or error}") from None
    err = Console(stderr=True, highlight=False, markup=False, emoji=False)
    for part in parts:
        numbers = [table.label for table in part.tables]
        numbers += [f"figure {c.number}" for c in part.charts]
        numbers += ["figure 9"] if part.texts else []
        err.print(
            f"{part.title}: {', '.join(numbers) or 'nothing'}; left out: {len(part.lacks)}",
            soft_wrap=True,
        )
    for note in notes:
        err.print(note, soft_wrap=True)
    err.print(f"written to {' and '.join(map(str, paths))}", soft_wrap=True)
    return 0


def parser() -> Parser:
    """What `bild report` takes."""
    found = Parser(
        prog="bild report",
        description="The paper's tables and figures for records of bild eval and sweeps, as one HTML and one Markdown.",
    )
    found.add_argument("records", nargs="+", type=Path, metavar="RECORD",
                       help="a file of bild eval --out or bild sweep --out, or a folder of them")  # fmt: skip
    found.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write")
    for role in Role:
        found.add_argument(f"--{role}", metavar="MODEL",
                           help=f"the {role} model's files, for costs and tokens (as the run named it)")  # fmt: skip
    found.add_argument("--texts", type=int, default=TEXTS, metavar="N",
                       help=f"coloured texts of each study ({TEXTS})")  # fmt: skip
    return found
