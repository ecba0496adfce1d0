"""transformers' own programs as `bild bench` runs them: the very same weights, as their users have
them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bild_dist.config import Config, WorkerConfig
from bild_dist.errors import ConfigError, InvalidRequest
from bild_dist.evaluation.bench import peers
from bild_dist.evaluation.bench.contestants import Contestant, Peer
from bild_dist.evaluation.bench.job import Job
from bild_dist.evaluation.bench.prompts import Task
from bild_dist.model.load import load
from bild_dist.model.packed import PackedLinear
from tests.tiny import load_reference, write_model, write_pair

PROMPT = [5, 9, 7, 11, 3]


def job(folder: Path, family: str, peer: Peer, **options: object) -> Job:
    small, large = write_pair(folder, family)
    config = Config().overlaid(
        small={"model": str(small)}, large={"model": str(large)},
        generate={"max_new_tokens": 10, **options},
    )  # fmt: skip
    return Job(Contestant(peer=peer), config, (Task(PROMPT),))


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5", "bart", "m2m100"])
def test_both_sides_compute_with_the_very_same_numbers(tmp_path: Path, family: str) -> None:
    """Whatever ours does to its weights, transformers has those of the files, in layers of its
    own.
    """
    config = WorkerConfig(model=str(write_model(tmp_path / "model", family)))
    model, wanted = peers.plain(load(config), config), load_reference(Path(config.model))

    assert not any(isinstance(module, PackedLinear) for module in model.modules())
    mine = dict(model.named_parameters())
    for name, weight in wanted.named_parameters():
        assert torch.equal(mine[name], weight), name


def test_a_cut_model_is_cut_for_both(tmp_path: Path) -> None:
    """The first layers of a checkpoint, as `--exit-layer` has them."""
    folder = write_model(tmp_path / "model", "llama")
    config = WorkerConfig(model=str(folder), exit_layer=1)
    assert len(peers.plain(load(config), config).model.layers) == 1


@pytest.mark.parametrize("peer", list(Peer))
@pytest.mark.parametrize("family", ["llama", "gpt2", "t5", "mt5", "bart", "marian", "m2m100"])
def test_a_peer_writes_what_transformers_writes(tmp_path: Path, family: str, peer: Peer) -> None:
    """The tokens of `generate` on the checkpoint itself, and counts that fit to them."""
    asked = job(tmp_path, family, peer)
    found = peers.measure(asked)
    (text,) = found["texts"]
    reference = load_reference(Path(asked.config.large.model))
    if family in ("t5", "mt5"):  # its cache has as many layers as the encoder, one too few
        reference.config.num_layers = reference.config.num_decoder_layers
    ids = torch.tensor([PROMPT])
    out = reference.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False
    )[0].tolist()
    begin = 1 if reference.config.is_encoder_decoder else len(PROMPT)

    assert text["tokens"] == out[begin:]
    assert 0 < text["first_token_ns"] <= text["wall_ns"] <= found["wall_ns"]
    if peer is Peer.GENERATE:
        assert found["large_passes"] == len(text["tokens"])
        assert text["trace"] is None
    else:
        assert found["large_passes"] <= len(text["tokens"])
        assert 0 <= text["trace"]["wasted"] <= text["trace"]["drafted"]
    assert found["memory"]["program"] > 0


def test_sampled_texts_can_be_repeated(tmp_path: Path) -> None:
    """A seed is a seed for transformers too, though its noise is another."""
    asked = job(tmp_path, "llama", Peer.GENERATE, temperature=1.0, seed=3)
    assert peers.measure(asked)["texts"][0]["tokens"] == peers.measure(asked)["texts"][0]["tokens"]


def test_what_a_peer_cannot_do_is_said(tmp_path: Path) -> None:
    """A toy is no model of transformers', and a stop string none of its words."""
    toys = Config().overlaid(large={"model": "toy:large"})
    with pytest.raises(ConfigError, match="toy"):
        peers.measure(Job(Contestant(peer=Peer.GENERATE), toys, (Task(PROMPT),)))
    with pytest.raises(InvalidRequest, match="stop"):
        peers.measure(job(tmp_path, "llama", Peer.GENERATE, stop=("x",)))
