"""`bild top`: reads the pages again and again and shows what they say, or once with `--once`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.live import Live

from bild_dist.errors import ConfigError, WorkerUnavailable
from bild_dist.orchestrator.top.frame import frame
from bild_dist.orchestrator.top.pages import Page, address

ONCE_S: Final = 1.0
"""Between the two readings of `--once`: a rate takes two."""


def main(words: Sequence[str], every: float, *, once: bool) -> int:
    """Runs until it is interrupted; with `once` prints one picture, exit code 0.

    Raises:
        ConfigError: an address is none, or has another page.
        WorkerUnavailable: nobody answers at any of them.
    """
    if not every >= 0.1:
        raise ConfigError(f"--every {every:g} must be at least 0.1 seconds")
    pages = [Page(address(word)) for word in dict.fromkeys(words)]
    return asyncio.run(_main(pages, every, once=once))


async def _main(pages: list[Page], every: float, *, once: bool) -> int:
    console = Console(highlight=False, markup=False, emoji=False)
    await _read(pages)
    if not any(page.seen for page in pages):
        tried = "; ".join(f"{page.url}: {page.error}" for page in pages)
        raise WorkerUnavailable(f"no page of metrics is there: {tried}")
    if once:
        await asyncio.sleep(ONCE_S)
        await _read(pages)
        console.print(frame(pages))
        return 0
    if not console.is_terminal:
        while True:
            await asyncio.sleep(every)
            await _read(pages)
            console.print(frame(pages))
    with Live(frame(pages), console=console, screen=True, auto_refresh=False) as live:
        while True:
            await asyncio.sleep(every)
            await _read(pages)
            live.update(frame(pages), refresh=True)


async def _read(pages: list[Page]) -> None:
    """All at once, so that one that does not answer holds up no other."""
    try:
        async with asyncio.TaskGroup() as group:
            for page in pages:
                group.create_task(page.read())
    except BaseExceptionGroup as errors:
        # The first to fail: the others were cancelled for it.
        raise errors.exceptions[0] from None
