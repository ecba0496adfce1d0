"""Both models in this process behind a memory, and the decoder that users call over them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from bild_dist.config import Config, WorkerConfig
from bild_dist.evaluation.sweep.memory import Memory, Remembered
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.types import Role
from bild_dist.workers.__main__ import load
from bild_dist.workers.lifecycle import Worker


class Pair:
    """A decoder, and its models by role. The models belong to their engines: whoever asks them
    directly does so while no text is under way.
    """

    def __init__(self, decoder: Decoder, models: dict[Role, Remembered], memory: Memory) -> None:
        self.decoder = decoder
        self.models = models
        self.memory = memory


@asynccontextmanager
async def remembered(config: Config, memory: Memory) -> AsyncIterator[Pair]:
    """Starts both models in this process; what they say goes into `memory` and is taken from there.

    Raises:
        ConfigError: a model cannot be loaded, or the two do not fit together.
    """
    models: dict[Role, Remembered] = {}

    def make(role: Role, worker: WorkerConfig) -> Remembered:
        # On the engine's thread, which is the one that runs the model.
        models[role] = Remembered(load(worker), role, memory)
        return models[role]

    async with AsyncExitStack() as stack:
        addresses = {}
        for role, worker in ((Role.SMALL, config.small), (Role.LARGE, config.large)):
            running = Worker(partial(make, role, worker), f"inproc://sweep-{role}-{id(stack)}", 1)
            await stack.enter_async_context(running)
            addresses[role] = running.address
        decoder = Decoder(addresses, options=config.generate)
        yield Pair(await stack.enter_async_context(decoder), models, memory)
