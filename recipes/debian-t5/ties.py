"""Whether those that promise the large model's own text wrote it, and if not, why.

A difference is excused where the large model's two best tokens are all but equal: passes of
different shapes round differently. Counted in float32, by the forward of the whole prefix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

TIE_NATS: Final = 1e-4
LISTED: Final = 50
Texts = Sequence[Mapping[str, Any]]


def differences(
    folder: str, prompts: Sequence[str], own: Texts, others: Mapping[str, Texts]
) -> dict[str, dict[str, Any]]:
    """By name: how many texts differ from the large model's `own`, how many of those at a tie, and
    the first of them one by one.
    """
    judge = _Judge(folder)
    found: dict[str, dict[str, Any]] = {}
    for name, texts in others.items():
        rows = [
            judge.row(n, prompts[n], right["tokens"], text["tokens"])
            for n, (right, text) in enumerate(zip(own, texts, strict=True))
            if right["tokens"] != text["tokens"]
        ]
        found[name] = {
            "differing": len(rows),
            "ties": sum(row["tie"] for row in rows),
            "list": rows[:LISTED],
        }
    return found


class _Judge:
    """Owner of the large model, which is loaded for the first difference only."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._model: Any = None
        self._tokenizer: Any = None

    def row(
        self, text: int, prompt: str, right: Sequence[int], other: Sequence[int]
    ) -> dict[str, Any]:
        """The first position where two texts part, and what the large model says there."""
        pairs = enumerate(zip(right, other, strict=False))
        place = next((n for n, (a, b) in pairs if a != b), min(len(right), len(other)))
        gap = self._gap_nats(prompt, right[:place])
        return {
            "text": text, "position": place, "own": _at(right, place), "other": _at(other, place),
            "gap_nats": float(f"{gap:.3g}"), "tie": gap < TIE_NATS,
        }  # fmt: skip

    @torch.no_grad()
    def _gap_nats(self, prompt: str, before: Sequence[int]) -> float:
        if self._model is None:
            self._tokenizer = AutoTokenizer.from_pretrained(self._folder, local_files_only=True)  # type: ignore[no-untyped-call]
            self._model = AutoModelForSeq2SeqLM.from_pretrained(
                self._folder, dtype=torch.float32, local_files_only=True, use_safetensors=True
            ).eval()
        source = torch.tensor([self._tokenizer(prompt)["input_ids"]])
        start = self._model.config.decoder_start_token_id
        out = self._model(
            input_ids=source, decoder_input_ids=torch.tensor([[start, *before]]), use_cache=False
        )
        first, second = out.logits[0, -1].double().topk(2).values.tolist()
        return float(first - second)


def _at(tokens: Sequence[int], place: int) -> int | None:
    return tokens[place] if place < len(tokens) else None
