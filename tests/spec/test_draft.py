"""A draft folder: a model's first layers, trained apart, beside the embedding and head that they
share, with a head over some of the vocabulary.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from bild_dist.config import WorkerConfig
from bild_dist.errors import ConfigError
from bild_dist.model import draft
from bild_dist.model.base import Pass
from bild_dist.model.hf import HfModel
from bild_dist.model.load import load
from bild_dist.model.short_head import ShortHead
from bild_dist.policy.machine import Machine
from bild_dist.types import Mode, Options
from tests.drive import HandWorker, play, scripted
from tests.oracle import Distribution, Predictor, reference
from tests.tiny import DECODER_ONLY, load_model, reference_logits, rules_for, write_model

HEAD = [0, 2, *range(3, 64, 3)]
"""Of 64 ids; 2 ends a text."""
CLOSE = 1e-4
NEW = 24


@torch.no_grad()
def trained(base: Path, layers: int = 2) -> Any:
    """The first layers of a model and its norm, with weights of their own that bfloat16 can hold."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, num_hidden_layers=layers).eval()
    random = torch.Generator().manual_seed(5)
    for _, weight in draft._own(model):
        noise = torch.randn(weight.shape, generator=random) * 0.05 * weight.std()
        weight.copy_((weight + noise).bfloat16())
    return model


def made(
    folder: Path,
    family: str = "llama",
    head: Sequence[int] | None = None,
    storage: str = "bfloat16",
) -> tuple[Path, Any]:
    """A base, the folder of a draft for it, and the model that was saved."""
    base = write_model(folder / "large", family)
    model = trained(base)
    draft.save(model, folder / "small", "../large", head, storage)
    return folder / "small", model


@pytest.mark.parametrize("family", DECODER_ONLY)
@pytest.mark.parametrize("storage", draft.STORAGES)
def test_a_draft_is_the_model_that_was_saved(family: str, storage: str, tmp_path: Path) -> None:
    """The layers come from the folder, the rest from the base: the numbers are those of the trained
    model, to the last bit in bfloat16 and nearly in int8.
    """
    folder, model = made(tmp_path, family, storage=storage)
    ids = [5, 9, 30, 41, 7]
    again = reference_logits(draft.load(folder, torch.float32), ids)
    expected = reference_logits(model, ids)
    gap = (again - expected).abs().mean() / expected.std()
    assert gap == 0 if storage == "bfloat16" else 0 < gap < 0.05


def test_a_draft_holds_what_is_its_own(tmp_path: Path) -> None:
    """Neither embedding nor head are stored: they are most of a small model."""
    folder, model = made(tmp_path)
    names = set(load_file(folder / draft.WEIGHTS))
    assert names == {n for n, _ in model.named_parameters() if "embed" not in n and "head" not in n}
    assert "model.norm.weight" in names
    assert {"small", "large"} == {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_worker_computes_in_its_own_dtype(dtype: str, tmp_path: Path) -> None:
    """What the weights are stored in is no setting of the worker."""
    folder, _ = made(tmp_path, head=HEAD, storage="int8")
    model = load_model(folder, dtype=dtype)
    assert model.info.dtype == dtype
    assert model._model.dtype == getattr(torch, dtype)
    assert model.info.model == "small (draft of 2 layers)"


@pytest.mark.parametrize("family", DECODER_ONLY)
def test_a_short_head_writes_what_it_lists(family: str, tmp_path: Path) -> None:
    """The distribution is the softmax over the listed ids; of all others -ln p is infinite. Any cut
    into passes says the same.
    """
    folder, model = made(tmp_path, family, HEAD)
    ours = load_model(folder)
    ids = [5, 9, 30, 41, 7, 12, 60, 33]
    expected = torch.log_softmax(reference_logits(model, ids)[:, HEAD], -1)
    ours.open(0, [], rules_for(ours, 1, NEW))
    judged = (HEAD[4], 1, HEAD[-1], 62)
    seen = ours.forward(Pass(0, 0, ids[:4], 4, judged))
    seen += ours.forward(Pass(0, 3, ids, 5))[1:]
    for row, choice in enumerate(seen):
        assert choice.token == HEAD[int(expected[row].argmax())]
        assert abs(choice.confidence - expected[row].max().exp()) < CLOSE
    for row, token in enumerate(judged):
        wanted = -expected[row, HEAD.index(token)].item() if token in HEAD else math.inf
        assert seen[row].distance == pytest.approx(wanted, abs=10 * CLOSE)


def test_only_the_listed_rows_are_computed(tmp_path: Path) -> None:
    """That is the whole gain: the head's matrix has a row a listed id."""
    folder, _ = made(tmp_path, head=HEAD)
    head = load_model(folder)._model.lm_head
    assert isinstance(head, ShortHead)
    rows: Any = head.rows
    assert tuple(rows.weight.shape) == (len(HEAD), 32)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_second_guesses_are_listed_ids_too(temperature: float, tmp_path: Path) -> None:
    """With and without noise: what has no probability comes last, if at all."""
    folder, _ = made(tmp_path, head=HEAD)
    ours = load_model(folder)
    for seed, top_k, top_p in ((0, 0, 1.0), (1, 5, 1.0), (2, 0, 0.9)):
        ours.open(0, [], rules_for(ours, 1, NEW, temperature=temperature, seed=seed,
                                   top_k=top_k, top_p=top_p))  # fmt: skip
        for choice in ours.forward(Pass(0, 0, [3, 50, 8, 21], 4, (), 6)):
            assert {choice.token, *choice.others} <= set(HEAD)
            assert len({choice.token, *choice.others}) == 7


@pytest.mark.parametrize(
    "options",
    [
        Options(alpha_fb=0.5, alpha_rb=2.0),
        Options(alpha_fb=0.3, alpha_rb=4.0, window=3),
        Options(alpha_fb=0.3, alpha_rb=2.0, temperature=0.8, seed=4),
        Options(mode=Mode.EXACT),
        Options(mode=Mode.SMALL),
    ],
    ids=lambda o: f"{o.mode}-{o.alpha_fb}-{o.temperature:g}",
)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_text_with_a_short_head_is_the_one_by_definition(
    family: str, options: Options, tmp_path: Path
) -> None:
    """p_S of the decision table is the draft's own distribution, -inf outside its head: decided from
    scratch without a cache, the tokens and their sources are the same.
    """
    folder, model = made(tmp_path, family, HEAD)
    base: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "large").eval()
    small, large = load_model(folder), load_model(tmp_path / "large")
    sources: set[str] = set()
    texts = 0
    for prompt in ([5, 9, 30], [17, 40, 40, 8, 3, 60], [33], [11, 52]):
        expected = reference(
            predictor(model, HEAD), predictor(base, range(64)), prompt, options,
            end_ids=[2], max_new_tokens=NEW,
        )  # fmt: skip
        if expected.closest < CLOSE:
            continue
        rules = rules_for(large, len(prompt), NEW, temperature=options.temperature,
                          seed=options.seed)  # fmt: skip
        machine = Machine(1, prompt, (), rules, options)
        tokens, _ = play(machine, by_hand(small), by_hand(large))
        assert expected.tokens == [t.token for t in tokens]
        assert expected.sources == [t.source.value for t in tokens]
        sources |= set(expected.sources)
        texts += 1
    assert texts >= 2
    if options.mode is Mode.BILD:
        assert "small" in sources
        assert sources & {"fallback", "rollback"}


def predictor(model: Any, head: Sequence[int]) -> Predictor:
    """The cache-free distribution over some ids."""
    listed = list(head)

    @cache
    def asked(ids: tuple[int, ...]) -> Distribution:
        row = reference_logits(model, ids)[-1].double()
        masked = torch.full_like(row, -math.inf)
        masked[listed] = row[listed]
        logs = torch.log_softmax(masked, -1)
        best = logs.exp().topk(2).values.tolist()
        nats = (-logs).tolist()
        return Distribution(
            int(logs.argmax()), best[0], nats.__getitem__, best[0] - best[1], len(nats)
        )

    return lambda ids: asked(tuple(ids))


def by_hand(model: HfModel) -> HandWorker:
    worker = HandWorker(scripted(0))
    worker.model = model  # type: ignore[assignment]
    return worker


def altered(folder: Path, **said: object) -> None:
    file = folder / "draft.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **said}))


ODD: dict[str, tuple[dict[str, object], str]] = {
    "another format": ({"format": 2}, "format 2"),
    "no base": ({"base": ""}, "base must be"),
    "no layers": ({"layers": True}, "layers must be"),
    "more layers than there are": ({"layers": 4}, "from 1 to 3"),
    "fewer layers than are stored": ({"layers": 1}, "not needed"),
    "an unknown storage": ({"storage": "int4"}, "storage must be"),
    "the other storage": ({"storage": "int8"}, "lacks"),
    "an empty head": ({"head": []}, "head must be"),
    "an id twice": ({"head": [2, 5, 5]}, "ascending"),
    "an id outside the vocabulary": ({"head": [2, 64]}, "token 64"),
    "no end of text": ({"head": [0, 1, 3]}, "token 2, which ends a text"),
    "an unknown key": ({"extra": 1}, "keys"),
    "a draft for its base": ({"base": "../small"}, "a draft too"),
    "a base that is not there": ({"base": "../nowhere"}, "no such folder"),
}


@pytest.mark.parametrize(("said", "needle"), ODD.values(), ids=ODD)
def test_an_odd_draft_file_is_refused(said: dict[str, object], needle: str, tmp_path: Path) -> None:
    """Whoever wrote it: before any request, with what was found."""
    folder, _ = made(tmp_path)
    altered(folder, **said)
    with pytest.raises(ConfigError, match=needle):
        load(WorkerConfig(model=str(folder)))


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    """Cut short, of another shape or kind, or no numbers: named, and never loaded in part."""
    folder, _ = made(tmp_path)
    file = folder / draft.WEIGHTS
    whole, tensors = file.read_bytes(), load_file(file)
    name = "model.layers.0.mlp.up_proj.weight"
    weight = tensors[name]
    bad = weight.clone()
    bad[0, 0] = math.nan
    for change, needle in (
        (weight.t().contiguous(), "another model"),
        (weight.float(), "torch.bfloat16 is needed"),
        (bad, "no numbers"),
    ):
        save_file({**tensors, name: change}, file)
        with pytest.raises(ConfigError, match=needle):
            load(WorkerConfig(model=str(folder)))
    for part in (whole[:-9], b"", b"\x80\x04 no safetensors"):
        file.write_bytes(part)
        with pytest.raises(ConfigError, match="cannot be read"):
            load(WorkerConfig(model=str(folder)))
    file.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        load(WorkerConfig(model=str(folder)))


def test_a_file_that_is_no_object_is_refused(tmp_path: Path) -> None:
    """A draft.json that is no JSON, or something else in JSON."""
    folder, _ = made(tmp_path)
    for text in ("{", "[]", '"draft"'):
        (folder / "draft.json").write_text(text)
        with pytest.raises(ConfigError, match=r"draft\.json"):
            load(WorkerConfig(model=str(folder)))


def test_a_draft_has_its_layers_already(tmp_path: Path) -> None:
    """exit_layer would cut a trained draft into something untrained."""
    folder, _ = made(tmp_path)
    with pytest.raises(ConfigError, match="exit_layer"):
        load(WorkerConfig(model=str(folder), exit_layer=1))


def test_what_cannot_be_a_draft_is_not_saved(tmp_path: Path) -> None:
    """A head without the end of a text, or an encoder-decoder model."""
    model = trained(write_model(tmp_path / "large", "llama"))
    for head in ([0, 1, 3], [2, 64], [-1, 2], []):
        with pytest.raises(ConfigError, match="head"):
            draft.save(model, tmp_path / "small", "../large", head, "int8")
    with pytest.raises(ConfigError, match="storage"):
        draft.save(model, tmp_path / "small", "../large", None, "float32")
    from transformers import AutoModelForSeq2SeqLM

    t5 = AutoModelForSeq2SeqLM.from_pretrained(write_model(tmp_path / "t5", "t5"))
    with pytest.raises(ConfigError, match="decoder-only"):
        draft.save(t5, tmp_path / "small", "../t5", None, "int8")
    assert not (tmp_path / "small").exists()
