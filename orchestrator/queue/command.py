"""`bild consume`: takes jobs from a broker, writes their texts, and loses none."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final

from bild_dist import log
from bild_dist.config import Config, overlay, settled
from bild_dist.errors import BildError, ConfigError, InvalidRequest
from bild_dist.orchestrator.cli import Parser, pair_options
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.orchestrator.opening import connected, launched
from bild_dist.orchestrator.queue.brokers import WEAKER, job_desk, job_source, kind
from bild_dist.orchestrator.queue.consumer import Consumer
from bild_dist.orchestrator.queue.source import plain_url
from bild_dist.types import Role

if TYPE_CHECKING:
    from bild_dist.orchestrator.cli import InProcess

_OWN: Final = frozenset(("url", "prefix", "assignments"))
"""What this command knows and `settled` does not."""


def parser() -> Parser:
    """All options."""
    top = Parser(
        prog="bild consume",
        description="bild consume: take jobs from a message broker, write their texts, publish the "
        "results. A job is lost neither with the consumer nor with the broker; see docs/queue.md.",
        epilog=f"{WEAKER}.",
    )
    queue_options(top)
    top.add_argument("--concurrency", type=int, metavar="N", help="jobs under way at once")
    pair_options(top)
    return top


def queue_options(command: argparse.ArgumentParser) -> None:
    """Which queue; the same for consumers and producers."""
    queue = command.add_argument_group("queue")
    queue.add_argument("--url", metavar="URL", help="nats://HOST:PORT, amqp://... or redis://...")
    queue.add_argument(
        "--prefix", metavar="NAME", help="first word of the queue's names on the broker"
    )
    queue.add_argument("--set", dest="assignments", action="append", default=[], metavar="TABLE.KEY=VALUE",
                       help="any value of a configuration file: queue.lease_s=10; repeatable")  # fmt: skip


def with_queue(config: Config, arguments: argparse.Namespace) -> Config:
    """The configuration with what the command line says of the queue."""
    names = ("url", "prefix")
    given = {n: getattr(arguments, n) for n in names if getattr(arguments, n) is not None}
    try:
        return overlay(config.overlaid(queue=given), arguments.assignments)
    except ConfigError as error:
        raise ConfigError(
            f"queue.{error}" if str(error).startswith(names) else str(error)
        ) from None


def main(argv: Sequence[str], inproc: InProcess) -> int:
    """Exit code: 0 stopped by a signal and every job is done or back on the queue, 1 otherwise,
    2 bad usage or configuration.
    """
    arguments = parser().parse_args(argv)
    try:
        log.configure()
        given = {name: value for name, value in vars(arguments).items() if name not in _OWN}
        config, addresses = settled(given)
        config = with_queue(config, arguments)
        return asyncio.run(_main(config, addresses, inproc))
    except BildError as error:
        _say(f"bild consume: {error}")
        return 2 if isinstance(error, ConfigError | InvalidRequest) else 1
    except KeyboardInterrupt:
        return 130


async def _main(config: Config, addresses: Mapping[Role, str], inproc: InProcess) -> int:
    queue, longest_s = config.queue, None
    if kind(queue) == "rabbit":
        longest_s = queue.consumer_timeout_s
    deadline = config.generate.deadline
    if longest_s is not None and deadline is not None and deadline > longest_s:
        raise ConfigError(
            f"generate.deadline = {deadline:g} is more than queue.consumer_timeout_s = {longest_s:g}: the "
            "broker would take such a job away before its end"
        )
    source, desk = job_source(queue), job_desk(queue)
    # Loading models takes its time: a wrong address is told before.
    await desk.open()
    await desk.close()
    over = asyncio.Event()
    consumers: list[Consumer] = []

    def heed() -> None:
        over.set()
        for consumer in consumers:
            consumer.drain()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, heed)
    async with _opened(config, addresses, inproc) as decoder:
        places = min(
            config.orchestrator.concurrency, *(w.info.slots for w in decoder.workers.values())
        )
        consumer = Consumer(source, _Pair(decoder), queue, places, deadline)
        consumers.append(consumer)
        if over.is_set():
            return 0
        if kind(queue) == "redis":
            _say(f"bild consume: {WEAKER}")
        _say(f"consuming {queue.prefix!r} from {plain_url(queue)}, {places} at once")
        clean = await consumer.run()
        tally = consumer.tally
        _say(
            f"stopped: {tally.done} done, {tally.failed} failed, {tally.unprocessable} unprocessable, "
            f"{tally.cancelled} cancelled, {tally.given_back} given back"
        )
        failure = _lost(decoder)
        if failure is not None:
            raise failure
    return 0 if clean else 1


class _Pair:
    """The decoder as the consumer sees it."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def stream(self, prompt: Any, **options: Any) -> Any:
        return self._decoder.stream(prompt, **options)

    @property
    def lost(self) -> bool:
        return _lost(self._decoder) is not None


def _lost(decoder: Decoder) -> BildError | None:
    return next((w.lost for w in decoder.workers.values() if w.lost is not None), None)


def _opened(
    config: Config, addresses: Mapping[Role, str], inproc: InProcess
) -> AbstractAsyncContextManager[Decoder]:
    if addresses:
        return connected(config, addresses)
    return (
        inproc(config, None)
        if config.orchestrator.transport == "inproc"
        else launched(config, _say)
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201
