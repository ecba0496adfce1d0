"""Step 5: the two models as they are shipped, in bfloat16, each with the tokenizer."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

import torch
from transformers import T5ForConditionalGeneration, T5Tokenizer

from bild_dist.model import pairs
from bild_dist.types import Role

_PAIR: Final = """\
recipe = "recipes/debian-t5"

# Passes of models so narrow gain nothing from a second thread; with a core each they run side by side.
[small]
model = "small"
threads = 1

[large]
model = "large"
threads = 1
"""


def main() -> None:
    """Writes --out/small, --out/large and, where there is none, --out/pair.toml."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=Path, required=True)
    parser.add_argument("--large", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    for role in Role:
        folder = str(getattr(chosen, role.value))
        model: Any = T5ForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
        tokenizer: Any = T5Tokenizer.from_pretrained(folder, local_files_only=True)
        pairs.save(model, tokenizer, chosen.out / role.value)
    pair = chosen.out / "pair.toml"
    if not pair.exists():
        pair.write_text(_PAIR, encoding="utf-8")


if __name__ == "__main__":
    main()
