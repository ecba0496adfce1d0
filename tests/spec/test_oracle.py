"""The oracle of figure 2: the large model replaces what it finds least likely, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from bild_dist.evaluation.oracle import curve, replacing, share
from bild_dist.messages import Rules
from bild_dist.policy.machine import Machine
from bild_dist.types import Options, Result, Source
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


async def test_a_curve_leads_from_one_model_to_the_other() -> None:
    """Without a threshold the text is the small model's own, at nought the large one's; the score
    sees the texts in the order of the prompts.
    """
    import bild_dist

    toys = ("toy:small?seed=3&f=0.3", "toy:large?seed=3&f=0.3")
    prompts = ["Why is the sea salty?", "Tell me more."]
    async with bild_dist.launch(*toys, transport="inproc", concurrency=2) as decoder:
        own = {
            mode: [
                (await decoder.generate(prompt, mode=mode, max_new_tokens=NEW)).tokens
                for prompt in prompts
            ]
            for mode in ("small", "large")
        }

        def score(results: Sequence[Result]) -> float:
            pairs = zip(results, own["large"], strict=True)
            return sum(result.tokens == tokens for result, tokens in pairs) / len(prompts)

        options = Options(max_new_tokens=NEW)
        points = await curve(decoder, prompts, score, options, nats=(float("inf"), 2.0, 0.0))
    assert own["small"] != own["large"]
    assert (points[0].share, points[0].quality) == (0.0, 0.0)
    assert points[-1].quality == 1.0
    assert 0 < points[-1].share < 1
    assert points[0].share <= points[1].share <= points[-1].share


def test_no_text_has_no_share() -> None:
    """Nothing written, nothing replaced."""
    assert share([]) == 0.0
