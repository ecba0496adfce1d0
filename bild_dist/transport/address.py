"""Where a worker listens: `grpc://HOST:PORT`, `zmq://HOST:PORT`, `zmq+ipc://PATH`, `inproc://NAME`."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from bild_dist.errors import ConfigError

IPC_LIMIT: Final = 107
"""Bytes that a Unix socket's path may have (Linux, less the closing zero)."""

_FORMS: Final = (
    "grpc://HOST:PORT, zmq://HOST:PORT, zmq+ipc://PATH, or within one process inproc://NAME"
)
_HOST: Final = re.compile(r"[\w.:%-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address. `host` holds the path or name where there is no host; `port` is then 0."""

    scheme: str
    host: str
    port: int = 0

    def __str__(self) -> str:
        if self.scheme in ("grpc", "zmq"):
            return f"{self.scheme}://{self.host_port}"
        return f"{self.scheme}://{self.host}"

    @property
    def host_port(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def require_loopback(self) -> None:
        """Raises ConfigError where others than this host could connect: there is no authentication."""
        if self.scheme in ("zmq+ipc", "inproc") or self.host == "localhost":
            return
        try:
            local = ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            local = False
        if not local:
            raise ConfigError(
                f"{self} would accept anybody, since workers do not authenticate their peers: "
                f"listen on {self.scheme}://127.0.0.1:{self.port} and reach it through a tunnel"
            )


def parse(text: str) -> Address:
    """Reads an address. Raises ConfigError that names the accepted forms."""
    scheme, separator, rest = text.partition("://")
    if not separator or not rest:
        raise ConfigError(f"{text!r} is no address: write one of {_FORMS}")
    if scheme == "inproc":
        return Address(scheme, rest)
    if scheme == "zmq+ipc":
        return Address(scheme, _path(text, rest))
    if scheme not in ("grpc", "zmq"):
        raise ConfigError(f"{text!r} has an unknown scheme: write one of {_FORMS}")
    return Address(scheme, *_host_and_port(text, scheme, rest))


def _path(text: str, path: str) -> str:
    # libzmq would take "@..." for a name without file permissions, open to every user, and "*" for any path.
    if path[0] in "@*" or "\0" in path:
        raise ConfigError(f"{text!r} needs the path of a file: zmq+ipc:///run/user/1000/bild/small")
    if len(path.encode()) > IPC_LIMIT:
        raise ConfigError(
            f"{text}: a socket's path has at most {IPC_LIMIT} bytes; take a shorter one"
        )
    return path


def _host_and_port(text: str, scheme: str, rest: str) -> tuple[str, int]:
    host, _, port = rest.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    number = port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= 65535
    # Without brackets nobody can tell where an IPv6 address ends and the port begins.
    if not host or not number or bracketed != (":" in host) or not _HOST.fullmatch(host):
        raise ConfigError(
            f"{text!r} needs a host and a port from 0 to 65535: {scheme}://127.0.0.1:5555 or "
            f"{scheme}://[::1]:5555"
        )
    return host, int(port)
