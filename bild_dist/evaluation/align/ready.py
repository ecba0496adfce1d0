"""Whether an alignment can come to its end: all that can be known before hours of work."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from transformers import GenerationConfig

from bild_dist.errors import ConfigError
from bild_dist.evaluation.align.models import Source
from bild_dist.evaluation.align.options import Alignment
from bild_dist.model.load import length_of
from bild_dist.model.rules import rules_of
from bild_dist.model.tokenizer import Tokens

REPORT: Final = "report.json"
"""Beside an aligned model, what came of it."""
RUN: Final = "training"
"""Beside it, its checkpoints."""


def check(plan: Alignment) -> None:
    """Raises:
    ConfigError: the models do not fit together, cannot be used by a decoder, lack layers that
        are asked for, or would be overwritten; with the remedy.
    """
    shape = plan.large.plan()
    encdec = bool(shape.is_encoder_decoder)
    there = _layers(shape, encdec=encdec)
    early = plan.small.exit_layer or plan.training.exit_layer
    if early > there:
        raise ConfigError(
            f"--early-exit {early} is more than the {there} layers that the large model has: take fewer"
        )
    agree(plan.small.tokens(), plan.large.tokens())
    if encdec != bool(plan.small.plan().is_encoder_decoder):
        raise ConfigError("one model has an encoder and the other has none: take a pair of a kind")
    if encdec and (plan.head or plan.storage == "int8"):
        raise ConfigError(
            "--head and --storage int8 are for drafts of decoder-only models: leave them out"
        )
    if plan.shared and not encdec and plan.storage == "float32":
        raise ConfigError("--storage float32 is for whole models: a draft takes bfloat16 or int8")
    absent = [layer for layer in plan.small.layers if not 0 <= layer < there]
    if absent:
        raise ConfigError(
            f"--layers: there is no layer {absent[0]}, the large model has 0 to {there - 1}"
        )
    exits = plan.training.exit_layer
    if exits:
        cut = Source(
            model=plan.large.model, exit_layer=exits, trust_remote_code=plan.large.trust_remote_code
        )
        if _layers(cut.plan(), encdec=encdec) == there:
            raise ConfigError(f"--early-exit {exits} is the whole model: take fewer layers")
    _free(plan.out)
    for source in (plan.small, plan.large):
        if plan.out.resolve() == source.folder().resolve():
            raise ConfigError(f"--out {plan.out} is a model that is read: name another folder")
        _rules(source, encdec=encdec)
        # A worker asks the same when the pair is opened, after all that takes time.
        length_of(source.model, source.plan().get_text_config(decoder=True), plan.max_length)


def _free(out: Path) -> None:
    """Raises ConfigError if a folder holds a model that no alignment wrote there."""
    ours = (out / RUN).is_dir() or (out / REPORT).is_file()
    found = [name for name in ("config.json", "draft.json") if (out / name).is_file()]
    found += sorted(file.name for file in out.glob("*.safetensors"))
    if found and not ours:
        raise ConfigError(
            f"--out {out} holds a model ({found[0]}) that is not of `bild align`, and it would be written over: name "
            "another folder"
        )


def agree(small: Tokens, large: Tokens) -> None:
    """Refuses two models whose ids mean different things.

    Raises:
        ConfigError: their tokenizers differ.
    """
    if small.fingerprint and small.fingerprint != large.fingerprint:
        raise ConfigError(
            f"the two models have different tokenizers ({small.size} and {large.size} entries, not the same table): "
            "a token of one means something else to the other, so one cannot learn from the other. "
            "Take two models that share a tokenizer"
        )


def _layers(plan: object, *, encdec: bool) -> int:
    names = ("decoder_layers", "num_decoder_layers") if encdec else ("num_hidden_layers",)
    return next(int(getattr(plan, n)) for n in names if getattr(plan, n, None) is not None)


def _rules(source: Source, *, encdec: bool) -> None:
    """Raises ConfigError if a worker would refuse what its generation config asks for."""
    folder, plan = source.folder(), source.plan()
    fresh: Any = GenerationConfig
    said = fresh()
    if (folder / "generation_config.json").is_file():
        said = fresh.from_pretrained(str(folder), local_files_only=True)
    width = int(plan.get_text_config(decoder=True).vocab_size)
    rules_of(said, width, source.ignored, decoder_only=not encdec)
