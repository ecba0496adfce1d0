"""Draws quality against latency: figures 4 and 10 of the paper for a pair of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bild_dist.errors import ConfigError
from bild_dist.evaluation.metrics import registry
from bild_dist.evaluation.sweep.grid import front
from bild_dist.evaluation.sweep.study import Point, Study
from bild_dist.types import Mode

_COLOURS: Final = ("#2166ac", "#b35806", "#1b7837", "#762a83", "#8c6d1f", "#c51b7d")
_MARKS: Final = ("o", "s", "^", "D", "v", "P")
"""Colour and mark together, so that curves are told apart in print and by people who see no red or no
green."""
_STROKES: Final = ("-", "--", ":", "-.")
_FAINT: Final = "#777777"
_STYLE: Final = {
    "svg.hashsalt": "bild-dist", "svg.fonttype": "none",
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.6, "axes.axisbelow": True,
    "text.parse_math": False,  # a dollar in a path is a dollar
    "legend.frameon": False, "savefig.facecolor": "white", "figure.facecolor": "white",
}  # fmt: skip
_TITLES: Final = {"bleu": "BLEU", "rougeL": "ROUGE-L", "chrf": "chrF", "agreement": "agreement"}


def ready(stem: Path) -> None:
    """Looks whether STEM.png can be drawn later, before hours are spent on what it would show.

    Raises:
        ConfigError: matplotlib is not installed, or nothing can be written there.
    """
    _matplotlib()
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


def _matplotlib() -> Any:
    try:
        import matplotlib as mpl
    except ImportError:
        raise ConfigError("drawing needs matplotlib: pip install 'bild-dist[eval]'") from None
    mpl.use("Agg")
    return mpl


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
    mpl = _matplotlib()
    name = metric or study.metric
    points = [point for point in study.points if name in point.figures]
    if not points:
        raise ConfigError(
            f"no setting was judged by {name}: known are {', '.join(registry.names())}"
        )
    paths = _paths(stem)
    with mpl.rc_context(_STYLE):
        figure = _figure(study, points, name)
        try:
            stem.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(paths[0], dpi=130)
            figure.savefig(paths[1], metadata={"Date": None, "Creator": None})
        except OSError as error:
            raise _refused(stem, error) from None
    return paths


def _figure(study: Study, points: Sequence[Point], name: str) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.6), layout="constrained")
    axes = figure.subplots()

    def across(point: Point) -> float:
        return point.latency_ms / study.large_ms

    def up(point: Point) -> float:
        return float(point.figures[name]["value"])

    best = study.large.figures[name]["value"]
    best_front = front(points, quality=up, latency=across)
    axes.plot([across(p) for p in best_front], [up(p) for p in best_front], color="#d9d9d9",
              linewidth=6, solid_capstyle="round", zorder=1, label="front")  # fmt: skip
    for number, (title, curve) in enumerate(_curves(points)):
        axes.plot(
            [across(p) for p in curve], [up(p) for p in curve], color=_pick(_COLOURS, number),
            linestyle=_STROKES[number // len(_COLOURS) % len(_STROKES)], linewidth=1, zorder=2,
        )  # fmt: skip
        axes.scatter(
            [across(p) for p in curve], [up(p) for p in curve], label=title, zorder=3,
            s=[12 + 90 * p.setting.options.alpha_fb**2 for p in curve], alpha=0.8,
            color=_pick(_COLOURS, number), marker=_pick(_MARKS, number), linewidths=0,
        )  # fmt: skip
    for point in points:
        if point.setting.options.mode is not Mode.BILD:
            axes.scatter([across(point)], [up(point)], marker="X", s=60, color=_FAINT, zorder=4)
            axes.annotate(point.setting.name, (across(point), up(point)), xytext=(6, 4),
                          textcoords="offset points", color=_FAINT)  # fmt: skip
    axes.scatter([1.0], [best], marker="*", s=160, color="black", zorder=5)
    axes.annotate("large", (1.0, best), xytext=(-6, 8), textcoords="offset points", ha="right")
    below = best - registry.named(name).point
    axes.axhline(below, color=_FAINT, linestyle=(0, (4, 3)), linewidth=1)
    axes.annotate("one point below large", (1.0, below), xycoords=("axes fraction", "data"),
                  xytext=(-2, -4), textcoords="offset points", ha="right", va="top",
                  color=_FAINT)  # fmt: skip
    how = {p.source for p in points} == {"measured"}
    axes.set_xlabel(f"latency, times that of large ({'measured' if how else 'predicted'})")
    axes.set_ylabel(_TITLES[name])
    axes.set_title(f"{study.task}, {study.split}: {len(study.items)} texts", loc="left")
    figure.legend(
        title="larger mark:\nhigher alpha_fb", loc="outside right upper", alignment="left"
    )
    return figure


def _curves(points: Sequence[Point]) -> list[tuple[str, list[Point]]]:
    """One curve for each alpha_rb (and window and schedule, where they differ), by alpha_fb."""
    shown = [point for point in points if point.setting.options.mode is Mode.BILD]
    several = {
        field: len({getattr(p.setting.options, field) for p in shown}) > 1
        for field in ("window", "schedule")
    }
    curves: dict[tuple[float, int, str], list[Point]] = {}
    titles = {}
    for point in sorted(shown, key=lambda p: p.setting.options.alpha_fb):
        options = point.setting.options
        key = (
            options.alpha_rb,
            options.window if several["window"] else 0,
            str(options.schedule) if several["schedule"] else "",
        )
        title = f"alpha_rb {options.alpha_rb:g}"
        title += f", window {options.window}" if several["window"] else ""
        title += f", {options.schedule}" if several["schedule"] else ""
        titles[key] = title
        curves.setdefault(key, []).append(point)
    # As numbers: as words, 10 would stand before 2.
    return [(titles[key], curves[key]) for key in sorted(curves)]


def _pick(values: Sequence[str], number: int) -> str:
    return values[number % len(values)]
