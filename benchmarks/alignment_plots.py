"""Draws what alignment changed: the pictures of docs/alignment.md from the reports of `bild align`.

    python -m benchmarks.alignment_plots

Reads benchmarks/alignment/NAME.json, each with the reports of one pair `before` and `after`, and
writes docs/alignment-NAME-confidence.svg, -rates.svg and, where speeds are in it,
-speed.svg. The same reports give the same files, byte by byte. Needs matplotlib, of the extra
`eval`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from math import atan2, degrees
from pathlib import Path
from typing import Any, Final

from bild_dist.errors import ConfigError
from bild_dist.evaluation import pictures
from bild_dist.evaluation.align.agreement_counts import share
from bild_dist.evaluation.align.report import Report, Speed
from bild_dist.evaluation.pictures import COLOURS as ALL
from bild_dist.evaluation.pictures import SOFT, STROKES, UNDATED, drawing

HERE: Final = Path(__file__).parent
DOCS: Final = HERE.parent / "docs"
ALPHA_RB: Final = 2.0
"""The rollback threshold that the rates are drawn for: the default of `bild generate`."""
COLOURS: Final = {"before": ALL[1], "after": ALL[0]}
MARKS: Final = {"before": "s", "after": "o"}
WIDTH: Final = 6.2
"""Inches."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A pair, and its reports by "before" and "after"; one of them may be missing."""

    pair: str
    stem: str
    reports: Mapping[str, Report]


def main() -> int:
    """Draws everything. Exit code 2 where a report cannot be read."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--reports", type=Path, default=HERE / "alignment", metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=DOCS, metavar="FOLDER")
    parser.add_argument("--png", type=Path, metavar="FOLDER", help="the same pictures as PNG too")
    given = parser.parse_args()
    try:
        for file in sorted(given.reports.glob("*.json")):
            for path in draw(read(file), given.out, given.png):
                print(path)
    except ConfigError as error:
        print(f"alignment_plots: {error}", file=sys.stderr)
        return 2
    return 0


def read(file: Path) -> Shown:
    """The reports of a pair. `pair` is what it is called; without it, the name of the file.

    Raises:
        ConfigError: the file is none of `bild align`.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    if not isinstance(found, dict) or not (found.get("before") or found.get("after")):
        raise ConfigError(
            f"{file} has no report before or after: take the report.json of bild align"
        )
    reports = {
        when: Report.from_dict(found[when]) for when in ("before", "after") if found.get(when)
    }
    return Shown(found.get("pair", file.stem), file.stem, reports)


def draw(shown: Shown, out: Path, png: Path | None = None) -> list[Path]:
    """Writes the pictures of a pair and returns their paths.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    written = []
    with drawing():
        for name, make in (("confidence", _confidence), ("rates", _rates), ("speed", _speed)):
            figure = make(shown)
            if figure is None:
                continue
            path = out / f"alignment-{shown.stem}-{name}.svg"
            out.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, metadata=UNDATED)
            written.append(path)
            if png is not None:
                png.mkdir(parents=True, exist_ok=True)
                figure.savefig(png / f"{path.stem}.png", dpi=110)
    return written


def _figure(title: str, width: float, height: float, count: int = 1, **options: Any) -> Any:
    """A figure and its axes, one above the other. The legend goes below all of them, where it
    hides nothing.
    """
    figure = pictures.figure(width, height, layout="constrained")
    figure.suptitle(title, fontsize=10)
    return figure, figure.subplots(count, 1, sharex=True, squeeze=False, **options)[:, 0]


def _confidence(shown: Shown) -> Any:
    """Match rate by confidence above, share of the positions below."""
    title = f"{shown.pair}: how often the small model is right"
    figure, (above, below) = _figure(title, WIDTH, 5.0, 2, gridspec_kw={"height_ratios": (3, 1)})
    above.plot((0, 1), (0, 100), color=SOFT, linewidth=0.8, linestyle=":")
    above.text(0.06, 8.5, "confidence taken at its word", rotation=degrees(atan2(100, 1)), color=SOFT,
               fontsize=7.5, rotation_mode="anchor", transform_rotates_text=True)  # fmt: skip
    places = _places(len(shown.reports))
    for (when, report), (shift, width) in zip(shown.reports.items(), places, strict=True):
        # A bin of a few positions says nothing, and would draw the eye most.
        seen = [b for b in report.bins if b.positions >= max(10, report.positions // 1000)]
        above.plot(
            [b.confidence for b in seen], [100 * b.matches / b.positions for b in seen],
            label=f"{when}: {report.match_rate:.1%} of all positions match", **_look(when),
        )  # fmt: skip
        below.bar(
            [(b.low + b.high) / 2 + shift for b in report.bins],
            [100 * share(b.positions, report.positions) for b in report.bins],
            width=width, color=COLOURS[when],
        )  # fmt: skip
    above.set(ylim=(0, 102), xlim=(0, 1), ylabel="% where the large model\nwould write the same")
    below.set(
        xlabel="confidence of the small model (its largest probability)",
        ylabel="% of all\npositions",
    )
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _look(when: str) -> dict[str, Any]:
    return {"color": COLOURS[when], "marker": MARKS[when], "markersize": 4, "linewidth": 1.3}


def _places(count: int) -> list[tuple[float, float]]:
    """Where the bars of so many reports stand within a bin, and how wide they are."""
    width = 0.08 / count
    return [((n - (count - 1) / 2) * width, 0.92 * width) for n in range(count)]


def _rates(shown: Shown) -> Any:
    """Fallback rate against rollback rate over alpha_fb, at one alpha_rb."""
    title = f"{shown.pair}: how often the large model has to write"
    figure, (axes,) = _figure(title, WIDTH, 4.4)
    highest = 0.0
    for when, report in shown.reports.items():
        able = sorted({point.alpha_rb for point in report.points})
        alpha_rb = min(able, key=lambda a: (abs(a - ALPHA_RB), a))
        points = [point for point in report.points if point.alpha_rb == alpha_rb]
        line = [(100 * p.fallback_rate, 100 * p.rollback_rate, p.alpha_fb) for p in points]
        highest = max(highest, *(y for _, y, _ in line))
        axes.plot(
            [x for x, _, _ in line], [y for _, y, _ in line],
            label=f"{when} (rolled back beyond {alpha_rb:g} nats)", **_look(when),
        )  # fmt: skip
        for at in line:
            _name(axes, *at, when)
    axes.set(
        xlabel="fallback rate: % of positions with less confidence than stands at the mark",
        ylabel="rollback rate: % of the other positions", xlim=(0, 100),
        ylim=(0, min(1.15 * highest + 0.5, 105)),
    )  # fmt: skip
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _speed(shown: Shown) -> Any:
    """Predicted speed against what the text loses, a panel for each number of devices; None where
    no report has speeds.
    """
    able = sorted({speed.devices for r in shown.reports.values() for speed in r.speeds})
    if not able:
        return None
    title = f"{shown.pair}: predicted speed against likelihood"
    figure, panels = _figure(title, WIDTH, 1.6 + 2.3 * len(able), len(able), sharey=True)
    highest = 1.0
    for axes, devices in zip(panels, able, strict=True):
        axes.axhline(1, color=SOFT, linewidth=0.8, linestyle=":")
        axes.annotate("large model alone", (1, 1), xycoords=("axes fraction", "data"), ha="right",
                      xytext=(0, -9), textcoords="offset points", fontsize=7.5, color=SOFT)  # fmt: skip
        axes.set_title(
            "one device for both" if devices == 1 else "a device each", loc="left", fontsize=9
        )
        axes.set_ylabel("times the large model")
        for when, report in shown.reports.items():
            speeds = [speed for speed in report.speeds if speed.devices == devices]
            highest = max([highest, *(speed.ratio for speed in speeds)])
            # A legend for all panels: of each kind of mark once.
            _speeds(axes, speeds, when, named=devices == able[0])
    panels[-1].set_xlabel(
        "nats a token by which the large model finds its own choices likelier\n"
        "(numbers: confidence threshold; stars: mode exact, the large model's own text)"
    )
    panels[-1].set(ylim=(0, 1.1 * highest))
    panels[-1].set_xlim(left=0)
    figure.legend(loc="outside lower center")
    return figure


def _speeds(axes: Any, speeds: Sequence[Speed], when: str, *, named: bool) -> None:
    lines: dict[float, list[Speed]] = {}
    for speed in speeds:
        if speed.alpha_rb is None:
            axes.plot([speed.cost_nats], [speed.ratio], color=COLOURS[when], marker="*",
                      markersize=10, linestyle="none", clip_on=False, zorder=3)  # fmt: skip
        else:
            lines.setdefault(speed.alpha_rb, []).append(speed)
    for (alpha_rb, line), stroke in zip(sorted(lines.items()), cycle(STROKES)):
        told = f"{when}, rolled back beyond {alpha_rb:g} nats, c = {line[0].c:.2f}"
        axes.plot(
            [s.cost_nats for s in line], [s.ratio for s in line], linestyle=stroke,
            label=told if named else None, **_look(when),
        )  # fmt: skip
        for end in (line[0], line[-1]):
            _name(axes, end.cost_nats, end.ratio, end.alpha_fb or 0.0, when)


def _name(axes: Any, x: float, y: float, alpha_fb: float, when: str) -> None:
    """The confidence threshold beside a mark, where neither a falling line nor the other one is."""
    side, end = {"before": ((4, 4), "left"), "after": ((-4, -10), "right")}[when]
    axes.annotate(f"{alpha_fb:g}", (x, y), xytext=side, textcoords="offset points", fontsize=7.5,
                  color=COLOURS[when], ha=end)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
