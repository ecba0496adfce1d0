"""Logging to standard error. One environment variable, BILD_LOG, sets the level; prompts are never
logged.
"""

from __future__ import annotations

import logging
import os

from bild_dist.errors import ConfigError


def configure() -> None:
    """Sets up logging once, at the start of a process.

    Raises:
        ConfigError: BILD_LOG is not a level.
    """
    level = os.environ.get("BILD_LOG", "warning").upper()
    if level not in logging.getLevelNamesMapping():
        raise ConfigError(f"BILD_LOG={level!r} must be one of debug, info, warning, error")
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s"
    )
