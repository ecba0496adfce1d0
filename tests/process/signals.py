"""Ctrl-C for child processes of tests, wherever the tests run."""

from __future__ import annotations

import signal


def heed_ctrl_c() -> None:
    """Before exec: what a shell runs in its background ignores SIGINT, and its children with it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
