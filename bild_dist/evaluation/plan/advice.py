"""What to do, in plain sentences, each with the number behind it."""

from __future__ import annotations

from math import inf
from typing import Final

from bild_dist.evaluation.plan.predict import EQUAL, Cell
from bild_dist.evaluation.plan.study import Column, Findings, Verdict
from bild_dist.types import Mode

_WIDE: Final = 0.1
"""From this share of the speed on, half the range is worth a word."""


def advice(found: Findings) -> list[str]:
    """Sentences about the placements, then about what could be done otherwise."""
    if all(column.verdict is Verdict.ALONE for column in found.columns):
        top, alone = found.fastest.best, found.fastest.alone
        nowhere = (
            f"The pair does not pay on any of these placements: the large model alone makes "
            f"{alone.tokens_per_s:.1f} tokens/s, the pair {_speed(top)} at best ({top.row}, "
            f"{found.fastest.at.name})."
        )
        return [nowhere, *_exact(found), *_doubts(found)]
    sentences = [_about(column, found) for column in found.columns]
    return [*sentences, _break_even(found), _windows(found), *_exact(found), *_doubts(found)]


def _about(column: Column, found: Findings) -> str:
    top, name = column.best, column.at.name
    if column.verdict is Verdict.ALONE:
        return (
            f"{name}: the pair does not pay: the large model alone makes "
            f"{column.alone.tokens_per_s:.1f} tokens/s, the pair {_speed(top)} at best ({top.row})."
        )
    if column.verdict is Verdict.TOGETHER:
        together = found.together.best
        return (
            f"{name}: do not split: split makes {_speed(top)} tokens/s ({top.row}), both models on "
            f"one device {together.tokens_per_s:.1f} ({together.row})."
        )
    more = ""
    if column.at.devices > 1 and found.together.verdict is Verdict.PAYS:
        gain = top.tokens_per_s / found.together.best.tokens_per_s
        more = f" and {gain:.2f} times one shared device"
    return (
        f"{name}: {top.row}, window {found.window}: {_speed(top)} tokens/s, {top.ratio:.2f} times "
        f"the large model alone{more}."
    )


def _break_even(found: Findings) -> str:
    alone = f"the large model alone {_until(found.even_with_alone_ms)}"
    if found.together.verdict is Verdict.ALONE:
        return f"Two hosts beat {alone}."
    return f"Two hosts beat one shared device {_until(found.even_with_one_device_ms)}, and {alone}."


def _until(ms: float | None) -> str:
    if ms is None:
        return "at no round trip"
    return "at any round trip" if ms == inf else f"up to a round trip of about {ms:.3g} ms"


def _windows(found: Findings) -> str:
    tried = ", ".join(str(window) for window in found.windows)
    where = f"({found.fastest.best.row}, {found.fastest.at.name})"
    asked, top = found.windows[found.window], found.windows[found.best_window]
    if found.best_window == found.window:
        return f"Window: none of {tried} is faster than {found.window} {where}."
    text = "the text is the same" if found.mode is Mode.EXACT else "the text changes with it"
    return (
        f"Window: {found.best_window} is the fastest of {tried} {where}: {top:.1f} tokens/s, "
        f"{top / asked - 1:.0%} more than {found.window}; {text}."
    )


def _exact(found: Findings) -> list[str]:
    if found.mode is Mode.EXACT:
        return []
    cells = [cell for cell in found.fastest.cells if cell.row.mode is Mode.EXACT]
    if not cells:
        return []
    top = max(cells, key=lambda cell: cell.tokens_per_s)
    if top.ratio < 1 + EQUAL:
        return ["The large model's own text: write it with the large model alone (mode large)."]
    return [
        f"The large model's own text, {found.fastest.at.name}: {top.row}: {_speed(top)} tokens/s, "
        f"{top.ratio:.2f} times the large model alone."
    ]


def _doubts(found: Findings) -> list[str]:
    """What is behind the numbers and weak."""
    pair, sentences = found.pair, []
    write = "bild generate --input PROMPTS.jsonl --output OUT.jsonl"
    rates = {"f": pair.f, "q": pair.q, "rho": pair.rho}
    weak = [f"{n} = {k.value:g}" for n, k in rates.items() if k is not None and not k.sure]
    if weak and (found.mode is Mode.BILD or pair.agreement is None):
        sentences.append(
            f"Nobody has measured {', '.join(weak)}: {write} --schedule through, then bild plan "
            "--from-trace OUT.jsonl."
        )
    modes = {cell.row.mode for cell in found.columns[0].cells}
    if Mode.EXACT in modes and pair.agreement is None and not pair.mild.sure:
        sentences.append(
            f"Mode exact rests on mild = {pair.mild.value:g}, which nobody has measured: {write} "
            "--mode exact counts how often both models agree."
        )
    top = found.fastest.best
    if top.low is not None and top.high is not None:
        half = (top.high - top.low) / 2 / top.tokens_per_s
        if half > _WIDE:
            sentences.append(
                f"The rates were counted on few tokens: the speeds are uncertain by {half:.0%}. "
                "Four times as many halve that."
            )
    return sentences


def _speed(cell: Cell) -> str:
    if cell.low is None or cell.high is None:
        return f"{cell.tokens_per_s:.1f}"
    return f"{cell.tokens_per_s:.1f} ({cell.low:.1f} to {cell.high:.1f})"
