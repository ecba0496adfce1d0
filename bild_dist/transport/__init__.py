"""Connections between an orchestrator and a worker. The libraries are loaded when an address asks for them."""

from __future__ import annotations

from bild_dist.transport.address import parse
from bild_dist.transport.base import Channel, Handler, Server


async def connect(address: str, *, timeout: float) -> Channel:
    """Connects to a worker.

    Raises:
        ConfigError: the address is malformed.
        Overloaded: an `inproc` server has too many connections; the others say so in a Failed.
        WorkerUnavailable: nobody listens there, or does not accept within `timeout` seconds.
    """
    where = parse(address)
    if where.scheme == "inproc":
        from bild_dist.transport import inproc

        return await inproc.connect(where)
    if where.scheme == "grpc":
        from bild_dist.transport import grpc

        return await grpc.connect(where, timeout)
    from bild_dist.transport import zmq

    return await zmq.connect(where, timeout)


async def serve(address: str, handler: Handler) -> Server:
    """Listens; `handler` runs in a task of its own for each connection.

    Raises:
        ConfigError: the address is malformed, taken, or open to other hosts.
    """
    where = parse(address)
    where.require_loopback()
    if where.scheme == "inproc":
        from bild_dist.transport import inproc

        return await inproc.serve(where, handler)
    if where.scheme == "grpc":
        from bild_dist.transport import grpc

        return await grpc.serve(where, handler)
    from bild_dist.transport import zmq_router

    return await zmq_router.serve(where, handler)
