"""How well a small model agrees with a large one, measured on the large one's own text.

Both models read the whole text at once (teacher forcing): one forward a batch gives what each would
write at every position, so a thousand texts cost what writing a few does. The price is that every
position has the large model's own ids before it. A text of BiLD leaves that path wherever a small
token stands that the large model would not have written, and what both say behind it is not seen
here; `agreement_replay` writes such texts and counts them. Confidences, distances and draws are
those of `model/hf.py`, with the large model's rules on both, but for `forced_end`: how long a text
might have become is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, Protocol

import numpy as np
import torch
from rich.console import Console

from bild_dist.errors import ConfigError
from bild_dist.evaluation.align.agreement_counts import (
    ALPHA_FB,
    ALPHA_RB,
    WINDOW,
    Numbers,
    Positions,
    bins_of,
    exact_of,
    point_of,
    share,
)
from bild_dist.evaluation.align.lessons import IGNORED, Lesson, batch_of
from bild_dist.evaluation.align.losses import exit_logits, only
from bild_dist.evaluation.align.report import Report as Report
from bild_dist.evaluation.align.report import table
from bild_dist.evaluation.align.training import start_id
from bild_dist.messages import Rules
from bild_dist.model.rules import Constraint, rules_of

FED: Final = 4096
"""Padded ids in a batch."""
JUDGED: Final = 512
"""Positions in a batch, which have a row of the whole vocabulary each: 100 MB at 50,000 ids."""

_BEAMS: Final = ("num_beams", "num_beam_groups", "diversity_penalty")
"""Fields of a generation config that say nothing of a greedy text."""
WIDE: Final = 100
"""Characters that a table needs."""


class Text(Protocol):
    """What a model wrote for a prompt, such as `outputs.Output`."""

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The encoder's source, or the decoder's prompt."""
        ...

    @property
    def ids(self) -> tuple[int, ...]:
        """The text, end token included."""
        ...


def measured(
    small: Any,
    large: Any,
    outputs: Sequence[Text],
    *,
    head: Sequence[int] | None = None,
    exit_layer: int = 0,
    alpha_fb: Sequence[float] = ALPHA_FB,
    alpha_rb: Sequence[float] = ALPHA_RB,
    window: int = WINDOW,
    ignored: Sequence[str] = (),
    forced: int | None = None,
    tell: Callable[[int], None] = lambda done: None,
) -> Report:
    """The report on texts that the large model wrote greedily, teacher-forced; without speeds.

    `small`, `large`: models of transformers, of the same tokenizer and kind, on any devices. `head`:
    the ids that the rows of the small model's head stand for; None for all ids, or a `ShortHead`,
    which knows them itself. `exit_layer`: the small model is what leaves `small` behind this layer;
    0 for the whole model. `ignored`: fields of the large model's generation config to leave aside
    (`--ignore-generation`). `forced`: the id that begins every text, None for what that config says.
    `tell` hears how many texts are done.

    Raises:
        ConfigError: no text has a position, or the models do not fit together.
    """
    texts = positions_of(
        small,
        large,
        outputs,
        head=head,
        exit_layer=exit_layer,
        ignored=ignored,
        forced=forced,
        tell=tell,
    )
    bins = bins_of(texts)
    positions = sum(len(text) for text in texts)
    faithful = sum(int((text.written == text.large).sum()) for text in texts)
    return Report(
        texts=len(texts), positions=positions, matches=sum(b.matches for b in bins),
        faithful=share(faithful, positions), window=window,
        own_nats=share(sum(float(text.own.sum()) for text in texts), positions),
        bins=bins, exact=exact_of(texts, window),
        points=tuple(point_of(texts, fb, rb, window) for fb in alpha_fb for rb in alpha_rb),
    )  # fmt: skip


def show(before: Report, after: Report | None, out: Console) -> None:
    """Prints the table of one report, or of two with the change between them."""
    # Where a terminal is narrower its lines go on in the next; nothing is cut off.
    wide = Console(file=out.file, width=max(out.width, WIDE), highlight=False, markup=False)
    wide.print(table(before, after))


def positions_of(
    small: Any,
    large: Any,
    outputs: Sequence[Text],
    *,
    head: Sequence[int] | None = None,
    exit_layer: int = 0,
    ignored: Sequence[str] = (),
    forced: int | None = None,
    tell: Callable[[int], None] = lambda done: None,
) -> list[Positions]:
    """What both models say of every position, text by text; empty texts are left out.

    Arguments and errors as for `measured`.
    """
    if small.config.is_encoder_decoder != large.config.is_encoder_decoder:
        raise ConfigError("one model has an encoder and the other has none: take a pair of a kind")
    widths = [int(m.config.get_text_config(decoder=True).vocab_size) for m in (small, large)]
    rules = _rules(large, min(widths), ignored, forced)
    texts = _texts(outputs)
    found: dict[int, Positions] = {}
    with _reading(small), _reading(large):
        for numbers in _batches(texts):
            part = [texts[n] for n in numbers]
            ours = _logits(small, part, rules, exit_layer, head)
            for n, guesses, judge in zip(numbers, ours, _logits(large, part, rules), strict=True):
                found[n] = _compared(guesses, judge, texts[n])
            tell(len(found))
    return [found[n] for n in range(len(texts))]


def judged(
    large: Any, texts: Sequence[Text], *, ignored: Sequence[str] = (), forced: int | None = None
) -> list[tuple[Numbers, Numbers]]:
    """-ln p of each id of these texts under the large model, and of its own most likely id there,
    nats; both have a text's positions.

    Raises:
        ConfigError: no text has a position.
    """
    rules = _rules(
        large, int(large.config.get_text_config(decoder=True).vocab_size), ignored, forced
    )
    kept = _texts(texts)
    found: dict[int, tuple[Numbers, Numbers]] = {}
    with _reading(large):
        for numbers in _batches(kept):
            part = [kept[n] for n in numbers]
            for n, logits in zip(numbers, _logits(large, part, rules), strict=True):
                total = logits.logsumexp(-1)
                ids = torch.tensor(kept[n].target, device=logits.device)
                far = total - logits.gather(-1, ids[:, None])[:, 0]
                found[n] = _array(far), _array(total - logits.amax(-1))
    return [found[n] for n in range(len(kept))]


def _rules(large: Any, vocabulary: int, ignored: Sequence[str], forced: int | None) -> Rules:
    encdec = bool(large.config.is_encoder_decoder)
    left = [*_BEAMS, *ignored]
    rules = rules_of(large.generation_config, vocabulary, left, decoder_only=not encdec)
    begin = rules.forced_begin if forced is None else forced
    return replace(rules, forced_end=(), forced_begin=begin)


def _texts(outputs: Sequence[Text]) -> list[Lesson]:
    texts = [Lesson(tuple(text.prompt_ids), tuple(text.ids)) for text in outputs if text.ids]
    if not texts:
        raise ConfigError("there is no text to compare the models on: take prompts that have one")
    return texts


def _batches(texts: Sequence[Lesson]) -> Iterator[list[int]]:
    """Numbers of texts that are read together: of like length, so that little is padded."""
    order = sorted(range(len(texts)), key=lambda n: (len(texts[n].target), len(texts[n].source), n))
    batch: list[int] = []
    widest = rows = 0
    for n in order:
        widest, rows = max(widest, texts[n].size), rows + len(texts[n].target)
        if batch and (widest * (len(batch) + 1) > FED or rows > JUDGED):
            yield batch
            batch, widest, rows = [], texts[n].size, len(texts[n].target)
        batch.append(n)
    if batch:
        yield batch


@torch.inference_mode()
def _logits(
    model: Any,
    texts: Sequence[Lesson],
    rules: Rules,
    exit_layer: int = 0,
    head: Sequence[int] | None = None,
) -> list[torch.Tensor]:
    """The distributions that a model has for the positions of some texts, under the rules, as
    logits. Shapes: TV for each text, float32.
    """
    start = start_id(model)
    pad = int(model.config.get_text_config(decoder=True).pad_token_id or 0)
    batch = batch_of(texts, start, pad, model.device)
    wanted = batch.labels != IGNORED
    fed = {"input_ids": batch.fed}
    if start is not None:
        fed = {"input_ids": batch.source, "decoder_input_ids": batch.fed}
    with only(model.get_output_embeddings(), wanted):
        told = model(
            **fed, attention_mask=batch.attended, use_cache=False,
            output_hidden_states=exit_layer > 0,
        )  # fmt: skip
    rows = told.logits
    if exit_layer:
        layers = told.hidden_states if start is None else told.decoder_hidden_states
        rows = exit_logits(model, layers[exit_layer][wanted])
    # A bias that is added behind the head gives the rows a dimension of 1 in front.
    rows = rows.reshape(-1, rows.shape[-1]).float()
    if head is not None:
        whole = rows.new_full((len(rows), rules.vocabulary), -torch.inf)
        rows = whole.index_copy_(1, torch.tensor(list(head), device=rows.device), rows)
    found = []
    for text, logits in zip(texts, rows.split([len(t.target) for t in texts]), strict=True):
        prompt = text.source if start is None else (start,)
        own = replace(rules, begin=len(prompt), limit=len(prompt) + len(text.target))
        constraint = Constraint(own, logits.shape[-1], logits.device)
        found.append(constraint.apply(logits, [*prompt, *text.target[:-1]]))
    return found


def _compared(small: torch.Tensor, large: torch.Tensor, text: Lesson) -> Positions:
    total = large.logsumexp(-1)
    # arg max takes the first, that is lowest, of equal ids, as the decoder does.
    guess, own = small.argmax(-1), large.argmax(-1)
    far = total - large.gather(-1, guess.to(large.device)[:, None])[:, 0]
    return Positions(
        small=guess.cpu().numpy(), large=own.cpu().numpy(), written=np.array(text.target),
        confidence=_array((small.amax(-1) - small.logsumexp(-1)).exp()),
        distance=_array(far), own=_array(total - large.amax(-1)),
    )  # fmt: skip


def _array(values: torch.Tensor) -> Numbers:
    return values.double().cpu().numpy()


@contextmanager
def _reading(model: Any) -> Iterator[None]:
    """Without dropout, whatever the model did before and goes on to do."""
    learned = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(learned)
