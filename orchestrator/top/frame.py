"""One picture of everything that is watched: plain words and numbers, at most 80 columns, in a
terminal's own colours.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bild_dist.orchestrator.screen import COLOURS
from bild_dist.orchestrator.top import figures
from bild_dist.orchestrator.top.pages import Page


def frame(pages: Sequence[Page]) -> RenderableType:
    """What to show now."""
    parts: list[RenderableType] = []
    for page in pages:
        parts += _page(page)
    known = figures.workers(pages)
    if known:
        parts += [_workers(known)]
    return Group(*parts)


def _page(page: Page) -> list[RenderableType]:
    title = Text(page.url.removesuffix("/metrics"), style="bold", overflow="ellipsis", no_wrap=True)
    if page.now is None:
        word = "gone" if page.seen else "not there"
        title.append(f"  {word}: {page.error}", style="bold red")
        return [title, Text()]
    service, jobs = figures.service(page), figures.jobs(page)
    if service is None and jobs is None:
        # A worker, or a command that only keeps workers: they stand in the table.
        return []
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim", no_wrap=True)
    rows.add_column()
    if service is not None:
        _service(rows, service)
    if jobs is not None:
        rows.add_row("queue", _jobs(jobs))
    return [title, rows, Text()]


def _service(rows: Table, service: figures.Service) -> None:
    line = Text(f"{service.in_flight:.0f} under way, {service.waiting:.0f} waiting, ")
    line.append(f"{service.ended:.0f} ended")
    if service.failed:
        line.append(f", {service.failed:.0f} failed", style="bold red")
    rows.add_row("requests", line)
    line = Text(_number(sum(service.tokens.values())) if service.measured else "-", style="bold")
    for source, colour in COLOURS.items():
        if service.tokens.get(source, 0) > 0:
            line.append(f"  {source} ", style=f"not bold {colour}")
            line.append(_number(service.tokens[source]), style="not bold")
    rows.add_row("tokens/s", line)
    share = "-" if service.accepted is None else f"{service.accepted:.0%}"
    line = Text(f"{share} of drafted tokens, ")
    line.append(
        f"fallbacks {_number(service.fallbacks)}/s, rollbacks {_number(service.rollbacks)}/s"
    )
    rows.add_row("accepted", line)
    line = Text(
        f"first token {_time(service.first_token_s)}, then {_time(service.per_token_s)} a token"
    )
    late = service.lag_s is not None and service.lag_s > 0.1
    line.append(f", loop lag {_time(service.lag_s)}", style="bold red" if late else "")
    rows.add_row("time", line)


def _jobs(jobs: figures.Jobs) -> Text:
    line = Text(
        f"{jobs.done:.0f} jobs done, {_number(jobs.rate)}/s, {jobs.redelivered:.0f} redelivered, "
    )
    line.append(f"{jobs.dead:.0f} given up", style="bold red" if jobs.dead else "")
    line.append(", last fetch ")
    line.append(
        f"{_time(jobs.since_fetch_s)} ago", style="bold red" if jobs.since_fetch_s > 60 else ""
    )
    return line


def _workers(known: Sequence[figures.Worker]) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column("worker", no_wrap=True, overflow="ellipsis", max_width=20)
    table.add_column("state", no_wrap=True)
    for name in ("heartbeat", "rtt", "slots", "passes/s", "batch", "busy", "kv"):
        table.add_column(name, justify="right", no_wrap=True)
    for worker in known:
        state = Text("up", style="green") if worker.up else Text("down", style="bold red")
        if worker.restarts:
            state.append(f" ({worker.restarts:.0f} lost)", style="red")
        silent = worker.heartbeat_s is not None and worker.heartbeat_s > 2
        slots = f"{worker.open_slots:.0f}/" if worker.open_slots is not None else ""
        table.add_row(
            worker.name or worker.model,
            state,
            Text(_time(worker.heartbeat_s), style="bold red" if silent else ""),
            _time(worker.round_trip_s),
            f"{slots}{worker.slots:.0f}" if worker.slots is not None else "-",
            _number(worker.passes),
            _number(worker.batch),
            "-" if worker.busy is None else f"{min(worker.busy, 1):.0%}",
            "-" if worker.kv_tokens is None else f"{worker.kv_tokens:.0f}",
        )
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 0.0095:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds * 1e3:.0f} ms" if seconds < 0.95 else f"{seconds:.1f} s"
