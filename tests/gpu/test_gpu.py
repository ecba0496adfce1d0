"""Both models on a GPU: the text of the definition, in float32, and two processes that share a device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import bild_dist
from bild_dist.types import Source
from tests.spec.test_hf_batch import Both
from tests.tiny import FAMILIES, load_model, write_model, write_pair

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_gpu_writes_what_the_cpu_writes(family: str, tmp_path: Path) -> None:
    """Same pair, same prompt, float32: token by token the same text, from the same sources."""
    small, large = map(str, write_pair(tmp_path, family, noise=0.12, seed=3))
    texts = []
    for device in ("cpu", "cuda"):
        async with bild_dist.launch(
            small, large, device=device, max_new_tokens=24, alpha_fb=0.4, alpha_rb=1.0
        ) as decoder:
            texts.append(await decoder.generate([5, 9, 17, 33]))

    assert texts[0].tokens == texts[1].tokens
    assert texts[0].sources == texts[1].sources
    assert len(set(texts[0].sources) - {Source.SMALL}) > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_passes_say_what_lone_ones_say(family: str, tmp_path: Path) -> None:
    """On a device all families run by their modules, in padded batches; float32."""
    model = load_model(write_model(tmp_path, family), device="cuda")
    assert model.info.batching == "groups"
    both = Both(model, seed=len(family))
    assert sum(both.differing() for _ in range(25)) <= 1
