"""A server in a process of its own, to be killed, frozen or kept busy.

    python -m tests.contract.child ADDRESS echo|last-words|busy

`echo` answers; `last-words` sends 50 replies and kills itself; `busy` blocks its event loop whenever it gets Ping 999,
as nothing in a worker should. Its address is the one line of its output; it ends with its input.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time

from bild_dist.messages import Message
from bild_dist.transport.base import Channel, Handler
from tests.contract.common import echo, pong, serving

BLOCK_S = 0.8
"""Longer than ZeroMQ's heartbeat interval."""


async def last_words(channel: Channel) -> None:
    await channel.receive()
    await channel.receive()
    for n in range(50):
        await channel.send(pong(n))
    await channel.send(pong(-1))
    await asyncio.sleep(0.05)  # the I/O thread's turn: what a killed process has not sent is lost
    os.kill(os.getpid(), signal.SIGKILL)


class Busy:
    """A channel whose owner falls asleep, loop and all."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.send = channel.send
        self.try_send = channel.try_send
        self.deliver_to = channel.deliver_to
        self.close = channel.close

    async def receive(self) -> Message:
        message = await self._channel.receive()
        if getattr(message, "count", None) == 999:
            time.sleep(BLOCK_S)  # noqa: ASYNC251 (the point of it)
        return message


async def busy(channel: Channel) -> None:
    await echo(Busy(channel))


HANDLERS: dict[str, Handler] = {"echo": echo, "last-words": last_words, "busy": busy}


async def main(address: str, mode: str) -> None:
    async with serving(address, HANDLERS[mode]) as server:
        print(server.address, flush=True)  # noqa: T201 (its one line)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
