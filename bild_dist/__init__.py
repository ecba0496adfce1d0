"""Two-model text generation: a small model writes, a large one checks, each in a process of its
own.

    async with bild_dist.launch(small="t5-small", large="t5-large") as decoder:
        result = await decoder.generate("translate English to German: The sea is salty.")

`launch` starts both workers, `connect` joins running ones, `generate` is for people without an
event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bild_dist.app import connect as connect
    from bild_dist.app import generate as generate
    from bild_dist.app import launch as launch

__version__ = "0.1.0"
__all__ = ["__version__", "connect", "generate", "launch"]


def __getattr__(name: str) -> Any:
    """The three doors, loaded when somebody goes through one: importing a part must not load the
    whole.
    """
    if name in ("connect", "generate", "launch"):
        from bild_dist import app

        return getattr(app, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
