"""What a person sees: coloured tokens on standard output, everything else on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from bild_dist.types import Result, Source, TokenEvent

COLOURS: Final = {
    Source.SMALL: "green",
    Source.FALLBACK: "red",
    Source.WINDOW: "magenta",
    Source.ROLLBACK: "blue",
    Source.LARGE: "default",
}
"""As in figure 9 of the paper; `window`, which it does not show, is ours."""


ENOUGH: Final = 24
"""Tokens of a text from which on its speed says something about the pair."""


class Screen:
    """The terminal. Colours and bars appear only where one is attached."""

    def __init__(self) -> None:
        self._out = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
        self._err = Console(file=sys.stderr, highlight=False, markup=False, emoji=False)
        self._open_line = False
        self._one_place = _one_place()

    def token(self, event: TokenEvent) -> None:
        """A token, in the colour of who wrote it."""
        if event.text:
            self._out.print(event.text, end="", style=COLOURS[event.source], soft_wrap=True)
            self._out.file.flush()
            self._open_line = True

    def end(self) -> None:
        """Ends the line that tokens are on."""
        if self._open_line:
            self._out.print()
            self._open_line = False

    def interrupted(self) -> None:
        """Somebody writes to standard error: where that is the same place, not behind the text on its line."""
        if self._one_place:
            self.end()

    def summary(self, result: Result) -> None:
        """One line: how long, how fast, who wrote what."""
        self.end()
        trace, count = result.trace, len(result.tokens)
        seconds = trace.wall_ns / 1e9
        line = Text(
            f"{count} tokens in {seconds:.2f} s ({count / seconds:.1f} a second, first after "
            f"{trace.first_token_ns / 1e9:.2f} s), {trace.large_passes} large passes "
            f"({trace.large_passes / count:.2f} a token):",
            style="dim",
        )
        for source, colour in COLOURS.items():
            if number := result.sources.count(source):
                line.append(f" {source} {number}", style=colour)
        line.append(f"; ended by {result.finish_reason}", style="dim")
        self._err.print(line, soft_wrap=True)
        if (verdict := _verdict(result)) is not None:
            self._err.print(verdict, style="yellow", soft_wrap=True)

    def total(self, texts: int, tokens: int, wall_ns: int, failed: int, where: str) -> None:
        """One line on a file of prompts: what was written, and how many lines were not."""
        if failed:
            self._err.print(f"{failed} of {texts} lines failed; see {where}", soft_wrap=True)
        else:
            seconds = wall_ns / 1e9
            line = f"{texts} texts, {tokens} tokens in {seconds:.2f} s ({tokens / seconds:.1f} a second)"
            self._err.print(line, style="dim", soft_wrap=True)

    def note(self, line: str) -> None:
        """A remark on progress, for people at a terminal only."""
        if self._err.is_terminal:
            self._err.print(line, style="dim", soft_wrap=True)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        if not self._err.is_terminal:
            yield
            return
        with self._err.status(what):
            yield

    @contextmanager
    def progress(self, total: int) -> Iterator[Callable[[int], None]]:
        """A bar over `total` texts; the function it gives takes the token count of each finished
        one.
        """
        bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[tokens]} tokens"), TimeElapsedColumn(), TimeRemainingColumn(),
            console=self._err, disable=not self._err.is_terminal,
        )  # fmt: skip
        with bar:
            task = bar.add_task("texts", total=total, tokens=0)

            def advance(tokens: int) -> None:
                done = bar.tasks[task].fields["tokens"] + tokens
                bar.update(task, advance=1, tokens=done)

            yield advance


def _one_place() -> bool:
    """Whether both outputs go to the same terminal or file."""
    try:
        return os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
    except (OSError, ValueError):
        return False  # one of them is no file


def _verdict(result: Result) -> str | None:
    """One line where the large model alone would have been faster; None where the pair pays.

    A large pass over several tokens, and the prefill among them, stand for its steps: they take a
    little longer, so the verdict errs on the side of the pair.
    """
    trace, count = result.trace, len(result.tokens) - 1
    if count + 1 < ENOUGH or trace.drafted == 0 or trace.large_passes < 2:
        return None
    took_ns = (trace.wall_ns - trace.first_token_ns) / count
    alone_ns = trace.verify_ns / trace.large_passes
    if not 0 < 1.05 * alone_ns < took_ns:
        return None
    return (
        f"this pair does not pay here: {1e9 / took_ns:.1f} tokens a second, the large model alone "
        f"would write about {1e9 / alone_ns:.1f} (--mode large); the two agree too seldom, or the "
        "small one is too slow"
    )
