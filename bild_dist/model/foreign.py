"""Dealings with transformers that every file here has: keeping it quiet, and telling its errors in
one line.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.utils import logging as _logging

_LOGGING: Any = _logging
"""Not typed in transformers."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps progress bars and remarks (layers left out on purpose) off the terminal. Process-wide
    while it lasts.
    """
    level, bars = _LOGGING.get_verbosity(), _LOGGING.is_progress_bar_enabled()
    _LOGGING.set_verbosity_error()
    _LOGGING.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # Marian's tokenizer recommends a punctuation normaliser at every start.
            warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
            yield
    finally:
        _LOGGING.set_verbosity(level)
        if bars:
            _LOGGING.enable_progress_bar()


def no_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory. On a CPU torch has a plain RuntimeError for it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def first_line(error: BaseException) -> str:
    """An error's message without what follows its first line; its kind where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
