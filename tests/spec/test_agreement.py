"""Agreement of two models: the numbers behind the counts, and how the counts are told."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from benchmarks.alignment_plots import draw, read
from bild_dist.app import inproc
from bild_dist.config import Config
from bild_dist.errors import ConfigError
from bild_dist.evaluation.align import agreement
from bild_dist.evaluation.align.agreement_counts import point_of
from bild_dist.evaluation.align.agreement_replay import replay_of, replayed
from bild_dist.evaluation.align.agreement_speed import Times, speeds
from bild_dist.evaluation.align.report import Replay, Report
from bild_dist.model.short_head import ShortHead
from bild_dist.types import Source
from tests.oracle import Distribution, reference
from tests.spec.test_agreement_counts import MISS, SAME, positions
from tests.tiny import load_reference, reference_logits, write_pair

# Measuring.


@dataclass(frozen=True)
class Own:
    """What a model wrote for a prompt."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]


def some_texts(model: Any, count: int = 7) -> list[Own]:
    """Its own greedy texts, by definition: no cache, a token at a time."""
    chance, found = random.Random(3), []
    encdec = model.config.is_encoder_decoder
    for number in range(count):
        prompt = tuple(chance.randrange(5, 60) for _ in range(3 + 2 * number))
        begin = [model.generation_config.decoder_start_token_id] if encdec else list(prompt)
        ids: list[int] = []
        for _ in range(12 - number):
            ids.append(int(rows(model, [*begin, *ids], prompt)[-1].argmax()))
        found.append(Own(prompt, tuple(ids)))
    return found


def rows(model: Any, ids: Sequence[int], prompt: Sequence[int]) -> torch.Tensor:
    return reference_logits(model, ids, prompt if model.config.is_encoder_decoder else ())


def pair(folder: Path, family: str, **options: Any) -> tuple[Any, Any]:
    small, large = write_pair(folder, family, noise=0.1, **options)
    return load_reference(small), load_reference(large)


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5", "mt5", "bart"])
def test_a_batch_says_what_the_models_say_one_by_one(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts of other lengths beside it change nothing, in whatever batches they are cut: the
    numbers are those of the whole prefix without cache or padding.
    """
    small, large = pair(tmp_path, family)
    large.generation_config.forced_bos_token_id = None
    texts = some_texts(large)
    monkeypatch.setattr(agreement, "JUDGED", 30)
    heard: list[int] = []
    found = agreement.positions_of(small, large, texts, tell=heard.append)
    assert heard[-1] == len(texts)
    assert len(heard) > 1
    for text, judged in zip(texts, found, strict=True):
        encdec = large.config.is_encoder_decoder
        begin = (
            [large.generation_config.decoder_start_token_id] if encdec else list(text.prompt_ids)
        )
        ids = [*begin, *text.ids[:-1]]
        ours, theirs = (
            rows(m, ids, text.prompt_ids)[-len(text.ids) :].log_softmax(-1) for m in (small, large)
        )
        assert judged.small.tolist() == ours.argmax(-1).tolist()
        assert judged.large.tolist() == list(text.ids) == judged.written.tolist()
        assert judged.confidence == pytest.approx(ours.amax(-1).exp().numpy(), abs=1e-4)
        far = -theirs.gather(-1, ours.argmax(-1, keepdim=True))[:, 0]
        assert judged.distance == pytest.approx(far.numpy(), abs=1e-3)
        assert judged.own == pytest.approx(-theirs.amax(-1).numpy(), abs=1e-3)


def test_rules_hold_for_both_models(tmp_path: Path) -> None:
    """A suppressed token is nobody's, as in the decoder; its share goes to the others. Beams, which
    the large model may ask for itself, are no matter of a greedy text.
    """
    small, large = pair(tmp_path, "llama")
    texts = some_texts(large)
    large.generation_config.num_beams = 4
    banned = texts[0].ids[0]
    large.generation_config.suppress_tokens = [banned]
    found = agreement.positions_of(small, large, texts)
    assert all(banned not in text.small.tolist() + text.large.tolist() for text in found)
    assert agreement.measured(small, large, texts).faithful < 1
    ignored = agreement.measured(small, large, texts, ignored=["suppress_tokens"])
    assert ignored.faithful == 1


def test_a_short_head_is_one_over_its_ids(tmp_path: Path) -> None:
    """Whether the model has one for good or its rows are named beside it."""
    small, large = pair(tmp_path, "llama")
    texts = some_texts(large)
    ids = [2, *range(10, 40)]
    short = ShortHead(small.lm_head, ids)
    small.set_output_embeddings(short.rows)
    named = agreement.positions_of(small, large, texts, head=ids)
    small.set_output_embeddings(short)
    own = agreement.positions_of(small, large, texts)
    for a, b in zip(named, own, strict=True):
        assert a.small.tolist() == b.small.tolist()
        assert set(a.small.tolist()) <= set(ids)
        assert a.confidence == pytest.approx(b.confidence)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_an_exit_behind_the_last_but_one_layer_agrees_less(family: str, tmp_path: Path) -> None:
    """One model is both: its own last layer agrees with itself everywhere."""
    _, large = pair(tmp_path, family)
    texts = some_texts(large)
    assert agreement.measured(large, large, texts).match_rate == 1
    early = agreement.measured(large, large, texts, exit_layer=2)
    assert early.match_rate < 1
    assert early.faithful == 1


def test_measuring_leaves_a_model_as_it_was(tmp_path: Path) -> None:
    """A model that learns goes on learning, and is measured without dropout."""
    small, large = pair(tmp_path, "gpt2")
    texts = some_texts(large)
    before = agreement.measured(small, large, texts)
    small.train()
    assert agreement.measured(small, large, texts) == before
    assert small.training


def test_models_of_two_kinds_are_refused(tmp_path: Path) -> None:
    """And so is having nothing to compare them on."""
    _, encdec = pair(tmp_path / "a", "t5")
    small, large = pair(tmp_path / "b", "llama")
    with pytest.raises(ConfigError, match="pair of a kind"):
        agreement.measured(small, encdec, [Own((1,), (2,))])
    with pytest.raises(ConfigError, match="no text"):
        agreement.measured(small, large, [Own((1,), ())])


# Telling.


@pytest.fixture
def report(tmp_path: Path) -> Report:
    small, large = pair(tmp_path, "llama")
    return agreement.measured(small, large, some_texts(large))


def test_a_report_comes_back_from_json(report: Report) -> None:
    """With all of its parts; the rates beside the counts are for readers."""
    replay = Replay(
        alpha_fb=0.5, alpha_rb=2.0, texts=1, tokens=8, small=6, fallbacks=1, rollbacks=1, windows=0,
        guessed=1, hits=1, large_passes=3, small_nats=0.5, greedy_nats=0.25, agreement=0.75,
    )  # fmt: skip
    report = report.having(speeds=speeds(report, Times.relative(0.2), tokens=256), replays=[replay])
    told = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    again = Report.from_dict(told)
    assert again.as_dict() == told
    assert (again.points[0].unsure, again.exact) == (report.points[0].unsure, report.exact)
    assert told["match_rate"] == pytest.approx(report.matches / report.positions, abs=1e-6)
    assert told["replays"][0]["behind_nats"] == 0.25
    assert told["replays"][0]["cost_nats"] is None
    assert len(told["points"]) == 42
    with pytest.raises(ConfigError, match="bild align"):
        Report.from_dict({**told, "format": 0})
    with pytest.raises(ConfigError, match="no report"):
        Report.from_dict({"format": 1})


def test_the_table_shows_before_after_and_the_change(report: Report) -> None:
    """Shares change by points, and a figure that one of them lacks has no change."""
    before = replace(report, points=report.points[:6])
    better = replace(report, matches=report.positions)
    shown = StringIO()
    agreement.show(before, better, Console(width=60, file=shown))
    lines = shown.getvalue().splitlines()
    row = next(line for line in lines if line.startswith("match rate"))
    assert row.split()[-2:] == [f"{100 * (1 - report.match_rate):+.1f}", "pt"]
    lacking = next(line for line in lines if line.startswith("0.5/2: rollback rate"))
    assert len(lacking.split()) == 4
    assert "%" in lacking
    shown = StringIO()
    agreement.show(report, None, Console(file=shown))
    assert "change" not in shown.getvalue()


def test_speed_follows_agreement_and_cost(report: Report) -> None:
    """A pair that agrees everywhere is faster than one that does not, and a cheaper small model
    faster than a dear one; mode exact comes first, and loses nothing.
    """
    same = [positions(*[SAME] * 32)]
    sure = replace(
        report, texts=1, positions=32, matches=32, points=(point_of(same, 0.5, 2.0),)
    )  # fmt: skip
    found = speeds(sure, Times.relative(0.2), length=128, tokens=512)
    assert [speed.mode for speed in found] == ["exact", "bild"]
    assert found[0].cost_nats == 0.0
    # Ten drafts and a check bring eleven tokens.
    assert found[1].ratio == pytest.approx(11 / (10 * 0.2 + 1), rel=0.05)
    dear = speeds(sure, Times.relative(0.8), length=128, tokens=512)
    assert dear[1].ratio < found[1].ratio
    unsure = replace(report, texts=1, points=(point_of([positions(*[MISS] * 32)], 0.5, 2.0),))
    assert speeds(unsure, Times.relative(0.2), length=128, tokens=512)[1].ratio < 1
    with pytest.raises(ConfigError, match="above 0"):
        Times.relative(0.0)


# Real texts.


async def test_replayed_texts_are_what_the_definition_says(tmp_path: Path) -> None:
    """Sources and tokens are those of a cache-free computation, and the likelihoods that the
    workers reported are those of the large model asked afterwards.
    """
    folders = write_pair(tmp_path, "llama", noise=0.2, tokenizer=True)
    small, large = map(load_reference, folders)
    outputs = some_texts(large, 4)
    models = {
        role: {"model": str(folder), "threads": 1}
        for role, folder in zip(("small", "large"), folders, strict=True)
    }
    config = Config().overlaid(orchestrator={"transport": "inproc"}, **models)
    async with inproc(config) as decoder:
        texts = await replayed(decoder, outputs, alpha_fb=0.4, alpha_rb=2.0, max_new_tokens=20)
        options = decoder._options.merged({"alpha_fb": 0.4, "alpha_rb": 2.0})
    ends = large.generation_config.eos_token_id
    for text in texts:
        known = reference(
            lambda ids: told(small, ids), lambda ids: told(large, ids), text.prompt_ids, options,
            end_ids=[ends], max_new_tokens=20,
        )  # fmt: skip
        assert list(text.ids) == known.tokens
        assert list(text.sources) == known.sources
    likely = agreement.judged(large, texts)
    for text, (nats, _) in zip(texts, likely, strict=True):
        for at, source in enumerate(text.sources):
            if source is Source.SMALL:
                assert text.distances[at] == pytest.approx(nats[at], abs=1e-3)
    replay = replay_of(
        texts, alpha_fb=0.4, alpha_rb=2.0, greedy_nats=0.5, best=[best for _, best in likely]
    )
    assert replay.tokens == replay.small + replay.fallbacks + replay.rollbacks + replay.windows
    assert replay.cost_nats is not None
    assert replay.cost_nats >= 0
    assert replay.large_passes > 0


def told(model: Any, ids: Sequence[int]) -> Distribution:
    logs = reference_logits(model, ids)[-1].log_softmax(-1)
    return Distribution(int(logs.argmax()), float(logs.max().exp()), lambda t: -float(logs[t]))


# Drawing.


def test_a_report_is_drawn_the_same_every_time(report: Report, tmp_path: Path) -> None:
    """Small files without a date, so that a picture changes only where a figure does; what one of
    the reports lacks is left out.
    """
    pytest.importorskip("matplotlib")
    told = report.having(speeds=speeds(report, Times.relative(0.2), tokens=256)).as_dict()
    (tmp_path / "tiny.json").write_text(json.dumps({"before": report.as_dict(), "after": told}))
    (tmp_path / "alone.json").write_text(json.dumps({"pair": "alone", "after": report.as_dict()}))
    first, again = (draw(read(tmp_path / "tiny.json"), tmp_path / name) for name in ("a", "b"))
    names = [f"alignment-tiny-{name}.svg" for name in ("confidence", "rates", "speed")]
    assert [path.name for path in first] == names
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert all(path.stat().st_size < 60_000 for path in first)
    assert len(draw(read(tmp_path / "alone.json"), tmp_path / "c")) == 2


def test_what_is_no_report_is_not_drawn(tmp_path: Path) -> None:
    """The message names the file."""
    file = tmp_path / "other.json"
    for content in ("[]", "{}", "nonsense"):
        file.write_text(content)
        with pytest.raises(ConfigError, match=r"other\.json"):
            read(file)
