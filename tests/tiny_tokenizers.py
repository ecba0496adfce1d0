"""Tokenizers trained in a moment on a text of our own, so that tiny models have real tokenizer
files.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

TEXT = """
The small model writes, the large one checks. A letter is a promise that someone will read it.
Rain fell on the harbour all night; in the morning the boats lay still, and nobody had slept.
She counted the stairs twice: once going up, once coming down, and the numbers did not agree.
Why is the sea salty? Because rivers carry what the rain washes out of the rocks, year after year.
"Bring two apples, three pears & a loaf of bread," he said, "and don't forget the change: 4.75!"
Der Zug kommt um halb acht, wenn er nicht wieder zu spät ist. Möchtest du noch etwas Brot?
Le chat dort sur la fenêtre, où le soleil d'été le réchauffe. Ça va très bien, merci.
A tree that stands alone grows wide; a tree among others grows tall. Both of them drop leaves.
Numbers such as 12, 345 and 6789 should become several pieces, and so should unusual words.
If the bridge is closed, take the ferry. If the ferry is full, wait for the next one, or swim.
The library opens at nine. The library closes at six. Between those hours the library is quiet.
Old maps show rivers where there are roads now. Naïve façades hide behind modern coöperation.
""".strip()

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_level(folder: Path) -> int:
    """A byte-level BPE with a chat template, as Llama 3, Qwen and SmolLM have it. Returns its size."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<|user|>", "<|assistant|>", "<|system|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        additional_special_tokens=special[3:],
    )  # fmt: skip
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(str(folder))
    return len(fast)


def _sentencepiece(file: Path, size: int, **options: Any) -> list[str]:
    """Trains a sentencepiece model and returns its pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()), model_writer=model, vocab_size=size,
        hard_vocab_limit=False, minloglevel=2, **options,
    )  # fmt: skip
    file.write_bytes(model.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return [pieces.id_to_piece(i) for i in range(pieces.get_piece_size())]


def t5(folder: Path) -> int:
    """A sentencepiece unigram model with T5's ids: pad 0, end 1, unknown 2. Returns its size."""
    pieces = _sentencepiece(folder / "spiece.model", 200, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    said = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "eos_token": "</s>", "pad_token": "<pad>",
            "unk_token": "<unk>", "additional_special_tokens": []}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return len(pieces)


def marian(folder: Path) -> int:
    """Two sentencepiece models and one shared vocabulary, pad last, as Marian has it. Returns its
    size.
    """
    pieces = _sentencepiece(folder / "source.spm", 180)
    pieces += _sentencepiece(folder / "target.spm", 200, character_coverage=0.99)
    names = ["</s>", "<unk>", ">>deu<<", ">>fra<<"]
    names += [p for p in dict.fromkeys(pieces) if p not in ("<s>", "</s>", "<unk>")]
    names.append("<pad>")
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    said = {"tokenizer_class": "MarianTokenizer", "source_lang": "eng", "target_lang": "deu"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return len(names)


def m2m100(folder: Path) -> int:
    """A sentencepiece model and a vocabulary with fairseq's first ids; languages come behind.
    Returns the size.
    """
    pieces = _sentencepiece(folder / "sentencepiece.bpe.model", 220, model_type="bpe")
    names = ["<s>", "<pad>", "</s>", "<unk>"]
    names += [p for p in pieces if p not in names]
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    codes = FAIRSEQ_LANGUAGE_CODES["m2m100"]
    said = {"tokenizer_class": "M2M100Tokenizer", "src_lang": "en", "tgt_lang": "de",
            "additional_special_tokens": [f"__{code}__" for code in codes]}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return len(names) + len(codes) + 8


def mbart(folder: Path) -> int:
    """A sentencepiece model; languages and the mask come behind. Returns the size."""
    _sentencepiece(folder / "sentencepiece.bpe.model", 200)
    said = {"tokenizer_class": "MBartTokenizer", "src_lang": "en_XX", "tgt_lang": "de_DE"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return 227


TOKENIZERS: dict[str, Callable[[Path], int]] = {
    "llama": byte_level, "qwen2": byte_level, "qwen3": byte_level, "gpt2": byte_level,
    "t5": t5, "mt5": t5, "bart": byte_level, "mbart": mbart,
    "marian": marian, "m2m100": m2m100,
}  # fmt: skip
