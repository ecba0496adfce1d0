"""Real texts of a pair, counted: what teacher forcing cannot see.

Each prompt is written by the whole program, so behind a small token that the large model would not
have written both models go on from there. This takes as long as writing does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bild_dist.errors import ConfigError
from bild_dist.evaluation.align.agreement_counts import Numbers, share
from bild_dist.evaluation.align.report import Replay
from bild_dist.evaluation.metrics.overlap import agreement
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.types import Mode, Source, Trace

if TYPE_CHECKING:
    from bild_dist.evaluation.align.agreement import Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A text of mode `bild`, and what the large model wrote for the same prompt.

    `distances`: -ln p under the large model of what the small one proposed, by position, nats;
    None where nobody checked.
    """

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    greedy: tuple[int, ...]
    sources: tuple[Source, ...]
    distances: tuple[float | None, ...]
    trace: Trace


async def replayed(
    decoder: Decoder,
    outputs: Sequence[Text],
    *,
    alpha_fb: float,
    alpha_rb: float,
    tell: Callable[[int], None] = lambda done: None,
    **options: Any,
) -> list[Written]:
    """Writes the prompts of some outputs in mode `bild`, one after the other. A text may get as
    long as the large model's may, so give the `max_new_tokens` that its texts were written with.

    `options`: further fields of `types.Options`. `tell` hears how many texts are done.

    Raises:
        BildError: a text could not be written.
    """
    found = []
    for output in outputs:
        generation = decoder.stream(
            list(output.prompt_ids), mode=Mode.BILD, alpha_fb=alpha_fb, alpha_rb=alpha_rb, **options
        )
        try:
            distances = tuple([event.distance async for event in generation])
            result = await generation.result()
        finally:
            await generation.aclose()
        found.append(
            Written(
                prompt_ids=tuple(output.prompt_ids), ids=result.tokens, greedy=tuple(output.ids),
                sources=result.sources, distances=distances, trace=result.trace,
            )
        )  # fmt: skip
        tell(len(found))
    return found


def replay_of(
    texts: Sequence[Written],
    *,
    alpha_fb: float,
    alpha_rb: float,
    greedy_nats: float,
    best: Sequence[Numbers] | None = None,
) -> Replay:
    """Counts texts that were written at these thresholds.

    `greedy_nats`: mean -ln p of the large model's own greedy texts (`Report.own_nats` where it was
    made of the same outputs). `best`: for each text -ln p of the large model's most likely id at
    each position, nats (the second half of what `agreement.judged` gives).

    Raises:
        ConfigError: there is no text.
    """
    if not texts:
        raise ConfigError("no text was written: take at least one prompt")
    count = Counter(source for text in texts for source in text.sources)
    small = [
        (distance, float(best[n][at]) if best is not None else 0.0)
        for n, text in enumerate(texts)
        for at, (source, distance) in enumerate(zip(text.sources, text.distances, strict=True))
        if source is Source.SMALL and distance is not None
    ]
    means = np.array(small).mean(0) if small else np.zeros(2)
    return Replay(
        alpha_fb=alpha_fb, alpha_rb=alpha_rb, texts=len(texts),
        tokens=sum(len(text.ids) for text in texts), small=count[Source.SMALL],
        fallbacks=count[Source.FALLBACK], rollbacks=count[Source.ROLLBACK],
        windows=count[Source.WINDOW], guessed=sum(text.trace.guessed for text in texts),
        hits=sum(text.trace.hits for text in texts),
        large_passes=sum(text.trace.large_passes for text in texts),
        small_nats=float(means[0]), greedy_nats=greedy_nats,
        best_nats=float(means[1]) if best is not None else None,
        agreement=share(sum(agreement(text.ids, text.greedy) for text in texts), len(texts)),
    )  # fmt: skip
