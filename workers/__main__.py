"""`bild worker`: one worker process. Options here, work in `lifecycle`; torch is imported after
parsing.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from bild_dist import log
from bild_dist.config import WorkerConfig
from bild_dist.errors import BildError, ConfigError
from bild_dist.model.base import Model
from bild_dist.telemetry.spans import Spans
from bild_dist.workers.options import worker_options


def parser(prog: str) -> argparse.ArgumentParser:
    """The options of one worker. Names are those of `WorkerConfig`."""
    arguments = argparse.ArgumentParser(
        prog=prog, allow_abbrev=False,
        description="Runs one model as a worker process and prints a line once it is ready.",
    )  # fmt: skip
    worker_options(arguments)
    return arguments


def main(argv: Sequence[str] | None = None, prog: str = "bild worker") -> int:
    """Exit code: 0 stopped in order, 1 the model or its device failed, 2 bad usage or
    configuration.
    """
    values = vars(parser(prog).parse_args(argv))
    with_parent = values.pop("with_parent")
    try:
        config = WorkerConfig(**values)
        log.configure(log.style_for(True, config.log), "info")
        asyncio.run(_run(config, with_parent=with_parent))
    except BildError as error:
        print(f"{prog}: {error}", file=sys.stderr)  # noqa: T201
        return 2 if isinstance(error, ConfigError) else 1
    return 0


async def _run(config: WorkerConfig, *, with_parent: bool) -> None:
    from bild_dist.workers import lifecycle

    spans = Spans.opened(config.traces, "bild-worker", **{"bild.model": config.model})
    try:
        await lifecycle.run(
            lambda: load(config), config.listen, config.slots, with_parent=with_parent,
            metrics=config.metrics, spans=spans,
        )  # fmt: skip
    finally:
        if spans is not None:
            spans.close()


def load(config: WorkerConfig) -> Model:
    """The model that a configuration names: a toy (no torch) or a transformers model."""
    if config.model.startswith("toy:"):
        from bild_dist.model.toy import ToyModel

        return ToyModel(config.model)
    from bild_dist.model.load import load as load_model

    return load_model(config)


if __name__ == "__main__":
    sys.exit(main())
