"""`bild consume`: takes jobs from a broker, writes their texts, and loses none."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from bild_dist.config import Config, overlay, settled
from bild_dist.errors import BildError, BrokerUnavailable, ConfigError, InvalidRequest
from bild_dist.orchestrator.cli import Parser, pair_options
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.orchestrator.fleet import Fleet, echo
from bild_dist.orchestrator.keeping import Keeping, keeping
from bild_dist.orchestrator.queue.attempt import Tally
from bild_dist.orchestrator.queue.brokers import WEAKER, job_desk, job_source, kind
from bild_dist.orchestrator.queue.consumer import Consumer
from bild_dist.orchestrator.queue.source import plain_url
from bild_dist.orchestrator.telemetry import Telemetry, logged, told
from bild_dist.types import Role

if TYPE_CHECKING:
    from bild_dist.orchestrator.cli import InProcess

_OWN: Final = frozenset(("url", "prefix", "assignments"))
"""What this command knows and `settled` does not."""

_log = logging.getLogger(__name__)


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
    """Exit code: 0 stopped by a signal and every job is done or back on the queue, 1 otherwise (also
    where workers were lost too often),
    2 bad usage or configuration.
    """
    arguments = parser().parse_args(argv)
    try:
        given = {name: value for name, value in vars(arguments).items() if name not in _OWN}
        config, addresses = settled(given)
        config = with_queue(config, arguments)
        logged(config.telemetry, service=True)
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
    desk = job_desk(queue)
    # Loading models takes its time: a wrong address is told before.
    await desk.open()
    await desk.close()
    async with (
        told(config.telemetry, "bild-consume") as telemetry,
        keeping(config, addresses, inproc, _say, echo, fleet=Fleet(telemetry.metrics)) as kept,
    ):
        if kind(queue) == "redis":
            _say(f"bild consume: {WEAKER}")
        return await _Service(config, kept, telemetry).run()


class _Service:
    """One run of the command: consumers, one after the other, each over the decoder of its time. Owned by the
    main task.
    """

    def __init__(self, config: Config, kept: Keeping, telemetry: Telemetry) -> None:
        self._config = config
        self._kept = kept
        self._telemetry = telemetry
        self._tally = Tally()
        self._over = asyncio.Event()
        self._consumer: Consumer | None = None
        self._failure: BildError | None = None

    async def run(self) -> int:
        """Returns the exit code. Raises why there is no decoder any more."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        self._telemetry.consume(self._tally, self._full)
        try:
            async with asyncio.TaskGroup() as group:
                clean = await self._serve(group)
        except BaseExceptionGroup as errors:
            raise next(iter(errors.exceptions)) from None
        tally = self._tally
        _say(
            f"stopped: {tally.done} done, {tally.failed} failed, {tally.unprocessable} unprocessable, "
            f"{tally.cancelled} cancelled, {tally.given_back} given back"
        )
        if self._failure is not None:
            raise self._failure
        return 0 if clean else 1

    async def _serve(self, group: asyncio.TaskGroup) -> bool:
        """Consumes whenever there is a decoder, until told to stop; whether all is done or back."""
        clean = True
        keeper = group.create_task(self._keep())
        while not self._over.is_set():
            waiting = [group.create_task(self._kept.up()), group.create_task(self._over.wait())]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
            decoder = self._kept.current
            if decoder is not None and not self._over.is_set():
                # What a lost decoder had under way goes back, and comes again.
                clean = await self._consume(decoder)
        keeper.cancel()
        return clean

    async def _keep(self) -> None:
        try:
            await self._kept.run(lambda: self._telemetry.watch(self._kept.decoder))
        except BildError as error:
            self._failure = error
            self._stop()

    async def _consume(self, decoder: Decoder) -> bool:
        """Consumes until told to stop, or until the decoder is lost; whether every job ended or is back."""
        queue = self._config.queue
        places = decoder.concurrency
        self._consumer = consumer = Consumer(
            job_source(queue), _Pair(decoder), queue, places, self._config.generate.deadline, self._tally
        )  # fmt: skip
        _say(f"consuming {queue.prefix!r} from {plain_url(queue)}, {places} at once")
        pause_s = 0.5
        try:
            while not self._over.is_set():
                try:
                    return await consumer.run()
                except BrokerUnavailable as error:
                    # It was there when the service began: it may be away for as long as it likes.
                    _log.warning("no connection to the broker: %s", error)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._over.wait()
                pause_s = min(2 * pause_s, 5.0)
            return True
        finally:
            self._consumer = None

    def _stop(self) -> None:
        self._over.set()
        if self._consumer is not None:
            self._consumer.drain()

    def _full(self) -> bool:
        return self._consumer is None or self._consumer.full


class _Pair:
    """The decoder as the consumer sees it."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def stream(self, prompt: Any, **options: Any) -> Any:
        return self._decoder.stream(prompt, **options)

    @property
    def lost(self) -> bool:
        return any(worker.lost is not None for worker in self._decoder.workers.values())


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201
