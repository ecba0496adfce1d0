"""Draws quality against latency: figures 4 and 10 of the paper for a pair of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bild_dist.errors import ConfigError
from bild_dist.evaluation import curves as parted
from bild_dist.evaluation import pictures
from bild_dist.evaluation.metrics import registry
from bild_dist.evaluation.pictures import COLOURS, FAINT, INK, MARKS, OTHERS, SOFT, STROKES, picked
from bild_dist.evaluation.sweep.grid import front
from bild_dist.evaluation.sweep.study import Point, Study, measured
from bild_dist.types import Mode

_COLUMN: Final = 18
"""Lines of a legend that stand beside the axes: more go into another column."""


def ready(stem: Path) -> None:
    """Looks whether STEM.png can be drawn later, before hours are spent on what it would show.

    Raises:
        ConfigError: matplotlib is not installed, or nothing can be written there.
    """
    pictures.ready()
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for path in _paths(stem):
            # Opened to be written and closed again: nobody else knows all reasons why not.
            there = path.exists()
            path.open("ab").close()
            if not there:
                path.unlink()
    except (OSError, ValueError) as error:
        raise _refused(stem, error) from None


def _paths(stem: Path) -> list[Path]:
    return [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]


def _refused(stem: Path, error: Exception) -> ConfigError:
    said = getattr(error, "strerror", None) or error
    return ConfigError(f"--plot {stem} cannot be written: {said}")


def draw(study: Study, stem: Path, metric: str = "") -> list[Path]:
    """Writes STEM.png and STEM.svg and returns their paths. `metric`: the study's main one if empty.

    Raises:
        ConfigError: matplotlib is not installed, no setting has this metric, or nothing can be
            written there.
    """
    name = metric or study.metric
    points = [point for point in study.points if name in point.figures]
    if not points:
        raise ConfigError(
            f"no setting was judged by {name}: known are {', '.join(registry.names())}"
        )
    paths = _paths(stem)
    with pictures.drawing():
        figure = _figure(study, points, name)
        try:
            stem.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(paths[0], dpi=130)
            figure.savefig(paths[1], metadata=pictures.UNDATED)
        except OSError as error:
            raise _refused(stem, error) from None
    return paths


def _figure(study: Study, points: Sequence[Point], name: str) -> Any:
    drawn = curves(points)
    others = [point for point in points if point.setting.options.mode is not Mode.BILD]
    # With the front, large and the line below it.
    columns = -(-(len(drawn.found) + len(others) + 3) // _COLUMN)
    figure = pictures.figure(8.0 + 2.6 * (columns - 1), 4.6, layout="constrained")
    axes = figure.subplots()

    large_ms = study.large_ms

    def across(point: Point) -> float:
        return point.latency_ms / large_ms

    def up(point: Point) -> float:
        return float(point.figures[name]["value"])

    best = study.large.figures[name]["value"]
    best_front = front(points, quality=up, latency=across)
    axes.plot([across(p) for p in best_front], [up(p) for p in best_front], color=FAINT,
              linewidth=6, solid_capstyle="round", zorder=1, label="front")  # fmt: skip
    for number, (title, curve) in enumerate(drawn.found):
        axes.plot(
            [across(p) for p in curve], [up(p) for p in curve], color=picked(COLOURS, number),
            linestyle=picked(STROKES, number), linewidth=1, zorder=2,
        )  # fmt: skip
        axes.scatter(
            [across(p) for p in curve], [up(p) for p in curve], label=title, zorder=3,
            s=[pictures.size(p.setting.options, 90) for p in curve], marker=picked(MARKS, number),
            facecolor=pictures.face(picked(COLOURS, number)), edgecolor=picked(COLOURS, number),
            linewidths=1.1,
        )  # fmt: skip
    # Named in the legend: beside the marks names would lie on points, and on one another.
    for number, point in enumerate(others):
        axes.scatter([across(point)], [up(point)], marker=picked(OTHERS, number), s=60, color=SOFT,
                     edgecolor="white", linewidths=0.7, zorder=4, label=point.setting.name)  # fmt: skip
    axes.scatter([1.0], [best], marker="*", s=160, color=INK, zorder=5, label="large")
    below = best - registry.named(name).point
    axes.axhline(
        below, color=SOFT, linestyle=(0, (4, 3)), linewidth=1, label="one point below large"
    )
    how = "measured" if measured(points) else "predicted"
    axes.set_xlabel(f"latency, times that of large ({how})")
    axes.set_ylabel(registry.named(name).title)
    axes.set_title(f"{study.task}, {study.split}: {len(study.items)} texts", loc="left")
    figure.legend(
        title="\n".join(["larger mark:", "higher alpha_fb", *drawn.shared.split("; ")]).strip(),
        loc="outside right upper",
        alignment="left",
        ncols=columns,
    )
    return figure


def curves(points: Sequence[Point]) -> parted.Curves[Point]:
    """The settings of mode `bild`, a curve for each alpha_rb."""
    shown = [point for point in points if point.setting.options.mode is Mode.BILD]
    return parted.curves(shown, lambda point: point.setting.options)
