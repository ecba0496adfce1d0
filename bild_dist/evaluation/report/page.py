"""The report as one page of HTML: nothing is loaded, nothing but its own script runs, and whatever a model
wrote is text.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

from bild_dist.evaluation.pictures import FAINT, INK, SOFT
from bild_dist.evaluation.report.cells import WORDED
from bild_dist.evaluation.report.report import Section
from bild_dist.evaluation.report.skin import PAGE, SCRIPT, SHEET
from bild_dist.evaluation.report.texts import MEANING, SIGNS
from bild_dist.evaluation.run.files import write_whole

_VARIABLES: Final = {INK: "var(--ink)", SOFT: "var(--soft)", FAINT: "var(--line)",
                     "fill: #ffffff": "fill: var(--page)"}  # fmt: skip
"""Colours of a figure that follow the page from light to dark."""


def written(parts: Sequence[Section], folder: Path, name: str = "report.html") -> Path:
    """Writes the page into a folder and returns its path."""
    path = folder / name
    write_whole(path, page(parts))
    return path


def page(parts: Sequence[Section]) -> str:
    """The page."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    digest = b64encode(sha256(SCRIPT.encode()).digest()).decode()
    return environment.from_string(PAGE).render(
        parts=parts,
        sheet=Markup(SHEET),  # our own
        script=Markup(SCRIPT),  # our own
        digest=digest,
        worded=WORDED,
        drawn=lambda svg: Markup(_themed(svg)),  # matplotlib has escaped its words
        legend=[(source.value, SIGNS[source], meaning) for source, meaning in MEANING.items()],
    )


def _themed(svg: str) -> str:
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg
