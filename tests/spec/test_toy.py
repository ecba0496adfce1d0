"""Toy twins: the script is the oracle, and the cache is what it is checked through."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

import pytest
from tokenizers import Tokenizer

from bild_dist.errors import ConfigError, InvalidRequest
from bild_dist.messages import Rules
from bild_dist.model.base import Choice, Pass
from bild_dist.model.toy import END, FREE, VOCABULARY, Script, ToyModel, parse, tokenizer_json
from bild_dist.types import Role

PROMPT = list(b"Why is the sea salty?")
RULES = Rules(vocabulary=VOCABULARY, begin=len(PROMPT), limit=200, end_ids=(END,))


def toy(spec: str, rules: Rules = FREE, source: tuple[int, ...] = ()) -> ToyModel:
    model = ToyModel(spec)
    model.allocate(2)
    for slot in (0, 1):
        model.open(slot, source, rules)
    return model


def ask(model: ToyModel, at: int, ids: list[int], *judge: int) -> list[Choice]:
    return model.forward(Pass(0, at, ids, rows=max(1, len(judge)), judge=judge))


def texts(count: int = 40, length: int = 30) -> list[list[int]]:
    """Prefixes as they really occur: prompts continued by the large model."""
    lines = []
    for n in range(count):
        line = [*PROMPT, n]
        for _ in range(length):
            line.append(Script().at(line).large)
            lines.append(list(line))
    return lines


def test_both_twins_say_what_the_script_says() -> None:
    """A test that knows the script knows every token, confidence and distance beforehand."""
    small, large = toy("toy:small?seed=3"), toy("toy:large?seed=3")
    line, at = list(PROMPT), 0
    for _ in range(50):
        expected = Script(seed=3).at(line)
        [drafted] = ask(small, at, line)
        assert (drafted.token, drafted.confidence) == (expected.small, expected.confidence)
        assert math.isnan(drafted.distance)
        [checked] = ask(large, at, line, expected.small)
        assert (checked.token, checked.distance) == (expected.large, expected.distance)
        at = len(line)
        line.append(expected.large)


def test_one_pass_over_many_tokens_equals_many_passes_over_one() -> None:
    """A check of several tokens reads each row off the ids before it, whatever it was fed with."""
    line = [*PROMPT, *b"because rivers"]
    begin = len(PROMPT)
    one = toy("toy:large")
    rows = one.forward(Pass(0, 0, line[:-1], rows=len(line) - begin, judge=tuple(line[begin:])))
    for i, row in enumerate(rows):
        [single] = ask(toy("toy:large"), 0, line[: begin + i], line[begin + i])
        assert row == single


def test_a_pass_that_wants_no_row_still_writes_the_cache() -> None:
    """Prefill asks for nothing; the next pass builds on what it wrote."""
    model = toy("toy:large")
    assert model.forward(Pass(0, 0, PROMPT[:-1], rows=0)) == []
    [choice] = ask(model, len(PROMPT) - 1, PROMPT)
    assert choice.token == Script().at(PROMPT).large


WRONG: dict[str, Callable[[ToyModel], list[Choice]]] = {
    "a length past what was written": lambda m: ask(m, len(PROMPT) + 2, [*PROMPT, 1, 2, 3]),
    "a length short of the difference": lambda m: ask(m, 5, [*b"What ", *PROMPT[5:]]),
    "another slot": lambda m: m.forward(Pass(1, len(PROMPT), [*PROMPT, 3], rows=1)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_cache_gives_a_wrong_hash(name: str) -> None:
    """The ids handed in are right each time; what the slot holds is not, and it shows."""
    model = toy("toy:large")
    ask(model, 0, PROMPT)
    lines = {
        "a length past what was written": [*PROMPT, 1, 2, 3],
        "a length short of the difference": [*b"What ", *PROMPT[5:]],
        "another slot": [*PROMPT, 3],
    }
    right = Script().at(lines[name])
    [wrong] = WRONG[name](model)
    assert wrong.confidence != right.top


def test_rollback_is_a_smaller_length() -> None:
    """What lies past the length is garbage: a pass that builds on less overwrites it."""
    model = toy("toy:large")
    ask(model, 0, [*PROMPT, *b"nonsense"])
    [choice] = ask(model, len(PROMPT), [*PROMPT, 65])
    assert choice.token == Script().at([*PROMPT, 65]).large


def test_opening_a_slot_forgets_the_request_before() -> None:
    """A slot that is opened anew holds nothing."""
    model = toy("toy:large?encdec=1", source=(7, 8))
    ask(model, 0, [0, 1, 2])
    model.open(0, (9,), FREE)
    [choice] = ask(model, 0, [0])
    assert choice.confidence == Script(encdec=True).at([0], source=(9,)).top


def test_the_shares_are_as_scripted() -> None:
    """f, q, rho, mild and end are shares of positions: 4 standard deviations of 3,600 draws."""
    count = 120
    positions = [Script(end=0.02).at(line) for line in texts(count)]
    low = [p for p in positions if p.confidence < 0.6]
    high = [p for p in positions if p.confidence >= 0.6]

    def close(part: float, whole: float, share: float) -> bool:
        return abs(part / whole - share) < 4 * math.sqrt(share * (1 - share) / whole)

    assert close(len(low), len(positions), 0.2)
    assert close(sum(p.small == p.large for p in low), len(low), 0.45)
    assert close(sum(p.distance > 5 for p in high), len(high), 0.03)
    assert close(sum(0.7 < p.distance < 2 and p.small != p.large for p in high), len(high), 0.05)
    assert close(sum(p.large == END for p in positions), len(positions), 0.02)
    assert any(p.small == END != p.large for p in positions)


def test_both_models_are_distributions() -> None:
    """Probabilities of all allowed ids add up to one, and the draw has the largest."""
    rules = dataclasses.replace(RULES, suppress=(1, 2, 3))
    allowed = [t for t in range(VOCABULARY) if t not in rules.suppress]
    for line in texts(4):
        position = Script(f=0.5, rho=0.2, mild=0.2).at(line, rules)
        for role, draw in ((Role.SMALL, position.small), (Role.LARGE, position.large)):
            nats = [position.nats(role, token) for token in allowed]
            assert sum(math.exp(-n) for n in nats) == pytest.approx(1)
            assert min(nats) == position.nats(role, draw)


def test_rules_are_honoured_by_both() -> None:
    """Forced, suppressed and too early end tokens, at the one place that each speaks of."""
    script, begin = Script(end=1.0), len(PROMPT)
    plain = script.at(PROMPT, RULES)
    assert plain.large == END

    def at(ids: list[int], **changes: object) -> set[int]:
        rules = dataclasses.replace(RULES, **changes)  # type: ignore[arg-type]
        position = script.at(ids, rules)
        return {position.small, position.large}

    assert at(PROMPT, forced_begin=77) == {77}
    assert at([*PROMPT, 77], forced_begin=77) == {END}
    assert at([0] * 199, forced_end=(END,), suppress=(END,)) == {END}
    assert END not in at(PROMPT, min_new_tokens=1)
    assert END in at([*PROMPT, 1], min_new_tokens=1)
    assert END not in at(PROMPT, min_length=begin + 1)
    assert END not in at(PROMPT, begin_suppress=(END,))
    assert at([*PROMPT, 1], begin_suppress=(END,)) == {END}
    assert END not in at(PROMPT, vocabulary=256)
    with pytest.raises(InvalidRequest, match="leave no token"):
        at(PROMPT, suppress=tuple(range(VOCABULARY)))


def test_a_forbidden_token_is_infinitely_far() -> None:
    """A check of a token that the rules forbid says so instead of scoring it."""
    rules = dataclasses.replace(RULES, suppress=(5,))
    [choice] = ask(toy("toy:large", rules), 0, PROMPT, 5)
    assert choice.distance == math.inf


def test_without_an_end_no_text_ends() -> None:
    """`end=0` makes texts of a fixed length, for measuring."""
    script = Script(end=0, f=0.5)
    assert not any(END in (p.small, p.large) for p in map(script.at, texts(10)))


def test_a_paced_pass_takes_its_time() -> None:
    """`ms` a pass and `ms_token` a token, computing included."""
    model = toy("toy:large?ms=20&ms_token=5")
    started = time.monotonic()
    ask(model, 0, PROMPT[:4])
    assert 0.04 <= time.monotonic() - started < 1


def test_an_encoder_decoder_hashes_its_source() -> None:
    """Another source is another text."""
    info = ToyModel("toy:large?encdec=1&length=64").info
    assert (info.kind, info.decoder_prompt, info.max_source) == ("encoder-decoder", (0,), 64)
    draws = [ask(toy("toy:large?encdec=1", source=(s,)), 0, [0])[0].confidence for s in (1, 2)]
    assert draws[0] != draws[1]


def test_twins_agree_on_the_tokenizer_and_it_is_bytes() -> None:
    """Text in is bytes, text out is bytes, for any characters."""
    small, large = ToyModel("toy:small").info, ToyModel("toy:large?seed=9").info
    assert small.tokenizer == large.tokenizer != ""
    tokenizer = Tokenizer.from_buffer(tokenizer_json())
    text = "Höllo 😀  a\n\x00 the\tend"
    assert tokenizer.encode(text).ids == list(text.encode())
    assert tokenizer.decode([*text.encode(), END], skip_special_tokens=True) == text
    assert tokenizer.get_vocab_size() == small.tokenizer_size == VOCABULARY


def test_a_name_says_all_there_is() -> None:
    """Role, script and pace are read from the one string."""
    role, script, pace = parse("toy:large?seed=7&f=0.5&encdec=1&ms=2.5&length=32")
    assert (role, script) == (Role.LARGE, Script(seed=7, f=0.5, encdec=True))
    assert (pace.ms, pace.length) == (2.5, 32)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("toy:medium", "names no toy"),
        ("gpt2", "names no toy"),
        ("toy:small?see=1", "did you mean 'seed'"),
        ("toy:small?f=2", "share from 0 to 1"),
        ("toy:small?rho=0.7&mild=0.7", "at most 1"),
        ("toy:small?f=much", "must be a number"),
        ("toy:small?seed=1.5", "must be a whole number"),
        ("toy:small?encdec=yes", "must be 0 or 1"),
        ("toy:small?ms=-1", "at least 0"),
        ("toy:small?length=1", "at least 2"),
    ],
)
def test_a_bad_name_is_refused_in_plain_words(spec: str, words: str) -> None:
    """Nothing is dropped silently."""
    with pytest.raises(ConfigError, match=words):
        ToyModel(spec)
