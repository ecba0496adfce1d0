"""`bild submit`: puts a file of jobs on the queue and collects their results.

A job's id on the queue is made of the file's content and the line's own id. So a run that was
interrupted finds what it had submitted, and two files do not mistake each other's results.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Final, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bild_dist import log
from bild_dist.config import Config, configured
from bild_dist.errors import BildError, BrokerUnavailable, ConfigError, InvalidRequest
from bild_dist.orchestrator.cli import Parser
from bild_dist.orchestrator.lines import parsed
from bild_dist.orchestrator.queue.brokers import WEAKER, job_desk, kind
from bild_dist.orchestrator.queue.command import queue_options, with_queue
from bild_dist.orchestrator.queue.job import Job, encoded, named, word
from bild_dist.orchestrator.queue.note import SUFFIX, Note
from bild_dist.orchestrator.queue.source import JobDesk, plain_url
from bild_dist.types import Options

T = TypeVar("T")

_POLL_S: Final = 2.0
_LOOK_S: Final = 0.2
_PAUSE_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one file asks for. `jobs`: what goes on the queue, by the id that the line has."""

    reply: str
    jobs: dict[str, bytes]
    ids: dict[str, object]
    """The ids as their lines have them: 7 is to come back as 7."""
    bad: tuple[str, ...]
    """One sentence for each line that is no job."""

    def on_queue(self, name: str) -> str:
        """The id of a line's job on the queue."""
        return f"{self.reply}-{name}"


def parser() -> Parser:
    """All options."""
    top = Parser(
        prog="bild submit",
        description="bild submit: put a file of jobs on a queue that `bild consume` works off, and "
        "collect the results. Run again, it goes on where it was interrupted: FILE.jsonl.submitted, beside "
        "the output, says what is on the queue until all results are there; see docs/queue.md.",
        epilog=f"{WEAKER}.",
    )
    top.add_argument("--input", required=True, metavar="FILE.jsonl",
                     help='one {"id", "prompt" | "messages" | "prompt_tokens", ...options} a line')  # fmt: skip
    top.add_argument("--output", metavar="FILE.jsonl", help="where results are added, one a line")
    top.add_argument("--no-wait", action="store_true", help="submit only; run again to collect")
    top.add_argument("--run", default="", metavar="NAME",
                     help="a new name writes the texts of the same file once more")  # fmt: skip
    queue_options(top)
    top.add_argument(
        "-c", "--config", metavar="FILE.toml", help="configuration file, for its [queue]"
    )
    return top


def main(argv: Sequence[str]) -> int:
    """Exit code: 0 every line has its text (or, without waiting, is on the queue), 1 some failed or
    are no jobs, 2 bad usage or configuration, 130 interrupted.
    """
    arguments = parser().parse_args(argv)
    try:
        log.configure()
        if arguments.output is None and not arguments.no_wait:
            raise ConfigError(
                "name an --output FILE.jsonl for the results, or submit with --no-wait"
            )
        config = with_queue(configured(arguments.config, otherwise=None), arguments)
        batch = read(arguments.input, arguments.run)
        return asyncio.run(_main(batch, config, arguments))
    except BildError as error:
        _say(f"bild submit: {error}")
        return 2 if isinstance(error, ConfigError | InvalidRequest) else 1
    except KeyboardInterrupt:
        return 130


def read(path: str, run: str = "") -> Batch:
    """The jobs of a file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        content = Path(path).read_bytes()
        lines = content.decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--input {path} cannot be read: {error}") from None
    reply = hashlib.sha256(run.encode() + b"\0" + content).hexdigest()[:16]
    jobs: dict[str, bytes] = {}
    ids: dict[str, object] = {}
    bad: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            given, body = _job(number, line, reply)
            name = str(given)
            if name in jobs:
                raise InvalidRequest(f"id = {name!r} is that of an earlier line")
        except InvalidRequest as error:
            bad.append(f"line {number}: {error}")
        else:
            jobs[name], ids[name] = body, given
    return Batch(reply=reply, jobs=jobs, ids=ids, bad=tuple(bad))


def _job(number: int, line: str, reply: str) -> tuple[object, bytes]:
    record = parsed(line)
    given = record.get("id", str(number))
    body = encoded({**record, "id": f"{reply}-{named({'id': given})}", "reply": reply})
    # What can be known of an option without the models is told here and not by a dead letter.
    Options().merged(Job.parse(body).options)
    return given, body


async def _main(batch: Batch, config: Config, arguments: argparse.Namespace) -> int:
    for sentence in batch.bad:
        _say(f"bild submit: {sentence}")
    desk = job_desk(config.queue)
    if kind(config.queue) == "redis":
        _say(f"bild submit: {WEAKER}")
    await desk.open()
    try:
        # Before the output is made: a note beside one that has gone tells of results that have, too.
        with _note(batch, config, arguments) as note, _output(arguments.output) as output:
            if note.error:
                _say(f"bild submit: {note.error}: run again, it submits them anew")
            collected = Collected(batch, output)
            await take(desk, collected)
            if again := note.names.intersection(collected.missing):
                _say(f"{len(again)} jobs were submitted by an earlier run")
            await submit(desk, batch, [n for n in collected.missing if n not in again], note)
            if arguments.no_wait:
                where = f"{config.queue.prefix!r} at {plain_url(config.queue)}"
                _say(f"{len(collected.missing)} jobs are on the queue {where}")
            else:
                await collect(desk, collected)
                note.remove()
        return 1 if batch.bad or collected.failed else 0
    finally:
        await desk.close()


def _note(batch: Batch, config: Config, arguments: argparse.Namespace) -> Note:
    key = f"{plain_url(config.queue)} {config.queue.prefix} {batch.reply}"
    earlier = Path(f"{arguments.input}{SUFFIX}")
    if arguments.output is None:
        return Note(earlier, key)
    beside = Path(f"{arguments.output}{SUFFIX}")
    if not Path(arguments.output).exists():
        with contextlib.suppress(OSError):
            beside.unlink()
    return Note(beside, key, earlier)


async def submit(
    desk: JobDesk, batch: Batch, names: Sequence[str], note: Note | None = None
) -> None:
    """Puts jobs on the queue; each is there, and noted, when this returns. One that the broker
    refuses ends it, with the line's id in the error.
    """
    await _insist(desk, partial(desk.expect, batch.reply))
    with _bar("submitted", len(names)) as advance:
        for name in names:
            put = partial(desk.submit, word(batch.on_queue(name)), batch.jobs[name], batch.reply)
            try:
                await _insist(desk, put)
            except InvalidRequest as error:
                raise InvalidRequest(f"id {name!r}: {error}") from None
            if note is not None:
                note.add(name)
            advance(1)


async def take(desk: JobDesk, collected: Collected) -> None:
    """Writes down the results that are there already, of an earlier run: they are not asked for anew."""
    if not collected.writes:
        return
    await _insist(desk, partial(desk.expect, collected.batch.reply))
    while collected.missing and await _written(desk, collected, _LOOK_S) is not None:
        pass


async def _written(desk: JobDesk, collected: Collected, wait_s: float) -> int | None:
    """Writes down the next results; how many were new, or None when none came."""
    answers = await _insist(desk, partial(desk.collect, collected.batch.reply, wait_s))
    new = sum(collected.take(answer.body) for answer in answers)
    collected.flush()
    with contextlib.suppress(BrokerUnavailable):
        # What is not taken comes again, and is known by then.
        await desk.taken(answers)
    return new if answers else None


async def collect(desk: JobDesk, collected: Collected) -> None:
    """Writes results down until none is missing, however often the broker goes and comes.

    Raises:
        BrokerUnavailable: told to stop before that.
    """
    batch = collected.batch
    with _told_to_stop() as over, _bar("texts", len(batch.jobs)) as advance:
        advance(len(batch.jobs) - len(collected.missing))
        while collected.missing and not over.is_set():
            advance(await _written(desk, collected, _POLL_S) or 0)
    if collected.missing:
        count = len(collected.missing)
        raise BrokerUnavailable(f"stopped with {count} results to come: run it again to go on")
    with contextlib.suppress(BrokerUnavailable):
        await desk.forget(batch.reply)


@contextmanager
def _told_to_stop() -> Iterator[asyncio.Event]:
    """Set when somebody ends the program by `kill`."""
    over, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    try:
        yield over
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def _insist(desk: JobDesk, call: Callable[[], Awaitable[T]]) -> T:
    """Calls until the broker answers; the connection is made anew each time that it does not."""
    while True:
        try:
            return await call()
        except BrokerUnavailable as error:
            logging.getLogger(__name__).info("%s", error)
        await asyncio.sleep(_PAUSE_S)
        await desk.close()
        with contextlib.suppress(BrokerUnavailable):
            await desk.open()


class Collected:
    """The results of a batch, as they are on disk. Owned by the task that collects them.

    Raises:
        ConfigError: the output file holds something that is no result.
    """

    def __init__(self, batch: Batch, output: IO[str] | None) -> None:
        self.batch = batch
        self.failed = 0
        self._output = output
        self._names = {batch.on_queue(name): name for name in batch.jobs}
        self._missing = dict.fromkeys(batch.jobs)
        lines = [] if output is None else _lines(output)
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                name, status = str(record["id"]), record["status"]
            except (ValueError, KeyError, TypeError):
                raise ConfigError(
                    f"--output: line {number} is no result of bild submit: name another file"
                ) from None
            if name in self._missing:
                del self._missing[name]
                self.failed += status != "done"

    @property
    def writes(self) -> bool:
        """Whether there is an output at all."""
        return self._output is not None

    @property
    def missing(self) -> list[str]:
        """Ids of lines that have no result yet."""
        return list(self._missing)

    def take(self, body: bytes) -> bool:
        """Writes a result down. False: it is known, or somebody else's."""
        try:
            record = json.loads(body)
            name = self._names.get(record["id"])
        except (ValueError, KeyError, TypeError):
            return False
        if name is None or name not in self._missing or self._output is None:
            return False
        del self._missing[name]
        self.failed += record.get("status") != "done"
        self._output.write(json.dumps({**record, "id": self.batch.ids[name]}) + "\n")
        return True

    def flush(self) -> None:
        """What was taken is on disk when this returns."""
        if self._output is not None:
            self._output.flush()
            os.fsync(self._output.fileno())


@contextmanager
def _output(path: str | None) -> Iterator[IO[str] | None]:
    """The output file, to be read and added to."""
    if path is None:
        yield None
        return
    try:
        file = Path(path).open("a+", encoding="utf-8")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise ConfigError(f"--output {path} cannot be written: {error}") from None
    with file:
        yield file


def _lines(file: IO[str]) -> list[str]:
    """The whole lines of a file. What a killed run wrote of another is cut off."""
    file.seek(0)
    text = file.read()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.truncate(len(whole.encode()))
    return [line for line in whole.split("\n") if line.strip()]


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar for people at a terminal; the function it gives moves it."""
    console = Console(file=sys.stderr, highlight=False)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console, disable=not console.is_terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task(what, total=total)
        yield partial(bar.advance, task)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201
