"""A folder of safetensors, read: its config, cut to the first layers where that is asked for, and its
weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

from bild_dist.config import where_given
from bild_dist.errors import ConfigError
from bild_dist.model.foreign import first_line, quiet

DTYPES: Final = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def plan_of(folder: Path, name: str, *, trust_remote_code: bool = False) -> Any:
    """The model's own config, once it is known to be a language model. `name` is what messages call
    it.

    Raises:
        ConfigError: it cannot be read, wants to run code of its own, or writes no text.
    """
    try:
        plan: Any = AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise ConfigError(
                f"{name} comes with its own code, which can do anything on this machine: "
                f"if you trust it, trust_remote_code = true runs it {where_given('trust_remote_code')}"
            ) from None
        raise ConfigError(
            f"{name} has a config.json that transformers cannot read: {first_line(error)}"
        ) from None
    architectures = [str(entry) for entry in plan.architectures or []]
    heads = ("CausalLM", "LMHeadModel", "WithLMHead", "ForConditionalGeneration", "MTModel")
    if architectures and not any(head in entry for entry in architectures for head in heads):
        raise ConfigError(
            f"{name} is a {architectures[0]}, which writes no text: take a model with a language-model head "
            "(...ForCausalLM or ...ForConditionalGeneration)"
        )
    return plan


def cut(plan: Any, text: Any, exit_layer: int, encdec: bool) -> None:
    """Keeps the first layers of the decoder only: early exit with the shared norm and head (paper,
    4.4).

    `text` is the part of `plan` that describes the decoder.

    Raises:
        ConfigError: there are not so many layers, or the family does not say how many there are.
    """
    if not exit_layer:
        return
    names = ("decoder_layers", "num_decoder_layers") if encdec else ("num_hidden_layers",)
    # Of an encoder-decoder `text` is a copy, made to look like a decoder's config.
    owner = plan if encdec else text
    name = next((n for n in names if getattr(owner, n, None) is not None), None)
    if name is None:
        raise ConfigError("exit_layer: this family does not say how many decoder layers it has")
    layers = int(getattr(owner, name))
    if not 1 <= exit_layer <= layers:
        raise ConfigError(
            f"exit_layer = {exit_layer} must be from 1 to {layers}, the model's layers"
        )
    setattr(owner, name, exit_layer)
    if not encdec and getattr(text, "layer_types", None):
        text.layer_types = list(text.layer_types)[:exit_layer]


def weights_of(
    folder: Path, plan: Any, name: str, dtype: torch.dtype, *, trust_remote_code: bool = False
) -> PreTrainedModel:
    """The model that `plan` describes, with the folder's weights as numbers of `dtype`, whatever they
    are stored in.

    Raises:
        ConfigError: it cannot be loaded, or lacks weights.
    """
    auto: Any = AutoModelForSeq2SeqLM if plan.is_encoder_decoder else AutoModelForCausalLM
    try:
        with quiet():
            model, report = auto.from_pretrained(
                str(folder), config=plan, dtype=dtype, use_safetensors=True, local_files_only=True,
                trust_remote_code=trust_remote_code, output_loading_info=True,
            )  # fmt: skip
    except Exception as error:
        raise ConfigError(f"{name} cannot be loaded: {first_line(error)}") from error
    absent = sorted(
        str(key) for key in [*report["missing_keys"], *report.get("mismatched_keys", ())]
    )
    if absent:
        raise ConfigError(
            f"{name} lacks weights that {type(model).__name__} needs ({', '.join(absent[:3])}"
            f"{', ...' if len(absent) > 3 else ''}): they would be random. Take the complete checkpoint"
        )
    loaded: PreTrainedModel = model
    return loaded
