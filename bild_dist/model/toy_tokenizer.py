"""The tokenizer of the toys: the id of a byte is the byte, and one more id ends a text."""

from __future__ import annotations

import json
from functools import cache
from typing import Final

END: Final = 256
"""The end token. Ids below it are the bytes of the text."""


@cache
def tokenizer_json() -> bytes:
    """A byte-level tokenizer file without merges: the id of a byte is the byte."""
    # Byte-level tokenizers write each byte as a visible character: itself where it is one, else from U+0100 on.
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    table = {chr(byte if byte in visible else next(hidden)): byte for byte in range(256)}
    end = {"id": END, "content": "<|end|>", "special": True, "normalized": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    switches = {"add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    level = {"type": "ByteLevel", **switches}
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [{**end, **flags}],
        "normalizer": None, "pre_tokenizer": level, "post_processor": None, "decoder": level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": False, "vocab": table, "merges": [],
        },
    }).encode()  # fmt: skip
