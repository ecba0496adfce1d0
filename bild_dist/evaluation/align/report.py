"""The report on a pair, as JSON and on the terminal, before and after alignment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Self

from rich.table import Table

from bild_dist.errors import ConfigError
from bild_dist.evaluation.align.agreement_counts import Bin, Exact, Point, share

FORMAT: Final = 1
SHOWN: Final = 4
"""Fallback thresholds that have rows of their own on the terminal."""
_DIGITS: Final = 6
"""Of the figures that JSON has beside the counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """A predicted speed, over that of the large model alone.

    `c`: a pass of the small model over one of the large one, over one token each. `cost_nats`: what
    the text loses, nats a token of all tokens: how much likelier the large model's own token was.
    Mode `exact` has no thresholds and loses nothing.
    """

    mode: str
    schedule: str
    alpha_fb: float | None
    alpha_rb: float | None
    c: float
    devices: int
    ratio: float
    large_passes_per_token: float
    cost_nats: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Real texts of mode `bild`, counted. Nats are means of -ln p under the large model.

    `small`, `fallbacks`, `rollbacks`, `windows`: tokens by source. `guessed`, `hits` as in
    `types.Trace`. `small_nats`: of the tokens that the small model wrote, `best_nats`: of the large
    model's own most likely tokens at those positions (None where nobody computed it),
    `greedy_nats`: of the large model's own greedy texts for the same prompts. `agreement`: how much
    of the text is the large model's own, from 0 to 1 (`metrics/overlap.py`), mean over texts.
    """

    alpha_fb: float
    alpha_rb: float
    texts: int
    tokens: int
    small: int
    fallbacks: int
    rollbacks: int
    windows: int
    guessed: int
    hits: int
    large_passes: int
    small_nats: float
    greedy_nats: float
    agreement: float
    best_nats: float | None = None

    @property
    def written_rate(self) -> float:
        """Share of the tokens that the small model wrote."""
        return share(self.small, self.tokens)

    @property
    def fallback_rate(self) -> float:
        """Of the positions that the window did not end."""
        return share(self.fallbacks, self.fallbacks + self.small + self.rollbacks)

    @property
    def rollback_rate(self) -> float:
        """Of the positions where the small model was sure."""
        return share(self.rollbacks, self.small + self.rollbacks)

    @property
    def hit_rate(self) -> float:
        return share(self.hits, self.guessed)

    @property
    def large_passes_per_token(self) -> float:
        return share(self.large_passes, self.tokens)

    @property
    def behind_nats(self) -> float:
        """How much less likely the small model's tokens are than the large one's greedy texts."""
        return self.small_nats - self.greedy_nats

    @property
    def cost_nats(self) -> float | None:
        """The same against the large model's own tokens at the very same positions."""
        return None if self.best_nats is None else self.small_nats - self.best_nats


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a small model agrees with a large one.

    All but `replays` is counted on the large model's own text (`agreement.py`). `matches`:
    positions where both would write the same. `faithful`: share of positions where the large model,
    asked again, writes what stands there; well below 1 means that the texts are not its own.
    `own_nats`: mean -ln p of its own tokens, nats.
    """

    texts: int
    positions: int
    matches: int
    faithful: float
    own_nats: float
    window: int
    bins: tuple[Bin, ...]
    points: tuple[Point, ...]
    exact: Exact
    speeds: tuple[Speed, ...] = ()
    replays: tuple[Replay, ...] = ()

    @property
    def match_rate(self) -> float:
        return share(self.matches, self.positions)

    @property
    def calibration_error(self) -> float:
        """Mean distance between confidence and match rate over the bins, by their positions."""
        apart = (abs(b.matches - b.confidence * b.positions) for b in self.bins)
        return share(sum(apart), self.positions)

    def point(self, alpha_fb: float, alpha_rb: float) -> Point | None:
        """What was counted at these thresholds."""
        at = alpha_fb, alpha_rb
        return next((p for p in self.points if (p.alpha_fb, p.alpha_rb) == at), None)

    def having(self, *, speeds: Iterable[Speed] = (), replays: Iterable[Replay] = ()) -> Report:
        """The same report with more in it."""
        return replace(
            self, speeds=(*self.speeds, *speeds), replays=(*self.replays, *replays)
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """A JSON object: counts, and beside them the rates that follow from them."""
        parts = {
            name: [_told(part) for part in getattr(self, name)]
            for name in ("bins", "points", "speeds", "replays")
        }
        return {"format": FORMAT, **_told(self), **parts, "exact": _told(self.exact)}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """A report that was written by `as_dict`; what else stands there is left aside.

        Raises:
            ConfigError: it is no such report.
        """
        try:
            if found["format"] != FORMAT:
                raise ConfigError(
                    f"a report of format {found['format']!r}: this version reads {FORMAT}, "
                    "so run bild align again"
                )
            kinds: dict[str, type[Any]] = {
                "bins": Bin, "points": Point, "speeds": Speed, "replays": Replay
            }  # fmt: skip
            parts = {
                name: tuple(_read(kind, part) for part in found[name])
                for name, kind in kinds.items()
            }
            plain = {k: v for k, v in found.items() if k not in parts and k != "exact"}
            exact = _read(Exact, found["exact"])
            return cls(**{f.name: {**plain, **parts, "exact": exact}[f.name] for f in fields(cls)})
        except (KeyError, TypeError) as error:
            raise ConfigError(f"this is no report of bild align: {error!r}") from None


def _told(part: Any) -> dict[str, Any]:
    """The plain fields of a part, then its properties, rounded."""
    told = {
        field.name: getattr(part, field.name)
        for field in fields(part)
        if not isinstance(getattr(part, field.name), tuple | Exact)
    }
    for name, member in vars(type(part)).items():
        if isinstance(member, property):
            told[name] = getattr(part, name)
    return {k: round(v, _DIGITS) if isinstance(v, float) else v for k, v in told.items()}


def _read(kind: type[Any], found: Mapping[str, Any]) -> Any:
    return kind(**{field.name: found[field.name] for field in fields(kind)})


def _first(found: Iterable[Any]) -> Any:
    return next(iter(found), None)


# What people see.

_Cell = Callable[[Report], float | None]


def table(before: Report, after: Report | None = None, *, alpha_rb: float = 2.0) -> Table:
    """The figures that alignment is meant to move, before and after, with the difference.

    Rows with thresholds take `alpha_rb` where it was counted, else the nearest one below or above.
    """
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column("", no_wrap=True)
    for head in ("before", "after", "change") if after is not None else ("",):
        grid.add_column(head, justify="right", no_wrap=True)
    reports = [before] if after is None else [before, after]
    for name, form, cell in _rows(reports, alpha_rb):
        values = [cell(report) for report in reports]
        shown = ["" if value is None else format(value, form) for value in values]
        if after is not None:
            old, new = values
            change = "" if old is None or new is None else _change(new - old, form)
            shown.append(change)
        if any(shown):
            grid.add_row(name, *shown)
    return grid


def _change(by: float, form: str) -> str:
    if form.endswith("%"):
        return f"{100 * by:+.1f} pt"
    return format(by, f"+{form}")


def _rows(reports: list[Report], alpha_rb: float) -> Iterable[tuple[str, str, _Cell]]:
    """Name, format and figure of each row."""
    yield "texts", ",.0f", lambda report: report.texts
    yield "positions", ",.0f", lambda report: report.positions
    if any(report.faithful < 0.98 for report in reports):
        yield "texts are the large model's own", ".1%", lambda report: report.faithful
    yield "match rate", ".1%", lambda report: report.match_rate
    yield "calibration error", ".1%", lambda report: report.calibration_error
    exact = reports[-1].exact
    yield (
        f"mode exact: guesses of {exact.draft} that stand", ".2f",
        lambda report: report.exact.acceptance_length,
    )  # fmt: skip
    yield (
        "mode exact: large passes a token", ".3f",
        lambda report: report.exact.large_passes_per_token,
    )  # fmt: skip
    yield from _point_rows(reports[-1], alpha_rb)
    shown = {None, *_shown(reports[-1])}
    for speed in (speed for speed in reports[-1].speeds if speed.alpha_fb in shown):
        key = _of_speed(speed)
        yield f"speed, predicted: {_title(speed)}", ".2f", _speed_cell(key)
    for replay in reports[-1].replays:
        at = replay.alpha_fb, replay.alpha_rb
        for name, form, figure in (
            ("written by the small model", ".1%", "written_rate"),
            ("nats behind the greedy text", ".3f", "behind_nats"),
            ("nats behind its own token", ".3f", "cost_nats"),
            ("fallback rate", ".1%", "fallback_rate"),
            ("rollback rate", ".1%", "rollback_rate"),
            ("guesses right", ".1%", "hit_rate"),
            ("large passes a token", ".3f", "large_passes_per_token"),
            ("agreement with the large text", ".3f", "agreement"),
        ):
            yield f"BiLD {at[0]:g}/{at[1]:g}: {name}", form, _replay_cell(at, figure)


def _point_rows(report: Report, alpha_rb: float) -> Iterable[tuple[str, str, _Cell]]:
    if not report.points:
        return
    rb = min({p.alpha_rb for p in report.points}, key=lambda a: (abs(a - alpha_rb), a))
    for fb in _shown(report):
        for name, form, figure in (
            ("fallback rate", ".1%", "fallback_rate"),
            ("guesses right", ".1%", "hit_rate"),
            ("rollback rate", ".1%", "rollback_rate"),
            ("written by the small model", ".1%", "written_rate"),
            ("nats behind its own token", ".3f", "cost_nats"),
        ):
            yield f"{fb:g}/{rb:g}: {name}", form, _point_cell(fb, rb, figure)


def _shown(report: Report) -> list[float]:
    """Fallback thresholds that have rows of their own, from the lowest up."""
    able = sorted({point.alpha_fb for point in report.points})
    return able[:: max(1, -(-len(able) // SHOWN))]


def _point_cell(fb: float, rb: float, figure: str) -> _Cell:
    return lambda report: getattr(report.point(fb, rb), figure, None)


def _replay_cell(at: tuple[float, float], figure: str) -> _Cell:
    def cell(report: Report) -> float | None:
        found = _first(r for r in report.replays if (r.alpha_fb, r.alpha_rb) == at)
        return getattr(found, figure, None)

    return cell


def _speed_cell(key: tuple[Any, ...]) -> _Cell:
    return lambda report: getattr(
        _first(s for s in report.speeds if _of_speed(s) == key), "ratio", None
    )


def _of_speed(speed: Speed) -> tuple[Any, ...]:
    """What before and after have in common; costs may have been measured anew."""
    return speed.mode, speed.schedule, speed.alpha_fb, speed.alpha_rb, speed.devices


def _title(speed: Speed) -> str:
    where = "one device" if speed.devices == 1 else "two devices"
    at = "" if speed.alpha_fb is None else f" {speed.alpha_fb:g}/{speed.alpha_rb:g}"
    return f"{speed.mode}{at} {speed.schedule}, {where}, c = {speed.c:.2f}"
