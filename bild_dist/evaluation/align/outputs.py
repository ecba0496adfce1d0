"""What the large model writes for the calibration prompts: greedy texts, and how sure it was.

Written in batches, kept on disk a shard at a time: an interrupted run goes on behind its last
shard, and the same model and prompts are never written twice. The folder is
`$XDG_CACHE_HOME/bild-dist/outputs/FINGERPRINT`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from transformers import LogitsProcessor, LogitsProcessorList

from bild_dist.errors import ConfigError
from bild_dist.evaluation.align.calibration import Question
from bild_dist.evaluation.align.lessons import Lesson
from bild_dist.evaluation.corpora.archive import cache_folder
from bild_dist.model.short_head import end_ids

SHARD: Final = 512
"""Prompts of a shard."""
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Output:
    """What the large model wrote for one prompt.

    Shapes, for T ids and K choices: `top_ids` [T, K] int32 and `top_logprobs` [T, K] float16, its
    most likely ids at each position, best first, after the constraints of its generation config.
    """

    id: str
    prompt_ids: tuple[int, ...]
    """The encoder's source, or the decoder's prompt."""
    ids: tuple[int, ...]
    top_ids: np.ndarray[Any, Any]
    top_logprobs: np.ndarray[Any, Any]

    def lesson(self) -> Lesson:
        """As something to learn from."""
        return Lesson(self.prompt_ids, self.ids, self.top_ids, self.top_logprobs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How to write. `batch`: texts at once; `choices`: ids kept of each position's distribution;
    `forced_begin`: the first id of every text, such as a language; `vocabulary`: only ids below it are
    written, None for all that the model has.
    """

    max_new_tokens: int = 128
    batch: int = 64
    choices: int = 16
    forced_begin: int | None = None
    vocabulary: int | None = None


class Teacher:
    """Writes, or reads what it wrote before. Owner of its folder.

    `model` is asked for only when something is left to write, because loading it takes long.
    """

    def __init__(self, model: Callable[[], Any], fingerprint: str, asked: Asked) -> None:
        self._model = model
        self._folder = cache_folder().parent / "outputs" / fingerprint
        self._asked = asked

    def adopt(self, name: str) -> None:
        """Takes over the texts that an earlier version kept under another name. Once: what it then called
        so, and is another model, does not find them again.
        """
        if not self._folder.exists():
            # None there, or no room: they are written again.
            with suppress(OSError):
                self._folder.with_name(name).rename(self._folder)

    def outputs(
        self, questions: Sequence[Question], tell: Callable[[int, str], None] = lambda *_: None
    ) -> Iterator[Output]:
        """The texts in the order of the questions; `tell` hears how many are done.

        Raises:
            ConfigError: there is no room for them; those of complete shards are kept.
        """
        for start in range(0, len(questions), SHARD):
            part = questions[start : start + SHARD]
            file = self._file(part)
            found = _read(file, part)
            if found is None:
                found = self._write(part, lambda n, at=start: tell(at + n, "texts"))  # type: ignore[misc]
                _keep(file, found)
            tell(start + len(part), "texts")
            yield from found

    def _file(self, part: Sequence[Question]) -> Path:
        asked = self._asked
        # Texts of a whole vocabulary keep the name that they had before there was a limit.
        limit = () if asked.vocabulary is None else (asked.vocabulary,)
        said = [_FORMAT, asked.max_new_tokens, asked.choices, asked.forced_begin, *limit]
        key = json.dumps([*said, [q.ids for q in part]])
        name = sha256(key.encode()).hexdigest()[:16]
        return self._folder / f"{name}.safetensors"

    def _write(self, part: Sequence[Question], tell: Callable[[int], None]) -> list[Output]:
        # Texts of one length together: little padding.
        order = sorted(range(len(part)), key=lambda n: len(part[n].ids))
        found: dict[int, Output] = {}
        for start in range(0, len(order), self._asked.batch):
            chosen = order[start : start + self._asked.batch]
            texts = write(self._model(), [part[n] for n in chosen], self._asked)
            found.update(zip(chosen, texts, strict=True))
            tell(len(found))
        return [found[n] for n in range(len(part))]


class _Recorder(LogitsProcessor):
    """Notes the best choices of every step, and keeps it to ids below `vocabulary`, where there is such
    a limit. Owned by one call of `generate`.
    """

    def __init__(self, choices: int, vocabulary: int | None) -> None:
        self._choices = choices
        self._vocabulary = vocabulary
        self.ids: list[torch.Tensor] = []
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Shapes: `scores` [B, V], and so is what is returned."""
        if self._vocabulary is not None:
            scores = scores.clone()
            scores[:, self._vocabulary :] = -torch.inf
        top = scores.float().topk(min(self._choices, self._vocabulary or scores.shape[-1]), -1)
        self.ids.append(top.indices)
        self.logprobs.append(top.values - torch.logsumexp(scores.float(), -1, keepdim=True))
        return scores


@torch.inference_mode()
def write(model: Any, questions: Sequence[Question], asked: Asked) -> list[Output]:
    """Greedy texts of some prompts in one batch, by transformers' own `generate`."""
    width = max(len(question.ids) for question in questions)
    encdec = bool(model.config.is_encoder_decoder)
    ends = end_ids(model)
    pad = model.generation_config.pad_token_id
    pad = ends[0] if pad is None and ends else int(pad or 0)
    rows, masks = [], []
    for question in questions:
        gap = [pad] * (width - len(question.ids))
        # A decoder goes on at the right, so its padding is at the left.
        rows.append([*question.ids, *gap] if encdec else [*gap, *question.ids])
        held = [1] * len(question.ids)
        masks.append([*held, *[0] * len(gap)] if encdec else [*[0] * len(gap), *held])
    recorder = _Recorder(asked.choices, asked.vocabulary)
    # Without one the generation config decides.
    forced = {} if asked.forced_begin is None else {"forced_bos_token_id": asked.forced_begin}
    with _plain(model):
        written = model.generate(
            torch.tensor(rows, device=model.device), attention_mask=torch.tensor(masks, device=model.device),
            max_new_tokens=asked.max_new_tokens, do_sample=False, num_beams=1, pad_token_id=pad,
            logits_processor=LogitsProcessorList([recorder]), **forced,
        )  # fmt: skip
    steps = len(recorder.ids)
    texts = written[:, written.shape[1] - steps :].tolist()
    ids = torch.stack(recorder.ids, 1).to(torch.int32).cpu().numpy()
    logprobs = torch.stack(recorder.logprobs, 1).half().cpu().numpy()
    found = []
    for n, question in enumerate(questions):
        stop = next((i + 1 for i, token in enumerate(texts[n]) if token in ends), steps)
        found.append(
            Output(
                question.id, question.ids, tuple(texts[n][:stop]), ids[n, :stop], logprobs[n, :stop]
            )
        )
    return found


@contextmanager
def _plain(model: Any) -> Iterator[None]:
    """`generate` as it is wanted here, whatever the model's own settings are.

    An end that is forced where a text is cut off would teach to end there. And transformers sizes
    T5's cache by the encoder's layers, and fails where the decoder has more; the encoder has a
    configuration of its own.
    """
    wanted: list[tuple[Any, str, Any]] = [
        (model.generation_config, "forced_eos_token_id", None),
        (model.generation_config, "return_dict_in_generate", False),
        (model.generation_config, "num_return_sequences", 1),
        # Beside max_new_tokens it has no say, and transformers would remark on that at every batch.
        (model.generation_config, "max_length", None),
    ]
    if hasattr(model.config, "num_decoder_layers"):
        wanted.append((model.config, "num_layers", model.config.num_decoder_layers))
    before = [getattr(holder, name, None) for holder, name, _ in wanted]
    for holder, name, value in wanted:
        setattr(holder, name, value)
    try:
        yield
    finally:
        for (holder, name, _), value in zip(wanted, before, strict=True):
            setattr(holder, name, value)


def _keep(file: Path, outputs: Sequence[Output]) -> None:
    partial = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(
            {
                "lengths": np.array([len(output.ids) for output in outputs], np.int32),
                "ids": np.concatenate([np.array(output.ids, np.int32) for output in outputs]),
                "top_ids": np.concatenate([output.top_ids for output in outputs]),
                "top_logprobs": np.concatenate([output.top_logprobs for output in outputs]),
            },
            partial,
        )
        partial.rename(file)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise ConfigError(
            f"the large model's texts cannot be kept in {file.parent} ({error}): make room, or set XDG_CACHE_HOME; "
            "the same command goes on behind the last complete shard"
        ) from None


def _read(file: Path, part: Sequence[Question]) -> list[Output] | None:
    try:
        held = load_file(file)
        ends = np.cumsum(held["lengths"])
    except (OSError, SafetensorError, KeyError):
        return None
    if len(ends) != len(part):
        return None
    cuts = [slice(end - length, end) for end, length in zip(ends, held["lengths"], strict=True)]
    return [
        Output(
            q.id, q.ids, tuple(held["ids"][c].tolist()), held["top_ids"][c], held["top_logprobs"][c]
        )
        for q, c in zip(part, cuts, strict=True)
    ]
