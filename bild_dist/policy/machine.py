"""The decoder of one request as a pure state machine: events in, commands out.

Who owns which range of the request's ids:

    0           begin            sure                                 len(line)
    |  prompt   |   committed    |  being checked  |  drafted ahead   |  free ...
    |           |  given out,    |  guesses, each with its owner:     |
    |           |  never changes |  `small` is checked softly,        |
    |           |                |  `fallback`, `window` exactly      |
    |--- held[small] ------------------------->|    what each worker's KV cache covers, never past
    |--- held[large] ----------->|                  the first id on which it may be wrong

Theory of operation. The text is defined position by position (`rules.py`); *when* a model runs is
free. The machine keeps one line of ids (`line.py`): what is committed, and behind it the small
model's guesses. Three things happen to the line: a Drafted appends guesses; a Verified turns the
first of them into text and, where the large model objects or owns the next position, writes one
token of its own and, unless it was guessed, cuts what is behind; a commit tests whether the text
has ended. After each, `_work` asks the schedule (`schedule.py`) what to send next. All schedules
append to the same line and check the same guesses, so they write the same text.

Every command names the length `at` that it builds on and the digest of those ids; a worker sets its
slot to it. So rollback is nothing but a smaller `at` in the next command. The epoch grows when ids
that a worker was told are taken back, which ends a draft that runs; an answer of an older epoch is
dropped.

An illegal event raises and changes nothing: RemoteProtocolError where a worker's answer breaks the
contract, LocalProtocolError where the driver does. After Finish every event is ignored, since
answers may cross a Close on the way.
"""

from __future__ import annotations

from collections.abc import Sequence

from bild_dist.errors import BildError, LocalProtocolError, RemoteProtocolError
from bild_dist.logprobs import Logprob, rows_of
from bild_dist.messages import (
    Close,
    Draft,
    Drafted,
    Open,
    Opened,
    Rules,
    Verified,
    Verify,
)
from bild_dist.policy.books import Books
from bild_dist.policy.contract import check_drafted, check_verified, verified_rows
from bild_dist.policy.events import (
    Cancelled,
    Command,
    Event,
    Failed,
    Finish,
    ToWorker,
)
from bild_dist.policy.forecast import Costs, Forecast
from bild_dist.policy.line import Line, Stops
from bild_dist.policy.orders import Orders
from bild_dist.policy.outlook import Draughtsman
from bild_dist.policy.rules import told
from bild_dist.policy.schedule import Ask, schedule_of
from bild_dist.policy.spare import Spares
from bild_dist.types import FinishReason, Mode, Options, Role, Source


class Machine:
    """One request. Owned by its session: nobody else calls it.

    `ids` is the decoder prompt (at least one id), `source` the encoder's input (empty for
    decoder-only models); `rules.begin` and `rules.limit` bound the text. `forecast` may be shared
    with other requests of the same pair and setting.
    """

    def __init__(
        self,
        session: int,
        ids: Sequence[int],
        source: Sequence[int],
        rules: Rules,
        options: Options,
        stops: Stops | None = None,
        forecast: Forecast | None = None,
    ) -> None:
        if not ids or rules.begin != len(ids) or rules.limit <= rules.begin:
            raise LocalProtocolError(
                f"rules [{rules.begin}, {rules.limit}) do not fit {len(ids)} prompt ids"
            )
        self._session = session
        self._rules = {role: told(rules, options, role) for role in Role}
        self._options = options
        self._stops = stops
        # Every request takes its slots in this order, so two of them never hold one each for ever.
        both = (Role.LARGE, Role.SMALL)
        self.roles = {Mode.LARGE: both[:1], Mode.SMALL: both[1:]}.get(options.mode, both)
        self._line = Line(ids, self._rules[Role.SMALL], options)
        self._orders = Orders(session, source, self._rules, options, self._line)
        self._held = self._orders.held
        self._pending = self._orders.pending
        forecast = forecast if forecast is not None else Forecast(Costs(), options)
        self._schedule = schedule_of(options, forecast)
        self.books = Books(rules, stops, forecast)
        self._needed = True
        """Whether the small worker takes its draft as needed, and not as running ahead."""
        self._ahead = False
        """Whether the draft that runs has passed the point up to which it was needed."""
        self._stale = False
        """Whether the small worker runs a draft that was taken back."""
        self._opened: list[Role] = []
        spares = self._schedule.spares if len(self.roles) == 2 else 0
        self._spares = Spares(
            spares, session, self._rules[Role.SMALL], self.books, self._schedule.aside
        )
        self.sessions = [session, *self._spares.sessions]
        """Numbers that answers to this request may carry: its own, and those of its spare slots."""
        self._done = False

    def __repr__(self) -> str:
        return (
            f"<Machine {self._session} epoch={self._orders.epoch} committed={len(self.books.tokens)} "
            f"guesses={len(self._line.guesses)} pending={[r.value for r in self._pending]} "
            f"done={self._done}>"
        )

    @property
    def done(self) -> bool:
        return self._done

    def start(self) -> list[Command]:
        """The first command. Called once."""
        if self._opened:
            raise LocalProtocolError("the machine has been started before")
        return [self._open()]

    def handle(self, event: Event) -> list[Command]:
        """Takes one event; returns what to do, in order.

        Raises:
            RemoteProtocolError: a worker's answer breaks the contract.
            LocalProtocolError: the answer is to no command of this request.
        """
        if self._done:
            return []
        if isinstance(event, Failed) and self._spares.lost(event.session):
            return []
        if isinstance(event, Failed | Cancelled):
            return self._finish(None, event.error)
        role, reply = event.role, event.reply
        if reply.session != self._session:
            self._spares.take(reply)
            return []
        if reply.epoch < self._orders.epoch:
            self.books.drop(role, reply)
            return []
        pending = self._pending.get(role)
        if pending is None or (reply.session, reply.epoch, reply.seq) != (
            self._session,
            pending.epoch,
            pending.seq,
        ):
            raise LocalProtocolError(f"{self!r} does not wait for {reply!r} from the {role} model")
        if isinstance(pending, Open) and isinstance(reply, Opened):
            return self._on_opened(role, pending)
        if isinstance(pending, Draft) and isinstance(reply, Drafted):
            check_drafted(pending, reply, self._line, self._rules[role])
            self.books.measure(event, pending)
            self._schedule.heard(role, event.at_ns)
            return self._on_drafted(role, pending, reply)
        if isinstance(pending, Verify) and isinstance(reply, Verified):
            check_verified(pending, reply, self._rules[role])
            self.books.measure(event, pending)
            self._schedule.heard(role, event.at_ns)
            return self._on_verified(pending, reply)
        raise RemoteProtocolError(
            f"{type(reply).__name__} is no answer to {type(pending).__name__}"
        )

    # What the workers say.

    def _on_opened(self, role: Role, asked: Open) -> list[Command]:
        del self._pending[role]
        if len(self._opened) < len(self.roles):
            return [self._open()]
        return [*self._work(), *self._spares.open(asked)]

    def _on_drafted(self, role: Role, asked: Draft, reply: Drafted) -> list[Command]:
        self._held[role] = reply.length
        if reply.final:
            del self._pending[role]
        if role is Role.LARGE or len(self.roles) == 1:
            return self._write_alone(role, reply)
        if not reply.final and not self._ahead:
            # The first report of a draft that goes on: the worker takes it as needed no longer.
            self._ahead, self._needed = True, False
        self.books.trace.drafted += len(reply.tokens)
        self._line.draft(asked, reply)
        if Role.LARGE not in self._pending:
            self._schedule.drafted(reply.passes, asked=reply.final)
        if self._options.mode is Mode.BILD and not self._options.verify_tail:
            stop = self._stops.ahead(reply.tokens) if self._stops is not None else None
            if self._line.ended or stop is not None:
                return self._accept_tail(len(reply.tokens) if stop is None else stop + 1)
        if reply.low:
            self._line.declare(reply.low_confidence, reply.low_token)
        return self._work()

    def _on_verified(self, asked: Verify, reply: Verified) -> list[Command]:
        del self._pending[Role.LARGE]
        self._held[Role.LARGE] = reply.length
        line, before = self._line, len(self.books.tokens)
        logprobs = iter(verified_rows(asked, reply, self._rules[Role.LARGE]))
        for own, distance in zip(asked.exact, reply.distances[: reply.accepted], strict=False):
            guess = line.commit()
            logprob = next(logprobs) if own else guess.logprob
            self.books.judge(guess.confidence, exact=guess.owner is not Source.SMALL, stood=True)
            reason = self.books.commit(
                guess.token, guess.owner, guess.confidence, distance, logprob
            )
            if reason is not None:
                return [self.books.emit(), *self._finish(reason, None)]
        if reply.accepted < len(asked.exact):
            guess = line.guesses[0]
            exact = guess.owner is not Source.SMALL
            self.books.judge(guess.confidence, exact=exact, stood=False)
            source = guess.owner if exact else Source.ROLLBACK
            reason = self._replace(
                reply.token, source, guess.confidence, reply.distances[reply.accepted],
                next(logprobs),
            )  # fmt: skip
        elif asked.bonus:
            reason = self._take_bonus(reply.token, next(logprobs))
        else:
            reason = None
        if reason is not None:
            return [self.books.emit(), *self._finish(reason, None)]
        self._schedule.checked(len(self.books.tokens) - before, len(asked.tokens))
        # The last committed token may stand where a spare slot holds another one.
        spares = self._spares.drop(line.sure - 1)
        return [self.books.emit(), *spares, *self._work()]

    def _take_bonus(self, token: int, logprob: Logprob | None) -> FinishReason | None:
        """The large model's own token behind all that was checked: its position was known to be its
        own.
        """
        line = self._line
        if not line.guesses:
            handover = line.handover
            if handover is None:
                raise LocalProtocolError(f"{self!r}: a bonus for a position of the small model")
            if handover.token is not None and handover.confidence is not None:
                self.books.judge(handover.confidence, exact=True, stood=handover.token == token)
            return self._replace(token, handover.source, handover.confidence, None, logprob)
        guess = line.guesses[0]
        self.books.judge(guess.confidence, exact=True, stood=guess.token == token)
        if guess.token != token:
            return self._replace(token, guess.owner, guess.confidence, None, logprob)
        line.commit()
        return self.books.commit(token, guess.owner, guess.confidence, None, logprob)

    def _replace(
        self,
        token: int,
        source: Source,
        confidence: float | None,
        distance: float | None,
        logprob: Logprob | None,
    ) -> FinishReason | None:
        """The large model writes a token of its own where the line goes on; what was guessed from
        there on goes.
        """
        line = self._line
        if line.guesses or Role.SMALL in self._pending:
            # Ids that the small worker holds, or is about to write, are taken back.
            self._orders.epoch += 1
            self._stale = self._pending.pop(Role.SMALL, None) is not None
        self.books.trace.wasted += len(line.guesses)
        root = line.sure
        self._held[Role.SMALL] = min(self._held[Role.SMALL], root)
        line.write(token, source, confidence)
        reason = self.books.commit(token, source, confidence, distance, logprob)
        if reason is None:
            self._spares.adopt(line, root, token)
        return reason

    def _write_alone(self, role: Role, reply: Drafted) -> list[Command]:
        """What a model writes that nobody checks is text at once: modes `large` and `small`, and
        `exact` while guessing does not pay.
        """
        mode = self._options.mode
        source = {Mode.LARGE: Source.LARGE, Mode.SMALL: Source.SMALL}.get(mode, Source.FALLBACK)
        rows = rows_of(reply, len(reply.tokens), self._rules[role])
        for token, confidence, logprob in zip(reply.tokens, reply.confidences, rows, strict=True):
            self._line.write(token, source)
            sure = None if source is Source.FALLBACK else confidence
            reason = self.books.commit(token, source, sure, None, logprob)
            if reason is not None:
                return [self.books.emit(), *self._finish(reason, None)]
        return [self.books.emit(), *(self._work() if reply.final else ())]

    def _accept_tail(self, count: int) -> list[Command]:
        """`verify_tail = False`: a final run of small tokens is text unchecked (Algorithm 1 as
        printed).
        """
        reason = None
        for _ in range(count):
            guess = self._line.commit()
            reason = self.books.commit(
                guess.token, guess.owner, guess.confidence, None, guess.logprob
            )
        return [self.books.emit(), *self._finish(reason, None)]

    # What to ask for next.

    def _work(self) -> list[Command]:
        """Sends what the schedule wants of a worker that is free."""
        if len(self.roles) == 1:
            return [self._draft(self.roles[0], Ask(self._line.room, False, 1))]
        out: list[Command] = []
        schedule, line = self._schedule, self._line
        drafting = Role.SMALL in self._pending
        if Role.LARGE not in self._pending:
            alone = schedule.alone(line, drafting=drafting)
            if alone > 0:
                out.append(self._draft(Role.LARGE, Ask(min(alone, line.room), False, 1)))
                out += [self._orders.steer(needed=self._needed)] if self._stale else []
                self._stale = False
                return out
            count = schedule.due(line, drafting=drafting)
            if count is not None:
                out.append(self._orders.verify(count))
                out += self._spares.follow(line, count)
        checking = Role.LARGE in self._pending
        if not drafting:
            ask = schedule.wish(line, checking=checking)
            if ask is not None:
                out.append(self._draft(Role.SMALL, ask))
        elif self._needed is checking:
            # A running draft is needed exactly while no check is under way.
            self._needed = not checking
            out.append(self._orders.steer(needed=self._needed))
        if self._stale and Role.SMALL not in self._pending:
            out.append(self._orders.steer(needed=self._needed))
        self._stale = False
        if not self._pending:
            raise LocalProtocolError(f"{self!r}: the schedule leaves both workers idle")
        return out

    def _open(self) -> ToWorker:
        """The next slot."""
        role = self.roles[len(self._opened)]
        self._opened.append(role)
        return self._orders.open(role)

    def _draft(self, role: Role, ask: Ask) -> ToWorker:
        if role is Role.SMALL:
            self._needed = Draughtsman(ask.outlook).needed
            self._ahead = not self._needed
        return self._orders.draft(role, ask)

    def _finish(self, reason: FinishReason | None, error: BildError | None) -> list[Command]:
        self._done = True
        self.books.trace.wasted += len(self._line.guesses)
        closes = [ToWorker(role, Close(session=self._session)) for role in self._opened]
        spares = self._spares.close() if len(self._opened) == 2 else []
        return [*closes, *spares, Finish(reason, error)]
