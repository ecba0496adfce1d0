"""The bill of a run: what each model worked for its texts, reading the prompt and writing apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bild_dist.evaluation.costs.passes import Passes, derived
from bild_dist.evaluation.costs.shapes import Shape
from bild_dist.evaluation.costs.work import Meter, Work
from bild_dist.evaluation.run.record import Part, TextRecord
from bild_dist.types import Role


@dataclass(frozen=True, slots=True)
class Bill:
    """Work by model. `prompt`: encoders, the source's keys and values, and prefill; `writing`: every
    pass that decides about tokens. `texts` and `tokens` are how many were written; `exact`: from a
    recording, not worked out from counts.
    """

    prompt: Mapping[Role, Work]
    writing: Mapping[Role, Work]
    texts: int = 0
    tokens: int = 0
    exact: bool = False

    @property
    def total(self) -> Work:
        return self.of_prompt + self.of_writing

    @property
    def of_prompt(self) -> Work:
        return sum(self.prompt.values(), Work())

    @property
    def of_writing(self) -> Work:
        return sum(self.writing.values(), Work())

    def a_token(self, work: Work) -> Work:
        """The work divided by the tokens written, at least one."""
        return work * (1 / max(self.tokens, 1))


def bill(texts: Iterable[Passes], meters: Mapping[Role, Meter], tokens: int = 0) -> Bill:
    """Adds up the passes of texts, which have so many tokens."""
    reading = dict.fromkeys(meters, Work())
    writing = dict.fromkeys(meters, Work())
    count, exact = 0, True
    for text in texts:
        count, exact = count + 1, exact and text.exact
        for role, length in text.source.items():
            reading[role] += meters[role].source(length)
        for steps, into in ((text.prefill, reading), (text.steps, writing)):
            for role, fed, at, rows in steps:
                source = text.source.get(role, 0)
                into[role] += meters[role].forward(fed, at, s=source, rows=rows)
    return Bill(reading, writing, count, tokens, exact and count > 0)


def bill_of(part: Part, meters: Mapping[Role, Meter], lengths: Mapping[str, int]) -> Bill:
    """The bill of what one setting wrote. `lengths`: of the prompts, tokens, by the id of their item; a
    text whose prompt's length is unknown is left out.
    """
    known = [text for text in part.texts if text.id in lengths]
    tokens = sum(len(text.tokens) for text in known)
    return bill((passes_of(text, lengths[text.id], meters) for text in known), meters, tokens)


def passes_of(text: TextRecord, length: int, meters: Mapping[Role, Meter]) -> Passes:
    """The passes of a recorded text behind a prompt of `length` tokens."""
    reads = _reads(meters[Role.LARGE].shape)
    source, begin = (length, 1) if reads else (0, length)
    return derived(text.trace, len(text.tokens), source, begin)


def _reads(shape: Shape) -> bool:
    """Whether the prompt goes to an encoder."""
    return shape.encoder is not None
