"""The tables of a study: 1 and 5 quality and speed, as in the paper; under numbers of our own 2 the models,
3 against speculative sampling, 4 how often each model has the word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bild_dist.evaluation.costs.shapes import Shape
from bild_dist.evaluation.report.runs import POINT, Kind, Row, Study, equal
from bild_dist.evaluation.run.record import Part
from bild_dist.types import Role


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of words. The first column names the row; the others are figures. `number`: None of one
    that belongs to a sweep.
    """

    number: int | None
    title: str
    note: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def heading(self) -> str:
        """Number and title."""
        return self.title if self.number is None else f"Table {self.number}. {self.title}"


def tables(study: Study, shapes: Mapping[Role, Shape]) -> list[Table]:
    """Those for which there are runs."""
    found = [
        _quality_and_speed(study),
        _models(study, shapes),
        _against_rejection(study),
        _rates(study),
    ]
    return [table for table in found if table is not None and table.rows]


def _quality_and_speed(study: Study) -> Table | None:
    """Table 1; table 5 where tokens were drawn."""
    large = study.large
    if large is None:
        return None
    rows = [_line("large alone", large, study)]
    rows += [_line(f"small alone, {row.small}", row, study) for row in study.of(Kind.SMALL)]
    rows += [_line(f"exact, {row.small}", row, study) for row in study.of(Kind.EXACT)]
    for small in study.smalls:
        for lost, what in ((0.0, "equal quality"), (POINT, study.point_title)):
            row = equal(study, lost, kinds=(Kind.BILD, Kind.EARLY_EXIT), small=small)
            if row is not None:
                rows.append(_line(f"BiLD, {small}, {what}", row, study))
            elif study.placed(Kind.BILD, Kind.EARLY_EXIT, small=small):
                missing = [f"BiLD, {small}, {what}", "no setting reaches it"]
                rows.append([*missing, *[""] * 4])
    if len(rows) == 1:
        return None
    return Table(
        5 if study.drawn else 1,
        "Quality and speed" + (f", {study.drawn}" if study.drawn else ""),
        "Of each small model the fastest setting whose figure is no worse than the large model's, and at "
        f"most {study.point_title}, chosen on these very texts. In brackets 95 % intervals over texts.",
        _head(study),
        rows,
    )


def _head(study: Study) -> list[str]:
    """What stands above the cells of `_line`."""
    return [
        "", "setting", study.metric_title, "speedup", "ms a text (large alone)", "large passes a token",
    ]  # fmt: skip


def _line(title: str, row: Row, study: Study) -> list[str]:
    return [
        title,
        row.name,
        interval(row.part.figures.get(study.metric), study.judge.digits),
        interval(row.speedup, 2, "x") if row.kind is not Kind.LARGE else "1x",
        _ms(row),
        _short(row.number("large_passes_per_token"), 3),
    ]


def _models(study: Study, shapes: Mapping[Role, Shape]) -> Table | None:
    """Table 2, where the models' shapes are at hand."""
    if not shapes:
        return None
    rows = []
    for role, shape in shapes.items():
        stack, encoder = shape.decoder, shape.encoder
        rows.append([
            role.value, shape.family, str(encoder.layers) if encoder else "-", str(stack.layers),
            str(stack.width), str(stack.inner), f"{shape.parameters / 1e6:.1f} M",
            f"{stack.parameters / 1e6:.1f} M",
        ])  # fmt: skip
    head = [
        "",
        "family",
        "encoder layers",
        "decoder layers",
        "width",
        "feed-forward",
        "weights",
        "of these decoder",
    ]
    return Table(2, "The models", "Decoder weights without embedding and head.", head, rows)


def _against_rejection(study: Study) -> Table | None:
    """Table 3: speculative sampling by rejection, and BiLD at its quality and at its latency."""
    others = study.placed(Kind.REJECTION)
    if not others:
        return None
    rows = [_line(f"speculative sampling, {row.small}", row, study) for _, _, row in others]
    x, y, _ = others[0]
    ours = study.placed(Kind.BILD, Kind.EARLY_EXIT)
    matched = next((row for _, own, row in ours if study.worth(own) >= study.worth(y)), None)
    best = max((p for p in ours if p[0] <= x), key=lambda p: study.worth(p[1]), default=None)
    for what, row in (("its quality", matched), ("its latency", best[2] if best else None)):
        title = f"BiLD at {what}"
        rows.append(
            _line(title, row, study) if row else [title, "no setting reaches it", *[""] * 4]
        )
    return Table(
        3,
        "Against speculative sampling by rejection",
        f"BiLD against the fastest of them, {others[0][2].name}: the fastest setting of at least its "
        "quality, and the best one that is at least as fast.",
        _head(study),
        rows,
    )


def _rates(study: Study) -> Table | None:
    """Table 4."""
    kinds = (Kind.BILD, Kind.EARLY_EXIT, Kind.NO_FALLBACK, Kind.NO_ROLLBACK)
    rows = [
        [
            row.name,
            row.small,
            _share(row.number("fallback_rate")),
            _share(row.number("rollback_rate")),
            _short(row.number("large_passes_per_token"), 3),
            interval(row.part.figures.get(study.metric), study.judge.digits),
            interval(row.speedup, 2, "x"),
        ]
        for row in sorted(study.of(*kinds), key=_thresholds)
    ]
    head = [
        "",
        "small model",
        "fallback",
        "rollback",
        "large passes a token",
        study.metric_title,
        "speedup",
    ]
    note = "Shares of all tokens that the large model wrote because the small one was unsure, or was overruled."
    return Table(4, "Fallback and rollback rates", note, head, rows)


def _thresholds(row: Row) -> tuple[str, str, float, float]:
    return (row.kind, row.small, row.options.alpha_rb, row.options.alpha_fb)


def interval(found: Mapping[str, Any] | None, digits: int, unit: str = "") -> str:
    """A figure with its interval in brackets: `27.4 [26.1, 28.9]`."""
    if not isinstance(found, Mapping):
        return "-"
    text = f"{found['value']:.{digits}f}{unit}"
    if found.get("low") is not None and found.get("high") is not None:
        text += f" [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"
    return text


def _ms(row: Row) -> str:
    """Mean time of a text, and in brackets that of the large model in the same run: a machine may be
    slower in one run than in another.
    """
    found, beside = (_mean(part) for part in (row.part, row.record.large))
    return f"{found} ({beside})" if row.kind is not Kind.LARGE and beside != "-" else found


def _mean(part: Part | None) -> str:
    found = part.figures.get("latency_ms") if part else None
    return f"{found['mean']:.0f}" if isinstance(found, Mapping) and "mean" in found else "-"


def _short(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
