"""How every picture of the evaluation looks, and where matplotlib is loaded.

Every series has a mark and a stroke of its own beside its colour, so that a print in black tells as much. The
same numbers give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from bild_dist.errors import ConfigError
from bild_dist.types import Options

INK: Final = "#1c2128"
SOFT: Final = "#57606a"
FAINT: Final = "#d5dae0"
COLOURS: Final = ("#2166ac", "#b35806", "#1a7f37", "#762a83", "#c51b7d", "#4d4d4d")
"""Told apart by people who see no red or no green."""
MARKS: Final = "osD^vP<"
"""One more than colours, so that a seventh series has no twin."""
OTHERS: Final = "Xph8"
"""Marks of settings that are no point of a curve, such as mode exact."""
STROKES: Final = ("-", "--", "-.", ":")
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


def face(colour: str) -> tuple[str, float]:
    """What a mark is filled with: a breath of its colour, so that one behind it is still seen."""
    return (colour, 0.2)


def size(options: Options, most: float) -> float:
    """The area of a mark, points squared: larger for a higher alpha_fb, up to about `most`."""
    return 12 + most * options.alpha_fb**2
