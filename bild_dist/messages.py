"""What an orchestrator and a worker say to each other: frozen dataclasses, the same on every wire.

`proto/worker.proto` is the contract that gives each field its meaning; this file is its Python face
and `wire/codec.py` the only place that knows both. Field types are limited to int, float, str,
bool, bytes, `int | None`, tuples of int, float or bool, and the classes of `NESTED`, so that both
codecs can check them.

One connection carries many requests. `session` names a request within its connection, `seq` numbers
the commands of a session from 1, `epoch` grows whenever the orchestrator takes back something that
it told a worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

PROTOCOL: Final = 6
"""Version of the contract. Peers of different versions refuse each other."""

MAX_FRAME: Final = 4 * 1024 * 1024
"""Largest message on any wire, bytes (gRPC's own default, made explicit on both sides)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What constrains the next token, on both models' logits.

    `vocabulary`: ids from here on are masked (padding of the embedding, ids the other model lacks).
    `begin`: length of the decoder prompt; the first generated token stands at this index.
    `limit`: `begin` + the most new tokens; `forced_end` is forced on the last of them.
    `temperature` 0 takes the most likely token; above it one is drawn with the noise of `seed`
    from the `top_k` (0: all) and `top_p` of the distribution.
    `confidence` and `distance` say how the two distributions are measured (`types.py`); with
    `rejection` a checked token stands by the chance min(1, p_L / p_S). `logprobs`: how many of the
    likeliest tokens to name with ln p of each token; None tells neither (`logprobs.py`).
    """

    vocabulary: int
    begin: int
    limit: int
    end_ids: tuple[int, ...] = ()
    suppress: tuple[int, ...] = ()
    begin_suppress: tuple[int, ...] = ()
    forced_begin: int | None = None
    forced_end: tuple[int, ...] = ()
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    min_length: int = 0
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    confidence: str = "max"
    distance: str = "ce"
    rejection: bool = False
    logprobs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Opens a connection."""

    protocol: int
    client: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """Who a worker is. Answer to Hello.

    `kind` is "decoder" or "encoder-decoder". `rules` are the constraints of the model's own
    generation config, with `begin` and `limit` 0 and `vocabulary` the width of its logits.
    `decoder_prompt` are the ids that every decoder sequence starts with (empty for decoder-only).
    `tokenizer` is a fingerprint of the id-to-token table, empty where the model came without one;
    `tokenizer_size` is one past its highest id. `encodes` is true where the text must be tokenised
    by the worker because the family has no fast tokenizer. `max_length` is the capacity of a slot
    and `max_source` of the encoder (0 for decoder-only), tokens. `cores` is how many the process may
    run on, 0 where that is unknown. `batching` says which requests share a pass: "ragged" any of
    them, "groups" those that feed about as much, "single" none.
    """

    protocol: int
    model: str
    architecture: str
    kind: str
    generation: str
    pid: int
    device: str
    dtype: str
    threads: int
    slots: int
    max_length: int
    max_source: int
    tokenizer: str
    tokenizer_size: int
    encodes: bool
    decoder_prompt: tuple[int, ...]
    rules: Rules
    cores: int = 0
    batching: str = "single"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """Heartbeat of the orchestrator. `progress` grows with every message that it handled."""

    count: int
    progress: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    """Answer of the worker's event loop to a Ping, whatever the engine is doing.

    `progress` grows with every pass. `busy_ns` is how long the present pass has run (0 when idle),
    `expected_ns` how long passes of its length usually take (0 while unknown).
    """

    count: int
    progress: int
    busy_ns: int
    expected_ns: int
    open_slots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Asks for a piece of a tokenizer file ("tokenizer.json" or "chat.json")."""

    seq: int
    name: str
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a file of `total` bytes."""

    seq: int
    total: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Encode:
    """Asks a worker of a family without a fast tokenizer for the ids of a text."""

    seq: int
    text: str
    src_lang: str
    tgt_lang: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """`forced_begin` is the id of the target language where the family forces one."""

    seq: int
    ids: tuple[int, ...]
    forced_begin: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """Takes a slot. `ids` is the decoder prompt, prefilled all but its last; `source` goes to the
    encoder. `optional`: a slot that may be refused at once, and taken back for a request that needs
    one. `traceparent`: the trace that the request belongs to, as W3C Trace Context writes it.
    """

    session: int
    epoch: int
    seq: int
    ids: tuple[int, ...]
    source: tuple[int, ...]
    rules: Rules
    optional: bool = False
    traceparent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The slot is granted; encoding and prefill go on behind this answer."""

    session: int
    epoch: int
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What one more drafted token is worth (`policy/outlook.py` says how it is used).

    `reach`: the chance that all tokens before the first one of the draft stand. `soft` and `exact`:
    the chances that a token stands where the small or the large model owns the position, by
    confidence. `blind`: the same for a position of the large model before anything is drafted.
    The draft is needed until the next token's worth falls below `floor`; from then on it runs ahead,
    token by token, behind the needed work of other requests, for `lead` tokens at most and until
    the worth falls below `ahead`. The defaults never stop.
    `run`, `window`, `alpha_fb`, `level`, `product` and `adapt` say whose a position is: they are a
    `policy/rules.py` Ruler that stands before the first token of the draft.
    """

    reach: float = 1.0
    floor: float = 0.0
    ahead: float = 0.0
    lead: int = 0
    run: int = 0
    window: int = 0
    alpha_fb: float = 0.0
    blind: float = 1.0
    soft: tuple[float, ...] = ()
    exact: tuple[float, ...] = ()
    level: float = 1.0
    product: bool = False
    adapt: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Feed `tokens` after the first `at` ids, then write up to `limit` tokens.

    Stops at an end token, at `limit`, with `stops` before a position whose confidence is below the
    outlook's threshold, when one more token is not worth its time (`outlook`), and when a command of a newer
    epoch arrives. With `piece` > 0 every so many tokens are reported at once.
    `others`: how many further candidates to name at each position of the large model.
    """

    session: int
    epoch: int
    seq: int
    at: int
    digest: int
    tokens: tuple[int, ...]
    limit: int
    stops: bool
    piece: int
    outlook: Outlook = Outlook()
    others: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafted:
    """Tokens of a draft, with the confidence at each.

    `low`: the draft stopped because the next position's confidence `low_confidence` is below the
    threshold; `low_token` is the model's own draw there (a guess, not part of `tokens`).
    `others`: for each of the tokens with a confidence below the threshold, as many next best tokens
    as were asked for. `length` is how many ids the KV cache now covers. `shares`: p_S at each of the
    tokens, rows of `shares.py`, where the rules need it at the other worker; empty otherwise.
    `logprobs`, `top_ids`: rows of `logprobs.py`, one for each of the tokens, where the rules ask.
    """

    session: int
    epoch: int
    seq: int
    tokens: tuple[int, ...]
    confidences: tuple[float, ...]
    low: bool
    low_token: int
    low_confidence: float
    final: bool
    length: int
    passes: int
    queue_ns: int
    compute_ns: int
    others: tuple[int, ...] = ()
    shares: bytes = b""
    logprobs: tuple[float, ...] = ()
    top_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verify:
    """Feed `tokens` after the first `at` ids in one pass and check the last `len(exact)` of them.

    A checked token stands if the model would draw it too, or, where `exact` is false, if its
    distance is at most `alpha_rb`. `shares` are the other model's rows for the checked tokens, where
    the rules need them. With `bonus` the model also draws the token after the last one.
    At least one token is fed that is not checked.
    """

    session: int
    epoch: int
    seq: int
    at: int
    digest: int
    tokens: tuple[int, ...]
    exact: tuple[bool, ...]
    alpha_rb: float
    bonus: bool
    shares: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """How many checked tokens stand, and what the model writes after them.

    `token` replaces the first one that does not stand, or is the bonus; -1 where neither applies.
    `distances` has the distance of each checked token up to and with the first that does not stand. The KV
    cache keeps what was accepted: `length` ids. `logprobs`, `top_ids`: rows of `logprobs.py`, where
    the rules ask: one for each accepted token whose `exact` is true, then one for `token`.
    """

    session: int
    epoch: int
    seq: int
    accepted: int
    token: int
    distances: tuple[float, ...]
    length: int
    passes: int
    queue_ns: int
    compute_ns: int
    logprobs: tuple[float, ...] = ()
    top_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Steer:
    """Sets a session's epoch, which ends what runs of older ones, and says whether its draft is
    `needed` now or runs ahead. Has no answer.
    """

    session: int
    epoch: int
    needed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """Gives the slot back. Idempotent, has no answer."""

    session: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A command failed. `session` 0 with `seq` 0 speaks of the whole connection."""

    session: int
    epoch: int
    seq: int
    error: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bye:
    """The sender ends the connection in good order."""

    reason: str


Request: TypeAlias = Hello | Ping | Fetch | Encode | Open | Draft | Verify | Steer | Close | Bye
Reply: TypeAlias = Info | Pong | Chunk | Encoded | Opened | Drafted | Verified | Failed | Bye
Message: TypeAlias = Request | Reply

NESTED: Final = (Rules, Outlook)
"""What stands inside messages and is none itself."""
