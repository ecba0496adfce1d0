"""Text to ids and back: nothing given out is taken back, and the pieces are the text to the letter."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from bild_dist.errors import ConfigError, InvalidRequest
from bild_dist.model.toy import END, tokenizer_json
from bild_dist.orchestrator.text import LONG, Stream, Text

CORPUS = [
    "the sea is salty because rivers carry salt to the sea",
    "Größe, naïve café — 海は塩辛い 😀😁 the the sea sea",
    "One. Two. Three.\n\nUser: why?\nAssistant: because\n\n",
]
SAMPLES = [*CORPUS, " leading", "  two  spaces  ", "😀", "\n\n\n", "a\u0301 e", "�", "x� y"]


def byte_level() -> Tokenizer:
    """Like GPT-2's: merges over bytes, so that a character may be cut anywhere."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        initial_alphabet=alphabet,
        special_tokens=["<s>", "</s>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return tokenizer


def byte_fallback() -> Tokenizer:
    """Like Llama 2's: words that carry their space, bytes for what is not in the vocabulary."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), "▁"]
    letters = sorted({c for line in CORPUS for c in line if c.isascii() and c.isalpha()})
    merges = [("▁", "t"), ("t", "h"), ("▁", "s"), ("e", "a"), ("▁s", "ea")]
    vocabulary = {p: i for i, p in enumerate([*pieces, *letters, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def metaspace() -> Tokenizer:
    """Like T5's: unigrams that carry their space, an end token behind the prompt."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=90,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair=None, special_tokens=[("</s>", 1)]
    )
    return tokenizer


TOKENIZERS = {
    "bytes": Tokenizer.from_buffer(tokenizer_json()),
    "byte_level": byte_level(),
    "byte_fallback": byte_fallback(),
    "metaspace": metaspace(),
}
FAMILIES = pytest.mark.parametrize("family", TOKENIZERS)


def text_of(family: str, **chat: object) -> Text:
    return Text.from_files({
        "tokenizer.json": TOKENIZERS[family].to_str().encode(),
        "chat.json": json.dumps({"chat_template": None, **chat}).encode(),
    })  # fmt: skip


def whole(family: str, ids: Sequence[int]) -> str:
    return TOKENIZERS[family].decode(list(ids), skip_special_tokens=True)


def reference(family: str, ids: Sequence[int], stops: Sequence[str]) -> tuple[str, int | None]:
    """The definition: decode everything after every token and look for every stop string."""
    for i in range(len(ids)):
        line = whole(family, ids[: i + 1]).rstrip(
            "\ufffd"
        )  # an unfinished character is no text yet
        found = [at for stop in stops if (at := line.find(stop)) >= 0]
        if found:
            return line[: min(found)], i
    return whole(family, ids), None


def lines(family: str, seed: int, count: int) -> Iterator[list[int]]:
    """Ids as models write them: mostly text, now and then anything at all."""
    dice = random.Random(seed)
    size = TOKENIZERS[family].get_vocab_size()
    for _ in range(count):
        line: list[int] = []
        while len(line) < dice.randrange(1, 40):
            if dice.random() < 0.6:
                line += (
                    TOKENIZERS[family].encode(dice.choice(SAMPLES), add_special_tokens=False).ids
                )
            else:
                line.append(dice.randrange(size + 2))
        yield line[:50]


def stops_of(family: str, line: Sequence[int], dice: random.Random) -> tuple[str, ...]:
    """Pieces of the text itself, some of them with another end, so that they match in part."""
    text = whole(family, line)
    stops = ["\n\n", "sea"]
    for _ in range(dice.randrange(4)):
        at = dice.randrange(len(text) + 1)
        piece = text[at : at + dice.randrange(1, 8)] + dice.choice(["", "", "#"])
        stops.append(piece.replace("\ufffd", "") or "?")
    dice.shuffle(stops)
    return tuple(stops[: dice.randrange(len(stops) + 1)])


def pieces_of(stream: Stream, ids: Sequence[int]) -> list[str]:
    return [*(stream.push(token) for token in ids), stream.finish()]


@FAMILIES
def test_the_pieces_are_the_text_to_the_letter(family: str) -> None:
    """For any ids and stop strings the pieces, put together, equal the definition's text, and the stop
    is seen at the token that completes it."""
    dice = random.Random(1)
    text = text_of(family)
    stopped = 0
    for line in lines(family, seed=2, count=300):
        stops = stops_of(family, line, dice)
        expected, at = reference(family, line, stops)
        stream = text.stream(stops)
        pieces = []
        for i, token in enumerate(line):
            pieces.append(stream.push(token))
            assert stream.stopped == (at is not None and i >= at)
        pieces.append(stream.finish())
        assert "".join(pieces) == expected
        stopped += at is not None
    assert 30 < stopped < 270, "both kinds of line must occur often"


@FAMILIES
def test_looking_ahead_changes_nothing_and_tells_the_truth(family: str) -> None:
    """`ahead` names the token that `push` will stop at, and can be asked any number of times."""
    dice = random.Random(3)
    text = text_of(family)
    for line in lines(family, seed=4, count=100):
        stops = stops_of(family, line, dice)
        expected, at = reference(family, line, stops)
        stream = text.stream(stops)
        pieces = []
        for i, token in enumerate(line):
            if at is None or i <= at:
                assert stream.ahead(line[i:]) == (None if at is None else at - i)
            pieces.append(stream.push(token))
        assert "".join([*pieces, stream.finish()]) == expected


@FAMILIES
def test_without_stop_strings_only_unfinished_characters_wait(family: str) -> None:
    """A reader sees each token's text at once; a run of byte tokens may wait for its end."""
    text = text_of(family)
    for sample in CORPUS:
        ids = TOKENIZERS[family].encode(sample, add_special_tokens=False).ids
        stream, given = text.stream(), ""
        for i, token in enumerate(ids):
            given += stream.push(token)
            if not (TOKENIZERS[family].id_to_token(token) or "").startswith("<0x"):
                assert given == whole(family, ids[: i + 1]).rstrip("\ufffd")


def test_a_partial_stop_is_held_back_and_released() -> None:
    """What may become a stop string waits; once it cannot, it is given out in full."""
    stream = text_of("bytes").stream(["abcd", "bx"])
    assert [stream.push(t) for t in b"-abc"] == ["-", "", "", ""]
    assert stream.push(ord("a")) == "abc"
    assert [stream.push(t) for t in b"bx"] == ["", "a"]
    assert stream.stopped
    assert (stream.push(ord("z")), stream.finish()) == ("", "")


@FAMILIES
def test_long_texts_have_the_ids_of_short_ones(family: str) -> None:
    """They go another way through the library, one that lets other threads run."""
    text = text_of(family)
    sentence = "The sea is wide, and so is the sky. "
    long = sentence * (1 + LONG // len(sentence))
    assert len(long) > LONG
    expected = TOKENIZERS[family].encode(long).ids
    assert expected == text.encode(long)


def test_the_earliest_of_several_stops_wins() -> None:
    """Where one token completes two stop strings the text is cut before the one that begins first."""
    tokenizer = Tokenizer(models.WordLevel({"x": 0, "yz": 1, "?": 2}, unk_token="?"))
    tokenizer.decoder = decoders.Fuse()
    text = Text.from_files({"tokenizer.json": tokenizer.to_str().encode()})
    stream = text.stream(["z", "xy"])
    assert [stream.push(0), stream.push(1), stream.finish()] == ["", "", ""]
    assert stream.stopped


def test_a_text_that_ends_amid_a_character_says_so() -> None:
    """The sign for a broken character comes only when nothing can mend it any more."""
    stream = text_of("bytes").stream()
    assert [stream.push(t) for t in "é".encode()] == ["", "é"]
    assert [stream.push(0xC3), stream.finish()] == ["", "\ufffd"]


def test_ids_alone_make_no_text() -> None:
    """Models without a tokenizer write ids; whatever needs text is refused in plain words."""
    text = Text.from_files({})
    assert pieces_of(text.stream(), [1, 2, 3]) == ["", "", "", ""]
    assert text.stream().ahead([1]) is None
    assert text.decode([1, 2]) == ""
    assert not text.has_chat_template
    for call in (
        lambda: text.encode("a"),
        lambda: text.chat([{"role": "user", "content": "a"}]),
        lambda: text.language("de"),
        lambda: text.stream(["stop"]),
    ):
        with pytest.raises(InvalidRequest, match="without a tokenizer"):
            call()


def test_a_prompt_gets_the_special_tokens_of_its_model() -> None:
    """T5 wants an end token behind its source, for example."""
    ids = text_of("metaspace").encode("the sea")
    assert ids[-1] == 1
    assert text_of("metaspace").decode(ids) == "the sea"


def test_half_a_character_is_no_prompt() -> None:
    """A lone surrogate, which JSON can smuggle in, is refused instead of failing inside."""
    with pytest.raises(InvalidRequest, match="cannot be tokenised"):
        text_of("bytes").encode("a \ud800")


TEMPLATE = """{% for m in messages %}
    {%- if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}
    {%- if m.role == 'skip' %}{% continue %}{% endif %}
<|{{ m.role }}|>{{ m.content }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}<|assistant|>{% endif %}"""


def test_messages_become_what_the_template_writes() -> None:
    """Blocks are trimmed as templates expect, loops may be left, and special tokens are not added twice."""
    text = text_of("bytes", chat_template=TEMPLATE, eos_token="<|end|>")
    ids = text.chat([
        {"role": "system", "content": "Be brief."}, {"role": "skip", "content": "x"},
        {"role": "user", "content": "Why?"},
    ])  # fmt: skip
    expected = b"<|system|>Be brief.\0\n<|user|>Why?\0\n<|assistant|>"
    assert ids == [END if byte == 0 else byte for byte in expected]


def test_templates_get_the_usual_helpers() -> None:
    """`tojson` does not escape for HTML, `strftime_now` knows the date."""
    template = "{{ messages[0] | tojson }} {{ strftime_now('%Y') | length }}"
    text = text_of("bytes", chat_template=template)
    ids = text.chat([{"role": "user", "content": "<é>"}])
    assert text.decode(ids) == '{"role": "user", "content": "<é>"} 4'


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (TEMPLATE, "no tools here"),
        ("{% for %}", "do not suit"),
        ("{{ messages[0].content.missing.deep }}", "do not suit"),
        ("{{ 1 / 0 }}", "do not suit"),
        ("{{ messages.append(1) }}", "do not suit"),
        ("{{ messages.__class__.__mro__ }}{{ ''.__class__.__mro__[1] }}", "do not suit"),
        (None, "has no chat template"),
    ],
)
def test_a_template_that_objects_is_the_callers_error(template: str | None, words: str) -> None:
    """A template is a program from outside: it runs in a sandbox, and its failure ends one request."""
    text = text_of("bytes", chat_template=template)
    with pytest.raises(InvalidRequest, match=words):
        text.chat([{"role": "tool", "content": "x"}])


@pytest.mark.parametrize("message", [{}, {"role": "user"}, {"role": 1, "content": "x"}, {"content": ""},
                                     {"role": "user", "content": ["x"]}])  # fmt: skip
def test_a_message_has_a_role_and_a_content(message: dict[str, object]) -> None:
    """Other shapes are refused before a template stumbles over them."""
    with pytest.raises(InvalidRequest, match="needs a role and a content"):
        text_of("bytes", chat_template=TEMPLATE).chat([message])


def multilingual(*codes: str) -> Text:
    tokenizer = metaspace()
    tokenizer.add_special_tokens([AddedToken(code, special=True) for code in codes])
    return Text.from_files({
        "tokenizer.json": tokenizer.to_str().encode(), "chat.json": b'{"eos_token": "</s>"}',
    })  # fmt: skip


def test_a_source_language_stands_before_the_text() -> None:
    """NLLB and mBART read: language, text, end token."""
    text = multilingual("deu_Latn", "eng_Latn")
    ids = text.encode("the sea", src_lang="eng_Latn")
    assert ids[0] == text.language("eng_Latn") != text.language("deu_Latn")
    assert ids[1:] == text.encode("the sea")


def test_languages_may_be_written_with_underscores() -> None:
    """M2M100 names its tokens `__de__`, people say `de`."""
    text = multilingual("__de__", "__en__")
    assert text.language("de") == text.language("__de__")


def test_an_unknown_language_is_refused_with_the_nearest() -> None:
    """Special tokens that are no languages do not count as some, nor do words of the vocabulary."""
    with pytest.raises(InvalidRequest, match="did you mean 'deu_Latn'"):
        multilingual("deu_Latn", "eng_Latn").language("deu_Lat")
    with pytest.raises(InvalidRequest, match="unknown language 'the'"):
        multilingual("deu_Latn").language("the")
    for code in ("de", "</s>"):
        with pytest.raises(InvalidRequest, match="knows no languages"):
            text_of("metaspace").language(code)


@pytest.mark.parametrize("files", [
    {"tokenizer.json": b"{}"}, {"tokenizer.json": b"\xff"},
    {"tokenizer.json": tokenizer_json(), "chat.json": b"["},
    {"tokenizer.json": tokenizer_json(), "chat.json": b"[]"},
])  # fmt: skip
def test_files_that_are_no_tokenizer_are_refused(files: dict[str, bytes]) -> None:
    """They come over the wire from another process."""
    with pytest.raises(ConfigError, match="tokenizer cannot be read"):
        Text.from_files(files)
