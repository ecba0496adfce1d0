"""What the output of `bild generate` tells about its pair: times of passes, and how it agrees.

A line is a text. Its sources say how often the small model was unsure and how often the large one
objected; its trace has the passes, their time, and how often a guess at a hand-over was right.
Lines of different modes say different things, so they are told apart:

| mode    | recognised by                         | gives                                        |
|---------|---------------------------------------|----------------------------------------------|
| `bild`  | all others                            | f, q, rho, window, both times, round trip    |
| `exact` | all sources `fallback`                | how often both models agree, both times      |
| `large` | sources `large`                       | time of a large pass over one token          |
| `small` | sources `small`, no large pass        | time of a small pass                         |
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from bild_dist.errors import ConfigError
from bild_dist.evaluation.plan.known import Known
from bild_dist.types import Mode, Source, Trace

_CLEAR: Final = 8
"""A text of so many tokens, all of them `fallback`, is one of mode `exact`; a shorter one may be an
unlucky one of mode `bild`.
"""
_NEEDED: Final = ("small_passes", "large_passes", "draft_ns", "verify_ns")


@dataclass(frozen=True, slots=True)
class Text:
    """One line: who wrote its tokens, what it cost, and in which mode; None where that cannot be
    told.
    """

    sources: tuple[Source, ...]
    trace: Trace
    mode: Mode | None


def mode_of(sources: Sequence[Source], trace: Trace) -> Mode | None:
    """What the sources say of the mode; None for a short text of hand-overs only."""
    kinds = set(sources)
    if kinds == {Source.LARGE}:
        return Mode.LARGE
    if kinds == {Source.SMALL} and trace.large_passes == 0:
        return Mode.SMALL
    if kinds != {Source.FALLBACK}:
        return Mode.BILD
    return Mode.EXACT if len(sources) >= _CLEAR else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What some texts tell. None where they say nothing about it.

    `f`, `q`, `rho` as in `model/scripted.py`; `agreement` is the share of positions at which both
    models draw the same token. `trip_ms` is a round trip without the work between.
    """

    texts: Mapping[Mode, int] = field(default_factory=dict)
    small_ms: Known | None = None
    large_ms: Known | None = None
    large_token_ms: Known | None = None
    """What a token adds to a pass of the large model, where single steps and checks are known."""
    trip_ms: Known | None = None
    f: Known | None = None
    q: Known | None = None
    rho: Known | None = None
    agreement: Known | None = None
    window: int | None = None
    length: float = 0.0
    """Tokens of a text, mean."""
    tokens_per_s: Known | None = None
    """What the texts themselves were written with, one by one: to be held against a prediction."""
    complaints: tuple[str, ...] = ()
    """Lines that were left out, each with the reason."""


def read(paths: Sequence[str]) -> Observed:
    """What the lines of some files tell.

    Raises:
        ConfigError: a file cannot be read, or no line in any of them is a text.
    """
    texts: list[Text] = []
    complaints: list[str] = []
    for path in paths:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ConfigError(f"--from-trace {path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"--from-trace {path} is not UTF-8 text") from None
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    texts.append(parse(line))
                except ValueError as error:
                    complaints.append(f"{path}:{number}: {error}")
    if not texts:
        why = "".join(f"\n  {complaint}" for complaint in complaints[:10])
        raise ConfigError(
            f"--from-trace {' '.join(paths)}: no texts in it: write some with bild generate "
            f"--input PROMPTS.jsonl --output {paths[0]}{why}"
        )
    return observe(texts, complaints)


def parse(line: str) -> Text:
    """A line of `bild generate --json`. Raises ValueError with the reason why it is none."""
    try:
        found = json.loads(line)
    except ValueError:
        raise ValueError("not JSON") from None
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    if "error" in found:
        raise ValueError("the text failed")
    sources, tokens, trace = (found.get(name) for name in ("sources", "tokens", "trace"))
    if not isinstance(trace, dict) or not isinstance(sources, list):
        raise ValueError("no trace or no sources: is it an output of bild generate?")
    if not sources or not isinstance(tokens, list) or len(tokens) != len(sources):
        raise ValueError("there must be one source a token, and at least one")
    try:
        named = tuple(Source(source) for source in sources)
    except ValueError as error:
        raise ValueError(f"unknown source: {error}") from None
    spent = _trace(trace)
    return Text(named, spent, mode_of(named, spent))


def _trace(found: Mapping[str, Any]) -> Trace:
    missing = [name for name in _NEEDED if name not in found]
    if missing:
        raise ValueError(f"the trace lacks {', '.join(missing)}")
    values = {spec.name: found[spec.name] for spec in fields(Trace) if spec.name in found}
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"trace.{name} = {value!r} must be a whole number of at least 0")
    trace = Trace(**values)
    if trace.hits > trace.guessed:
        raise ValueError(f"trace.hits = {trace.hits} of {trace.guessed} guesses cannot be")
    return trace


def observe(texts: Sequence[Text], complaints: Iterable[str] = ()) -> Observed:
    """Sums over texts of any modes. There must be at least one."""
    kinds = {text.mode for text in texts}
    unclear = Mode.EXACT if Mode.EXACT in kinds and Mode.BILD not in kinds else Mode.BILD
    by_mode: dict[Mode, list[Text]] = {}
    for text in texts:
        by_mode.setdefault(text.mode or unclear, []).append(text)
    both = by_mode.get(Mode.BILD, []) + by_mode.get(Mode.EXACT, [])
    exact = _sum(by_mode.get(Mode.EXACT, []))
    small = _sum(both or by_mode.get(Mode.SMALL, []))
    of = f"{len(texts)} text{'s' * (len(texts) > 1)}"
    large_ms, large_token_ms = _large(_sum(by_mode.get(Mode.LARGE, [])), _sum(both))
    return Observed(
        texts={mode: len(found) for mode, found in by_mode.items()},
        small_ms=_mean_ms(small.draft_ns, small.small_passes, f"passes of {of}"),
        large_ms=large_ms,
        large_token_ms=large_token_ms,
        agreement=Known.share(exact.hits, exact.guessed, "positions judged in mode exact")
        if exact.guessed
        else None,
        length=sum(len(text.sources) for text in texts) / len(texts),
        complaints=tuple(complaints),
        **_of_bild(by_mode.get(Mode.BILD, [])),
    )


def _large(steps: Trace, checks: Trace) -> tuple[Known | None, Known | None]:
    """Time of a pass of the large model without tokens, and of each token of it.

    `steps` feed a token each, `checks` those that stand and one more. With one kind alone the time
    of a token cannot be told, and a pass counts as what it took on average.
    """
    step = _mean_ms(steps.verify_ns, steps.large_passes, "single steps")
    check = _mean_ms(checks.verify_ns, checks.large_passes, "checks")
    if step is None or check is None:
        return step or check, None
    stood = (checks.drafted - checks.wasted) / checks.large_passes
    slope = max((check.value - step.value) / stood, 0.0) if stood > 0.5 else 0.0
    slope = min(slope, step.value)
    source = f"{step.source} and {check.source}"
    return (
        Known(value=step.value - slope, source=source),
        Known(value=slope, source=source),
    )


def _of_bild(texts: Sequence[Text]) -> dict[str, Any]:
    """What only texts of mode `bild` tell."""
    trace = _sum(texts)
    count = Counter(source for text in texts for source in text.sources)
    small, rollbacks = count[Source.SMALL], count[Source.ROLLBACK]
    sure, unsure = small + rollbacks, count[Source.FALLBACK]
    return {
        # A draft and its check: two round trips for a pass of the large model.
        "trip_ms": _mean_ms(trace.wire_ns, 2 * trace.large_passes, "round trips"),
        "f": Known.share(unsure, sure + unsure, "positions") if sure + unsure else None,
        "rho": Known.share(rollbacks, sure, "sure positions") if sure else None,
        "q": Known.share(trace.hits, trace.guessed, "guesses") if trace.guessed else None,
        "tokens_per_s": _speed(texts),
        "window": next((run for text in texts if (run := _window(text.sources))), None),
    }


def _speed(texts: Sequence[Text]) -> Known | None:
    wall_ns = sum(text.trace.wall_ns for text in texts)
    if wall_ns == 0:
        return None
    tokens = sum(len(text.sources) for text in texts)
    return Known(value=tokens * 1e9 / wall_ns, source=f"{len(texts)} texts of mode bild")


def _window(sources: Sequence[Source]) -> int | None:
    """How many tokens of the small model stand before one that the window ended."""
    run = 0
    for source in sources:
        if source is Source.WINDOW:
            return run
        run = run + 1 if source is Source.SMALL else 0
    return None


def _sum(texts: Iterable[Text]) -> Trace:
    total = Trace()
    for text in texts:
        for spec in fields(Trace):
            value = getattr(total, spec.name) + getattr(text.trace, spec.name)
            setattr(total, spec.name, value)
    return total


def _mean_ms(total_ns: int, count: int, of: str) -> Known | None:
    if count == 0 or total_ns == 0:
        return None
    return Known(value=total_ns / count / 1e6, source=f"mean of {count} {of}")
