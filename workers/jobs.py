"""What an engine does for one command: generators that say which pass they need next.

A job asks for a pass and is sent what came of it; whose passes run together is not its business.
After each pass it gives the thread back; the engine looks at its inbox and decides who is next. So a
newer command stops a draft between two tokens, and a long prompt cannot starve the other requests.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeAlias

from bild_dist.clock import now_ns
from bild_dist.errors import RemoteProtocolError
from bild_dist.kv.slots import Slot
from bild_dist.logprobs import Logprob, flat
from bild_dist.messages import Draft, Drafted, Open, Reply, Verified, Verify
from bild_dist.model.base import Choice, Model, Pass
from bild_dist.policy.outlook import Draughtsman
from bild_dist.policy.rules import stands
from bild_dist.shares import Shares, needed, read, split

OTHERS_LIMIT = 16
"""Most candidates that a draft names behind its own choice."""

PREFILL_CHUNK = 256
"""Prompt tokens per pass: short enough that a heartbeat's progress counter moves."""

BESIDE_CHUNK = 64
"""The same where others share the pass, or wait for it to end: on a CPU a draft step beside so many
takes some four times as long, beside four times as many it would be fifteen.
"""

Steps: TypeAlias = Generator[Pass | Reply | None, list[Choice], None]
"""A job yields a Pass and is sent what the model says of it; then it yields the reply that is due, or
None.
"""


@dataclass(slots=True)
class Meter:
    """Where the time of a request went since its last reply. Owned by the engine thread.

    A pass that was shared counts in full for each who shared it: all of them waited for all of it.
    So the compute of a worker's requests may add up to more than its time.
    """

    clock: Callable[[], int] = now_ns
    since_ns: int = 0
    compute_ns: int = 0
    passes: int = 0

    def __post_init__(self) -> None:
        self.since_ns = self.clock()

    def read(self) -> dict[str, int]:
        """`passes`, `compute_ns` and `queue_ns` since the last reading; starts anew."""
        now = self.clock()
        queue_ns = max(0, now - self.since_ns - self.compute_ns)
        values = {"passes": self.passes, "compute_ns": self.compute_ns, "queue_ns": queue_ns}
        self.since_ns, self.compute_ns, self.passes = now, 0, 0
        return values


def prefill(
    model: Model, slot: Slot, command: Open, room: Callable[[], int], meter: Meter
) -> Steps:
    """Encodes the source and fills the cache with the decoder prompt but for its last id.

    `room`: how many tokens the next pass may feed, asked before each.
    """
    started = meter.clock()
    model.open(slot.index, command.source, command.rules)
    meter.compute_ns += meter.clock() - started
    yield None
    at, last = 0, len(command.ids) - 1
    while at < last:
        end = min(at + room(), last)
        slot.prefix.extend(command.ids[at:end])
        yield Pass(slot.index, at, slot.prefix.ids, rows=0)
        at = end
        meter.passes = 0  # a pass, in our figures, is one that decides about a token
        yield None


def draft(slot: Slot, command: Draft, meter: Meter) -> Steps:
    """Writes tokens until a hand-over, an end token or the limit, or until that is not worth it."""
    _rewind(slot, command)
    prefix, rules = slot.prefix, slot.rules
    if command.limit < 1 or len(prefix) + len(command.tokens) + command.limit > rules.limit:
        raise RemoteProtocolError(f"a draft of {command.limit} tokens leaves the text's bounds")
    if not 0 <= command.others <= OTHERS_LIMIT:
        raise RemoteProtocolError(f"a draft names up to {OTHERS_LIMIT} other candidates")
    at = len(prefix)
    prefix.extend(command.tokens)
    tokens: list[int] = []
    confidences: list[float] = []
    others: list[int] = []
    rows: list[bytes] = []
    told: list[Logprob | None] = []
    written = 0
    hand = Draughtsman(command.outlook)
    ahead = not hand.needed
    shared = needed(rules)
    while True:
        (choice,) = yield Pass(
            slot.index, at, prefix.ids, rows=1, others=command.others, shares=shared
        )
        at = len(prefix)
        sure = hand.ruler.measure(choice.confidence)
        unsure = hand.ruler.low(sure)
        low = command.stops and unsure
        if not low:
            written += 1
            tokens.append(choice.token)
            confidences.append(sure)
            rows.append(choice.shares)
            told.append(choice.logprob)
            hand.wrote(sure)
            if unsure:
                others += choice.others[: command.others]
        final = low or written == command.limit or choice.token in rules.end_ids or hand.over
        if not (ahead or hand.needed):
            slot.needed, ahead = False, True
        if final or ahead or len(tokens) == command.piece:
            numbers, ids = flat(told)
            yield Drafted(
                session=command.session, epoch=command.epoch, seq=command.seq,
                tokens=tuple(tokens), confidences=tuple(confidences),
                low=low, low_token=choice.token if low else -1,
                low_confidence=sure if low else 0.0,
                final=final, length=at, others=tuple(others), shares=b"".join(rows),
                logprobs=numbers, top_ids=ids, **meter.read(),
            )  # fmt: skip
            tokens, confidences, others, rows, told = [], [], [], [], []
        else:
            yield None
        if final:
            return
        prefix.extend((choice.token,))


def verify(slot: Slot, command: Verify, meter: Meter) -> Steps:
    """Checks proposed tokens in one pass and keeps the KV of those that stand."""
    _rewind(slot, command)
    prefix, count = slot.prefix, len(command.exact)
    at = len(prefix)
    context = at + len(command.tokens) - count
    if context + count + command.bonus > slot.rules.limit:
        raise RemoteProtocolError("a check leaves the text's bounds")
    if len(command.tokens) <= count or not (count or command.bonus):
        raise RemoteProtocolError("a check must feed a committed id and ask for something")
    against: tuple[Shares, ...] = ()
    if needed(slot.rules):
        rows = split(command.shares, count)
        against = tuple(read(row, slot.rules.vocabulary) for row in rows)
    # Without a bonus nothing is read off the last token's row, so it is not worth feeding.
    prefix.extend(command.tokens if command.bonus else command.tokens[:-1])
    checked = command.tokens[len(command.tokens) - count :]
    choices = yield Pass(
        slot.index, at, prefix.ids, rows=count + command.bonus, judge=checked, against=against
    )
    accepted = 0
    for token, exact, choice in zip(checked, command.exact, choices, strict=False):
        if not stands(choice.token == token, exact, choice.distance, command.alpha_rb):
            break
        accepted += 1
    writes = accepted < count or command.bonus
    # Of what it decides; the other model has told of its own.
    own = [choices[i].logprob for i in range(accepted) if command.exact[i]]
    own += [choices[accepted].logprob] if writes else []
    numbers, ids = flat(own)
    prefix.cut(min(len(prefix), context + accepted))
    yield Verified(
        session=command.session, epoch=command.epoch, seq=command.seq, accepted=accepted,
        token=choices[accepted].token if writes else -1,
        distances=tuple(c.distance for c in choices[: min(accepted + 1, count)]),
        length=len(prefix), logprobs=numbers, top_ids=ids, **meter.read(),
    )  # fmt: skip


def _rewind(slot: Slot, command: Draft | Verify) -> None:
    """Sets the slot to the length that the command builds on; nothing is changed if it cannot."""
    if not command.tokens or not all(0 <= t < slot.rules.vocabulary for t in command.tokens):
        raise RemoteProtocolError("a command must feed at least one token of the vocabulary")
    slot.rewind(command.at, command.digest)
