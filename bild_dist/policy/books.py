"""What a request has written and what it cost: its text, its sources, its counts."""

from __future__ import annotations

from bild_dist.logprobs import Logprob
from bild_dist.messages import Draft, Drafted, Opened, Rules, Verified, Verify
from bild_dist.policy.events import Emit, FromWorker, Token
from bild_dist.policy.forecast import Forecast
from bild_dist.policy.line import Stops
from bild_dist.types import FinishReason, Role, Source, Trace


class Books:
    """Owned by the machine of the request; others only read."""

    def __init__(self, rules: Rules, stops: Stops | None, forecast: Forecast) -> None:
        self.tokens: list[int] = []
        self.sources: list[Source] = []
        self.trace = Trace()
        self._out: list[Token] = []
        self._rules = rules
        self._stops = stops
        self._forecast = forecast
        self._fresh = set(Role)
        """Workers whose next answer holds the time of the prefill too."""

    def commit(
        self,
        token: int,
        source: Source,
        confidence: float | None,
        distance: float | None,
        logprob: Logprob | None,
    ) -> FinishReason | None:
        """A token is text. `logprob`: of the model that decided it, where asked for. Returns why the
        text is over, if it is.
        """
        own, top = (None, ()) if logprob is None else logprob
        self._out.append(Token(len(self.tokens), token, source, confidence, distance, own, top))
        self.tokens.append(token)
        self.sources.append(source)
        self.trace.fallbacks += source is Source.FALLBACK
        self.trace.windows += source is Source.WINDOW
        self.trace.rollbacks += source is Source.ROLLBACK
        stopped = self._stops is not None and self._stops.push(token)
        if token in self._rules.end_ids:
            return FinishReason.EOS
        if stopped:
            return FinishReason.STOP
        full = self._rules.begin + len(self.tokens) == self._rules.limit
        return FinishReason.LENGTH if full else None

    def emit(self) -> Emit:
        """What was committed since the last time."""
        out, self._out = tuple(self._out), []
        return Emit(out)

    def judge(self, confidence: float, *, exact: bool, stood: bool) -> None:
        """The large model has said what it thinks of a token of the small one."""
        if exact:
            self.trace.guessed += 1
            self.trace.hits += stood
        self._forecast.saw(confidence, exact=exact, stood=stood)

    def measure(self, event: FromWorker, asked: Draft | Verify) -> None:
        """Counts the passes of an answer, and tells the forecast what they took."""
        role, reply, costs = event.role, event.reply, self._forecast.costs
        if isinstance(reply, Opened):
            return
        self._count(role, reply.passes)
        if role in self._fresh:
            self._fresh.discard(role)
        elif role is Role.SMALL:
            costs.drafted(reply.passes, reply.compute_ns, event.wire_ns)
        elif isinstance(asked, Draft):
            costs.checked(1, reply.compute_ns, 0)
        else:
            # Without a bonus the last token is not fed.
            costs.checked(len(asked.tokens) - (not asked.bonus), reply.compute_ns, event.wire_ns)

    def drafted_aside(self, reply: Drafted, *, wasted: bool) -> None:
        """A spare slot has drafted."""
        self.trace.drafted += len(reply.tokens)
        self.trace.wasted += len(reply.tokens) * wasted
        self._count(Role.SMALL, reply.passes)

    def drop(self, role: Role, reply: Opened | Drafted | Verified) -> None:
        """An answer to a command that was taken back: its work is counted and thrown away."""
        if isinstance(reply, Drafted):
            self.trace.drafted += len(reply.tokens)
            self.trace.wasted += len(reply.tokens)
        if not isinstance(reply, Opened):
            self._count(role, reply.passes)

    def _count(self, role: Role, passes: int) -> None:
        if role is Role.SMALL:
            self.trace.small_passes += passes
        else:
            self.trace.large_passes += passes
