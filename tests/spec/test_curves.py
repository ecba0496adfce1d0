"""Figure 10: which points a curve joins, what the curves are called, and that none hides another."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from math import inf
from types import SimpleNamespace
from typing import Any, Final

import pytest

from bild_dist.evaluation import pictures
from bild_dist.evaluation.curves import Curves, curves
from bild_dist.evaluation.report.charts import Chart, charts
from bild_dist.evaluation.report.runs import studies
from bild_dist.evaluation.run.record import Record, Setting
from bild_dist.evaluation.sweep import plot
from bild_dist.evaluation.sweep.replay import Played
from bild_dist.evaluation.sweep.study import Point
from bild_dist.types import Options, Schedule
from tests.spec.test_report_runs import run

SVG: Final = "{http://www.w3.org/2000/svg}"


def of(*options: Options, least: int = 1) -> Curves[Setting]:
    settings = [Setting.of(one) for one in options]
    return curves(settings, lambda setting: setting.options, least=least)


def test_curves_part_where_windows_or_schedules_do() -> None:
    """A line through points of two windows would promise what no setting does."""
    found = of(*(
        Options(alpha_fb=fb, alpha_rb=rb, window=window, schedule=Schedule.PAPER)
        for fb in (0.8, 0.3) for rb in (10.0, 2.0) for window in (5, 10)
    ))  # fmt: skip
    assert [title for title, _ in found.found] == [
        "alpha_rb 2, window 5", "alpha_rb 2, window 10", "alpha_rb 10, window 5", "alpha_rb 10, window 10",
    ]  # fmt: skip
    assert found.shared == ""
    for _, curve in found.found:
        assert [setting.options.alpha_fb for setting in curve] == [0.3, 0.8]
    ((title, _),) = of(Options(alpha_rb=10)).found
    assert title == "alpha_rb 10"


@pytest.mark.parametrize(
    ("changes", "titles"),
    [
        ({"distance": "tv"}, ["distance ce", "distance tv"]),
        ({"confidence": "margin"}, ["confidence margin", "confidence max"]),
        ({"adapt": 0.2}, ["adapt 0", "adapt 0.2"]),
        ({"first": "large"}, ["first large", "first small"]),
        ({"verify_tail": False}, ["tail unchecked", "tail checked"]),
    ],
)  # fmt: skip
def test_curves_part_where_thresholds_mean_something_else(
    changes: dict[str, Any], titles: list[str]
) -> None:
    """alpha_rb 0.5 is in nats with one distance and a share with another: no line joins the two. What both
    have is said once.
    """
    found = of(*(
        Options(alpha_rb=0.5).merged({"alpha_fb": fb, **more})
        for fb in (0.8, 0.3) for more in ({}, changes)
    ))  # fmt: skip
    assert [title for title, _ in found.found] == titles
    assert found.shared == "alpha_rb 0.5"
    assert all([one.options.alpha_fb for one in curve] == [0.3, 0.8] for _, curve in found.found)


def test_a_title_names_what_is_its_own() -> None:
    """Where several options differ each curve says in which it differs, and all others' values stand once."""
    base = Options(schedule=Schedule.THROUGH)
    plain = [replace(base, alpha_fb=fb, alpha_rb=rb) for fb in (0.3, 0.6) for rb in (1.0, 2.0, inf)]
    other = [
        base.merged({"alpha_fb": fb, "alpha_rb": 0.5, **more})
        for fb in (0.3, 0.6) for more in ({"distance": "js"}, {"schedule": "paper"})
    ]  # fmt: skip
    found = of(*plain, *other)
    assert [title for title, _ in found.found] == [
        "alpha_rb 0.5, paper", "alpha_rb 0.5, distance js", "alpha_rb 1", "alpha_rb 2", "alpha_rb inf",
    ]  # fmt: skip
    assert found.shared == "unless named: distance ce, through"


def test_what_is_not_drawn_gives_no_curve_a_word() -> None:
    """A point by itself is no curve: that it has another distance is nothing that the curves differ in."""
    drawn = [Options(alpha_fb=fb, alpha_rb=rb) for fb in (0.3, 0.6) for rb in (1.0, 2.0)]
    alone = Options().merged({"distance": "js", "confidence": "entropy", "adapt": 0.3})
    found = of(*drawn, alone, least=2)
    assert [title for title, _ in found.found] == ["alpha_rb 1", "alpha_rb 2"]
    assert found.shared == ""


def alike(count: int) -> list[Record]:
    """Curves that lie on one another: the same figures at every alpha_rb."""
    return [
        run(speed, own={"bleu": bleu}, large={"bleu": 30}, alpha_fb=fb, alpha_rb=float(rb))
        for fb, speed, bleu in ((0.3, 2.0, 28), (0.6, 1.5, 29))
        for rb in range(count)
    ]


def drawn(records: list[Record], number: int) -> Chart:
    (study,) = studies(records)
    return next(chart for chart in charts(study, {}) if chart.number == number)


def test_curves_on_one_another_are_all_seen() -> None:
    """No mark of a series is filled so that it hides another's, and each has a shape and a colour of its own."""
    count = len(pictures.MARKS)
    chart = drawn(alike(count), 10)
    styles = [part.get("style", "") for part in ET.fromstring(chart.svg).iter()]
    marks = [s for s in styles if any(f"stroke: {colour}" in s for colour in pictures.COLOURS)]
    marks = [style for style in marks if "fill" in style]
    # Of each two points, the line between them and a mark in the legend.
    assert len(marks) >= 4 * count
    assert all("fill-opacity: 0.2" in style or "fill: none" in style for style in marks)
    looks = {
        (pictures.picked(pictures.COLOURS, n), pictures.picked(pictures.MARKS, n))
        for n in range(4 * count)
    }
    assert len(looks) == 4 * count


def test_series_on_one_another_are_all_seen() -> None:
    """Of two small models with the same figures the second lies smaller within the first."""
    one, two = alike(1)
    other = [
        replace(r, models={**r.models, "small": {"model": "other", "weights": "o"}})
        for r in (one, two)
    ]
    chart = drawn([one, two, *other], 4)
    assert chart.svg.count("fill-opacity: 0.2") >= 2
    svg = ET.fromstring(chart.svg)
    marks = [part for defs in svg.iter(f"{SVG}defs") for part in defs.iter(f"{SVG}path")]

    def wide(colour: str) -> float:
        found = [m.get("d", "") for m in marks if f"stroke: {colour}" in m.get("style", "")]
        return max(float(n) for d in found for n in d.split() if not n.isalpha())

    first, second = (wide(colour) for colour in pictures.COLOURS[:2])
    assert first > 1.2 * second


def test_the_legend_says_once_what_all_curves_share() -> None:
    """In the figure, and in its words for those who do not see it."""
    records = [
        run(
            2 - fb,
            own={"bleu": 28 + fb},
            large={"bleu": 30},
            alpha_fb=fb,
            alpha_rb=2.0,
            window=window,
        )
        for fb in (0.3, 0.6)
        for window in (10, 5)
    ]
    chart = drawn(records, 10)
    assert chart.svg.count("alpha_rb 2") == 1
    assert "window 5" in chart.svg
    assert "window 10" in chart.svg
    assert "Of all curves: alpha_rb 2." in chart.says


def test_the_legend_of_many_curves_fits_beside_them() -> None:
    """Forty lines are longer than a picture is high: they stand in columns, and the picture is wider."""
    points = [
        Point(
            setting=Setting.of(Options(alpha_fb=fb, alpha_rb=float(rb))),
            played=(Played(9, 9, 9, 0, 0, 0, round(1e6 * (rb + fb))),),
            figures={"agreement": {"value": fb}},
        )
        for rb in range(40)
        for fb in (0.3, 0.6)
    ]
    large = SimpleNamespace(figures={"agreement": {"value": 1.0}})
    study: Any = SimpleNamespace(large_ms=9.0, large=large, task="mine", split="all", items=())
    with pictures.drawing():
        picture = plot._figure(study, points, "agreement")
        picture.draw_without_rendering()
    (legend,) = picture.legends
    shown, whole = legend.get_window_extent(), picture.bbox
    assert 0 <= shown.y0 < shown.y1 <= whole.height
    assert 0 < shown.x0 < shown.x1 <= whole.width
    assert picture.axes[0].bbox.x1 < shown.x0
