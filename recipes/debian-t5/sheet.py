"""What people see of the measurement: a table, and the sentences below it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console
from rich.table import Table

WIDE: Final = 190
"""Characters that all columns need."""
_QUALITY: Final = (
    ("ROUGE-L", "rouge_l", ".1f"),
    ("chrF", "chrf", ".1f"),
    ("same\ntext", "same_text", ".0%"),
)
_FIGURES: Final = (
    ("ms\na text", "latency_mean_ms", ".0f"),
    ("p50", "latency_p50_ms", ".0f"),
    ("tokens\n/s", "tokens_per_s", ".0f"),
    ("large\npasses\n/token", "large_passes_per_token", ".3f"),
    ("fall-\nback", "fallback_rate", ".0%"),
    ("roll-\nback", "rollback_rate", ".1%"),
    ("guess\nhits", "guess_hit_rate", ".0%"),
    ("wasted", "wasted", ".0%"),
)


def show(report: Mapping[str, Any]) -> None:
    """Prints a report to standard output."""
    out = Console(highlight=False, markup=False, emoji=False)
    # Where a terminal is narrower its lines go on in the next; nothing is cut off.
    out.width = max(out.width, WIDE)
    rounds, asked = report["rounds"], report["settings"]["rounds"]
    if not rounds:
        out.print("no round is complete yet")
        return
    out.print(_table(report))
    for row in report["contestants"]:
        if row["error"] is not None:
            out.print(f"{row['name']}: {row['error']['message']}", soft_wrap=True)
        elif not row["repeats"]:
            out.print(f"{row['name']}: texts differ from round to round", soft_wrap=True)
    for line in _sentences(report):
        out.print(line, soft_wrap=True)
    if len(rounds) < asked:
        out.print(f"{len(rounds)} of {asked} rounds; the same command goes on", soft_wrap=True)


def _table(report: Mapping[str, Any]) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column("", no_wrap=True)
    heads = ["speed-up", "BLEU (95 %)", "to large (95 %)", "large's\n95 %"]
    for head in (*heads, *(c[0] for c in _QUALITY), *(c[0] for c in _FIGURES)):
        grid.add_column(head, justify="right", no_wrap=True)
    for row in report["contestants"]:
        if row["error"] is not None:
            grid.add_row(row["name"], "failed")
            continue
        quality, found = row["quality"], row["figures"]
        grid.add_row(
            row["name"], _spread(found.get("speedup")), *_bleu(quality),
            *(_cell(quality.get(name), form) for _, name, form in _QUALITY),
            *(_cell(found.get(name, {}).get("median"), form) for _, name, form in _FIGURES),
        )  # fmt: skip
    return grid


def _sentences(report: Mapping[str, Any]) -> list[str]:
    lines = []
    for rule, best in report["best"].items():
        words = rule.replace("_", " ")
        if best is None:
            lines.append(f"fastest {words}: nobody")
        else:
            lines.append(
                f"fastest {words}: {best['name']}, {best['speedup']:.2f}x at BLEU {best['bleu']:.1f} "
                f"({best['bleu_difference']:+.2f})"
            )
    for line in report["aligned_against_unaligned"]:
        if "fewer_rollbacks" in line:
            a, b = line["aligned"], line["unaligned"]
            lines.append(
                f"{line['way']}: rollbacks {b['rollback_rate']:.1%} unaligned, {a['rollback_rate']:.1%} aligned; "
                f"fallbacks {b['fallback_rate']:.1%}, {a['fallback_rate']:.1%}"
            )
    for name, found in report["same_text"].items():
        lines.append(
            f"{name}: {found['differing']} of {report['settings']['texts']} texts are not the large model's own, "
            f"{found['ties']} of them at a tie"
        )
    return lines


def _bleu(quality: Mapping[str, Any]) -> tuple[str, str, str]:
    """BLEU, its difference to the large model's, and where that stands."""
    low, high = quality["bleu_interval"]
    bleu = f"{quality['bleu']:.1f} ({low:.1f} to {high:.1f})"
    if "inside" not in quality:
        return bleu, "", ""
    low, high = quality["bleu_difference_interval"]
    where = "inside" if quality["inside"] else "above" if quality["not_below"] else "below"
    return bleu, f"{quality['bleu_difference']:+.2f} ({low:+.2f} to {high:+.2f})", where


def _spread(numbers: Mapping[str, float] | None) -> str:
    if numbers is None:
        return ""
    return f"{numbers['median']:.2f} ({numbers['min']:.2f}-{numbers['max']:.2f})"


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
