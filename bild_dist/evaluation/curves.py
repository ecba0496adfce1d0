"""Figure 10 of the paper: which points a curve joins, and what the curves are called.

The points of one alpha_rb make a curve, by alpha_fb. Some options make other curves of the same thresholds,
because those of two distances, say, are not even of one unit: then there is a curve for each of their values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from bild_dist.types import Options

T = TypeVar("T")
_PARTING: Final = (
    "distance", "confidence", "adapt", "first", "verify_tail", "window", "schedule", "branches",
)  # fmt: skip
"""Options that part curves."""


@dataclass(frozen=True, slots=True)
class Curves(Generic[T]):
    """`found`: the points of each, by its title. `shared`: what the titles need not say, because it holds for
    all curves or for all that name nothing else.
    """

    found: Sequence[tuple[str, Sequence[T]]]
    shared: str = ""


@dataclass(frozen=True, slots=True)
class _Group(Generic[T]):
    """The points of one curve, and the options that they share."""

    options: Options
    also: str
    points: list[T]

    @property
    def rank(self) -> tuple[Any, ...]:
        """Where it stands among the others: by numbers, since as words 10 would stand before 2."""
        values = (getattr(self.options, name) for name in _PARTING)
        # No schedule is a word too, or it could not be sorted.
        ranks = [v if isinstance(v, int | float) else str(v) for v in values]
        return (self.also, self.options.alpha_rb, *ranks)


def curves(
    points: Sequence[T],
    of: Callable[[T], Options],
    also: Callable[[T], str] = lambda point: "",
    least: int = 1,
) -> Curves[T]:
    """A curve for each alpha_rb, for each `also`, and for each value of the options that part them. Those of
    fewer than `least` points are left out, and no title says what only they had.
    """
    grouped: dict[tuple[Any, ...], _Group[T]] = {}
    for point in sorted(points, key=lambda p: of(p).alpha_fb):
        group = _Group(of(point), also(point), [point])
        there = grouped.setdefault(group.rank, group)
        if there is not group:
            there.points.append(point)
    groups = [grouped[rank] for rank in sorted(grouped) if len(grouped[rank].points) >= least]
    several = [name for name in _PARTING if len({getattr(g.options, name) for g in groups}) > 1]
    # Of one option every curve says its value. Of several, each names those that most others have otherwise.
    usual = _usual(groups, several) if len(several) > 1 else {}
    many = len({group.also for group in groups}) > 1
    titles = [_words(group, several, usual) + ([group.also] if many else []) for group in groups]
    told = [f"alpha_rb {group.options.alpha_rb:g}" for group in groups]
    shared = []
    if len(set(told)) == 1 and all(titles):
        shared.append(told[0])
    else:
        titles = [[first, *rest] for first, rest in zip(told, titles, strict=True)]
    if usual:
        shared.append("unless named: " + ", ".join(_said(*one) for one in usual.items()))
    found = [(", ".join(words), group.points) for words, group in zip(titles, groups, strict=True)]
    return Curves(found, "; ".join(shared))


def _usual(groups: Sequence[_Group[T]], names: Sequence[str]) -> dict[str, Any]:
    """Of each option the value that more than half of the curves have, where there is one."""
    found = {}
    for name in names:
        ((value, count),) = Counter(getattr(g.options, name) for g in groups).most_common(1)
        if 2 * count > len(groups):
            found[name] = value
    return found


def _words(group: _Group[T], names: Sequence[str], usual: dict[str, Any]) -> list[str]:
    """What a title says of these options: all that is not as usual."""
    values = {name: getattr(group.options, name) for name in names}
    return [_said(*one) for one in values.items() if one not in usual.items()]


def _said(name: str, value: Any) -> str:
    """An option in a title."""
    if name == "schedule":
        return str(value or "default schedule")
    if name == "verify_tail":
        return "tail checked" if value else "tail unchecked"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
