"""`bild align` with pairs that are not alike in everything, and what it leaves on disk."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from bild_dist.app import inproc
from bild_dist.evaluation.align import main as front
from bild_dist.evaluation.align.calibration import Question
from bild_dist.evaluation.align.models import Source
from bild_dist.evaluation.align.outputs import Asked, write
from tests.spec.test_align import FEW, LINES
from tests.tiny import write_pair


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def prompts_in(folder: Path, count: int = 120) -> str:
    file = folder / "prompts.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in LINES[:count]))
    return str(file)


@torch.no_grad()
def pad(folder: Path, more: int) -> int:
    """Gives a model ids that no tokenizer has, and that it likes to write. Returns how many it had."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    there = model.config.vocab_size
    model.resize_token_embeddings(there + more)
    for table in (model.lm_head.weight, model.model.embed_tokens.weight):
        table[there:] = table[:more] * 1.1
    model.save_pretrained(folder)
    return there


@pytest.mark.parametrize("wider", ["small", "large"])
def test_padded_vocabularies_are_aligned(wider, tmp_path):
    """Ids that one of the two lacks are masked, in what is learned as in the decoder."""
    pair = dict(zip(("small", "large"), write_pair(tmp_path, "llama", noise=0.1, tokenizer=True)))
    pad(pair[wider], 64)
    argv = ["--small", str(pair["small"]), "--large", str(pair["large"]), "--out", str(tmp_path / "out"),
            "--corpus", prompts_in(tmp_path), *FEW]  # fmt: skip
    assert front.main(argv, inproc) == 0
    assert (tmp_path / "out" / front.REPORT).is_file()


def test_a_teacher_keeps_to_the_shared_ids(tmp_path):
    """Its texts are greedy among them, and its distributions are told over them alone."""
    _, large = write_pair(tmp_path, "llama", tokenizer=True)
    there = pad(large, 64)
    model = Source(model=str(large)).load()
    asked = [Question(str(n), tuple(3 + (7 * n + i) % 50 for i in range(5))) for n in range(9)]
    free = write(model, asked, Asked(max_new_tokens=8, choices=4))
    kept = write(model, asked, Asked(max_new_tokens=8, choices=4, vocabulary=there))
    assert any(output.top_ids.max() >= there for output in free)
    for output in kept:
        assert max(output.ids) < there
        assert output.top_ids.max() < there
        ids = torch.tensor([[*output.prompt_ids, *output.ids[:-1]]])
        with torch.no_grad():
            rows = model(input_ids=ids).logits[0, len(output.prompt_ids) - 1 :, :there]
        assert rows.argmax(-1).tolist() == list(output.ids)
        best = torch.log_softmax(rows, -1).amax(-1)
        torch.testing.assert_close(torch.tensor(output.top_logprobs[:, 0]).float(), best, atol=1e-2, rtol=1e-2)
