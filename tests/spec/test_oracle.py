"""The oracle of figure 2: the large model replaces what it finds least likely, and nothing else."""

from __future__ import annotations

from bild_dist.evaluation.oracle import replacing
from bild_dist.messages import Rules
from bild_dist.policy.machine import Machine
from bild_dist.types import Options, Source
from tests.drive import END, VOCABULARY, HandWorker, play, scripted
from tests.oracle import Predictor

PROMPT = [3, 1, 4]
NEW = 24


def in_step(small: Predictor, large: Predictor, nats: float) -> tuple[list[int], int]:
    """Both models at every position, side by side: the text, and how many tokens were replaced."""
    text: list[int] = []
    replaced = 0
    while len(text) < NEW and text[-1:] != [END]:
        line = [*PROMPT, *text]
        p_s, p_l = small(line), large(line)
        objects = p_l.nll(p_s.draw) > nats and p_s.draw != p_l.draw
        replaced += objects
        text.append(p_l.draw if objects else p_s.draw)
    return text, replaced


def test_texts_are_those_of_both_models_in_step() -> None:
    """Whatever the threshold, tokens and replacements are those of two models that run side by side."""
    for seed in range(8):
        large = scripted(seed)
        small = scripted(100 + seed, large)
        for nats in (0.0, 1.0, 2.0, float("inf")):
            options = replacing(Options(max_new_tokens=NEW), nats)
            rules = Rules(vocabulary=VOCABULARY, begin=3, limit=3 + NEW, end_ids=(END,))
            machine = Machine(1, PROMPT, (), rules, options)
            tokens, _ = play(machine, HandWorker(small), HandWorker(large))
            text, replaced = in_step(small, large, nats)
            assert text == [t.token for t in tokens]
            assert replaced == sum(t.source is Source.ROLLBACK for t in tokens)
            assert {t.source for t in tokens} <= {Source.SMALL, Source.ROLLBACK}
