"""One round of transformers' own programs on the same two models, in a process of their own.

They read the files that this project's loader found, cut to the same layers, but keep transformers'
own linear layers, which is what its users have. Texts start from the ids that this program would
start from: preparing them is not in the peers' time, though it is in ours.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from bild_dist.clock import now_ns
from bild_dist.config import WorkerConfig
from bild_dist.errors import BildError, ConfigError, InvalidRequest, WorkerFault
from bild_dist.evaluation.bench.contestants import Peer
from bild_dist.evaluation.bench.job import WARM_UP, Job, Outcome
from bild_dist.evaluation.bench.ours import refuse_kind
from bild_dist.evaluation.bench.prompts import Task
from bild_dist.evaluation.bench.usage import forget_peak, peak_bytes
from bild_dist.messages import Encoded
from bild_dist.model import draft, hub
from bild_dist.model.foreign import first_line, quiet
from bild_dist.model.hf import HfModel
from bild_dist.model.load import load
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
    if job.config.generate.stop:
        raise InvalidRequest("a stop string is looked for by this program only: leave it out")
    pair = _Pair(job)
    gc.collect()
    with quiet():
        pair.write(pair.works[0], WARM_UP)
        forget_peak(os.getpid())
        passes, started_ns = pair.passes, now_ns()
        texts = [pair.write(work) for work in pair.works]
        wall_ns = now_ns() - started_ns
    return {
        "texts": texts,
        "wall_ns": wall_ns,
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
    """The two models as transformers has them. `passes` and `steps` count the forwards of the large
    and of the small one.
    """

    def __init__(self, job: Job) -> None:
        self.passes = self.steps = 0
        self.assisted = job.contestant.peer is Peer.ASSISTED
        workers = {Role.LARGE: job.config.large, Role.SMALL: job.config.small}
        # Ours are asked for what they refuse, for ids and for limits; then they go.
        threads = torch.get_num_threads()
        ours = {role: _loaded(worker) for role, worker in workers.items()}
        torch.set_num_threads(job.config.large.threads or threads)
        self.info = {role: model.info for role, model in ours.items()}
        refuse_kind(job, self.info[Role.LARGE])
        self._text = Text.from_files(ours[Role.LARGE].files())
        self.works = [self._work(job, task, ours) for task in job.tasks]
        self._large = plain(ours[Role.LARGE], workers[Role.LARGE])
        self._large.register_forward_hook(self._count_pass)
        self._small: Any = None
        if self.assisted:
            self._small = plain(ours[Role.SMALL], workers[Role.SMALL])
            self._small.register_forward_hook(self._count_step)

    def _work(self, job: Job, task: Task, ours: Mapping[Role, HfModel]) -> tuple[Work, Options]:
        """The ids and rules that this program would start from."""
        options = job.options().merged(task.options)
        workers = {role: cast("WorkerClient", _Local(model)) for role, model in ours.items()}
        return asyncio.run(prepare(task.prompt, options, workers, self._text)), options

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
        except ValueError as error:
            raise ConfigError(f"transformers refuses: {first_line(error)}") from error
        except Exception as error:  # whatever a foreign program may raise
            said = f"{type(error).__name__}: {first_line(error)}"
            raise WorkerFault(f"transformers failed: {said}") from error
        tokens = out[0, work.rules.begin :].tolist()
        wall_ns = now_ns() - started_ns
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
        infos = [(role, self.info[role]) for role in roles]
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

    def _count_pass(self, *args: object) -> None:
        self.passes += 1

    def _count_step(self, *args: object) -> None:
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
def plain(ours: HfModel, config: WorkerConfig) -> Any:
    """transformers' own model over the files and the configuration that ours was made of."""
    made: Any = ours._model
    folder, model = hub.folder_for(config), cast("Any", None)
    if hub.is_draft(folder):
        model = draft.load(folder, made.dtype, trust_remote_code=config.trust_remote_code)
    else:
        with quiet():
            model = type(made).from_pretrained(
                str(folder), config=made.config, dtype=made.dtype, use_safetensors=True,
                local_files_only=True,
            )  # fmt: skip
    fresh: Any = cast("Any", GenerationConfig)()
    for name in (*config.ignore_generation, *_SAMPLING):
        setattr(model.generation_config, name, getattr(fresh, name, None))
    if hasattr(model.config, "num_decoder_layers"):
        # transformers sizes T5's cache by the encoder's layers and fails where the decoder has
        # more. The encoder keeps a configuration of its own.
        model.config.num_layers = model.config.num_decoder_layers
    return model.to(made.device).eval()
