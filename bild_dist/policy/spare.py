"""A second guess at a hand-over: a slot of the small worker that follows another token.

While the large model decides what stands at a position of its own, the small one drafts on behind
its best guess. Where that guess is wrong, all of it is lost, unless another slot has drafted behind
the token that the large model wrote.

    line:   committed | ... g | drafted behind g
    spare:  committed | ... h | drafted behind h      h: the next best token at g's position

A spare is never waited for: its slot is granted only where one is free, it may be taken back for a
request that needs one, and its request goes on without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bild_dist.errors import LocalProtocolError, RemoteProtocolError
from bild_dist.kv.prefix import Prefix
from bild_dist.logprobs import Logprob
from bild_dist.logprobs import rows_of as logprobs_of
from bild_dist.messages import (
    Close,
    Draft,
    Drafted,
    Open,
    Opened,
    Outlook,
    Rules,
    Steer,
    Verified,
)
from bild_dist.policy.books import Books
from bild_dist.policy.contract import check_drafted
from bild_dist.policy.events import Command, ToWorker
from bild_dist.policy.line import Line
from bild_dist.policy.rules import Ruler
from bild_dist.shares import rows_of
from bild_dist.types import Role


class Spare:
    """One such slot. Owned by its machine."""

    def __init__(self, session: int, rules: Rules) -> None:
        self.session = session
        self.confidences: list[float] = []
        self.shares: list[bytes] = []
        """The small model's rows of probabilities, one a token, or empty ones."""
        self.logprobs: list[Logprob | None] = []
        """Its log-probabilities, one row a token, or None."""
        self.ruler = Ruler.of(Outlook())
        self._rules = rules
        self._epoch = 0
        self._seq = 0
        self._held = 0
        self._ready = False
        self._root = -1
        self.prefix = Prefix()
        self._pending: Draft | None = None

    def open(self, first: Open) -> Open:
        """Asks for the slot, as `first` asked for the request's own."""
        self._seq, self._held = 1, len(first.ids) - 1
        return replace(first, session=self.session, epoch=0, seq=1, optional=True)

    def lose(self) -> None:
        """The slot was refused or taken back: the request goes on without it."""
        self._ready, self._pending = False, None
        self._forget()

    def close(self) -> Close:
        return Close(session=self.session)

    @property
    def tokens(self) -> list[int]:
        """What was drafted behind the other token."""
        return self.prefix.ids[self._root + 1 :] if self._root >= 0 else []

    def follow(self, line: Prefix, root: int, token: int, outlook: Outlook) -> Draft | None:
        """Drafts behind `token` in place of the id at `root`. None where that cannot be: no slot
        yet, or the text ends there.
        """
        limit = self._rules.limit - root - 1
        if not self._ready or limit < 1 or token in self._rules.end_ids:
            return None
        self._epoch += self._pending is not None
        self._seq += 1
        self._forget()
        self._root, self._held = root, min(self._held, root)
        self.prefix = Prefix((*line.ids[:root], token))
        self.ruler = Ruler.of(outlook)
        self._pending = Draft(
            session=self.session, epoch=self._epoch, seq=self._seq, at=self._held,
            digest=self.prefix.digest(self._held), tokens=tuple(self.prefix.ids[self._held :]),
            limit=min(limit, max(outlook.lead, 1)), stops=False, piece=0, outlook=outlook,
        )  # fmt: skip
        return self._pending

    def take(self, reply: Opened | Drafted) -> bool:
        """An answer to this slot's session. Returns whether it still matters.

        Raises:
            RemoteProtocolError: it breaks the contract.
        """
        if isinstance(reply, Opened):
            self._ready = True
            return False
        pending = self._pending
        if reply.epoch < self._epoch or pending is None:
            return False
        if reply.seq != pending.seq:
            raise RemoteProtocolError("a spare slot answers what it was not asked")
        check_drafted(pending, reply, self, self._rules)
        for _, _, ruler in self.ruler.along(reply.confidences):
            self.ruler = ruler
        self.prefix.extend(reply.tokens)
        self.shares += rows_of(reply.shares, len(reply.tokens))
        self.logprobs += logprobs_of(reply, len(reply.tokens), self._rules)
        self.confidences += reply.confidences
        self._held = max(self._held, min(reply.length, self._root))
        if reply.final:
            self._pending = None
        return True

    def grew(self, root: int, token: int) -> bool:
        """Whether this slot has drafted behind `token` at `root`."""
        return self._root == root and self.prefix.ids[root] == token and bool(self.confidences)

    def drop(self, sure: int) -> Steer | None:
        """Forgets what was drafted; of the text, `sure` ids are certain. Stops a draft that
        runs.
        """
        self._held = min(self._held, sure)
        self._forget()
        if self._pending is None:
            return None
        self._pending = None
        self._epoch += 1
        return Steer(session=self.session, epoch=self._epoch, needed=False)

    def _forget(self) -> None:
        self._root, self.confidences, self.shares, self.logprobs = -1, [], [], []


class Spares:
    """All spare slots of one request. Owned by its machine. `aside` says how far they shall draft."""

    def __init__(
        self,
        count: int,
        session: int,
        rules: Rules,
        books: Books,
        aside: Callable[[Ruler], Outlook],
    ) -> None:
        self._all = [Spare(session + 1 + i, rules) for i in range(count)]
        self._books = books
        self._aside = aside

    @property
    def sessions(self) -> list[int]:
        return [spare.session for spare in self._all]

    def open(self, first: Open) -> list[Command]:
        """Asks for the slots, as `first` asked the small worker for the request's own."""
        return [_to_small(spare.open(first)) for spare in self._all]

    def close(self) -> list[Command]:
        """Gives them back."""
        self._books.trace.wasted += sum(len(spare.confidences) for spare in self._all)
        return [_to_small(spare.close()) for spare in self._all]

    def take(self, reply: Opened | Drafted | Verified) -> None:
        """An answer to one of their sessions.

        Raises:
            LocalProtocolError: it is none of theirs.
            RemoteProtocolError: it breaks the contract.
        """
        spare = next((s for s in self._all if s.session == reply.session), None)
        if spare is None or isinstance(reply, Verified):
            raise LocalProtocolError(f"nobody waits for {reply!r}")
        matters = spare.take(reply)
        if isinstance(reply, Drafted):
            self._books.drafted_aside(reply, wasted=not matters)

    def lost(self, session: int) -> bool:
        """Whether an error speaks of one of them; that one is retired."""
        spare = next((s for s in self._all if s.session == session), None)
        if spare is not None:
            self._books.trace.wasted += len(spare.confidences)
            spare.lose()
        return spare is not None

    def follow(self, line: Line, count: int) -> list[Command]:
        """Follows the other candidates at the first hand-over among the `count` guesses that are
        being checked.
        """
        checked = enumerate(line.guesses[:count], start=line.sure)
        root, guess = next(((i, g) for i, g in checked if g.others), (0, None))
        if guess is None:
            return []
        outlook = self._aside(guess.ruler)
        drafts = [
            spare.follow(line.prefix, root, other, outlook)
            for spare, other in zip(self._all, guess.others, strict=False)
        ]
        return [_to_small(draft) for draft in drafts if draft is not None]

    def adopt(self, line: Line, root: int, token: int) -> None:
        """The large model has written `token` at `root`: what was drafted behind it goes on the
        line.
        """
        spare = next((s for s in self._all if s.grew(root, token)), None)
        if spare is not None:
            outlook = self._aside(line.ruler)
            line.guess(spare.tokens, spare.confidences, outlook, spare.shares, spare.logprobs)
            self._books.trace.wasted -= len(spare.confidences)

    def drop(self, sure: int) -> list[Command]:
        """What stands at the hand-over is known: what was drafted aside is on the line or lost."""
        self._books.trace.wasted += sum(len(spare.confidences) for spare in self._all)
        steers = [spare.drop(sure) for spare in self._all]
        return [_to_small(steer) for steer in steers if steer is not None]


def _to_small(request: Open | Draft | Steer | Close) -> ToWorker:
    return ToWorker(Role.SMALL, request)
