"""Packed weights compute what plain ones do."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers.pytorch_utils import Conv1D

from bild_dist.model.packed import PackedLinear, pack, packs, reads_far

CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(
    not packs(CPU, torch.float32), reason="this torch has no oneDNN to pack weights with"
)


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 8, 70])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("far", [True, False])
def test_a_packed_layer_gives_the_plain_result(rows: int, bias: bool, far: bool):
    """For any number of rows, none included, up to float32 rounding; and where few are computed as
    more.
    """
    plain = nn.Linear(48, 33, bias=bias)
    packed = PackedLinear(plain.weight, plain.bias, far=far)
    fed = torch.randn(1, rows, 48)
    with torch.inference_mode():
        assert packed(fed).shape == (1, rows, 33)
        torch.testing.assert_close(packed(fed), plain(fed))
        torch.testing.assert_close(packed(fed.mT.contiguous().mT), plain(fed))


def test_rows_need_not_lie_in_order():
    """Attention hands over transposed views."""
    plain = nn.Linear(16, 8)
    fed = torch.randn(1, 16, 5).transpose(1, 2)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(plain.weight, plain.bias)(fed), plain(fed))


def test_every_linear_layer_is_replaced_and_nothing_else():
    """GPT-2's transposed layers too; an embedding that shares a weight stays as it is."""
    embedding = nn.Embedding(20, 16)
    head = nn.Linear(16, 20, bias=False)
    head.weight = embedding.weight
    model = nn.Sequential(embedding, nn.Sequential(Conv1D(16, 16), nn.LayerNorm(16)), head)
    ids = torch.arange(7)
    with torch.inference_mode():
        expected = model(ids)
        pack(model, 0)
        torch.testing.assert_close(model(ids), expected)
    kinds = [type(module) for module in model.modules() if not list(module.children())]
    assert kinds == [nn.Embedding, PackedLinear, nn.LayerNorm, PackedLinear]


@pytest.mark.parametrize(("width", "far"), [(16, False), (2048, True)])
def test_a_model_that_outgrows_the_cache_is_read_from_memory(width: int, far: bool):
    """What counts is the decoder: four matrices of a large width are more than a cache holds, and an
    encoder is read once a text.
    """
    sizes: dict[str, Any] = {
        "d_model": width,
        "d_kv": width,
        "num_heads": 1,
        "vocab_size": 8,
        "num_layers": 1,
    }
    with torch.device("meta"):
        deep = T5ForConditionalGeneration(T5Config(**sizes, d_ff=8, num_decoder_layers=1))
        shallow = T5ForConditionalGeneration(T5Config(**sizes, d_ff=8, num_decoder_layers=0))
    assert reads_far(deep) is far
    assert not reads_far(shallow)
    assert not reads_far(nn.Module.to(deep, torch.bfloat16))


def test_what_cannot_be_packed_is_left_alone():
    """Half precision without hardware for it, and other devices, run as torch runs them."""
    assert not packs(CPU, torch.float16)
    assert not packs(torch.device("cuda", 0), torch.float32)
