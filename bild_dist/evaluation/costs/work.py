"""What one pass over a model costs: floating-point operations, bytes, and their quotient.

Counted: every multiplication by a matrix and of attention, two operations a multiply-add; the weights
that a pass reads, each once however many tokens it feeds; keys and values that it reads and writes.
Not counted: norms, activations and softmax (operations), and activations as bytes, which stay in the
processor's caches at the few rows of a decoder. Figure 8 of the paper counts the same three.

Symbols: n tokens fed, `at` tokens before them, s tokens of the source, r rows of the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bild_dist.errors import ConfigError
from bild_dist.evaluation.costs.shapes import Shape, Stack

BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Of one number, by a worker's dtype."""


@dataclass(frozen=True, slots=True)
class Work:
    """Operations, and bytes of weights and of keys and values. Adds up."""

    flops: float = 0.0
    weights: float = 0.0
    cache: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops, self.weights + other.weights, self.cache + other.cache
        )

    def __mul__(self, times: float) -> Work:
        return Work(self.flops * times, self.weights * times, self.cache * times)

    @property
    def bytes(self) -> float:
        return self.weights + self.cache

    @property
    def intensity(self) -> float:
        """Operations a byte; 0 where nothing was moved."""
        return self.flops / self.bytes if self.bytes else 0.0


@dataclass(frozen=True, slots=True)
class Meter:
    """Prices the passes of one model, at so many bytes a number."""

    shape: Shape
    number: int = 4

    @classmethod
    def of(cls, shape: Shape, dtype: str) -> Meter:
        """At a worker's dtype.

        Raises:
            ConfigError: a dtype of unknown size.
        """
        if dtype not in BYTES:
            raise ConfigError(f"dtype {dtype!r}: known are {', '.join(BYTES)}")
        return cls(shape, BYTES[dtype])

    def source(self, s: float) -> Work:
        """Reading a source: the encoder, and the keys and values that every decoder layer makes of it
        once. Nothing for a decoder-only model.
        """
        encoder, decoder = self.shape.encoder, self.shape.decoder
        if encoder is None or not s:
            return Work()
        made = 2 * decoder.width * decoder.keys * decoder.layers
        return self._work(
            _products(encoder, s, s) + 2 * s * made,
            encoder.parameters + self._looked_up(s) + made,
            2 * decoder.keys * decoder.layers * s,
        )

    def forward(self, n: float, at: float, *, s: float = 0, rows: float = 1) -> Work:
        """One pass of the decoder."""
        decoder = self.shape.decoder
        if self.shape.every_row:
            rows = n
        head = self.shape.head * decoder.width
        flops = _products(decoder, n, at + n) + 2 * rows * head
        read = decoder.parameters + self._looked_up(n) + (head if rows else 0)
        kept = at + n + n  # all is read, the new ones are written before
        if decoder.cross:
            flops += decoder.layers * (
                2 * n * 2 * decoder.width * decoder.query + 2 * n * 2 * s * decoder.query
            )
            # The matrices that make keys and values of the source were read with the source.
            read -= decoder.layers * 2 * decoder.width * decoder.keys
            kept += s
        return self._work(flops, read, 2 * decoder.keys * decoder.layers * kept)

    def _looked_up(self, n: float) -> float:
        """Numbers of embedding and position rows for so many tokens."""
        return n * self.shape.decoder.width * (2 if self.shape.tables else 1)

    def _work(self, flops: float, weights: float, kept: float) -> Work:
        return Work(flops, weights * self.number, kept * self.number)


def _products(stack: Stack, n: float, length: float) -> float:
    """Operations of all layers on n tokens that look at `length` ones, without looking at a source."""
    matrices = 2 * n * (stack.attention + stack.feed_forward)
    return stack.layers * (matrices + 2 * n * 2 * length * stack.query)
