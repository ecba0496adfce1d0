"""What a request has told its workers: its commands, numbered, and what each worker holds by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bild_dist.messages import Draft, Open, Rules, Steer, Verify
from bild_dist.policy.events import ToWorker
from bild_dist.policy.line import Line
from bild_dist.policy.schedule import Ask
from bild_dist.types import Options, Role


class Orders:
    """Writes the commands of one request. Owned by its machine.

    `rules`: what each worker is told of them (`rules.told`).
    """

    def __init__(
        self,
        session: int,
        source: Sequence[int],
        rules: Mapping[Role, Rules],
        options: Options,
        line: Line,
    ) -> None:
        self._session = session
        self._source = tuple(source)
        self._rules = rules
        self._options = options
        self._line = line
        self.epoch = 0
        """Grows when ids that a worker was told are taken back."""
        self.held = dict.fromkeys(Role, len(line) - 1)
        """How many ids each worker's KV cache covers, as far as they are sure to be right."""
        self.pending: dict[Role, Open | Draft | Verify] = {}
        """What each worker has not answered yet."""
        self._seq = dict.fromkeys(Role, 0)

    def open(self, role: Role) -> ToWorker:
        return self._send(
            role,
            Open(
                session=self._session, epoch=self.epoch, seq=self._next_seq(role),
                ids=tuple(self._line.prefix.ids), source=self._source, rules=self._rules[role],
                traceparent=self._options.traceparent,
            ),
        )  # fmt: skip

    def draft(self, role: Role, ask: Ask) -> ToWorker:
        """Writes on behind the line."""
        prefix = self._line.prefix
        at = min(self.held[role], len(prefix) - 1)
        return self._send(
            role,
            Draft(
                session=self._session, epoch=self.epoch, seq=self._next_seq(role),
                at=at, digest=prefix.digest(at), tokens=tuple(prefix.ids[at:]),
                limit=ask.limit, stops=ask.stops, piece=ask.piece, outlook=ask.outlook,
                others=ask.others,
            ),
        )  # fmt: skip

    def verify(self, count: int) -> ToWorker:
        """Checks the first `count` guesses; with a bonus where they are all and the next position
        is known to be the large model's.
        """
        line = self._line
        # At least one committed id is fed: its row is the distribution of the first guess.
        at = min(self.held[Role.LARGE], line.sure - 1)
        return self._send(
            Role.LARGE,
            Verify(
                session=self._session, epoch=self.epoch, seq=self._next_seq(Role.LARGE),
                at=at, digest=line.prefix.digest(at),
                tokens=tuple(line.prefix.ids[at : line.sure + count]),
                exact=line.exact(count), shares=line.shares(count),
                alpha_rb=self._options.alpha_rb,
                bonus=count == len(line.guesses) and line.handover is not None,
            ),
        )  # fmt: skip

    def steer(self, *, needed: bool) -> ToWorker:
        """Tells the small worker the epoch, and whether its draft is needed now."""
        steer = Steer(session=self._session, epoch=self.epoch, needed=needed)
        return ToWorker(Role.SMALL, steer)

    def _send(self, role: Role, request: Open | Draft | Verify) -> ToWorker:
        self.pending[role] = request
        return ToWorker(role, request)

    def _next_seq(self, role: Role) -> int:
        self._seq[role] += 1
        return self._seq[role]
