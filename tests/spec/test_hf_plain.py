"""Decoders as plain operations say what the modules say, and hold each weight once."""

import json
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from bild_dist.errors import ConfigError
from bild_dist.model.hf import HfModel
from bild_dist.model.llama import LlamaDecoder
from bild_dist.model.packed import PackedLinear, pack, packs
from bild_dist.model.plain import plain_of
from bild_dist.model.t5 import T5Decoder
from tests.spec.test_hf_generate import generated, write_text
from tests.tiny import build, load_model, load_reference, reference_logits, rules_for

ENDS: dict[str, Any] = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
LENGTH = 96


def llama(config: Any = LlamaConfig, **more: Any) -> PreTrainedConfig:
    given = {"num_key_value_heads": 2, "tie_word_embeddings": False, **more}
    made: PreTrainedConfig = config(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=LENGTH, **ENDS, **given,
    )  # fmt: skip
    return made


def turned(kind: str, **more: float) -> PreTrainedConfig:
    return llama(rope_parameters={"rope_type": kind, "rope_theta": 10000.0, **more})


def t5(config: Any, **more: Any) -> PreTrainedConfig:
    made: PreTrainedConfig = config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_heads=4, num_layers=1, num_decoder_layers=3,
        relative_attention_num_buckets=8, relative_attention_max_distance=16, pad_token_id=0,
        eos_token_id=1, decoder_start_token_id=0, **more,
    )  # fmt: skip
    return made


COVERED: dict[str, tuple[type[PreTrainedModel], PreTrainedConfig]] = {
    "heads that share keys": (LlamaForCausalLM, llama()),
    "heads with keys of their own": (LlamaForCausalLM, llama(num_key_value_heads=4)),
    "one head with keys": (LlamaForCausalLM, llama(num_key_value_heads=1)),
    "biases": (LlamaForCausalLM, llama(attention_bias=True, mlp_bias=True)),
    "embedding and head in one": (LlamaForCausalLM, llama(tie_word_embeddings=True)),
    "wide heads, another act": (LlamaForCausalLM, llama(head_dim=16, hidden_act="gelu")),
    "linear": (LlamaForCausalLM, turned("linear", factor=2.0)),
    "llama3": (LlamaForCausalLM, turned("llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                        original_max_position_embeddings=48)),
    "yarn": (LlamaForCausalLM, turned("yarn", factor=2.0, original_max_position_embeddings=48)),
    "mistral": (MistralForCausalLM, llama(MistralConfig, sliding_window=None)),
    "qwen2": (Qwen2ForCausalLM, llama(Qwen2Config)),
    "qwen3": (Qwen3ForCausalLM, llama(Qwen3Config, head_dim=16)),
    "t5": (T5ForConditionalGeneration, t5(T5Config)),
    "mt5": (MT5ForConditionalGeneration, t5(MT5Config, tie_word_embeddings=False, feed_forward_proj="gated-gelu")),
}  # fmt: skip


def write(folder: Path, name: str, spread: float = 4.0) -> Path:
    model_class, config = COVERED[name]
    model = build(model_class, config, seed=len(name), spread=spread)
    model.save_pretrained(folder)
    ends = ("bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id")
    said = {key: getattr(config, key, None) for key in ends}
    (folder / "generation_config.json").write_text(
        json.dumps({k: v for k, v in said.items() if v is not None})
    )
    return folder


def pack_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices of models this small too, which would not be worth it."""
    monkeypatch.setattr("bild_dist.model.parts.SMALLEST", 1)
    monkeypatch.setattr("bild_dist.model.startup.pack", partial(pack, smallest=1))


def opened(model: HfModel, source: Sequence[int]) -> None:
    model.open(0, source if model.info.max_source else [], rules_for(model, 1, 90))


@torch.inference_mode()
def logits_of(model: HfModel, ids: Sequence[int], at: int, rows: int) -> torch.Tensor:
    """One pass over what was opened. Shapes: rows by V."""
    text = model._slots[0].text
    text.cache.rewind(at, len(ids) - at)
    fed, places = torch.tensor([ids[at:]]), torch.arange(at, len(ids))[None]
    return model._passes.logits(fed, places, text, rows)


def check_rows(model: HfModel, reference: Any, die: random.Random) -> None:
    """Random pieces and random rollbacks, some long enough for the attention of many rows."""
    for _ in range(2):
        source = [die.randrange(64) for _ in range(die.randint(1, 9))]
        opened(model, source)
        ids: list[int] = []
        for piece in (*(die.randint(1, 7) for _ in range(8)), 20, 33, 1, 24):
            at = die.randint(max(0, len(ids) - 6), len(ids)) if piece < 30 else 0
            ids = [*ids[:at], *(die.randrange(64) for _ in range(min(piece, LENGTH - at)))]
            rows = die.choice([0, 1, len(ids) - at, die.randint(0, len(ids) - at)])
            found = logits_of(model, ids, at, rows)
            assert len(found) == rows
            if rows:
                expected = reference_logits(reference, ids, source)[-rows:]
                # Of logits up to 13; in double precision both forms are as far from the truth.
                torch.testing.assert_close(found, expected, atol=5e-4, rtol=1e-4)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", COVERED)
def test_any_cut_gives_the_cache_free_rows(
    name: str, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few rows and with many, read or not, behind a rollback or not; and the text is the one
    that transformers writes.
    """
    if packed:
        pack_everything(monkeypatch)
    model, reference = load_model(write(tmp_path, name)), load_reference(tmp_path)
    kind = T5Decoder if name.endswith("t5") else LlamaDecoder
    assert isinstance(model._passes.plain, kind)
    check_rows(model, reference, random.Random(name))
    for prompt in ([3, 9, 27, 40], [11, 60, 5, 5, 32, 18, 44] * 3):
        assert write_text(model, prompt, 16) == generated(reference, prompt, 16)


def test_a_table_of_angles_grows_with_the_text(tmp_path: Path) -> None:
    """Position by position to the last one that the slot has."""
    model, reference = load_model(write(tmp_path, "llama3")), load_reference(tmp_path)
    opened(model, [])
    ids = [(13 * i + 5) % 64 for i in range(LENGTH)]
    found = torch.cat([logits_of(model, ids[: at + 1], at, 1) for at in range(LENGTH)])
    torch.testing.assert_close(found, reference_logits(reference, ids), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (GPT2LMHeadModel, GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=96, **ENDS)),
        (MistralForCausalLM, llama(MistralConfig, sliding_window=32)),
        (Qwen2ForCausalLM, llama(Qwen2Config, use_sliding_window=True, sliding_window=32, max_window_layers=1)),
        (LlamaForCausalLM, turned("dynamic", factor=2.0)),
        (LlamaForCausalLM, llama(pretraining_tp=2)),
    ],
)  # fmt: skip
def test_what_is_not_covered_keeps_its_modules(
    model_class: type[PreTrainedModel], config: PreTrainedConfig
) -> None:
    """Windows that slide, angles that depend on the length, and whatever a config may ask for more."""
    assert plain_of(build(model_class, config)) is None


def test_other_numbers_and_other_layers_keep_their_modules() -> None:
    """bfloat16 is computed as torch does it, and a layer that somebody replaced is not looked into."""
    half = build(*COVERED["biases"])
    assert plain_of(half.to(torch.bfloat16)) is None  # type: ignore[arg-type]
    for name in ("biases", "mt5"):
        replaced = build(*COVERED[name])
        if packs(torch.device("cpu"), torch.float32):
            pack(replaced, 0)
            assert plain_of(replaced) is None


def wrong(*args: Any, **kwargs: Any) -> Any:
    raise AttributeError("renamed")


def crooked(*args: Any, later: bool = False, **kwargs: Any) -> Any:
    """Attention of many rows that is wrong always, or only behind others."""
    found = scaled_dot_product_attention(*args, **kwargs)
    return found * 1.3 if kwargs["attn_mask"] is not None or not later else found


@pytest.mark.parametrize(
    ("name", "place", "change"),
    [
        ("biases", "llama.LlamaDecoder._attended", lambda self, asked, *rest: asked.reshape(len(asked), 1, -1)),
        ("biases", "llama.scaled_dot_product_attention", crooked),
        ("yarn", "llama.scaled_dot_product_attention", partial(crooked, later=True)),
        ("qwen3", "llama.LlamaDecoder._turns", wrong),
        ("qwen2", "llama._layer", wrong),
        ("mt5", "t5.T5Decoder._biases", lambda self, at, count: torch.zeros(4, count, at + count)),
        ("t5", "t5.T5Decoder.source", wrong),
    ],
)  # fmt: skip
def test_where_both_disagree_the_modules_run(
    name: str, place: str, change: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """A release of transformers that computes otherwise, or names things otherwise, costs speed and
    nothing else: the model starts and says why it is slow, its rows are right, and no layer holds on to
    joined weights.
    """
    monkeypatch.setattr(f"bild_dist.model.{place}", change)
    model, reference = load_model(write(tmp_path, name)), load_reference(tmp_path)
    assert model._passes.plain is None
    assert "plain" not in model.info.architecture
    (line,) = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert "runs by its modules" in line
    assert ("AttributeError: renamed" if change is wrong else "gives other numbers") in line
    check_rows(model, reference, random.Random(name))
    for weight in model._model.parameters():
        assert weight.untyped_storage().nbytes() == 4 * weight.numel()


@pytest.mark.parametrize("name", ["biases", "qwen3", "mt5"])
def test_packed_weights_that_compute_otherwise_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are looked at once more where they lie: the modules, which were right, have given them up."""
    pack_everything(monkeypatch)
    forward = PackedLinear.forward
    monkeypatch.setattr(PackedLinear, "forward", lambda self, rows: forward(self, rows) * 1.5)
    if packs(torch.device("cpu"), torch.float32):
        with pytest.raises(ConfigError, match=r"computes otherwise once .* another release"):
            load_model(write(tmp_path, name))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["biases", "qwen3", "mt5"])
def test_a_weight_is_held_once(
    name: str, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the plain decoder took the modules gave up; what else there is was packed where it is."""
    if packed:
        pack_everything(monkeypatch)
    model = load_model(write(tmp_path, name))
    plain: Any = model._passes.plain
    layers = plain._layers
    assert len(layers) == 3
    # Of a T5 six a decoder layer, four an encoder layer, and one that lays out the source for all.
    assert len(plain.matrices) == (3 * 6 + 4 + 1 if name == "mt5" else 3 * 4)
    inside = model._model.decoder.block if name == "mt5" else model._model.model.layers
    taken = [module for module in inside.modules() if isinstance(module, nn.Linear)]
    assert len(taken) == 3 * (11 if name == "mt5" else 7)
    assert sum(layer.weight.numel() for layer in taken) == 0
    assert isinstance(model._model.lm_head, PackedLinear) == (
        packed and packs(torch.device("cpu"), torch.float32)
    )


@pytest.mark.parametrize("place", ["startup.pack", "llama.LlamaDecoder._turns"])
def test_no_memory_is_called_no_memory(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU torch raises what it raises for anything: no model is wrong for it, and no other form is
    smaller.
    """
    monkeypatch.setattr(f"bild_dist.model.{place}", lambda *_, **__: torch.empty(1 << 56))
    if packs(torch.device("cpu"), torch.float32):
        with pytest.raises(ConfigError, match=r"does not fit into the memory of cpu .*allocate"):
            load_model(write(tmp_path, "biases"))
