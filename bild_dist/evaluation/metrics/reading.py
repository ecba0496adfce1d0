"""What the large model thinks of texts that it did not write: it reads each once, teacher-forced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bild_dist.config import WorkerConfig
from bild_dist.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Reading:
    """A text as ids. `prompt_ids`: the encoder's source, or the decoder's prompt."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]


def nats(config: WorkerConfig, texts: Sequence[Reading], forced: int | None = None) -> list[float]:
    """The sum of -ln p of each text's ids under the model of a worker, at temperature 1 and under the
    model's own rules; 0 for an empty text. `forced`: the id that begins every text, if there is one.

    Raises:
        ConfigError: the model cannot be loaded here, or is a toy.
    """
    refuse_toy(config)
    # Torch is loaded by those who ask for this, and by nobody else.
    from bild_dist.evaluation.align import agreement
    from bild_dist.evaluation.align.models import Source, threads

    kept = [text for text in texts if text.ids]
    if not kept:
        return [0.0] * len(texts)
    threads(config.threads)
    source = Source(
        model=config.model,
        exit_layer=config.exit_layer,
        dtype=config.dtype,
        device=config.device,
        trust_remote_code=config.trust_remote_code,
        ignored=config.ignore_generation,
    )
    read = iter(
        agreement.judged(source.load(), kept, ignored=config.ignore_generation, forced=forced)
    )
    return [float(next(read)[0].sum()) if text.ids else 0.0 for text in texts]


def refuse_toy(config: WorkerConfig) -> None:
    """Raises ConfigError for a model that cannot be loaded a second time."""
    if config.model.startswith("toy:"):
        raise ConfigError("toys have no perplexity: leave out --metric perplexity")
