"""One round of transformers' own programs on the same two models, in a process of their own.

Weights come through this project's loader, so they are the very same numbers; its packed layout is
undone, because a user of transformers has plain linear layers. Texts start from the ids that this
program would start from: preparing them is not in the peers' time, though it is in ours.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from bild_dist.clock import now_ns
from bild_dist.config import WorkerConfig
from bild_dist.errors import BildError, ConfigError, InvalidRequest, WorkerFault
from bild_dist.evaluation.bench.contestants import Peer
from bild_dist.evaluation.bench.job import WARM_UP, Job, Outcome
from bild_dist.evaluation.bench.ours import refuse_kind
from bild_dist.evaluation.bench.usage import forget_peak, peak_bytes
from bild_dist.messages import Encoded
from bild_dist.model.foreign import first_line, quiet
from bild_dist.model.hf import HfModel
from bild_dist.model.load import load
from bild_dist.model.packed import PackedLinear
from bild_dist.orchestrator.client import WorkerClient
from bild_dist.orchestrator.dispatcher import Work
from bild_dist.orchestrator.prompt import prepare
from bild_dist.orchestrator.text import Text
from bild_dist.types import Options, Role

_SAMPLING = ("temperature", "top_k", "top_p")


def measure(job: Job) -> Outcome:
    """Runs a contestant that is transformers' own.

    Raises:
        BildError: the models cannot be loaded, or transformers cannot do it with these two; the
            message is its own.
    """
    options = job.options()
    if options.stop:
        raise InvalidRequest("a stop string is looked for by this program only: leave it out")
    pair = _Pair(job)
    refuse_kind(job, pair.models[Role.LARGE].info)
    with quiet():
        works = [pair.work(task.prompt, options.merged(task.options)) for task in job.tasks]
        pair.write(works[0], WARM_UP)
        forget_peak(os.getpid())
        started_ns = now_ns()
        passes, texts = pair.passes, [pair.write(work) for work in works]
    return {
        "texts": texts,
        "wall_ns": now_ns() - started_ns,
        "cpu_ns": None,
        "answers": None,
        "large_passes": pair.passes - passes,
        "memory": {"program": peak_bytes(os.getpid())},
        "runs_on": pair.runs_on(),
    }


class _Local:
    """A model in this process, as far as `prepare` asks a worker."""

    def __init__(self, model: HfModel) -> None:
        self.info = model.info
        self._model = model

    async def encode(self, text: str, src_lang: str, tgt_lang: str) -> Encoded:
        return self._model.encode(0, text, src_lang, tgt_lang)


class _FirstToken(BaseStreamer):
    """Notes when the first token is there. transformers hands over the prompt before it."""

    def __init__(self) -> None:
        self.at_ns = 0
        self._handed = 0

    def put(self, value: object) -> None:
        self._handed += 1
        if self._handed == 2:
            self.at_ns = now_ns()

    def end(self) -> None:
        pass


class _Pair:
    """Both models, loaded and plain. `passes` and `steps` count the forwards of the large and of
    the small one.
    """

    def __init__(self, job: Job) -> None:
        config = job.config
        self.passes = self.steps = 0
        self.models = {Role.LARGE: _loaded(config.large)}
        # Alone, the large model decides what fits; the small one is not in memory.
        self.models[Role.SMALL] = self.models[Role.LARGE]
        if job.contestant.peer is Peer.ASSISTED:
            self.models[Role.SMALL] = _loaded(config.small)
        self.assisted = job.contestant.peer is Peer.ASSISTED
        self._large, self._small = (self._plain(role, job) for role in (Role.LARGE, Role.SMALL))
        self._text = Text.from_files(self.models[Role.LARGE].files())

    def work(self, prompt: Any, options: Options) -> tuple[Work, Options]:
        """The ids and rules that this program would start from."""
        workers = {role: cast("WorkerClient", _Local(m)) for role, m in self.models.items()}
        return asyncio.run(prepare(prompt, options, workers, self._text)), options

    def write(self, prepared: tuple[Work, Options], most: int | None = None) -> dict[str, Any]:
        """One text, of `most` tokens at the most."""
        work, options = prepared
        first, steps, passes = _FirstToken(), self.steps, self.passes
        ids = torch.tensor([work.source or work.ids], device=self._large.device)
        asked = self._asked(work, options)
        asked["max_new_tokens"] = min(asked["max_new_tokens"], most or asked["max_new_tokens"])
        started_ns = now_ns()
        try:
            out = self._large.generate(
                ids, attention_mask=torch.ones_like(ids), streamer=first, **asked
            )
        except (ValueError, TypeError, NotImplementedError, AttributeError) as error:
            raise ConfigError(f"transformers refuses: {first_line(error)}") from error
        except RuntimeError as error:
            raise WorkerFault(f"transformers failed: {first_line(error)}") from error
        wall_ns = now_ns() - started_ns
        tokens = out[0, work.rules.begin :].tolist()
        return {
            "tokens": tokens,
            "text": self._spoken(tokens),
            "wall_ns": wall_ns,
            "first_token_ns": first.at_ns - started_ns,
            "critical_ns": None,
            "trace": self._trace(tokens, self.steps - steps, self.passes - passes),
        }

    def runs_on(self) -> str:
        roles = (Role.LARGE, Role.SMALL) if self.assisted else (Role.LARGE,)
        infos = [(role, self.models[role].info) for role in roles]
        parts = [f"{role} {i.model}, {i.dtype} on {i.device}" for role, i in infos]
        threads = torch.get_num_threads()
        return f"transformers, plain linear layers, {threads} threads: {'; '.join(parts)}"

    def _asked(self, work: Work, options: Options) -> dict[str, Any]:
        rules = work.rules
        asked: dict[str, Any] = {
            "max_new_tokens": rules.limit - rules.begin,
            "num_beams": 1,
            "do_sample": options.temperature > 0,
        }
        if options.temperature > 0:
            torch.manual_seed(options.seed)
            asked |= {name: getattr(options, name) for name in _SAMPLING}
        if rules.forced_begin is not None:
            asked["forced_bos_token_id"] = rules.forced_begin
        if self.assisted:
            asked["assistant_model"] = self._small
        return asked

    def _plain(self, role: Role, job: Job) -> Any:
        """transformers' model inside ours, as its own users have it, with its passes counted."""
        model: Any = self.models[role]._model
        unpack(model)
        generation: Any = model.generation_config
        worker = job.config.large if role is Role.LARGE else job.config.small
        fresh: Any = cast(Any, GenerationConfig)()
        for name in (*worker.ignore_generation, *_SAMPLING):
            setattr(generation, name, getattr(fresh, name, None))
        model.register_forward_hook(self._count_large if role is Role.LARGE else self._count_small)
        return model

    def _count_large(self, *args: object) -> None:
        self.passes += 1

    def _count_small(self, *args: object) -> None:
        self.steps += 1

    def _trace(self, tokens: Sequence[int], steps: int, passes: int) -> dict[str, int] | None:
        """What is known of an assisted text: a step drafts a token, a pass writes one of its own."""
        if not self.assisted:
            return None
        stood = max(0, len(tokens) - passes)
        return {"drafted": steps, "wasted": max(0, steps - stood), "large_passes": passes}

    def _spoken(self, tokens: Sequence[int]) -> str:
        stream = self._text.stream()
        return "".join([*(stream.push(token) for token in tokens), stream.finish()])


def _loaded(config: WorkerConfig) -> HfModel:
    if config.model.startswith("toy:"):
        raise ConfigError(f"{config.model} is a toy, which transformers cannot run")
    try:
        return load(config)
    except BildError:
        raise
    except Exception as error:  # whatever a foreign loader may raise
        raise ConfigError(f"{config.model} cannot be loaded: {first_line(error)}") from error


@torch.no_grad()
def unpack(model: Any) -> None:
    """Gives a model plain linear layers again, bit by bit the same weights."""
    made: dict[int, nn.Linear] = {}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is PackedLinear:
                if id(child) not in made:
                    made[id(child)] = _linear(child)
                setattr(parent, name, made[id(child)])
    if made:
        model.tie_weights()  # a head that was the embedding is it again


def _linear(packed: PackedLinear) -> nn.Linear:
    weight = packed.weight.to_dense()
    outputs, inputs = weight.shape
    # No memory for weights that are replaced at once.
    layer = nn.Linear(inputs, outputs, bias=packed.bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if packed.bias is not None:
        layer.bias = nn.Parameter(packed.bias, requires_grad=False)
    return layer.eval()
