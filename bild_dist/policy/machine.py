"""The decoder of one request as a pure state machine: events in, commands out.

Who owns which range of the request's ids:

    0           begin            sure                                 len(prefix)
    |  prompt   |   committed    |  drafted, unchecked | drafted ahead |  free ...
    |           |  given out,    |  guesses[...]: each with its owner  |
    |           |  never changes |  `small`: checked softly            |
    |           |                |  `fallback`, `window`: exactly      |
    |--- held[small] ------------------------->|    what each worker's KV cache covers, never past
    |--- held[large] ----------->|                  the first id on which it may be wrong

Theory of operation. The text is defined position by position (`rules.py`); *when* a model runs is
free. The machine keeps one line of ids: what is committed, and behind it the small model's guesses.
Three things happen to the line: a Drafted appends guesses; a Verified turns the first of them into
text and, where the large model objects or owns the next position, writes one token of its own and
cuts what is behind; a commit tests whether the text has ended. After each, `_work` says what to ask
for next. That one method is the schedule. Under `paper` at most one command is under way, so
nothing is ever drafted ahead; a schedule that runs further ahead appends to the same line and
checks the same guesses.

Every command names the length `at` that it builds on and the digest of those ids; a worker sets its
slot to it. So rollback is nothing but a smaller `at` in the next command. The epoch grows when ids
that a worker was told are taken back; an answer of an older epoch is dropped.

An illegal event raises and changes nothing: RemoteProtocolError where a worker's answer breaks the
contract, LocalProtocolError where the driver does. After Finish every event is ignored, since
answers may cross a Close on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from bild_dist.errors import BildError, LocalProtocolError, RemoteProtocolError
from bild_dist.kv.prefix import Prefix
from bild_dist.messages import Close, Draft, Drafted, Open, Opened, Rules, Verified, Verify
from bild_dist.policy.contract import check_drafted, check_verified
from bild_dist.policy.events import (
    Cancelled,
    Command,
    Emit,
    Event,
    Failed,
    Finish,
    Token,
    ToWorker,
)
from bild_dist.policy.line import Guess, Handover, Stops, Written
from bild_dist.policy.rules import next_run, owner
from bild_dist.types import FinishReason, Mode, Options, Role, Source, Trace


class Machine:
    """One request. Owned by its session: nobody else calls it.

    `ids` is the decoder prompt (at least one id), `source` the encoder's input (empty for
    decoder-only models); `rules.begin` and `rules.limit` bound the text.
    """

    def __init__(
        self,
        session: int,
        ids: Sequence[int],
        source: Sequence[int],
        rules: Rules,
        options: Options,
        stops: Stops | None = None,
    ) -> None:
        if not ids or rules.begin != len(ids) or rules.limit <= rules.begin:
            raise LocalProtocolError(
                f"rules [{rules.begin}, {rules.limit}) do not fit {len(ids)} prompt ids"
            )
        self.trace = Trace()
        self.tokens: list[int] = []
        self.sources: list[Source] = []
        self._session = session
        self._source = tuple(source)
        self._rules = rules
        self._options = options
        self._stops = stops
        self._alpha_fb = inf if options.mode is Mode.EXACT else options.alpha_fb
        self._roles = {
            Mode.LARGE: (Role.LARGE,),
            Mode.SMALL: (Role.SMALL,),
            # Every request takes its slots in this order, so two of them never hold one each for
            # ever.
            Mode.BILD: (Role.LARGE, Role.SMALL),
            Mode.EXACT: (Role.LARGE, Role.SMALL),
        }[options.mode]
        self._prefix = Prefix(ids)
        self._guesses: list[Guess] = []
        self._handover: Handover | None = None
        self._run = 0
        self._epoch = 0
        self._seq = dict.fromkeys(Role, 0)
        self._held = dict.fromkeys(Role, len(ids) - 1)
        self._pending: dict[Role, Open | Draft | Verify] = {}
        self._opened: list[Role] = []
        self._done = False

    def __repr__(self) -> str:
        return (
            f"<Machine {self._session} epoch={self._epoch} committed={len(self.tokens)} "
            f"guesses={len(self._guesses)} pending={[r.value for r in self._pending]} done={self._done}>"
        )

    @property
    def done(self) -> bool:
        return self._done

    def start(self) -> list[Command]:
        """The first command. Called once."""
        if self._opened:
            raise LocalProtocolError("the machine has been started before")
        return [self._open(self._roles[0])]

    def handle(self, event: Event) -> list[Command]:
        """Takes one event; returns what to do, in order.

        Raises:
            RemoteProtocolError: a worker's answer breaks the contract.
            LocalProtocolError: the answer is to no command of this request.
        """
        if self._done:
            return []
        if isinstance(event, Failed | Cancelled):
            return self._finish(None, event.error)
        role, reply = event.role, event.reply
        if reply.epoch < self._epoch:
            return self._drop(role, reply)
        pending = self._pending.get(role)
        if pending is None or (reply.session, reply.epoch, reply.seq) != (
            self._session,
            pending.epoch,
            pending.seq,
        ):
            raise LocalProtocolError(f"{self!r} does not wait for {reply!r} from the {role} model")
        if isinstance(pending, Open) and isinstance(reply, Opened):
            return self._on_opened(role)
        if isinstance(pending, Draft) and isinstance(reply, Drafted):
            check_drafted(pending, reply, self._prefix, self._rules)
            return self._on_drafted(role, reply)
        if isinstance(pending, Verify) and isinstance(reply, Verified):
            check_verified(pending, reply, self._rules)
            return self._on_verified(role, reply)
        raise RemoteProtocolError(
            f"{type(reply).__name__} is no answer to {type(pending).__name__}"
        )

    # What the workers say.

    def _on_opened(self, role: Role) -> list[Command]:
        del self._pending[role]
        if len(self._opened) < len(self._roles):
            return [self._open(self._roles[len(self._opened)])]
        return self._work()

    def _on_drafted(self, role: Role, reply: Drafted) -> list[Command]:
        self._count_passes(role, reply.passes)
        self._held[role] = reply.length
        if reply.final:
            del self._pending[role]
        if len(self._roles) == 1:
            return self._write_alone(reply)
        self.trace.drafted += len(reply.tokens)
        run = self._run
        for token, confidence in zip(reply.tokens, reply.confidences, strict=True):
            whose = owner(run, self._options.window, confidence, self._alpha_fb)
            self._guesses.append(Guess(token, confidence, whose))
            run = next_run(run, whose)
        self._prefix.extend(reply.tokens)
        ends = self._ends(reply.tokens)
        if self._options.mode is Mode.BILD and not self._options.verify_tail:
            stop = self._stops.ahead(reply.tokens) if self._stops is not None else None
            if ends or stop is not None:
                return self._accept_tail(len(reply.tokens) if stop is None else stop + 1)
        if ends:
            self._handover = None
        elif reply.low:
            self._handover = Handover(Source.FALLBACK, reply.low_confidence)
        else:
            # The draft filled its limit: behind a full window, and anywhere in mode `exact`, the
            # owner is known without p_S.
            self._handover = Handover(owner(run, self._options.window, -inf, inf), None)
        return [self._verify()]

    def _on_verified(self, role: Role, reply: Verified) -> list[Command]:
        del self._pending[role]
        self._count_passes(role, reply.passes)
        self._held[role] = reply.length
        guesses, handover = self._guesses, self._handover
        self._guesses, self._handover = [], None
        out: list[Token] = []
        for i, guess in enumerate(guesses[: reply.accepted]):
            reason = self._commit(
                out, guess.token, guess.owner, guess.confidence, reply.distances[i]
            )
            if reason is not None:
                self.trace.wasted += len(guesses) - i - 1
                return [Emit(tuple(out)), *self._finish(reason, None)]
        if reply.accepted < len(guesses):
            guess = guesses[reply.accepted]
            self.trace.wasted += len(guesses) - reply.accepted
            self._epoch += 1
            whose = Source.ROLLBACK if guess.owner is Source.SMALL else guess.owner
            written = Written(whose, guess.confidence, reply.distances[reply.accepted])
        elif handover is not None:
            written = Written(handover.source, handover.confidence, None)
        else:
            raise LocalProtocolError(f"{self!r}: a checked text neither ended nor went on")
        sure = self._sure
        self._prefix.cut(sure)
        self._prefix.extend([reply.token])
        self._held[Role.SMALL] = min(self._held[Role.SMALL], sure)
        reason = self._commit(
            out, reply.token, written.source, written.confidence, written.distance
        )
        if reason is not None:
            return [Emit(tuple(out)), *self._finish(reason, None)]
        return [Emit(tuple(out)), *self._work()]

    def _write_alone(self, reply: Drafted) -> list[Command]:
        """Modes `large` and `small`: what the one model writes is text at once."""
        source = Source.LARGE if self._options.mode is Mode.LARGE else Source.SMALL
        out: list[Token] = []
        self._prefix.extend(reply.tokens)
        for token, confidence in zip(reply.tokens, reply.confidences, strict=True):
            reason = self._commit(out, token, source, confidence, None)
            if reason is not None:
                return [Emit(tuple(out)), *self._finish(reason, None)]
        return [Emit(tuple(out))]

    def _accept_tail(self, count: int) -> list[Command]:
        """`verify_tail = False`: a final run of small tokens is text unchecked (Algorithm 1 as
        printed).
        """
        out: list[Token] = []
        self.trace.wasted += len(self._guesses) - count
        reason = None
        for guess in self._guesses[:count]:
            reason = self._commit(out, guess.token, guess.owner, guess.confidence, None)
        return [Emit(tuple(out)), *self._finish(reason, None)]

    # What to ask for next.

    def _work(self) -> list[Command]:
        """The schedule `paper`: draft to the hand-over, check, and so on; nothing runs ahead."""
        if len(self._roles) == 1:
            return [self._draft(self._roles[0], self._remaining, 0.0, piece=1)]
        options = self._options
        if not self.tokens and options.first is Role.LARGE:
            self._handover = Handover(Source.FALLBACK, None)
            return [self._verify()]
        if options.mode is Mode.EXACT:
            # The large model owns every position and always adds one token of its own, so the last
            # is not worth guessing.
            limit = min(options.window, self._remaining - 1)
            if limit == 0:
                self._handover = Handover(Source.FALLBACK, None)
                return [self._verify()]
            return [self._draft(Role.SMALL, limit, 0.0, piece=0)]
        if self._run == options.window:
            self._handover = Handover(Source.WINDOW, None)
            return [self._verify()]
        limit = min(options.window - self._run, self._remaining)
        return [self._draft(Role.SMALL, limit, options.alpha_fb, piece=0)]

    def _open(self, role: Role) -> ToWorker:
        self._opened.append(role)
        ids = tuple(self._prefix.ids)
        return self._send(
            role,
            Open(
                session=self._session, epoch=self._epoch, seq=self._next_seq(role),
                ids=ids, source=self._source, rules=self._rules,
            ),
        )  # fmt: skip

    def _draft(self, role: Role, limit: int, stop_below: float, *, piece: int) -> ToWorker:
        at = min(self._held[role], len(self._prefix) - 1)
        return self._send(
            role,
            Draft(
                session=self._session, epoch=self._epoch, seq=self._next_seq(role),
                at=at, digest=self._prefix.digest(at), tokens=tuple(self._prefix.ids[at:]),
                limit=limit, stop_below=stop_below, piece=piece,
            ),
        )  # fmt: skip

    def _verify(self) -> ToWorker:
        # At least one committed id is fed: its row is the distribution of the first guess.
        at = min(self._held[Role.LARGE], self._sure - 1)
        bonus = self._handover is not None
        return self._send(
            Role.LARGE,
            Verify(
                session=self._session, epoch=self._epoch, seq=self._next_seq(Role.LARGE),
                at=at, digest=self._prefix.digest(at), tokens=tuple(self._prefix.ids[at:]),
                exact=tuple(g.owner is not Source.SMALL for g in self._guesses),
                alpha_rb=self._options.alpha_rb, bonus=bonus,
            ),
        )  # fmt: skip

    def _send(self, role: Role, request: Open | Draft | Verify) -> ToWorker:
        self._pending[role] = request
        return ToWorker(role, request)

    def _next_seq(self, role: Role) -> int:
        self._seq[role] += 1
        return self._seq[role]

    # Committing and ending.

    @property
    def _sure(self) -> int:
        return self._rules.begin + len(self.tokens)

    @property
    def _remaining(self) -> int:
        return self._rules.limit - self._sure

    def _ends(self, tokens: Sequence[int]) -> bool:
        """Whether a text that goes on with all these tokens is over behind them, stop strings
        aside.
        """
        return len(tokens) == self._remaining or (
            len(tokens) > 0 and tokens[-1] in self._rules.end_ids
        )

    def _commit(
        self,
        out: list[Token],
        token: int,
        source: Source,
        confidence: float | None,
        distance: float | None,
    ) -> FinishReason | None:
        out.append(Token(len(self.tokens), token, source, confidence, distance))
        self.tokens.append(token)
        self.sources.append(source)
        self._run = next_run(self._run, source)
        self.trace.fallbacks += source is Source.FALLBACK
        self.trace.windows += source is Source.WINDOW
        self.trace.rollbacks += source is Source.ROLLBACK
        stopped = self._stops is not None and self._stops.push(token)
        if token in self._rules.end_ids:
            return FinishReason.EOS
        if stopped:
            return FinishReason.STOP
        return FinishReason.LENGTH if self._remaining == 0 else None

    def _finish(self, reason: FinishReason | None, error: BildError | None) -> list[Command]:
        self._done = True
        closes = [ToWorker(role, Close(session=self._session)) for role in self._opened]
        return [*closes, Finish(reason, error)]

    def _drop(self, role: Role, reply: Opened | Drafted | Verified) -> list[Command]:
        """An answer to a command that was taken back: its work is counted and thrown away."""
        if isinstance(reply, Drafted):
            self.trace.drafted += len(reply.tokens)
            self.trace.wasted += len(reply.tokens)
        if not isinstance(reply, Opened):
            self._count_passes(role, reply.passes)
        return []

    def _count_passes(self, role: Role, passes: int) -> None:
        if role is Role.SMALL:
            self.trace.small_passes += passes
        else:
            self.trace.large_passes += passes
