"""The tables of a study: 1 and 5 quality and speed, as in the paper; under numbers of our own 2 the models,
3 against speculative sampling, 4 how often each model has the word.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from bild_dist.evaluation.costs.shapes import Shape
from bild_dist.evaluation.report import against
from bild_dist.evaluation.report.cells import Table, head_of, interval, line, short
from bild_dist.evaluation.report.runs import POINT, Kind, Row, Study, equal
from bild_dist.evaluation.tasks.base import Item
from bild_dist.types import Role


def tables(
    study: Study, shapes: Mapping[Role, Shape], items: Mapping[str, Item] = MappingProxyType({})
) -> list[Table]:
    """Those for which there are runs. `items`: those of the task by id, empty where it cannot be read."""
    found = [
        _quality_and_speed(study),
        _models(study, shapes),
        *against.tables(study, items),
        _rates(study),
    ]
    return [table for table in found if table is not None and table.rows]


def _quality_and_speed(study: Study) -> Table | None:
    """Table 1; table 5 where tokens were drawn."""
    large = study.large
    if large is None:
        return None
    rows = [line("large alone", large, study)]
    rows += [line(f"small alone, {row.small}", row, study) for row in study.of(Kind.SMALL)]
    rows += [line(f"exact, {row.small}", row, study) for row in study.of(Kind.EXACT)]
    for small in study.smalls:
        for lost, what in ((0.0, "equal quality"), (POINT, study.point_title)):
            row = equal(study, lost, kinds=(Kind.BILD, Kind.EARLY_EXIT), small=small)
            if row is not None:
                rows.append(line(f"BiLD, {small}, {what}", row, study))
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
        head_of(study),
        rows,
    )


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


def _rates(study: Study) -> Table | None:
    """Table 4."""
    kinds = (Kind.BILD, Kind.EARLY_EXIT, Kind.NO_FALLBACK, Kind.NO_ROLLBACK)
    rows = [
        [
            row.name,
            row.small,
            _share(row.number("fallback_rate")),
            _share(row.number("rollback_rate")),
            short(row.number("large_passes_per_token"), 3),
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


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
