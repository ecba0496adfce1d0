"""Figure 9: texts whose tokens show who wrote them, by colour and, for those who see none, by underline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bild_dist.evaluation.report.models import Models
from bild_dist.evaluation.report.runs import Kind, Row, Study, equal
from bild_dist.evaluation.run.record import TextRecord
from bild_dist.types import Distance, Source

MEANING: Final = {
    Source.SMALL: "the small model, and it stood",
    Source.FALLBACK: "the large model, because the small one was unsure",
    Source.WINDOW: "the large model, because the window was full",
    Source.ROLLBACK: "the large model, instead of what the small one wrote",
    Source.LARGE: "the large model alone",
}
SIGNS: Final = {
    Source.SMALL: "s", Source.FALLBACK: "F", Source.WINDOW: "W", Source.ROLLBACK: "R", Source.LARGE: "L",
}  # fmt: skip
"""For a text without colours: one letter a token."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is shown. `says`: what stands in the hint."""

    text: str
    source: str
    says: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A text of a setting, and what the large model wrote alone. `spelled`: tokens stand with their own
    text; else each is its letter, and the text stands below.
    """

    id: str
    setting: str
    tokens: Sequence[Token]
    text: str
    large: str
    spelled: bool

    @property
    def signs(self) -> str:
        return "".join(SIGNS.get(Source(token.source), "?") for token in self.tokens)


def shown(study: Study, models: Models, count: int) -> list[Shown]:
    """The first texts, up to `count`, of the setting that table 1 names: the fastest of equal quality, or
    else the first one that there is.
    """
    rows = study.of(Kind.BILD, Kind.EARLY_EXIT, Kind.NO_FALLBACK, Kind.NO_ROLLBACK, Kind.EXACT)
    if not rows:
        return []
    row = equal(study, 0.0, kinds=(Kind.BILD, Kind.EARLY_EXIT), small=None) or rows[0]
    own = {text.id: text.text for text in study.large.part.texts} if study.large else {}
    return [_shown(row, text, own.get(text.id, ""), models) for text in row.part.texts[:count]]


def _shown(row: Row, text: TextRecord, large: str, models: Models) -> Shown:
    pieces = models.pieces(text.tokens)
    spelled = pieces is not None and "".join(pieces).strip() == text.text.strip()
    if pieces is None or not spelled:
        # Another tokenizer, or a stop string cut the text: letters tell the truth at least.
        pieces = [SIGNS.get(Source(source), "?") for source in text.sources]
    # As `alpha_rb`, which it is compared with.
    unit = "" if row.options.distance in (Distance.TV, Distance.L2) else " nats"
    blank = [None] * len(text.tokens)
    tokens = [
        Token(piece, source, _says(source, confidence, distance, unit))
        for piece, source, confidence, distance in zip(
            pieces, text.sources, text.confidences or blank, text.distances or blank, strict=True
        )
    ]
    return Shown(text.id, row.name, tokens, text.text, large, spelled)


def _says(source: str, confidence: float | None, distance: float | None, unit: str) -> str:
    words = [source]
    if confidence is not None:
        words.append(f"confidence {confidence:.2f}")
    if distance is not None:
        words.append(f"distance {distance:.2f}{unit}")
    return ", ".join(words)
