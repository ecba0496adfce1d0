"""The pages that `bild top` reads: fetched over HTTP, kept for one step so that counts become rates."""

from __future__ import annotations

import asyncio
import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from bild_dist.clock import now_ns
from bild_dist.errors import ConfigError

TIMEOUT_S: Final = 2.0
LARGEST: Final = 8 * 1024 * 1024
"""Bytes of a page that are read; ours have a few thousand."""

Labels: TypeAlias = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Sample:
    """A page as it was at one moment."""

    at_ns: int
    values: Mapping[str, Mapping[Labels, float]]
    """By name and labels."""

    def total(self, name: str, **labels: str) -> float | None:
        """The sum over all series of that name with these labels; None where there is none."""
        wanted = set(labels.items())
        found = [value for key, value in self.values.get(name, {}).items() if wanted <= key]
        return sum(found) if found else None

    def by(self, name: str, label: str) -> dict[str, float]:
        """The values of a name, by one of its labels."""
        sums: dict[str, float] = {}
        for key, value in self.values.get(name, {}).items():
            word = dict(key).get(label, "")
            sums[word] = sums.get(word, 0.0) + value
        return sums


@dataclass(slots=True)
class Page:
    """One address. Owned by the command; `read` is its only change."""

    url: str
    now: Sample | None = None
    """None while nobody answers."""
    before: Sample | None = None
    error: str = ""
    """Why nobody answers."""
    seen: bool = field(default=False)
    """Whether somebody ever answered."""

    async def read(self) -> None:
        """Reads the page anew.

        Raises:
            ConfigError: what answers there is no page of ours, and never was.
        """
        try:
            sample = _parsed(self.url, await asyncio.to_thread(_fetch, self.url))
        except (OSError, http.client.HTTPException) as error:
            self.now, self.before, self.error = None, None, _reason(error)
            return
        except ConfigError:
            if not self.seen:
                raise
            self.now, self.before, self.error = None, None, "another page is there"
            return
        self.now, self.before, self.error, self.seen = sample, self.now, "", True

    def rate(self, name: str, **labels: str) -> float | None:
        """What a counter gained in a second, since the time before; None where that is unknown."""
        if self.now is None or self.before is None:
            return None
        value = self.now.total(name, **labels)
        if value is None:
            return None
        # A series that was not there began at 0, and so did one that has shrunk: its process is another.
        base = self.before.total(name, **labels) or 0.0
        gained = value - base if value >= base else value
        return gained / max((self.now.at_ns - self.before.at_ns) / 1e9, 1e-9)


def address(word: str) -> str:
    """The page that a word of the command line means: `127.0.0.1:8000` is `http://127.0.0.1:8000/metrics`.

    Raises:
        ConfigError: it is no address over HTTP.
    """
    url = word if "://" in word else f"http://{word}"
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ConfigError(
            f"{word!r} is no page: give an address such as http://127.0.0.1:8000, where metrics are served"
        )
    return url if parts.path not in ("", "/") else f"{url.rstrip('/')}/metrics"


def _fetch(url: str) -> str:
    # Without the proxies of the environment: what is watched is close by.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=TIMEOUT_S) as answer:
        page: bytes = answer.read(LARGEST)
        return page.decode("utf-8", errors="replace")


def _reason(error: Exception) -> str:
    """Why a page could not be had, in a few words."""
    if isinstance(error, urllib.error.HTTPError):
        return f"answers {error.code} {error.reason}"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return "does not answer in time"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror.lower()
    return str(reason) or type(reason).__name__


def _parsed(url: str, text: str) -> Sample:
    from prometheus_client.parser import text_string_to_metric_families

    values: dict[str, dict[Labels, float]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                series = values.setdefault(sample.name, {})
                series[frozenset(sample.labels.items())] = sample.value
    except (ValueError, IndexError, KeyError):
        values = {}
    if "bild_build_info" not in values:
        raise ConfigError(
            f"{url} is no page of bild-dist: name the metrics of bild serve, consume or launch, or of a worker"
        )
    return Sample(now_ns(), values)
