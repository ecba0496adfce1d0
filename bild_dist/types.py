"""The words that all parts of the system share: what a user asks for and what comes back.

Units: times are integer nanoseconds (suffix `_ns`), distances natural logarithms (nats) unless
`Distance` says something else, lengths and positions are tokens. Position 0 is the first generated
token.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeGuard

from bild_dist.errors import InvalidRequest

TOP_LOGPROBS: Final = 20
"""Most alternatives whose log-probabilities a request may ask for."""
MOST: Final = (1 << 31) - 1
"""Largest value of the options that count tokens: more than any model writes, less than any wire holds."""
STOPS: Final = 16
"""Most strings that may end a text."""
STOP_CHARACTERS: Final = 1024
"""Characters of all of them together, at most: each token is compared with every one of their beginnings."""

_SHOWN: Final = 80
"""Characters of a bad value that are quoted."""

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?")


class Role(StrEnum):
    """Which of the two models."""

    SMALL = "small"
    LARGE = "large"


class Mode(StrEnum):
    """The quality dial of a request."""

    BILD = "bild"
    EXACT = "exact"
    LARGE = "large"
    SMALL = "small"


class Schedule(StrEnum):
    """When the large model runs. The text does not depend on it."""

    PAPER = "paper"
    THROUGH = "through"
    OVERLAP = "overlap"


class Policy(StrEnum):
    """What decides whether a token of the small model stands."""

    BILD = "bild"
    """The decision table (`policy/rules.py`)."""
    REJECTION = "rejection"
    """Lossless speculative sampling (Leviathan et al. 2022, Chen et al. 2023)."""


class Confidence(StrEnum):
    """How sure the small model is, as a number in [0, 1] that is compared with alpha_fb."""

    MAX = "max"
    """The largest probability, p1."""
    MARGIN = "margin"
    """p1 - p2: how far the best token is ahead of the next."""
    ENTROPY = "entropy"
    """exp(-H), H in nats: 1 where one token has it all, 1/k where k tokens share it evenly."""
    PRODUCT = "product"
    """The product of p1 here and at every small token since the large model's last one."""


class Distance(StrEnum):
    """How far the two models are apart at a small token; compared with alpha_rb."""

    CE = "ce"
    """-ln p_L of the small model's token, nats (paper, section 3.4)."""
    KL = "kl"
    """Kullback-Leibler divergence of p_L from p_S, nats: the sum of p_S ln(p_S / p_L)."""
    JS = "js"
    """Jensen-Shannon divergence, nats: from 0 to ln 2."""
    TV = "tv"
    """Total variation: from 0 to 1."""
    L2 = "l2"
    """Euclidean distance: from 0 to the root of 2."""


class Source(StrEnum):
    """Which row of the decision table wrote a token."""

    SMALL = "small"
    FALLBACK = "fallback"
    WINDOW = "window"
    ROLLBACK = "rollback"
    LARGE = "large"


class FinishReason(StrEnum):
    """Why a text ended."""

    EOS = "eos"
    LENGTH = "length"
    STOP = "stop"


def nearest(name: str, known: list[str], *, listed: bool = True) -> str:
    """A hint for a misspelt name: ` (did you mean 'x'?)`, or where `listed` what there is."""
    close = difflib.get_close_matches(name[:_SHOWN], known, n=1)
    if close:
        return f" (did you mean {close[0]!r}?)"
    return f" (known: {', '.join(sorted(known))})" if listed else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What one request may choose. Checked when it is made.

    Raises:
        InvalidRequest: a value is out of its range; the message names the option and the range.
    """

    mode: Mode = Mode.BILD
    alpha_fb: float = 0.6
    """Fallback threshold: below this top probability of the small model the large one writes.
    In [0, 1]. Default: the setting of equal quality for unaligned pairs in the paper's table 1."""
    alpha_rb: float = 2.0
    """Rollback threshold, in the unit of `distance`: a small token further than this from the large
    model is replaced, if that one would write another.
    At least 0; infinity never rolls back. Default: as for `alpha_fb`."""
    policy: Policy = Policy.BILD
    """What decides about a small token. `rejection` draws a text of the large model's own law, with
    a draft of `window` tokens before each check; thresholds do not apply (schedule `paper` only).
    """
    confidence: Confidence = Confidence.MAX
    """What is compared with `alpha_fb`."""
    distance: Distance = Distance.CE
    """What is compared with `alpha_rb`. All but `ce` are over the small model's 64 likeliest tokens,
    with the rest of the vocabulary as one more.
    """
    adapt: float = 0.0
    """Let `alpha_fb` follow the text's own confidences, so that this share of the positions falls
    below it; it starts from `alpha_fb`. In [0, 1); 0 leaves it fixed."""
    window: int = 10
    """Most tokens that the small model writes in a row. From 1 to 2**31 - 1 (paper, section 5.1: 10)."""
    verify_tail: bool = True
    """Check the final run of small tokens too. False reproduces Algorithm 1 as printed."""
    schedule: Schedule | None = None
    """When the large model runs. None: `overlap` where the models have a device each, `through` where
    they share one (`benchmarks/schedules.json`: there, drafting during a check only slows it).
    """
    first: Role = Role.SMALL
    """Who may write the first token. `large` reproduces the authors' program."""
    branches: int = 1
    """Guesses that the small model follows at a hand-over while the large one checks (schedule
    `overlap`); each beyond the first takes a slot of its own. Does not touch the text.
    """
    temperature: float = 0.0
    """0 writes the most likely token; above it one is drawn from p^(1/temperature), finite."""
    top_k: int = 0
    """Draw from the so many most likely tokens only, up to 2**31 - 1; 0 from all."""
    top_p: float = 1.0
    """Draw from the fewest tokens whose share reaches this, above 0; 1 from all."""
    seed: int = 0
    """Of all that is drawn, from 0 to 2**63 - 1: the same seed, the same text."""
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()
    """Strings that end the text, left out of it: at most 16, of 1024 characters together."""
    deadline: float | None = None
    """Seconds from the start of the request; None waits as long as it takes."""
    truncate: bool = False
    """Cut a prompt that is too long instead of refusing it."""
    chat_template: bool = True
    """Wrap a prompt in the model's chat template where it has one."""
    src_lang: str | None = None
    tgt_lang: str | None = None
    logprobs: int | None = None
    """Tell ln p of each token under the model that decided it, and of so many of the likeliest tokens
    there, from 0 (none but its own) to 20. None tells nothing."""
    traceparent: str = ""
    """The trace that this request belongs to, as a W3C `traceparent`; empty for none. Passed on to both
    workers."""

    def __post_init__(self) -> None:
        for name, kind in (
            ("mode", Mode), ("schedule", Schedule), ("first", Role), ("policy", Policy),
            ("confidence", Confidence), ("distance", Distance),
        ):  # fmt: skip
            if name != "schedule" or self.schedule is not None:
                object.__setattr__(self, name, _member(name, kind, getattr(self, name)))
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        elif isinstance(self.stop, list):
            object.__setattr__(self, "stop", tuple(self.stop))
        _require(
            isinstance(self.stop, tuple) and all(isinstance(s, str) and s for s in self.stop),
            "stop", self.stop, "one or more non-empty strings",
        )  # fmt: skip
        short = len(self.stop) <= STOPS and sum(map(len, self.stop)) <= STOP_CHARACTERS
        _require(short, "stop", self.stop,
                 f"at most {STOPS} strings of {STOP_CHARACTERS} characters together")  # fmt: skip
        _require(_number(self.alpha_fb) and 0 <= self.alpha_fb <= 1, "alpha_fb", self.alpha_fb,
                 "a number from 0 to 1 (for the large model's own text use mode 'exact')")  # fmt: skip
        _require(_number(self.alpha_rb) and self.alpha_rb >= 0, "alpha_rb", self.alpha_rb,
                 "a number of at least 0 (a whole one below 2**63)")  # fmt: skip
        _require(_whole(self.window) and 1 <= self.window <= MOST, "window", self.window,
                 "a whole number from 1 to 2**31 - 1 (for the large model alone use mode 'large')")  # fmt: skip
        _require(_whole(self.branches) and 1 <= self.branches <= 8, "branches", self.branches,
                 "a whole number from 1 to 8")  # fmt: skip
        _require(_number(self.adapt) and 0 <= self.adapt < 1, "adapt", self.adapt,
                 "a share of at least 0 and below 1 (0 leaves alpha_fb fixed)")  # fmt: skip
        self._check_sampling()
        self._check_policy()
        _require(_whole(self.max_new_tokens) and 1 <= self.max_new_tokens <= MOST, "max_new_tokens",
                 self.max_new_tokens, "a whole number from 1 to 2**31 - 1")  # fmt: skip
        _require(
            self.deadline is None or (_number(self.deadline) and 0 < self.deadline < math.inf),
            "deadline", self.deadline, "a number of seconds above 0",
        )  # fmt: skip
        for flag in ("verify_tail", "truncate", "chat_template"):
            _require(
                isinstance(getattr(self, flag), bool), flag, getattr(self, flag), "true or false"
            )
        for name in ("src_lang", "tgt_lang"):
            value = getattr(self, name)
            _require(value is None or (isinstance(value, str) and value != ""), name, value,
                     "a language code")  # fmt: skip
        self._check_telling()

    def _check_sampling(self) -> None:
        _require(_number(self.temperature) and 0 <= self.temperature < math.inf, "temperature",
                 self.temperature, "a finite number of at least 0 (0 takes the most likely token)")  # fmt: skip
        _require(_whole(self.top_k) and 0 <= self.top_k <= MOST, "top_k", self.top_k,
                 "a whole number from 0 to 2**31 - 1 (0 draws from all tokens)")  # fmt: skip
        _require(_number(self.top_p) and 0 < self.top_p <= 1, "top_p", self.top_p,
                 "a number above 0 and at most 1 (1 draws from all tokens)")  # fmt: skip
        _require(_whole(self.seed) and 0 <= self.seed < 1 << 63, "seed", self.seed,
                 "a whole number from 0 to 2**63 - 1")  # fmt: skip

    def _check_telling(self) -> None:
        most, trace = TOP_LOGPROBS, self.traceparent
        _require(self.logprobs is None or (_whole(self.logprobs) and 0 <= self.logprobs <= most),
                 "logprobs", self.logprobs, f"a whole number from 0 to {most}, or left out")  # fmt: skip
        known = isinstance(trace, str) and len(trace) <= 512
        _require(known and (trace == "" or _TRACEPARENT.fullmatch(trace) is not None),
                 "traceparent", trace, "of W3C's form 00-<32 hex digits>-<16>-<2>, or empty")  # fmt: skip

    def _check_policy(self) -> None:
        if self.policy is Policy.BILD:
            return
        for name, good, why in (
            ("mode", Mode.BILD, "the other modes leave nothing to reject"),
            ("schedule", Schedule.PAPER, "a draft is rejected as a whole or from its first bad token"),
            ("verify_tail", True, "an unchecked tail is not of the large model's law"),
            ("confidence", Confidence.MAX, "nothing is handed over for a low confidence"),
            ("adapt", 0, "nothing is handed over for a low confidence"),
            ("distance", Distance.CE, "tokens are rejected by chance and not by distance"),
        ):  # fmt: skip
            value = getattr(self, name)
            _require(value == good or (name == "schedule" and value is None), name, _plain(value),
                     f"{_plain(good)!r} with policy 'rejection', since {why}")  # fmt: skip

    def merged(self, changes: Mapping[str, Any]) -> Options:
        """These options with some replaced.

        Raises:
            InvalidRequest: an unknown name (the nearest known one is offered) or a bad value.
        """
        known = [f.name for f in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise InvalidRequest(f"unknown option {name!r}{nearest(name, known)}")
        return dataclasses.replace(self, **changes)


def _number(value: object) -> bool:
    """Whether a value is a real number that every wire holds, as whole numbers of any length are not."""
    real = isinstance(value, float) and not math.isnan(value)
    return real or (_whole(value) and abs(value) < 1 << 63)


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _plain(value: object) -> object:
    return value.value if isinstance(value, StrEnum) else value


def _require(ok: bool, name: str, value: object, what: str) -> None:
    if not ok:
        raise InvalidRequest(f"{name} = {_shown(value)} must be {what}")


def _shown(value: object) -> str:
    """A value as it is quoted, cut where it is long: some are a megabyte of somebody's body."""
    huge = _whole(value) and not _number(
        value
    )  # Python writes out no number of more than 4300 digits
    text = "a number of many digits" if huge else repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _member(name: str, kind: type[StrEnum], value: object) -> StrEnum:
    try:
        return kind(value)  # type: ignore[arg-type]
    except ValueError:
        names = [m.value for m in kind]
        raise InvalidRequest(
            f"{name} = {_shown(value)} must be one of {', '.join(names)}"
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEvent:
    """One token of a text, given out once it can no longer change."""

    position: int
    token: int
    text: str
    """Text that this token sets free. Empty while a character or a stop string is incomplete."""
    source: Source
    confidence: float | None
    """How sure the small model is here, by default its top probability (of the model that wrote, in modes `large` and
    `small`); None where the small model was not asked."""
    distance: float | None
    """How far apart the models are at the token that the small one proposed here, by default -ln p_L
    of it, nats; None where not checked."""
    logprob: float | None = None
    """ln p of the token at temperature 1, nats, under the model that decided it: the small one where
    its token stood as its own, else the large one. None where not asked for."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest ids of that model here with their ln p, best first, as many as were asked for;
    fewer where the rules allow fewer."""


@dataclass(slots=True, kw_only=True)
class Trace:
    """What a text cost. Owned by the session that writes it; counts are exact, times measured.

    A pass is one forward of a model, whatever its length; encoding and prefill of the prompt are
    not counted as passes but their time is. `drafted` are the tokens that the small model proposed,
    `wasted` those thrown away. Of the positions of the large model, `guessed` counts those for which
    the small one's own draw is known, `hits` those where both drew the same. `draft_ns` is time
    computed by the small model, `verify_ns` by the large one, `queue_ns` waiting inside the workers,
    `wire_ns` the rest of each round trip.
    """

    small_passes: int = 0
    large_passes: int = 0
    drafted: int = 0
    wasted: int = 0
    fallbacks: int = 0
    rollbacks: int = 0
    windows: int = 0
    guessed: int = 0
    hits: int = 0
    draft_ns: int = 0
    verify_ns: int = 0
    queue_ns: int = 0
    wire_ns: int = 0
    first_token_ns: int = 0
    wall_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A finished text."""

    text: str
    tokens: tuple[int, ...]
    sources: tuple[Source, ...]
    finish_reason: FinishReason
    trace: Trace = field(default_factory=Trace)
    prompt_tokens: int = 0
    """How many ids of the prompt were read: by the encoder, where there is one."""
    logprobs: tuple[float, ...] = ()
    """`TokenEvent.logprob` of each token; empty where not asked for."""
    top: tuple[tuple[tuple[int, float], ...], ...] = ()
    """`TokenEvent.top` of each token; empty where no alternatives were asked for."""

    def as_dict(self) -> dict[str, Any]:
        """The JSON object of the command line, without its `id`."""
        told = {"logprobs": list(self.logprobs), "top": [[list(t) for t in ts] for ts in self.top]}
        return {
            "text": self.text,
            "tokens": list(self.tokens),
            "sources": [s.value for s in self.sources],
            **{name: values for name, values in told.items() if values},
            "finish_reason": self.finish_reason.value,
            "trace": dataclasses.asdict(self.trace),
        }
