"""`bild generate`: one prompt to the terminal, or a file of them to a file."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from bild_dist import log
from bild_dist.clock import now_ns
from bild_dist.config import Config
from bild_dist.errors import BildError, ConfigError
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.orchestrator.drawing import Drawing
from bild_dist.orchestrator.lines import parsed, take_prompt
from bild_dist.orchestrator.opening import check_folders, connected, launched
from bild_dist.orchestrator.screen import Screen
from bild_dist.orchestrator.session import Record
from bild_dist.orchestrator.telemetry import logged, told
from bild_dist.types import Role

if TYPE_CHECKING:
    from bild_dist.orchestrator.cli import InProcess

Line: TypeAlias = tuple[int, str]
"""A line of a file, and which it is, from 1."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to decode and where the result goes."""

    prompt: str | None
    input: str | None
    output: str | None
    json: bool
    timeline: str | None = None

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Self:
        """Raises ConfigError when there is no prompt, or two."""
        prompt, source = arguments.prompt, arguments.input
        if prompt is not None and source is not None:
            raise ConfigError("give a PROMPT or --input FILE.jsonl, not both")
        if prompt == "-" or (prompt is None and source is None and not sys.stdin.isatty()):
            prompt = sys.stdin.read().rstrip("\n")
        if not prompt and source is None:
            what = "nothing to do" if prompt is None else "the prompt is empty"
            raise ConfigError(f'{what}: bild generate "some text", or --input FILE.jsonl')
        return cls(prompt, source, arguments.output, arguments.json, arguments.timeline)


def main(job: Job, config: Config, addresses: Mapping[Role, str], inproc: InProcess) -> int:
    """Exit code 0 when every text was written, 1 when some failed.

    Raises:
        ConfigError: models, workers or files cannot be used.
        InvalidRequest: the one prompt cannot be decoded.
    """
    if job.output is not None:
        _check_output(Path(job.output))
    drawing = None
    if job.timeline is not None:
        drawing = Drawing(job.timeline, (job.input, job.output))
    lines = _read(job.input) if job.input is not None else None
    if not addresses:
        check_folders(config)
    logged(config.telemetry, service=False)
    return asyncio.run(_main(job, lines, config, addresses, inproc, drawing))


async def _main(
    job: Job,
    lines: list[Line] | None,
    config: Config,
    addresses: Mapping[Role, str],
    inproc: InProcess,
    drawing: Drawing | None,
) -> int:
    screen = Screen()
    log.preceded(screen.interrupted)
    record = drawing.recording if drawing is not None else None
    async with (
        told(config.telemetry, "bild-generate") as telemetry,
        _opened(config, addresses, inproc, screen, record) as decoder,
    ):
        telemetry.watch(decoder)
        if telemetry.page:
            screen.note(f"metrics: {telemetry.page}")
        try:
            if lines is not None:
                return await _file(job, lines, decoder, config.orchestrator.concurrency, screen)
            prompt = job.prompt if job.prompt is not None else ""
            if job.json or job.output is not None:
                return await _object(job, prompt, decoder)
            return await _streamed(prompt, decoder, screen)
        finally:
            telemetry.last()
            # What went wrong, or took too long, is what people want to look at.
            if drawing is not None:
                drawing.write(decoder.text)
                screen.note(f"timeline: {job.timeline}")


async def _streamed(prompt: str, decoder: Decoder, screen: Screen) -> int:
    generation = decoder.stream(prompt)
    try:
        async for event in generation:
            screen.token(event)
        screen.summary(await generation.result())
    finally:
        screen.end()
        await generation.aclose()
    return 0


@asynccontextmanager
async def _opened(
    config: Config,
    addresses: Mapping[Role, str],
    inproc: InProcess,
    screen: Screen,
    record: Record | None,
) -> AsyncIterator[Decoder]:
    """A decoder, with a sign of life while it starts."""
    opening: AbstractAsyncContextManager[Decoder]
    if addresses:
        opening = connected(config, addresses, record)
    elif config.orchestrator.transport == "inproc":
        opening = inproc(config, record)
    else:
        opening = launched(config, screen.note, record)
    with screen.waiting("starting the workers"):
        decoder = await opening.__aenter__()
    try:
        yield decoder
    except BaseException as error:
        if not await opening.__aexit__(type(error), error, error.__traceback__):
            raise
    else:
        await opening.__aexit__(None, None, None)


async def _object(job: Job, prompt: str, decoder: Decoder) -> int:
    result = await decoder.generate(prompt)
    with _Output(job.output) as output:
        output.write({"id": "1", **result.as_dict()})
    return 0


async def _file(
    job: Job, lines: list[Line], decoder: Decoder, concurrency: int, screen: Screen
) -> int:
    """Every line gives one object in its place; a bad one an error, and the rest goes on."""
    failed = tokens = 0
    begun_ns = now_ns()
    with _Output(job.output) as output, screen.progress(len(lines)) as advance:
        pending: list[asyncio.Task[dict[str, Any]]] = []
        room = asyncio.Semaphore(concurrency)

        async def one(number: int, line: str) -> dict[str, Any]:
            async with room:
                record = await _line(number, line, decoder)
                advance(len(record.get("tokens", ())))
                return record

        async with asyncio.TaskGroup() as group:
            pending += [group.create_task(one(number, line)) for number, line in lines]
            for task in pending:
                record = await task
                failed += "error" in record
                tokens += len(record.get("tokens", ()))
                output.write(record)
    if failed or not job.json:
        where = job.output or "the lines with an error"
        screen.total(len(lines), tokens, now_ns() - begun_ns, failed, where)
    return 1 if failed else 0


async def _line(number: int, line: str, decoder: Decoder) -> dict[str, Any]:
    name: object = str(number)
    try:
        record = parsed(line)
        name = record.pop("id", name)
        prompt = take_prompt(record)
        result = await decoder.generate(prompt, **record)
    except BildError as error:
        return {"id": name, "error": {"type": type(error).__name__, "message": str(error)}}
    return {"id": name, **result.as_dict()}


def _read(path: str) -> list[Line]:
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--input {path} cannot be read: {error}") from None
    # Numbers as an editor shows them: a blank line has one, too.
    return [(n, line) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]


def _check_output(path: Path) -> None:
    """Raises ConfigError where a file cannot be written, as far as that can be told without touching it."""
    if path.is_dir():
        raise ConfigError(f"--output {path} cannot be written: it is a folder")
    if not path.parent.is_dir():
        raise ConfigError(f"--output {path} cannot be written: there is no folder {path.parent}")


class _Output:
    """Where result lines go. Each is flushed, so that an interrupted run keeps what it has."""

    def __init__(self, path: str | None) -> None:
        try:
            self._file = sys.stdout if path is None else Path(path).open("w", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise ConfigError(f"--output {path} cannot be written: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not sys.stdout:
            self._file.close()

    def write(self, record: dict[str, Any]) -> None:
        print(json.dumps(record, ensure_ascii=False), file=self._file, flush=True)
