"""How every picture of the evaluation looks, and where matplotlib is loaded.

Every series has a mark and a stroke of its own beside its colour, so that a print in black tells as much. The
same numbers give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from bild_dist.errors import ConfigError
from bild_dist.types import Options

T = TypeVar("T")
INK: Final = "#1c2128"
SOFT: Final = "#57606a"
FAINT: Final = "#d5dae0"
COLOURS: Final = ("#2166ac", "#b35806", "#1a7f37", "#762a83", "#c51b7d", "#4d4d4d")
"""Told apart by people who see no red or no green."""
MARKS: Final = "osD^vP"
STROKES: Final = ("-", "--", "-.", ":")
_PARTING: Final = (
    "distance", "confidence", "adapt", "first", "verify_tail", "window", "schedule", "branches",
)  # fmt: skip
"""Options that make other curves of the same thresholds: those of two distances are not even of one unit."""
UNDATED: Final = {"Date": None, "Creator": None}
"""Metadata of an SVG whose bytes depend on nothing but what is drawn."""
_STYLE: Final = {
    # Letters stay letters: a tenth of the size, and they can be searched. A dollar in a path is a dollar.
    "svg.hashsalt": "bild-dist", "svg.fonttype": "none", "text.parse_math": False,
    "font.family": ["DejaVu Sans", "sans-serif"], "font.size": 9, "axes.titlesize": 10,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": FAINT,
    "grid.linewidth": 0.6, "axes.axisbelow": True, "legend.frameon": False,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": SOFT, "xtick.color": INK,
    "ytick.color": INK, "savefig.facecolor": "white", "figure.facecolor": "white",
    "axes.facecolor": "none",
}  # fmt: skip


def ready() -> None:
    """Raises ConfigError where matplotlib is not installed."""
    _library()


@contextmanager
def drawing() -> Iterator[None]:
    """As long as this is open, pictures look like this.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    with _library().rc_context(_STYLE):
        yield


def figure(width: float, height: float, **more: Any) -> Any:
    """An empty one, of so many inches."""
    # Without pyplot, which keeps every figure in a module.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), **more)


def _library() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("drawing needs matplotlib: pip install 'bild-dist[eval]'") from None
    return matplotlib


def picked(values: Sequence[str], number: int) -> str:
    """The look of a series: behind the last one comes the first again."""
    return values[number % len(values)]


def size(options: Options, most: float) -> float:
    """The area of a mark, points squared: larger for a higher alpha_fb, up to about `most`."""
    return 12 + most * options.alpha_fb**2


def curves(
    points: Sequence[T], of: Callable[[T], Options], also: Callable[[T], str] = lambda point: ""
) -> list[tuple[str, list[T]]]:
    """Figure 10 of the paper: a curve for each alpha_rb, by alpha_fb, with its title; and one for each
    `also` and each of `_PARTING` where there are several of them.
    """
    several = [name for name in _PARTING if len({getattr(of(p), name) for p in points}) > 1]
    many = len({also(point) for point in points}) > 1
    found: dict[tuple[str | float, ...], list[T]] = {}
    titles = {}
    for point in sorted(points, key=lambda p: of(p).alpha_fb):
        options = of(point)
        parting = {name: getattr(options, name) for name in several}
        # No schedule is a word too, or it could not be sorted.
        ranks = [v if isinstance(v, int | float) else str(v) for v in parting.values()]
        key = (also(point), options.alpha_rb, *ranks)
        words = [f"alpha_rb {options.alpha_rb:g}", *(_said(*one) for one in parting.items()),
                 also(point) if many else ""]  # fmt: skip
        titles[key] = ", ".join(word for word in words if word)
        found.setdefault(key, []).append(point)
    # As numbers: as words, 10 would stand before 2.
    return [(titles[key], found[key]) for key in sorted(found)]


def _said(name: str, value: Any) -> str:
    """An option of `_PARTING` in a title."""
    if name == "schedule":
        return str(value or "")
    if name == "verify_tail":
        return "" if value else "tail unchecked"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
