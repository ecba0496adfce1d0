"""The one clock: monotonic, in integer nanoseconds, the same for all processes of a host."""

from __future__ import annotations

import time


def now_ns() -> int:
    """Nanoseconds since some fixed point. Never goes back."""
    return time.monotonic_ns()
