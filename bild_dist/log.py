"""Logging to standard error: one JSON object a line for services, plain lines for people. Prompts and
texts are never logged.
 Code logs with the standard library (`logging.getLogger(__name__)`, fields as `extra`); structlog only
writes the lines, those of other libraries too. What is bound around a task (`bound`: request_id,
job_id, attempt) stands on every line that the task logs, and what holds for a whole process (`always`:
worker, generation) on all of its lines.

One environment variable, BILD_LOG, sets the level, whatever a configuration says.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, Final, TextIO

from bild_dist.errors import ConfigError

_PAYLOADS: Final = ("aio_pika", "aiormq", "faststream", "httpcore", "nats", "redis")
"""Libraries whose debug lines show what they send, or may do so in another release: prompts and texts."""
LEVELS: Final = ("debug", "info", "warning", "error")
STYLES: Final = ("console", "json")


def configure(style: str = "console", level: str = "warning", **always: object) -> None:
    """Sets up logging at the start of a process; called again, for good. Where a program that embeds us
    has set it up, its own stays.

    `style` is one of STYLES. `level` holds for this project, and for others where it is `debug`: their
    information is not ours. Those that carry prompts say no more than `info` even then.

    Raises:
        ConfigError: BILD_LOG is not a level.
    """
    said = os.environ.get("BILD_LOG", "").lower()
    if said and said not in LEVELS:
        raise ConfigError(f"BILD_LOG={said!r} must be one of {', '.join(LEVELS)}")
    chosen, root = (said or level).upper(), logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, Lines)]:
        root.removeHandler(old)
    if root.handlers:
        return
    root.addHandler(Lines(style, sys.stderr, **always))
    root.setLevel(chosen if chosen in ("DEBUG", "ERROR") else "WARNING")
    logging.getLogger("bild_dist").setLevel(chosen)
    for name in _PAYLOADS:
        logging.getLogger(name).setLevel("INFO" if chosen == "DEBUG" else "NOTSET")


def always(**fields: object) -> None:
    """Fields that every further line of this process has."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Lines):
            handler.always.update(fields)


def preceded(before: Callable[[], None]) -> None:
    """`before` is called ahead of every further line, on the thread that logs it: by who shares the terminal."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Lines):
            handler.before = before


@contextmanager
def bound(**fields: object) -> Iterator[None]:
    """Fields of every line that is logged inside, and in the tasks that are started there."""
    from structlog.contextvars import bound_contextvars

    with bound_contextvars(**fields):
        yield


def bind(**fields: object) -> None:
    """Fields of every further line of the present task, where it has none of that name yet: whoever is
    further out knows better.
    """
    from structlog.contextvars import bind_contextvars, get_contextvars

    known = get_contextvars()
    bind_contextvars(**{name: value for name, value in fields.items() if name not in known})


class Lines(logging.StreamHandler[TextIO]):
    """Writes records as lines. Owns the fields that stand on all of them, and what is called ahead of each."""

    def __init__(self, style: str, stream: TextIO, **always: object) -> None:
        super().__init__(stream)
        self.always = dict(always)
        self.before: Callable[[], None] | None = None
        self._style = style

    def emit(self, record: logging.LogRecord) -> None:
        if self.before is not None:
            self.before()
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        if self.formatter is None:
            # Only now: loading structlog takes 50 ms and more, and most commands have nothing to say.
            self.formatter = _formatter(self._style, self.stream.isatty(), self._add)
        return self.formatter.format(record)

    def _add(
        self, logger: object, method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        for name, value in self.always.items():
            event.setdefault(name, value)
        return event


def _formatter(style: str, colours: bool, add: Callable[..., Any]) -> logging.Formatter:
    import structlog

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        add,
        structlog.processors.TimeStamper(fmt="iso", utc=style == "json"),
    ]
    last: list[Any]
    if style == "json":
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        # Never structlog's own choice, rich: that shows the local variables of every frame, prompts among them.
        plain = structlog.dev.plain_traceback
        last = [structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain)]
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[remove, *last])


def style_for(service: bool, wanted: str = "") -> str:
    """What is wanted, else JSON for a service whose lines nobody sees come in."""
    return wanted or ("json" if service and not sys.stderr.isatty() else "console")
