"""The draw of a token from logits: `bild_dist.sampling` with tensors, on any device.

The random bits are those of `sampling.uniform`, to the last one: torch's int64 products wrap as
unsigned ones do, and its shifts, which drag the sign along, are masked. Scores are float64.

Shapes: R rows, V ids of the vocabulary, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch

from bild_dist.messages import Rules
from bild_dist.sampling import FACTORS, GOLDEN, SHIFTS, sampled, stream

_HEAD: Final = 1024
"""Most likely ids among which top-p looks first: to rank a whole vocabulary is rarely needed."""


class Draw:
    """How one request picks tokens. Immutable.

    Raises:
        InvalidRequest: the rules name a temperature, top-k, top-p or seed out of range.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._noisy = sampled(rules)

    def choose(self, logits: torch.Tensor, index: int, others: int = 0) -> torch.Tensor:
        """For each row the drawn id, then the next best draws, as many as asked for; behind those,
        if needed, the most likely of what cannot be drawn.

        `index`: where in the line of ids the token of the first row will stand. Shapes: `logits`
        RV, float32; result R and 1 + `others`.
        """
        logits = logits[:, : self._rules.vocabulary]
        if not self._noisy:
            # arg max takes the first, that is lowest, of equal ids.
            return ranked(logits, 1 + others) if others else logits.argmax(-1, keepdim=True)
        first = index - self._rules.begin
        keys = [stream(self._rules.seed, first + row) for row in range(logits.shape[0])]
        scaled = self._scaled(logits)
        if not self._rules.top_k and self._rules.top_p == 1:
            scaled += gumbel(keys, torch.arange(logits.shape[1], device=logits.device))
            if others:
                return scaled.topk(min(1 + others, scaled.shape[1]), -1).indices
            return scaled.argmax(-1, keepdim=True)
        ids, scores = self._support(logits, scaled, 1 + others)
        scores += gumbel(keys, ids)
        if not others:
            return ids.gather(-1, scores.argmax(-1, keepdim=True))
        # Stable: what cannot be drawn stays in the order of its rank.
        order = scores.sort(dim=-1, descending=True, stable=True).indices
        return ids.gather(-1, order[:, : 1 + others])

    def law(self, logits: torch.Tensor) -> torch.Tensor:
        """What `choose` draws from, as probabilities. Shapes: `logits` RV; result RV, float64, V the
        vocabulary of the rules.
        """
        logits = logits[:, : self._rules.vocabulary]
        scaled = self._scaled(logits)
        if not self._rules.top_k and self._rules.top_p == 1:
            return scaled.softmax(-1)
        ids, scores = self._support(logits, scaled, 1)
        return torch.zeros_like(scaled).scatter_(-1, ids, scores.softmax(-1))

    def _scaled(self, logits: torch.Tensor) -> torch.Tensor:
        """ln p / T but for a constant, float64. Shapes: RV."""
        # Less the largest, so that no temperature, however small, makes an infinity of it.
        scaled = logits.double()
        scaled -= scaled.amax(-1, keepdim=True)
        scaled /= self._rules.temperature
        return scaled

    def _support(
        self, logits: torch.Tensor, scaled: torch.Tensor, least: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Candidates and their ln p / T but for a constant, -inf outside the support. Shapes: RC."""
        rules, width = self._rules, logits.shape[1]
        most = min(rules.top_k or width, width)
        count = most if rules.top_k else min(_HEAD, width)
        while True:
            ids = ranked(logits, min(max(count, least), width))
            part = scaled.gather(-1, ids)
            part[:, most:] = -torch.inf
            if rules.top_p == 1:
                return ids, part
            total = (part if rules.top_k else scaled).logsumexp(-1, keepdim=True)
            mass = (part - total).exp()
            reached = mass.cumsum(-1)
            if count == most or bool((reached[:, -1] >= rules.top_p).all()):
                break
            count = min(8 * count, most)
        return ids, part.masked_fill(reached - mass >= rules.top_p, -torch.inf)


def ranked(logits: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` most likely ids of each row, most likely first; of equal ones the lowest first.

    Shapes: `logits` RV, float32; result R and `count`.
    """
    # One integer for both: the bits of a float32 in an order that integers have (and 0.0 for
    # -0.0) above, the id below. torch promises no order of equal values.
    bits = (logits.float() + 0.0).view(torch.int32)
    bits = bits ^ (bits >> 31 & 0x7FFFFFFF)
    order = bits.long() << 32
    order -= torch.arange(logits.shape[1], device=logits.device)
    return order.topk(min(count, logits.shape[1]), -1).indices


def uniform(keys: Sequence[int], tokens: torch.Tensor) -> torch.Tensor:
    """`sampling.uniform` of each row's key and each token. Shapes: `tokens` V or RV; result RV."""
    start = torch.tensor([[_signed(key + GOLDEN)] for key in keys], device=tokens.device)
    bits = start + tokens * _signed(GOLDEN)
    bits ^= _shifted(bits, SHIFTS[0])
    bits *= _signed(FACTORS[0])
    bits ^= _shifted(bits, SHIFTS[1])
    bits *= _signed(FACTORS[1])
    bits ^= _shifted(bits, SHIFTS[2])
    return _shifted(bits, 11).bitwise_or_(1).double().mul_(2.0**-53)


def gumbel(keys: Sequence[int], tokens: torch.Tensor) -> torch.Tensor:
    """`sampling.gumbel` of each row's key and each token, nats. Shapes as for `uniform`."""
    return uniform(keys, tokens).log_().neg_().log_().neg_()


def _shifted(bits: torch.Tensor, by: int) -> torch.Tensor:
    """A shift to the right that fills with noughts."""
    return (bits >> by).bitwise_and_((1 << (64 - by)) - 1)


def _signed(value: int) -> int:
    """The int64 of the same 64 bits."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
