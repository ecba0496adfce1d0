"""What constrains the next token: from a model's generation config to `Rules`, and from `Rules` to
logits.

A generation config that asks for something that a token-by-token decoder of two models cannot do
(beams, contrastive search, ...) is refused by name. Its sampling defaults (temperature, top-k, ...)
are left aside: each request names its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import torch
from transformers import GenerationConfig
from transformers.generation.logits_process import (
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from bild_dist.errors import ConfigError, InvalidRequest
from bild_dist.messages import Rules
from bild_dist.types import nearest

_Process: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""A LogitsProcessor of transformers: ids and scores of one row to new scores."""

_REFUSED: Final[dict[str, tuple[Any, ...]]] = {
    "constraints": (),
    "diversity_penalty": (0,),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": (),
    "forced_decoder_ids": (),
    "guidance_scale": (1,),
    "max_time": (),
    "num_beam_groups": (1,),
    "num_beams": (1,),
    "penalty_alpha": (0,),
    "prompt_lookup_num_tokens": (),
    "sequence_bias": (),
    "stop_strings": (),
    "token_healing": (False,),
    "watermarking_config": (),
}
"""Fields that change the text in a way that cannot be honoured, with their harmless values (None
always is).
"""

_EMPTY: Final[tuple[Any, ...]] = ([], {}, ())


def rules_of(
    config: GenerationConfig, width: int, ignored: Sequence[str], *, decoder_only: bool
) -> Rules:
    """The constraints that a model asks for itself; `width` is that of its logits.

    Raises:
        ConfigError: it asks for something that cannot be honoured, or `ignored` names an unknown
            field.
    """
    known = [name for name in vars(config) if not name.startswith("_")]
    for name in ignored:
        if name not in known and name not in _REFUSED:
            raise ConfigError(f"ignore_generation: unknown field {name!r}{nearest(name, known)}")
    values = {k: v for k, v in vars(config).items() if k not in ignored and v is not None}
    refused = [
        f"{name} = {values[name]!r}"
        for name, harmless in _REFUSED.items()
        if name in values and values[name] not in harmless and values[name] not in _EMPTY
    ]
    bad_words = values.get("bad_words_ids") or []
    end_ids = _ids(values.get("eos_token_id"))
    if any(len(words) > 1 for words in bad_words):
        refused.append("bad_words_ids with more than one token")
    if refused:
        names = [text.split(" ")[0] for text in refused]
        raise ConfigError(
            f"the model's generation config asks for {', '.join(refused)}, which cannot be honoured: remove it from "
            f"generation_config.json, or leave it out with --ignore-generation {','.join(names)} (where a command has "
            f"no such option: ignore_generation = {json.dumps(names)} in [small] or [large] of a file for -c)"
        )
    banned = [word for words in bad_words for word in words if word not in end_ids]
    begin = None if decoder_only else values.get("forced_bos_token_id")
    return Rules(
        vocabulary=width,
        begin=0,
        limit=0,
        end_ids=end_ids,
        suppress=tuple(dict.fromkeys([*banned, *_ids(values.get("suppress_tokens"))])),
        begin_suppress=_ids(values.get("begin_suppress_tokens")),
        # generate() forces a first token only behind a prompt of one: for decoder-only models, never.
        forced_begin=begin,
        forced_end=_ids(values.get("forced_eos_token_id")),
        repetition_penalty=float(values.get("repetition_penalty", 1.0)),
        no_repeat_ngram=int(values.get("no_repeat_ngram_size", 0)),
        min_length=int(values.get("min_length", 0)),
        min_new_tokens=int(values.get("min_new_tokens", 0)),
    )


def _ids(value: int | Sequence[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


class Constraint:
    """The rules of one request, made ready for a device. Immutable.

    The order is that of transformers' `generate`, except that a forced token wins over a suppressed
    one.

    Raises:
        InvalidRequest: a forced token is not in the vocabulary.
    """

    def __init__(self, rules: Rules, width: int, device: torch.device) -> None:
        def tensor(ids: Sequence[int]) -> torch.Tensor | None:
            valid = sorted({token for token in ids if 0 <= token < width})
            return torch.tensor(valid, device=device) if valid else None

        self._rules = rules
        self._narrow = rules.vocabulary < width
        self._end_ids = tensor(rules.end_ids)
        self._suppress = tensor(rules.suppress)
        self._begin_suppress = tensor(rules.begin_suppress)
        self._forced_begin = tensor(() if rules.forced_begin is None else (rules.forced_begin,))
        self._forced_end = tensor(rules.forced_end)
        forces = rules.forced_begin is not None
        self._begin_suppress_at = rules.begin + (1 if forces and rules.begin == 1 else 0)
        self._grows_until = max(rules.min_length, rules.begin + rules.min_new_tokens)
        """Index from which on the text may end."""
        self._processors: list[tuple[_Process, torch.device]] = []
        """Each with the device on which it wants the ids: n-grams are looked up on the host."""
        if rules.repetition_penalty != 1.0:
            penalty = RepetitionPenaltyLogitsProcessor(rules.repetition_penalty)
            self._processors.append((penalty, device))
        if rules.no_repeat_ngram > 0:
            no_repeat = NoRepeatNGramLogitsProcessor(rules.no_repeat_ngram)
            self._processors.append((no_repeat, torch.device("cpu")))
        forced = [*rules.forced_end, *(() if rules.forced_begin is None else (rules.forced_begin,))]
        if not all(0 <= token < min(width, rules.vocabulary) for token in forced):
            raise InvalidRequest("a forced token is outside the vocabulary that both models share")

    def apply(self, logits: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
        """Masks and penalises in place where it can; use what is returned.

        Shapes: `logits` RV, the distributions behind the last R prefixes of `ids`.
        """
        rows, rules = logits.shape[0], self._rules
        first = len(ids) - rows + 1
        for process, device in self._processors:
            fed = torch.tensor([list(ids)], device=device)
            for row in range(rows):
                logits[row] = process(fed[:, : first + row], logits[row : row + 1])[0]
        if self._narrow:
            logits[:, rules.vocabulary :] = -torch.inf
        if self._suppress is not None:
            logits.index_fill_(1, self._suppress, -torch.inf)
        if self._end_ids is not None and first < self._grows_until:
            logits[: self._grows_until - first].index_fill_(1, self._end_ids, -torch.inf)
        at, banned = self._begin_suppress_at, self._begin_suppress
        if banned is not None and first <= at < first + rows:
            logits[at - first].index_fill_(0, banned, -torch.inf)
        for at, forced in ((rules.begin, self._forced_begin), (rules.limit - 1, self._forced_end)):
            if forced is not None and first <= at < first + rows:
                logits[at - first] = -torch.inf
                logits[at - first].index_fill_(0, forced, 0.0)
        return logits
