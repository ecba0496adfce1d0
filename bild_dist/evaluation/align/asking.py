"""The calibration texts of an alignment: which prompts are asked, and what the large model answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bild_dist.errors import ConfigError
from bild_dist.evaluation.align.calibration import Questions, prompts, questions
from bild_dist.evaluation.align.models import Writer
from bild_dist.evaluation.align.options import Alignment
from bild_dist.evaluation.align.outputs import Output, Teacher
from bild_dist.evaluation.align.progress import Bar


class Asking:
    """What is asked, and the answers. `large` gives the large model; it is asked for only when
    something is left to write.

    Raises:
        ConfigError: the corpus or the tokenizer cannot be read, or no prompt can be used.
    """

    def __init__(self, plan: Alignment, large: Callable[[], Any]) -> None:
        shape = plan.large.plan()
        room = min(source.longest(plan.max_length) for source in (plan.small, plan.large))
        if not shape.is_encoder_decoder:
            room -= plan.writing.max_new_tokens
        own, width = (
            int(part.get_text_config(decoder=True).vocab_size)
            for part in (plan.small.plan(), shape)
        )
        # Families pad their tables to different sizes: ids that one of them lacks the decoder masks too.
        shared = min(own, width)
        writer = Writer(plan.large.tokens(), plan.src_lang, plan.tgt_lang)
        self.forced = writer.forced()
        """The id that begins every text, where a target language is forced."""
        self.learned = questions(
            prompts(plan.corpus, "train"), writer.ids, room, shared, limit=plan.limit
        )
        """What the small model learns from."""
        if not self.learned.kept:
            raise ConfigError(
                f"--corpus {plan.corpus} has no prompt that can be used: {counted(self.learned)}"
            )
        self.held = questions(
            prompts(plan.corpus, "validation"), writer.ids, room, shared, limit=plan.held_out,
            but=self.learned.kept,
        )  # fmt: skip
        """What agreement is measured on."""
        self.tests = len(prompts(plan.corpus, "test")) if plan.corpus.endswith(".jsonl") else 0
        """How many prompts of a file are left aside, for tests of the aligned pair."""
        limit = shared if shared < width else None
        writing = replace(plan.writing, forced_begin=self.forced, vocabulary=limit)
        self._teacher = Teacher(large, plan.large.fingerprint(), writing)
        self._teacher.adopt(plan.large.fingerprint(of_old=True))

    def texts(self, found: Questions, name: str) -> list[Output]:
        """The answers, in the order of the questions."""
        with Bar(name, len(found.kept)) as bar:
            return list(self._teacher.outputs(found.kept, bar.at))


def counted(found: Questions) -> str:
    """Why prompts were skipped, for people."""
    return ", ".join(f"{count} {why}" for why, count in found.skipped.most_common()) or "none there"
