"""Both models read a finished text: what each would have written at every position of it.

One pass of the large model and two of the small one over the whole text, whatever its length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import exp, inf, log
from typing import Any, Final, Self

from bild_dist.model.base import Choice, Model, Pass
from bild_dist.orchestrator.dispatcher import Work
from bild_dist.types import Role

_SLOT: Final = 0
_DIGITS: Final = 6
"""Of what is kept in a file: thresholds have two or three."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One text as both models see it. All but the first two have an entry for each position.

    `small`, `large`: their draws behind what stands before the position. Of the small model's law
    there `confidence` is the largest probability and `margin` what it has over the second.
    `distance`: -ln p of its draw under the large model, nats; `top`: -ln p of the large model's
    own draw there, so that `distance - top` is how far the draw lies below the best.
    """

    id: str
    end_ids: tuple[int, ...]
    small: tuple[int, ...]
    large: tuple[int, ...]
    confidence: tuple[float, ...]
    margin: tuple[float, ...]
    distance: tuple[float, ...]
    top: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.small)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in found.items()
        }
        return cls(**values)


def read(id: str, work: Work, tokens: Sequence[int], models: Mapping[Role, Model]) -> Reading:
    """Reads a text of at least one token. No text may be under way on the models.

    `work`: the ids and rules of the request that wrote it.

    Raises:
        InvalidRequest: the text does not fit the models.
    """
    ids = [*work.ids, *tokens[:-1]]
    rows = len(tokens)

    def asked(role: Role, judge: Sequence[int] = (), others: int = 0) -> list[Choice]:
        task = Pass(_SLOT, 0, ids, rows, judge=tuple(judge), others=others)
        return models[role].forward(task)

    for model in models.values():
        model.open(_SLOT, work.source, work.rules)
    said = asked(Role.SMALL, others=1)
    draws = [choice.token for choice in said]
    seconds = [choice.others[0] if choice.others else choice.token for choice in said]
    second = asked(Role.SMALL, seconds)
    judged = asked(Role.LARGE, draws)
    return Reading(
        id=id,
        end_ids=work.rules.end_ids,
        small=tuple(draws),
        large=tuple(choice.token for choice in judged),
        confidence=_rounded(choice.confidence for choice in said),
        margin=_rounded(
            choice.confidence - exp(-other.distance)
            for choice, other in zip(said, second, strict=True)
        ),
        distance=_rounded(choice.distance for choice in judged),
        # The large model's greedy draw is its most likely token.
        top=_rounded(_nats(choice.confidence) for choice in judged),
    )


def _nats(share: float) -> float:
    return -log(share) if share > 0 else inf


def _rounded(values: Any) -> tuple[float, ...]:
    return tuple(round(float(value), _DIGITS) for value in values)
