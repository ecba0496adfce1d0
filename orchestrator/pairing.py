"""Whether two workers can write one text together, in plain words where they cannot."""

from __future__ import annotations

from bild_dist.errors import ConfigError
from bild_dist.messages import Info
from bild_dist.types import Options, Policy, Schedule


def check_pair(small: Info, large: Info) -> None:
    """Compares what must agree: the kind of model and the tokenizer.

    Vocabularies padded to different sizes are fine: ids that one of them lacks are masked.

    Raises:
        ConfigError: they do not fit together; names both models, what differs and the remedy.
    """
    pair = f"{small.model} (small) and {large.model} (large)"
    if small.kind != large.kind:
        raise ConfigError(
            f"{pair} cannot work together: one is a {small.kind} model, the other a {large.kind} one. "
            "Take two models of the same family"
        )
    if bool(small.tokenizer) != bool(large.tokenizer):
        without = small if large.tokenizer else large
        raise ConfigError(
            f"{pair}: {without.model} comes without a tokenizer, so nothing says that its ids mean "
            "the same. Put the tokenizer files beside its weights, or name their folder with "
            "--tokenizer"
        )
    if small.tokenizer and large.tokenizer and small.tokenizer != large.tokenizer:
        raise ConfigError(
            f"{pair} have different tokenizers ({small.tokenizer_size} and {large.tokenizer_size} "
            "entries, not the same table): a token of one means something else to the other. "
            "Take two models that share a tokenizer"
        )
    if (
        not (small.tokenizer or large.tokenizer)
        and small.rules.vocabulary != large.rules.vocabulary
    ):
        raise ConfigError(
            f"{pair} come without a tokenizer and have {small.rules.vocabulary} and "
            f"{large.rules.vocabulary} token ids: nothing says that their ids agree. "
            "Put the tokenizer files beside the weights"
        )
    if small.decoder_prompt != large.decoder_prompt:
        raise ConfigError(
            f"{pair} start their decoders with different ids ({list(small.decoder_prompt)} and "
            f"{list(large.decoder_prompt)}): set decoder_start_token_id alike in both generation configs"
        )


def schedule_for(small: Info, large: Info, options: Options) -> Schedule:
    """The schedule of requests that name none.

    Drafting beside a check gains where each model has a device of its own, or, on a CPU, cores of
    its own: 1.15 to 1.2 times `paper` (`benchmarks/schedules.json`), and 1.08 to 1.13 times
    `through` for the shipped pair de-en at one thread each on two cores. Where they share one, the
    two get in each other's way; there `through` is never slower than `paper`. Rejection knows
    `paper` alone.
    """
    if options.policy is Policy.REJECTION:
        return Schedule.PAPER
    return Schedule.OVERLAP if _apart(small, large) else Schedule.THROUGH


def _apart(small: Info, large: Info) -> bool:
    """Whether both can compute at the same time without taking turns."""
    if small.device != large.device:
        return True
    # Within one process they take turns with Python itself.
    cores = min(small.cores, large.cores) if small.pid != large.pid else 0
    return small.device == "cpu" and small.threads + large.threads <= cores


def shared_vocabulary(small: Info, large: Info) -> int:
    """How many ids both models can write: the smaller logits, and no padding beyond the
    tokenizer.
    """
    sizes = [small.rules.vocabulary, large.rules.vocabulary]
    sizes += [info.tokenizer_size for info in (small, large) if info.tokenizer]
    return min(sizes)
