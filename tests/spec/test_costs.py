"""What a run asks of the hardware: counted from shapes, and held against what torch itself counts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from bild_dist.app import inproc
from bild_dist.config import settled
from bild_dist.errors import ConfigError
from bild_dist.evaluation.costs.bill import bill, bill_of
from bild_dist.evaluation.costs.passes import Fed, Passes, derived, prompt, recorded
from bild_dist.evaluation.costs.shapes import shape_at, shape_of
from bild_dist.evaluation.costs.work import Meter, Work
from bild_dist.evaluation.run.record import Part, Setting, TextRecord
from bild_dist.model.base import Pass
from bild_dist.model.hf import HfModel
from bild_dist.orchestrator.recording import Recording
from bild_dist.types import Options, Role
from tests.tiny import DECODER_ONLY, FAMILIES, write_model, write_pair

IDS = torch.arange(20)[None] + 3


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp(request.param), request.param)


def reference(folder: Path) -> Any:
    """Eager attention, because torch does not count the fused one on a CPU."""
    plan: Any = AutoConfig.from_pretrained(folder)
    auto: Any = AutoModelForSeq2SeqLM if plan.is_encoder_decoder else AutoModelForCausalLM
    return auto.from_pretrained(folder, attn_implementation="eager").eval()


@torch.no_grad()
def counted(model: Any, **inputs: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        model(**inputs)
    return int(counter.get_total_flops())


def test_a_shape_has_as_many_weights_as_the_model(folder: Path) -> None:
    """Bytes are counted from shapes, so every norm, bias and table must be known."""
    assert shape_at(str(folder)).parameters == sum(
        p.numel() for p in reference(folder).parameters()
    )


def test_operations_are_those_that_torch_counts(folder: Path) -> None:
    """Encoder, prefill, a single step and a check, each behind what the cache holds already."""
    model, meter = reference(folder), Meter(shape_at(str(folder)))
    cuts, cache = ((0, 5), (5, 6), (6, 13)), DynamicCache()
    if not model.config.is_encoder_decoder:
        for start, end in cuts:
            found = counted(
                model, input_ids=IDS[:, start:end], past_key_values=cache, logits_to_keep=1
            )
            assert found == pytest.approx(meter.forward(end - start, start).flops, rel=0.01)
        return
    both = EncoderDecoderCache(cache, DynamicCache())
    read = counted(model.get_encoder(), input_ids=IDS)
    with torch.no_grad():
        source = BaseModelOutput(last_hidden_state=model.get_encoder()(input_ids=IDS)[0])
    for start, end in cuts:
        found = counted(
            model, encoder_outputs=source, decoder_input_ids=IDS[:, start:end], past_key_values=both
        )
        expected = meter.forward(end - start, start, s=20).flops
        if start == 0:
            # The first pass makes the source's keys and values, which belong to reading it.
            found, expected = found + read, expected + meter.source(20).flops
        assert found == pytest.approx(expected, rel=0.01)


def test_a_pass_reads_every_weight_once(folder: Path) -> None:
    """However many tokens it feeds: that is why checking eight costs hardly more than writing one. Of
    the embedding it reads the fed rows alone.
    """
    shape = shape_at(str(folder))
    for dtype, number in (("float32", 4), ("bfloat16", 2)):
        meter = Meter.of(shape, dtype)
        whole = meter.source(7) + meter.forward(3, 0, s=7) if shape.encoder else meter.forward(3, 0)
        width, fed = shape.decoder.width, 3 + (7 if shape.encoder else 0)
        looked_up = fed * width * (2 if shape.tables else 1)
        own = shape.parameters - shape.vocabulary * width * (not shape.tied) - shape.tables
        assert whole.weights == number * (own + looked_up)


def test_keys_and_values_are_counted_from_the_cache_that_is_kept(folder: Path) -> None:
    """A pass of 3 behind 10 reads 13 tokens' and writes those of 3; what a layer keeps is measured."""
    model, shape = reference(folder), shape_at(str(folder))
    cache: Any = DynamicCache()
    inputs: dict[str, Any] = {"input_ids": IDS}
    if shape.encoder:
        inputs["decoder_input_ids"], cache = IDS, EncoderDecoderCache(cache, DynamicCache())
    with torch.no_grad():
        model(**inputs, past_key_values=cache)
    layers = (cache.self_attention_cache if shape.encoder else cache).layers
    a_token = sum(layer.keys[0, :, 0].nbytes + layer.values[0, :, 0].nbytes for layer in layers)
    assert Meter(shape).forward(3, 10).cache == 16 * a_token


def test_a_draft_is_priced_without_what_it_lacks(tmp_path: Path) -> None:
    """Its base's first layers, and a head of the listed rows."""
    base = write_model(tmp_path / "base", "llama")
    draft = tmp_path / "draft"
    draft.mkdir()
    said = {"format": 1, "base": "../base", "layers": 2, "head": [2, 5, 9], "storage": "bfloat16"}
    (draft / "draft.json").write_text(json.dumps({**said, "base": "./../base"}))
    found = shape_at(str(draft))
    assert (found.decoder.layers, found.head) == (2, 3)
    assert shape_at(str(base), 2).decoder.layers == 2
    assert Meter(found).forward(1, 0).flops < Meter(shape_at(str(base), 2)).forward(1, 0).flops


def test_an_unknown_family_is_named_and_not_guessed_at() -> None:
    """A wrong cost is worse than none."""
    with pytest.raises(ConfigError, match=r"'mamba' is not known"):
        shape_of({"model_type": "mamba"})
    with pytest.raises(ConfigError, match=r"gives no 'd_model'"):
        shape_of({"model_type": "t5"}, "mine")
    with pytest.raises(ConfigError, match=r"dtype 'int3'"):
        Meter.of(shape_of({"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2,
                           "vocab_size": 9, "n_positions": 4}), "int3")  # fmt: skip


def test_a_long_prompt_is_read_in_pieces_and_its_last_id_with_the_first_step() -> None:
    """As the workers do: 600 ids are three passes over 599, none of which has a row of the head."""
    assert prompt(Role.LARGE, 0, 600).prefill == (
        Fed(Role.LARGE, 256, 0, 0), Fed(Role.LARGE, 256, 256, 0), Fed(Role.LARGE, 87, 512, 0),
    )  # fmt: skip
    assert prompt(Role.LARGE, 30, 1) == Passes({Role.LARGE: 30})


RUNS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("t5", {"schedule": "paper"}),
    ("t5", {"schedule": "through"}),
    ("t5", {"mode": "large"}),
    ("llama", {"schedule": "overlap"}),
    ("llama", {"mode": "exact", "schedule": "paper"}),
    ("llama", {"mode": "small"}),
)


@pytest.mark.parametrize(("family", "settings"), RUNS, ids=str)
async def test_passes_are_read_off_a_recording_and_nearly_off_counts(
    family: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording gives role, tokens, place and rows of every pass that the models ran; only a draft that
    was stopped at the very end of a text has some that nobody was told of. The record of a run has no
    places: under schedules that waste nothing unread that changes a few hundredths, and else its
    operations are an upper bound.
    """
    small, large = write_pair(tmp_path, family, noise=0.4)
    ran: Counter[Fed] = Counter()
    forward = HfModel.forward

    def spy(self: HfModel, work: Pass) -> Any:
        role = Role.SMALL if self.info.model.startswith("small") else Role.LARGE
        ran[Fed(role, len(work.ids) - work.at, work.at, work.rows)] += 1
        return forward(self, work)

    monkeypatch.setattr(HfModel, "forward", spy)
    config, _ = settled({"small": str(small), "large": str(large), "transport": "inproc"})
    recording = Recording()
    async with inproc(config, recording) as decoder:
        ran.clear()  # of what warmed the workers up
        result = await decoder.generate([5, 9, 13, 17, 21], max_new_tokens=24, **settings)
    (passes,) = recorded(recording.moments).values()
    text = TextRecord.of("1", result, [])
    found = Counter(passes.prefill + passes.steps)
    assert found <= ran
    for role in Role:
        count = sum(1 for step in passes.steps if step.role is role)
        assert count == text.trace[f"{role}_passes"]
    waits = settings.get("schedule", "paper") == "paper"
    if settings.get("schedule") != "overlap":
        assert found == ran

    meters = {role: Meter(shape_at(str(tmp_path / role))) for role in Role}
    exact = bill([passes], meters)
    rough = bill_of(Part(setting=Setting.of(Options()), texts=(text,)), meters, {"1": 5})
    assert exact.exact
    assert not rough.exact
    assert rough.of_prompt == exact.of_prompt
    assert rough.of_writing.weights == pytest.approx(exact.of_writing.weights, rel=0.01)
    ratio = rough.of_writing.flops / exact.of_writing.flops
    assert 0.95 < ratio < (1.05 if waits else 1.6)
    assert rough.of_writing.cache == pytest.approx(exact.of_writing.cache, rel=0.15)


def test_a_text_whose_prompt_is_unknown_is_left_out() -> None:
    """Its cost would be a guess; the bill says over how many texts it is."""
    meters = {Role.LARGE: Meter(shape_of(TINY)), Role.SMALL: Meter(shape_of(TINY))}
    text = TextRecord(
        id="1", text="", tokens=(1, 2), sources=("large",) * 2, trace={"large_passes": 2}
    )
    part = Part(setting=Setting.of(Options()), texts=(text,))
    assert bill_of(part, meters, {}).texts == 0
    assert bill_of(part, meters, {"1": 4}).writing[Role.LARGE].flops > 0


TINY = {
    "model_type": "gpt2",
    "n_embd": 8,
    "n_layer": 1,
    "n_head": 2,
    "vocab_size": 9,
    "n_positions": 9,
}


def test_drafting_and_checking_moves_fewer_bytes_and_has_a_higher_intensity() -> None:
    """Figure 8 of the paper: as many operations or more, over fewer readings of the large model."""
    large = Meter(shape_of({**TINY, "n_layer": 12}))
    small = Meter(shape_of(TINY))
    meters = {Role.SMALL: small, Role.LARGE: large}
    alone = bill([derived({"large_passes": 60}, 60, 0, 4)], meters)
    both = {"large_passes": 15, "small_passes": 60, "wasted": 5}
    paired = bill([derived(both, 60, 0, 4)], meters)
    assert paired.total.bytes < 0.5 * alone.total.bytes
    assert paired.total.intensity > 2 * alone.total.intensity
    assert paired.total.flops > alone.total.flops
    assert (Work(2, 3, 4) * 2).bytes == 14


def test_the_decoder_only_families_are_those_without_an_encoder(folder: Path) -> None:
    """Where the prompt goes decides what reading it costs."""
    shape = shape_at(str(folder))
    assert (shape.encoder is None) == (
        folder.name.rstrip("0123456789") in DECODER_ONLY or shape.family in DECODER_ONLY
    )
    assert shape.family in shape.size
