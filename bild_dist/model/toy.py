"""Scripted twin models: no torch, no weights, every token known beforehand.

A small and a large toy share one `Script`. At each position it says what the large model writes,
what the small one proposes, how sure it is and how far the two are apart, all from a hash of the
ids before it. So a test can ask the script what a text must be, and two real processes can be
checked against it in a second.

A toy hashes what *its passes wrote into the slot*, never the ids handed to it: a wrong length, a
slot that was not opened anew or a rollback that did not happen gives other tokens, as a wrong KV
cache does.

A model is named by a URL-like string, `toy:small?seed=1&f=0.2`. Keys, with defaults and ranges in
`Script` and `Pace`: `seed f q rho mild end encdec` for the script, which must be the same for both
twins, and `ms ms_token grow batch length` for one model.
"""

from __future__ import annotations

import dataclasses
import math
import struct
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Final
from urllib.parse import parse_qsl

from bild_dist.clock import now_ns
from bild_dist.errors import ConfigError, InvalidRequest
from bild_dist.messages import PROTOCOL, Encoded, Info, Rules
from bild_dist.model.base import Choice, Pass, compared
from bild_dist.model.toy_tokenizer import END as END
from bild_dist.model.toy_tokenizer import tokenizer_json as tokenizer_json
from bild_dist.sampling import choose, sampled
from bild_dist.types import Role, nearest

VOCABULARY: Final = 257

FREE: Final = Rules(vocabulary=VOCABULARY, begin=0, limit=2**31, end_ids=(END,))
"""Rules that constrain nothing."""

_HOLE: Final = 2**32 - 1
"""What lies in a cache where nothing was ever written. No id, so it changes every hash."""

# Letters by frequency, so that texts can be spoken. 0xC3 0xA9 is one character in two tokens, for
# streams to hold back.
_LEAD, _FOLLOW = 0xC3, 0xA9
_VOWELS: Final = b"aaaeeeeiiooouu"
_CONSONANTS: Final = b"nnttssrrllddhhmmccppggbbvvffkwj"
_AFTER_VOWEL: Final = _CONSONANTS + b" " * 16 + b"\xc3"


@dataclass(frozen=True, slots=True)
class Position:
    """What the two models say of one position.

    `small`, `large`: their most likely tokens. `confidence`: the small model's largest probability. `distance`:
    -ln p_L(`small`), nats. `top`: the large model's largest probability. What is left of either
    distribution is spread evenly over the other ids of the `allowed` ones.
    """

    small: int
    confidence: float
    large: int
    distance: float
    top: float
    allowed: int

    def nats(self, role: Role, token: int) -> float:
        """-ln p of a token that the rules allow, under one of the models."""
        if role is Role.SMALL:
            if token == self.small:
                return -math.log(self.confidence)
            return _spread(1 - self.confidence, self.allowed - 1)
        if token == self.small:
            return self.distance
        if token == self.large:
            return -math.log(self.top)
        if self.small == self.large:
            return _spread(1 - self.top, self.allowed - 1)
        return _spread(1 - self.top - math.exp(-self.distance), self.allowed - 2)


def _spread(mass: float, count: int) -> float:
    return -math.log(mass / count) if mass > 0 and count > 0 else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """How the twins agree and disagree. Pure: the same prefix gives the same position, everywhere.

    Raises:
        ConfigError: a share is not in [0, 1].
    """

    seed: int = 1
    f: float = 0.2
    """Share of positions where the small model is unsure: confidence in [0.15, 0.55), elsewhere in [0.65, 1)."""
    q: float = 0.45
    """Share of the unsure positions where its draw is nevertheless the large model's."""
    rho: float = 0.03
    """Share of the other positions where the large model objects: distance in [6, 14) nats."""
    mild: float = 0.05
    """Share of the others where it would write something else but not object: [0.8, 1.8) nats."""
    end: float = 0.02
    """Share of positions where the large model ends the text; 0 never does. A wrong draw of the
    small one is an end 5 times as often."""
    encdec: bool = False
    """An encoder-decoder: a source is hashed in, the decoder starts from id 0."""

    def __post_init__(self) -> None:
        for name in ("f", "q", "rho", "mild", "end"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise ConfigError(f"toy: {name} = {share} must be a share from 0 to 1")
        if self.rho + self.mild > 1:
            raise ConfigError("toy: rho + mild must be at most 1")

    def at(self, ids: Sequence[int], rules: Rules = FREE, source: Sequence[int] = ()) -> Position:
        """The position behind `ids` (prompt and text). Repetition rules are not honoured, all others are.

        Raises:
            InvalidRequest: the rules leave no token.
        """
        sure, value, agree, letter, ends, apart, other, top = self._numbers(ids, source)
        permit = _Permit.of(rules, len(ids))
        low = sure < self.f
        confidence = 0.15 + 0.4 * value if low else 0.65 + 0.35 * value
        large = END if ends < self.end and permit.allows(END) else None
        if large is None:
            large = permit.nearest(_letter(letter, ids))
        distance = self._distance(low, agree, apart)
        if permit.count == 1:
            return Position(large, 1.0, large, 0.0, 1.0, 1)
        if distance is None:
            chance = 1 - 0.5 * top
            return Position(large, confidence, large, -math.log(chance), chance, permit.count)
        small = self._wrong(other, large, permit, ids)
        objected = math.exp(-distance)
        # At least one half, so that the large model's draw is its best token at any distance.
        chance = 1 - objected - (0.5 - objected) * top
        return Position(small, confidence, large, distance, chance, permit.count)

    def logs(
        self, role: Role, ids: Sequence[int], rules: Rules = FREE, source: Sequence[int] = ()
    ) -> list[float]:
        """ln p of every id behind `ids`, under one of the models, nats. Raises as `at` does."""
        position, permit = self.at(ids, rules, source), _Permit.of(rules, len(ids))
        return [
            -position.nats(role, t) if permit.allows(t) else -math.inf for t in range(VOCABULARY)
        ]

    def _numbers(self, ids: Sequence[int], source: Sequence[int]) -> tuple[float, ...]:
        """Eight numbers in [0, 1) from all that came before."""
        key = struct.pack("<qI", self.seed, len(source)) + array("I", source).tobytes()
        digest = blake2b(key + array("I", ids).tobytes(), digest_size=32).digest()
        return tuple(n / 2**32 for n in struct.unpack("<8I", digest))

    def _distance(self, low: bool, agree: float, apart: float) -> float | None:
        """How far the small model's draw is from the large one's, or None where they are the same."""
        if low:
            return None if agree < self.q else 1 + 9 * apart
        if agree < self.rho:
            return 6 + 8 * apart
        if agree < self.rho + self.mild:
            return 0.8 + apart
        return None

    def _wrong(self, number: float, large: int, permit: _Permit, ids: Sequence[int]) -> int:
        """A draw of the small model that is not the large one's."""
        share = min(1.0, 5 * self.end)
        if number < share and large != END and permit.allows(END):
            return END
        token = permit.nearest(_letter(number * 1009 % 1, ids))
        return token if token != large else permit.nearest(large + 1)


def _letter(number: float, ids: Sequence[int]) -> int:
    last = ids[-1] if ids else 0
    if last == _LEAD:
        return _FOLLOW
    table = _AFTER_VOWEL
    if last == ord(" "):
        table = _CONSONANTS
    elif last < 256 and last in _CONSONANTS:
        table = _VOWELS
    return table[int(number * len(table))]


@dataclass(frozen=True, slots=True)
class _Permit:
    """Which ids may stand at one index."""

    vocabulary: int
    forced: frozenset[int]
    """If not empty, nothing else may stand here."""
    banned: frozenset[int]

    @classmethod
    def of(cls, rules: Rules, index: int) -> _Permit:
        forced: tuple[int, ...] = ()
        if index == rules.begin and rules.forced_begin is not None:
            forced = (rules.forced_begin,)
        if index == rules.limit - 1 and rules.forced_end:
            forced = rules.forced_end
        banned = {*rules.suppress, *(rules.begin_suppress if index == rules.begin else ())}
        if index < rules.min_length or index - rules.begin < rules.min_new_tokens:
            banned.update(rules.end_ids)
        width = min(rules.vocabulary, VOCABULARY)
        permit = cls(width, frozenset(forced), frozenset(t for t in banned if 0 <= t < width))
        if permit.count < 1 or not all(0 <= token < width for token in forced):
            raise InvalidRequest("the rules leave no token to write: suppress or force others")
        return permit

    @property
    def count(self) -> int:
        return len(self.forced) or self.vocabulary - len(self.banned)

    def allows(self, token: int) -> bool:
        if self.forced:
            return token in self.forced
        return token < self.vocabulary and token not in self.banned

    def nearest(self, wish: int) -> int:
        """The first allowed id from `wish` on, round the end of the vocabulary."""
        wish %= self.vocabulary
        while not self.allows(wish):
            wish = (wish + 1) % self.vocabulary
        return wish


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How slow one toy is and how much it holds."""

    ms: float = 0.0
    """Milliseconds per pass, slept as a real kernel would run: outside the interpreter's lock."""
    ms_token: float = 0.0
    """Further milliseconds per token fed."""
    grow: float = 0.0
    """Share of `ms` that each token beyond the first adds to a pass, as where weights are read once for
    all of them: 0.02 makes a pass over sixteen tokens 1.3 times as long.
    """
    batch: bool = True
    """Whether requests share its passes."""
    length: int = 2048
    """Tokens per slot, and of the source."""

    def __post_init__(self) -> None:
        if not (0 <= self.ms < math.inf and 0 <= self.ms_token < math.inf):
            raise ConfigError("toy: ms and ms_token must be milliseconds of at least 0")
        if not 0 <= self.grow < math.inf:
            raise ConfigError(f"toy: grow = {self.grow} must be a share of at least 0")
        if self.length < 2:
            raise ConfigError(f"toy: length = {self.length} must be at least 2 tokens")

    def pass_ns(self, fed: int) -> int:
        """How long a pass over so many tokens takes, of one request or of several."""
        return int((self.ms * (1 + self.grow * (fed - 1)) + self.ms_token * fed) * 1e6)


def parse(spec: str) -> tuple[Role, Script, Pace]:
    """What a string like `toy:small?seed=1&ms=5` names.

    Raises:
        ConfigError: it names no toy, an unknown key, or a value that does not fit.
    """
    name, _, query = spec.removeprefix("toy:").partition("?")
    if not spec.startswith("toy:") or name not in [role.value for role in Role]:
        raise ConfigError(f"{spec!r} names no toy model: write toy:small?... or toy:large?...")
    kinds = {field.name: field.type for field in dataclasses.fields(Script)}
    paces = {field.name: field.type for field in dataclasses.fields(Pace)}
    known = {**kinds, **paces}
    given: dict[str, float | bool] = {}
    for key, text in parse_qsl(query, keep_blank_values=True):
        if key not in known:
            raise ConfigError(f"{spec!r}: unknown key {key!r}{nearest(key, list(known))}")
        given[key] = _value(key, text, str(known[key]))
    script = Script(**{k: v for k, v in given.items() if k in kinds})  # type: ignore[arg-type]
    pace = Pace(**{k: v for k, v in given.items() if k in paces})  # type: ignore[arg-type]
    return Role(name), script, pace


def _value(key: str, text: str, kind: str) -> float | bool:
    try:
        if kind == "bool":
            return bool(("0", "1").index(text))
        return int(text) if kind == "int" else float(text)
    except ValueError:
        needed = {"bool": "0 or 1", "int": "a whole number", "float": "a number"}[kind]
        raise ConfigError(f"toy: {key} = {text!r} must be {needed}") from None


@dataclass(slots=True)
class _Slot:
    kv: list[int] = dataclasses.field(default_factory=list)
    source: tuple[int, ...] = ()
    rules: Rules = FREE


class ToyModel:
    """One of the twins behind `base.Model`. Owned by an engine thread.

    Raises:
        ConfigError: `spec` names no toy.
    """

    def __init__(self, spec: str) -> None:
        self.role, self.script, self.pace = parse(spec)
        self._slots: list[_Slot] = []
        encdec, length = self.script.encdec, self.pace.length
        self._info = Info(
            protocol=PROTOCOL, model=spec, architecture="toy",
            kind="encoder-decoder" if encdec else "decoder", generation="", pid=0, device="cpu",
            dtype="float32", threads=1, slots=0, max_length=length, max_source=length if encdec else 0,
            tokenizer=blake2b(tokenizer_json(), digest_size=8).hexdigest(), tokenizer_size=VOCABULARY,
            encodes=False, decoder_prompt=(0,) if encdec else (),
            rules=Rules(vocabulary=VOCABULARY, begin=0, limit=0, end_ids=(END,)),
            batching="ragged" if self.pace.batch else "single",
        )  # fmt: skip

    @property
    def info(self) -> Info:
        return self._info

    def files(self) -> dict[str, bytes]:
        return {"tokenizer.json": tokenizer_json(), "chat.json": b'{"chat_template": null}'}

    def encode(self, seq: int, text: str, src_lang: str, tgt_lang: str) -> Encoded:
        raise InvalidRequest("toy models have a fast tokenizer: the orchestrator encodes")

    def allocate(self, slots: int) -> None:
        self._slots = [_Slot() for _ in range(slots)]

    def open(self, slot: int, source: Sequence[int], rules: Rules) -> None:
        started_ns = now_ns()
        sampled(rules)  # bad rules are refused here, not in the middle of the text
        self._slots[slot] = _Slot([], tuple(source), rules)
        if source:
            self._pass_time(started_ns, len(source))

    def forward(self, work: Pass) -> list[Choice]:
        started_ns = now_ns()
        choices = self._read(work)
        self._pass_time(started_ns, len(work.ids) - work.at)
        return choices

    def forward_batch(self, works: Sequence[Pass]) -> list[list[Choice] | InvalidRequest]:
        started_ns = now_ns()
        found: list[list[Choice] | InvalidRequest] = []
        for work in works:
            try:
                found.append(self._read(work))
            except InvalidRequest as error:
                found.append(error)
        self._pass_time(started_ns, sum(len(work.ids) - work.at for work in works))
        return found

    def _read(self, work: Pass) -> list[Choice]:
        held = self._slots[work.slot]
        kv = held.kv
        kv.extend([_HOLE] * (work.at - len(kv)))
        kv[work.at :] = work.ids[work.at :]
        choices = []
        for row in range(work.rows):
            line = kv[: len(kv) - work.rows + row + 1]
            choices.append(self._choice(line, held, work, row))
        return choices

    def _choice(self, line: Sequence[int], held: _Slot, work: Pass, row: int) -> Choice:
        rules, others = held.rules, work.others
        judged = work.judge[row] if row < len(work.judge) else None
        position = self.script.at(line, rules, held.source)
        distance = math.nan
        if judged is not None:
            allowed = _Permit.of(rules, len(line)).allows(judged)
            distance = position.nats(self.role, judged) if allowed else math.inf
        best, top = position.large, position.top
        if self.role is Role.SMALL:
            best, top = position.small, position.confidence
        drawn = [best]
        if sampled(rules) or others:
            logs = self.script.logs(self.role, line, rules, held.source)
            if not sampled(rules):
                logs[best] = 0.0  # first, even where hardly anything else is allowed
            drawn = choose(logs, rules, len(line), others)
        choice = Choice(drawn[0], top, distance, tuple(drawn[1:]))
        spelt = partial(self.script.logs, self.role, line, rules, held.source)
        return compared(choice, work, row, rules, spelt)

    def _pass_time(self, started_ns: int, fed: int) -> None:
        """Sleeps until the pass has taken its time."""
        left_ns = started_ns + self.pace.pass_ns(fed) - now_ns()
        if left_ns > 0:
            time.sleep(left_ns / 1e9)
