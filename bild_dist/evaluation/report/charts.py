"""The paper's figures for a study."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Final

from bild_dist.evaluation.costs.bill import Bill
from bild_dist.evaluation.costs.work import Work
from bild_dist.evaluation.curves import curves
from bild_dist.evaluation.pictures import (
    COLOURS,
    INK,
    MARKS,
    OTHERS,
    SOFT,
    STROKES,
    UNDATED,
    drawing,
    face,
    figure,
    size,
)  # fmt: skip
from bild_dist.evaluation.report.runs import POINT, Key, Kind, Row, Study, equal
from bild_dist.evaluation.sweep.grid import front

WIDTH: Final = 5.0
"""Inches."""
_LARGE_WROTE: Final = ("fallback_rate", "rollback_rate", "window_rate")
"""Shares of the tokens that add up to those of the large model."""
_ALONE: Final = "x+1234"
"""Marks of small models alone, one each."""
_IDS: Final = re.compile(r' id="[a-zA-Z0-9]+_\d+"')
_METADATA: Final = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure as SVG, from `<svg` on. `says`: the same in words, for those who cannot see it."""

    number: int
    title: str
    says: str
    svg: str


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one mark, by latency and quality."""

    title: str
    points: Sequence[tuple[float, float, Row]]


def charts(study: Study, bills: Mapping[Key, Bill]) -> list[Chart]:
    """The figures for which there are runs. `bills`: what rows cost, by their key.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    with drawing():
        drawn = [
            _oracle(study),
            _trade(study, 4, "Quality against latency", _by_small(study)),
            _trade(study, 5, "Without rollback, without fallback", _ablation(study)),
            _trade(study, 6, "Early exit: the first layers as the small model", _exits(study)),
            _trade(study, 7, "Early exit against CALM", _calm(study)),
            _costs(study, bills),
            _thresholds(study),
        ]
    return [chart for chart in drawn if chart is not None]


def grid_charts(study: Study) -> list[Chart]:
    """Figures 4 and 10, for the settings of a sweep. Raises as `charts`."""
    with drawing():
        drawn = [
            _trade(study, 4, "Quality against latency", _by_small(study)),
            _thresholds(study),
        ]
    return [chart for chart in drawn if chart is not None]


def _svg(picture: Any) -> str:
    buffer = io.StringIO()
    picture.savefig(buffer, format="svg", bbox_inches="tight", metadata=UNDATED)
    text = buffer.getvalue()
    # Several of them stand in one page: ids that only number things would be there twice.
    return _IDS.sub("", _METADATA.sub("", text[text.index("<svg") :])).strip()


def _by_small(study: Study) -> list[Series]:
    return [
        Series(f"BiLD, {small}", study.placed(Kind.BILD, Kind.EARLY_EXIT, small=small))
        for small in study.smalls
    ]


def _ablation(study: Study) -> list[Series]:
    found = [
        Series(kind.value, study.placed(kind)) for kind in (Kind.NO_ROLLBACK, Kind.NO_FALLBACK)
    ]
    return [Series("BiLD", study.placed(Kind.BILD)), *found] if any(s.points for s in found) else []


def _exits(study: Study) -> list[Series]:
    own = study.placed(Kind.EARLY_EXIT)
    return [Series("BiLD, early exit", own), Series("BiLD", study.placed(Kind.BILD))] if own else []


def _calm(study: Study) -> list[Series]:
    other = study.placed(Kind.CALM)
    found = [Series(kind.value, study.placed(kind)) for kind in (Kind.CALM, Kind.WHOLE)]
    ours = Series("BiLD, early exit", study.placed(Kind.EARLY_EXIT))
    return [*found, ours] if other else []


def _trade(study: Study, number: int, title: str, series: Sequence[Series]) -> Chart | None:
    """Quality over latency: the line joins the settings that none beats in both."""
    series = [one for one in series if one.points]
    if not series:
        return None
    picture = figure(WIDTH, 3.6)
    axes = picture.subplots()
    marks, colours, strokes = cycle(MARKS), cycle(COLOURS), cycle(STROKES)
    sizes = iter([5.5 + 4.5 * rest / len(series) for rest in reversed(range(len(series)))])
    words = []
    for one in series:
        colour, mark, wide = next(colours), next(marks), next(sizes)
        best = front(one.points, quality=lambda p: study.worth(p[1]), latency=lambda p: p[0])
        # Open, and the later the smaller and the further to the front: nothing hides what lies on one point.
        axes.scatter([x for x, _, _ in one.points], [y for _, y, _ in one.points], s=wide**2 * 0.8,
                     marker=mark, facecolor="none", edgecolor=colour, linewidth=0.9)  # fmt: skip
        axes.plot([x for x, _, _ in best], [y for _, y, _ in best], next(strokes), marker=mark,
                  markersize=wide, markerfacecolor=face(colour), color=colour, label=one.title)  # fmt: skip
        listed = "; ".join(f"{row.name} {study.shown(y)} at {x:.2f}" for x, y, row in best)
        words.append(f"{one.title}: {listed}.")
    words += _landmarks(axes, study)
    _label(axes, study)
    return Chart(number, title, " ".join(words), _svg(picture))


def _landmarks(axes: Any, study: Study) -> list[str]:
    """The large model's point, the line one point worse, mode exact, and the small models alone."""
    words = []
    for x, y, _ in study.placed(Kind.LARGE):
        axes.plot(
            [x], [y], marker="*", markersize=13, color=INK, linestyle="none", label="large alone"
        )
        floor = study.below(y)
        # Named below: beside the line it would lie on points.
        axes.axhline(floor, color=SOFT, linestyle=(0, (1, 2)), linewidth=1, label=study.point_title)
        words.append(f"Large alone: {study.shown(y)} at 1.")
    for (x, y, row), mark in zip(study.placed(Kind.EXACT), cycle(OTHERS), strict=False):
        axes.plot([x], [y], marker=mark, markersize=7, color=SOFT, markeredgecolor="white",
                  markeredgewidth=0.7, linestyle="none", label=f"{row.name}, {row.small}")  # fmt: skip
        words.append(f"{row.name}, {row.small}: {study.shown(y)} at {x:.2f}.")
    for (x, y, row), mark in zip(study.placed(Kind.SMALL), cycle(_ALONE), strict=False):
        axes.plot([x], [y], marker=mark, markersize=7, color=SOFT, linestyle="none",
                  label=f"small alone, {row.small}")  # fmt: skip
        words.append(f"Small alone, {row.small}: {study.shown(y)} at {x:.2f}.")
    return words


def _label(axes: Any, study: Study, x: str = "", legend: str = "") -> None:
    """`x`: what is along the bottom, `legend`: what stands above the names of the series."""
    axes.set_xlabel(x or study.across)
    axes.set_ylabel(study.metric_title)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=8,
                title=legend or None, title_fontsize=8)  # fmt: skip


def _thresholds(study: Study) -> Chart | None:
    """Figure 10: a curve for each alpha_rb, points sized by alpha_fb."""
    placed = study.placed(Kind.BILD, Kind.NO_ROLLBACK, Kind.EARLY_EXIT)
    drawn = curves(placed, lambda point: point[2].options, lambda point: point[2].small, least=2)
    found = drawn.found
    if not found:
        return None
    picture = figure(WIDTH, 3.6)
    axes = picture.subplots()
    words = []
    looks = zip(found, cycle(COLOURS), cycle(MARKS), cycle(STROKES), strict=False)
    for (title, points), colour, mark, stroke in looks:
        xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
        axes.plot(xs, ys, stroke, color=colour, linewidth=1.2)
        sizes = [size(row.options, 110) for _, _, row in points]
        axes.scatter(xs, ys, s=sizes, marker=mark, facecolor=face(colour), edgecolor=colour,
                     linewidth=1.1, label=title)  # fmt: skip
        listed = "; ".join(
            f"alpha_fb {r.options.alpha_fb:g}: {study.shown(y)} at {x:.2f}" for x, y, r in points
        )
        words.append(f"{title}: {listed}.")
    words += [f"Of all curves: {drawn.shared}."] if drawn.shared else []
    words += _landmarks(axes, study)
    _label(axes, study, legend=drawn.shared)
    title = "Thresholds: one curve for each alpha_rb, larger points have a larger alpha_fb"
    return Chart(10, title, " ".join(words), _svg(picture))


def _oracle(study: Study) -> Chart | None:
    """Figure 2: the share of positions that the large model writes, against quality."""
    rows = study.of(Kind.ORACLE, Kind.SMALL)
    found = (
        (sum(row.number(name) or 0.0 for name in _LARGE_WROTE), quality, row)
        for row in rows
        if (quality := row.quality(study.metric)) is not None
    )
    points = sorted(found, key=lambda point: point[:2])
    if not study.of(Kind.ORACLE) or len(points) < 2:
        return None
    picture = figure(WIDTH, 3.2)
    axes = picture.subplots()
    axes.plot([100 * x for x, _, _ in points], [y for _, y, _ in points], "-o", color=COLOURS[0],
              label="small model, its worst tokens replaced")  # fmt: skip
    large = study.large.quality(study.metric) if study.large else None
    if large is not None:
        axes.axhline(large, color=INK, linestyle="--", linewidth=1, label="large alone")
    _label(axes, study, "positions that the large model writes, %")
    says = "; ".join(f"{100 * x:.0f} %: {study.shown(y)}" for x, y, _ in points)
    return Chart(2, "How few tokens must be replaced", says, _svg(picture))


def _compared(study: Study) -> list[Row]:
    """The large model, what table 1 names, and then the rest, each once."""
    ours = (Kind.BILD, Kind.EARLY_EXIT)
    named = [equal(study, lost, kinds=ours, small=None) for lost in (0.0, POINT)]
    order = [study.large, *named, *study.of(Kind.EXACT, Kind.REJECTION, Kind.SMALL), *study.rows]
    return list({id(row): row for row in order if row is not None}.values())


def _costs(study: Study, bills: Mapping[Key, Bill]) -> Chart | None:
    """Figure 8: operations and bytes a token, and intensity, against the large model alone; prompts apart."""
    base = bills.get(study.large.key) if study.large else None
    rows = [row for row in _compared(study) if row.key in bills][:4]
    if base is None or not base.tokens or len(rows) < 2:
        return None
    parts: list[tuple[str, Callable[[Work], float]]] = [
        ("operations a token", lambda work: work.flops),
        ("bytes a token", lambda work: work.bytes),
    ]
    picture = figure(WIDTH, 3.2)
    axes = picture.subplots()
    width, words = 0.8 / len(rows), []
    many = len(study.smalls) > 1
    looks = zip(rows, cycle(COLOURS), cycle(("", "//", "..", "xx", "\\\\")), strict=False)
    for i, (row, colour, hatch) in enumerate(looks):
        own = bills[row.key]
        writing = [
            get(own.a_token(own.of_writing)) / get(base.a_token(base.total)) for _, get in parts
        ]
        prompt = [
            get(own.a_token(own.of_prompt)) / get(base.a_token(base.total)) for _, get in parts
        ]
        times = own.total.intensity / base.total.intensity
        at = [x + (i - (len(rows) - 1) / 2) * width for x in range(3)]
        axes.bar(at, [*writing, times], width * 0.92, color=colour, hatch=hatch, edgecolor="white",
                 linewidth=0.5, label=", ".join(filter(None, (row.name, row.key[0] * many))))  # fmt: skip
        axes.bar(at[:2], prompt, width * 0.92, bottom=writing, color="white", edgecolor=colour,
                 linewidth=1, label="reading the prompt" if i == 0 else None)  # fmt: skip
        sums = [a + b for a, b in zip(writing, prompt, strict=True)]
        for x, y in zip(at, [*sums, times], strict=True):
            axes.annotate(f"{y:.2f}", (x, y), ha="center", va="bottom", fontsize=7.5)
        words.append(
            f"{row.name}: operations a token {sums[0]:.2f} (prompt {prompt[0]:.2f}), bytes {sums[1]:.2f} "
            f"(prompt {prompt[1]:.2f}), intensity {times:.2f}."
        )
    axes.set_xticks(range(3), [*(name for name, _ in parts), "operations a byte"])
    axes.set_ylabel("relative to the large model alone")
    axes.grid(visible=False, axis="x")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, fontsize=8)
    return Chart(8, "Operations, bytes, intensity", " ".join(words), _svg(picture))
