"""What the servers of all transports share: how a connection is carried, and how many there may be."""

from __future__ import annotations

import logging
from typing import Final

from bild_dist.errors import BildError, Overloaded
from bild_dist.messages import Failed
from bild_dist.transport.base import Channel, Handler

PEERS: Final = 256
"""Connections that one server carries at once. A worker has a handful of orchestrators."""

_log = logging.getLogger(__name__)


async def carry(handler: Handler, channel: Channel) -> None:
    """Runs a handler to its end and then ends its connection, whatever happened.

    A handler that fails ends its own connection and no other; nobody awaits this task, so the log is told.
    """
    try:
        await handler(channel)
    except BildError as error:
        _log.info("a connection ended: %s", error)
    except Exception:
        _log.exception("a connection's handler failed")
    finally:
        await channel.close()


def crowded() -> Overloaded:
    """What a peer hears that comes when `PEERS` are there."""
    return Overloaded(f"the worker has {PEERS} connections: close some, or start another worker")


def complaint(error: BildError) -> Failed:
    """An error that speaks of the whole connection."""
    return Failed(session=0, epoch=0, seq=0, error=type(error).__name__, message=str(error))
