"""Logits of a transformers model over our own slot cache: by its modules, or by plain operations.

What a row must be is defined by the cache-free forward of the whole prefix, `model(ids)`, which is
also what transformers' `generate` computes. With a cache, some families derive positions from the
cache's length where the cache-free forward derives them from the ids: M2M100 and its kin give a pad
id inside the text no position of its own. Here they follow the cache-free forward, however the ids
are cut into passes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from bild_dist.errors import WorkerFault
from bild_dist.kv.batch import BatchCache, Layout
from bild_dist.kv.cache import SlotCache, with_source
from bild_dist.model.foreign import first_line
from bild_dist.model.parts import Fed, Source
from bild_dist.model.plain import PlainDecoder
from bild_dist.model.together import RowPositions, answered


@dataclass(slots=True)
class Text:
    """What passes over one text need besides its ids. Owned by whoever opened it."""

    cache: SlotCache
    source: BaseModelOutput | None = None
    both: EncoderDecoderCache | None = None
    """Keys of the text and of its source, as the modules take them."""
    far: Source = ()
    """The source as plain operations take it."""


@dataclass(frozen=True, eq=False, slots=True)
class Line:
    """What one text feeds to a batch: `ids[at:]`, behind the first `at` that its slot was rewound to.
    The last `rows` of them are read.
    """

    text: Text
    ids: Sequence[int]
    at: int
    rows: int


class Passes:
    """One model's passes. Owned by its HfModel."""

    def __init__(self, model: Any, *, encdec: bool) -> None:
        self.model = model
        self.encdec = encdec
        self.plain: PlainDecoder | None = None
        """What runs instead of the decoder's modules; set at start-up, before any text is opened."""
        names = inspect.signature(model.forward).parameters
        self._places = "position_ids" in names and not encdec
        self._keeps = "logits_to_keep" in names
        self._nothing = torch.empty(0, dtype=torch.long, device=model.device)
        self._pads = _PadPositions.of(model)
        by_ids = self._pads is not None
        self._row_positions = RowPositions.of(model, by_ids=by_ids) if encdec else None

    def open(self, cache: SlotCache, source: Sequence[int]) -> Text:
        """Makes a text that begins with the next pass; encodes its source if the model takes one.

        Raises:
            WorkerFault: the device fails.
        """
        if not self.encdec:
            return Text(cache)
        if self.plain is None:
            return Text(cache, self.encode(source), with_source(cache))
        with torch.inference_mode(), self._device_errors():
            return Text(cache, far=self.plain.source(torch.tensor(list(source))))

    def logits(
        self, ids: torch.Tensor, places: torch.Tensor, text: Text, rows: int
    ) -> torch.Tensor:
        """Logits of the last `rows` positions, which follow what the text's cache holds. Shapes: `ids`
        and `places` 1Q; result RV.
        """
        if self.plain is not None:
            fed = Fed(ids[0], text.cache.length, text.cache, text.far, rows)
            return self.plain.logits([fed])[0]
        cache = text.cache if text.both is None else text.both
        return self.modules(ids, places, cache, text.source, rows)

    def modules(
        self, ids: torch.Tensor, places: torch.Tensor, cache: Cache | None,
        source: BaseModelOutput | None, rows: int,
    ) -> torch.Tensor:  # fmt: skip
        """The same by the model's own modules, and over any cache or none."""
        arguments: dict[str, Any] = {"past_key_values": cache, "use_cache": cache is not None}
        if self.encdec:
            arguments |= {"encoder_outputs": source, "decoder_input_ids": ids}
        else:
            arguments["input_ids"] = ids
            if self._places:
                arguments["position_ids"] = places
        if self._keeps:
            arguments["logits_to_keep"] = rows or self._nothing
        logits: torch.Tensor = self.model(**arguments).logits
        return logits[0, logits.shape[1] - rows :]

    def together(self, lines: Sequence[Line]) -> Sequence[torch.Tensor]:
        """Logits of several texts, each in a slot of its own, in one batch. Shapes: RV each."""
        if self.plain is not None:
            counts = [len(line.ids) - line.at for line in lines]
            whole = torch.tensor([token for line in lines for token in line.ids[line.at :]])
            parts = zip(whole.split_with_sizes(counts), lines, strict=True)
            return self.plain.logits(
                [Fed(ids, n.at, n.text.cache, n.text.far, n.rows) for ids, n in parts]
            )
        # The first pass over a text computes the keys of its source, for itself alone.
        ready = [
            line for line in lines if line.text.both is None or line.text.both.is_updated.get(0)
        ]
        batch = iter(self._padded(ready) if len(ready) > 1 else [self.alone(n) for n in ready])
        return [next(batch) if line in ready else self.alone(line) for line in lines]

    def alone(self, line: Line) -> torch.Tensor:
        """Logits of one text. Shapes: RV."""
        self.before(line.ids, line.at)
        ids = torch.tensor([line.ids[line.at :]], device=self.model.device)
        places = torch.arange(line.at, len(line.ids), device=self.model.device)[None]
        return self.logits(ids, places, line.text, line.rows)

    def _padded(self, lines: Sequence[Line]) -> Sequence[torch.Tensor]:
        """The same by the model's own modules. The sources of all texts are known."""
        caches, ids = [n.text.cache for n in lines], [n.ids[n.at :] for n in lines]
        layout = Layout(caches, ids, self.model.device)
        arguments: dict[str, Any] = {}
        if self._places:
            arguments["position_ids"] = layout.places
        if self._keeps:
            arguments["logits_to_keep"] = max(n.rows for n in lines) or self._nothing
        counted = [n.at if self._pads is None else self._pads.count(n.ids, n.at) for n in lines]
        if self._row_positions is not None:
            self._row_positions.before(zip(layout.counts, counted, strict=True))
        try:
            logits = answered(
                self.model, layout, BatchCache(caches, layout),
                [n.text.both for n in lines if n.text.both is not None],
                [n.text.source for n in lines if n.text.source is not None], **arguments,
            )  # fmt: skip
        finally:
            if self._row_positions is not None:
                self._row_positions.after()
        kept = logits.shape[1]
        return [logits[row, kept - line.rows :] for row, line in enumerate(lines)]

    def before(self, ids: Sequence[int], at: int) -> None:
        """Announces a pass that feeds `ids[at:]`."""
        if self._pads is not None:
            self._pads.before(ids, at)

    @torch.inference_mode()
    def encode(self, source: Sequence[int]) -> BaseModelOutput:
        """What the encoder makes of a source.

        Raises:
            WorkerFault: the device fails.
        """
        ids = torch.tensor([list(source)], device=self.model.device)
        encoder: Any = self.model.get_encoder()
        with self._device_errors():
            return BaseModelOutput(last_hidden_state=encoder(input_ids=ids)[0])

    @contextmanager
    def _device_errors(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise WorkerFault(f"{self.model.device}: {first_line(error)}") from error


class _PadPositions:
    """Counts the positions of families that give pad ids none. Owned by its model.

    Their embedding adds the cache's length to the positions within a pass. What must be added is
    how many ids before the pass are not pads.
    """

    def __init__(self, embedding: nn.Module, pad: int) -> None:
        self._pad = pad
        self._count = 0
        embedding.register_forward_pre_hook(self._replace)

    @classmethod
    def of(cls, model: Any) -> _PadPositions | None:
        decoder = model.get_decoder()
        embedding = getattr(decoder, "embed_positions", None)
        pad = getattr(embedding, "padding_idx", None)
        if embedding is None or pad is None:
            return None
        if not hasattr(embedding, "create_position_ids_from_input_ids"):
            return None
        return cls(embedding, pad)

    def before(self, ids: Sequence[int], at: int) -> None:
        """Announces a pass that feeds `ids[at:]`."""
        self._count = self.count(ids, at)

    def count(self, ids: Sequence[int], at: int) -> int:
        """How many of the first `at` ids have a position."""
        return at - sum(1 for token in ids[:at] if token == self._pad)

    def _replace(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*inputs[:2], self._count)
