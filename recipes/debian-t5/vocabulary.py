"""Step 1: a SentencePiece vocabulary over both languages, as a tokenizer folder."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import sentencepiece
from transformers import T5Tokenizer

from bild_dist.evaluation.corpora import named

REQUIRED = "äöüÄÖÜß„“”‚‘’«»–—…~\\{}[]<>@#^`|=+*%$&_§°€"  # noqa: RUF001
"""Characters that people write, however rare they are here."""


def main() -> None:
    """Writes the folder, unless it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", action="append", required=True)
    parser.add_argument("--size", type=int, default=8000)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    if (chosen.out / "tokenizer.json").is_file():
        return
    texts = [
        text
        for name in chosen.corpus
        for example in named.load(name, "train")
        for text in (example.prompt, example.reference)
    ]
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=made, vocab_size=chosen.size, model_type="unigram",
        character_coverage=0.9998, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, num_threads=2,
        minloglevel=2, required_chars=REQUIRED,
    )  # fmt: skip
    pieces = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())
    table = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(pieces.get_piece_size())]
    names = {0: "<pad>", 1: "</s>", 2: "<unk>"}
    table = [(names.get(i, piece), score) for i, (piece, score) in enumerate(table)]
    tokenizer = T5Tokenizer(vocab=table, extra_ids=0, model_max_length=256)
    tokenizer.save_pretrained(str(chosen.out))


if __name__ == "__main__":
    main()
