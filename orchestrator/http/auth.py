"""Who may ask: API keys, and without them nobody but this host."""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

from bild_dist.errors import ConfigError
from bild_dist.orchestrator.http.problems import Problem
from bild_dist.tables import HttpConfig

_SHORTEST: Final = 8
"""Characters of a key, at least."""


class Keys:
    """The API keys of a server. Immutable; only their hashes are kept.

    Keys that are given are asked for, on whatever address. Without any the server listens on this
    host alone, and answers only to names of this host, so that no web page can reach it under a
    name of its own.
    """

    def __init__(self, keys: list[str]) -> None:
        self._hashes = [sha256(key.encode()).digest() for key in keys]

    def __repr__(self) -> str:
        return f"<Keys {len(self._hashes)}>"

    @classmethod
    def of(cls, config: HttpConfig, environment: Mapping[str, str] = os.environ) -> Keys:
        """The keys that a configuration names.

        Raises:
            ConfigError: a file cannot be read, a key is too short, or there is none where the
                address is not this host's own.
        """
        keys = environment.get(config.keys_env, "").split(",") if config.keys_env else []
        if config.keys_file:
            try:
                keys += Path(config.keys_file).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(
                    f"http.keys_file = {config.keys_file!r} cannot be read: {error}"
                ) from None
        keys = [key.strip() for key in keys if key.strip()]
        if any(len(key) < _SHORTEST for key in keys):
            raise ConfigError(f"an API key must have at least {_SHORTEST} characters")
        if not keys and not is_loopback(config.host):
            raise ConfigError(
                f"http.host = {config.host!r} lets others in: put API keys into the environment "
                f"variable {config.keys_env or 'that http.keys_env names'} or into a file that "
                "http.keys_file names, or listen on 127.0.0.1"
            )
        return cls(keys)

    def check(self, headers: Mapping[str, str]) -> None:
        """Raises Problem, 401 or 403, for somebody who may not ask."""
        if not self._hashes:
            host = headers.get("host", "localhost")
            if not is_loopback(_name(host)):
                raise Problem(
                    403, f"the server has no API keys, and then answers only to names of its own "
                    f"host, not to {host!r}: give it keys (http.keys_env)",
                    kind="permission_error", code="foreign_host",
                )  # fmt: skip
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = sha256(key.strip().encode()).digest()
        # All are compared, so that the time says nothing.
        known = [hmac.compare_digest(given, good) for good in self._hashes]
        if scheme.lower() != "bearer" or not any(known):
            missing = not key
            raise Problem(
                401, "an API key is needed: send the header 'Authorization: Bearer KEY'"
                if missing else "the API key is not known here",
                kind="authentication_error", code="missing_api_key" if missing else "invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip


def is_loopback(host: str) -> bool:
    """Whether an address or name is this host's own and no other's."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """A Host header without its port: `[::1]:8000` names `::1`."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host
