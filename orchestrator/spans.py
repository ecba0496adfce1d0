"""The spans of a request: the whole, the wait for a place, and each draft, check and rollback, seen
from the orchestrator.

Notes are taken while it runs and written down as spans when it is over.
"""

from __future__ import annotations

from typing import Any, Final

from bild_dist import genai
from bild_dist.clock import now_ns
from bild_dist.messages import Draft, Drafted, Opened, Verified, Verify
from bild_dist.orchestrator.watch import Progress
from bild_dist.policy.events import Command, Emit, Event, FromWorker, ToWorker
from bild_dist.telemetry.spans import Spans, since_1970_ns, traceparent
from bild_dist.types import FinishReason, Options, Role, Source

MOST_NOTES: Final = 20_000
"""Steps of one request that are kept for its spans, about 10 MB; later ones are left out."""

FINISHED: Final = frozenset(reason.value for reason in FinishReason)


class RequestSpans:
    """One request's spans. Owned by the task of the request."""

    def __init__(self, spans: Spans, options: Options, started_ns: int, model: str) -> None:
        self._spans = spans
        self._started_ns = started_ns
        self._wall_ns = since_1970_ns()
        self._admitted_ns = 0
        self._progress: Progress | None = None
        self._notes: list[tuple[int, Event | Command]] = []
        attributes = {
            genai.OPERATION: genai.COMPLETION,
            genai.PROVIDER: genai.US,
            genai.REQUEST_MODEL: model,
            genai.REQUEST_MAX_TOKENS: options.max_new_tokens,
            genai.REQUEST_TEMPERATURE: options.temperature,
            genai.REQUEST_TOP_P: options.top_p,
            genai.REQUEST_SEED: options.seed,
            "bild.mode": options.mode.value,
            "bild.schedule": options.schedule.value if options.schedule is not None else "",
            "bild.alpha_fb": options.alpha_fb,
            "bild.alpha_rb": options.alpha_rb,
            "bild.window": options.window,
        }
        parent = spans.joined(options.traceparent)
        name = f"{genai.COMPLETION} {model}"
        self._span = spans.started(name, parent, started_ns + self._wall_ns, attributes)

    @property
    def traceparent(self) -> str:
        return traceparent(self._span)

    @property
    def wanted(self) -> bool:
        """Whether the sampler keeps this trace."""
        return self._span.is_recording()

    def note(self, session: int, at_ns: int, what: Event | Command) -> None:
        """A step of the request, as `session.Record` tells it."""
        if len(self._notes) < MOST_NOTES:
            self._notes.append((at_ns, what))

    def admitted(self, progress: Progress) -> None:
        self._admitted_ns = now_ns()
        self._progress = progress

    def ended(self, outcome: str) -> None:
        """Writes all spans but the first, and ends that."""
        end_ns = now_ns()
        if self.wanted:
            self._write("bild.wait", self._started_ns, self._admitted_ns or end_ns)
            self._write_steps(end_ns)
            self._summarise(outcome)
        if outcome not in FINISHED:
            self._spans.failed(self._span, outcome)
        self._span.end(end_ns + self._wall_ns)

    def _summarise(self, outcome: str) -> None:
        self._span.set_attribute(genai.FINISH_REASONS, [outcome])
        if self._progress is None:
            return
        trace = self._progress.trace()
        self._span.set_attribute(genai.INPUT_TOKENS, self._progress.prompt_tokens)
        self._span.set_attribute(genai.OUTPUT_TOKENS, len(self._progress.sources))
        self._span.set_attribute("bild.first_token_s", trace.first_token_ns / 1e9)
        for name in ("small_passes", "large_passes", "drafted", "wasted", "fallbacks", "rollbacks"):
            self._span.set_attribute(f"bild.{name}", getattr(trace, name))

    def _write_steps(self, end_ns: int) -> None:
        """A draft and a check last from command to answer; a rollback from the token that replaces
        another until the small model's next word.
        """
        asked: dict[tuple[Role, int, int], tuple[int, Draft | Verify]] = {}
        rolled: tuple[int, int] | None = None
        for at_ns, what in self._notes:
            if isinstance(what, ToWorker):
                request = what.request
                if isinstance(request, Draft | Verify):
                    asked[what.role, request.session, request.seq] = (at_ns, request)
            elif isinstance(what, FromWorker) and not isinstance(what.reply, Opened):
                reply = what.reply
                if rolled is not None and what.role is Role.SMALL:
                    self._write("bild.rollback", rolled[0], at_ns, {"bild.position": rolled[1]})
                    rolled = None
                if isinstance(reply, Drafted) and not reply.final:
                    continue
                begun = asked.pop((what.role, reply.session, reply.seq), None)
                if begun is not None:
                    self._write_step(what.role, begun[0], at_ns, begun[1], reply)
            elif isinstance(what, Emit):
                for token in what.tokens:
                    if token.source is Source.ROLLBACK:
                        rolled = (at_ns, token.position)
        if rolled is not None:
            self._write("bild.rollback", rolled[0], end_ns, {"bild.position": rolled[1]})

    def _write_step(
        self,
        role: Role,
        start_ns: int,
        end_ns: int,
        asked: Draft | Verify,
        reply: Drafted | Verified,
    ) -> None:
        attributes: dict[str, Any] = {
            "bild.role": role.value,
            "bild.passes": reply.passes,
            "bild.compute_s": reply.compute_ns / 1e9,
            "bild.queue_s": reply.queue_ns / 1e9,
        }
        if isinstance(reply, Drafted):
            attributes["bild.tokens"] = len(reply.tokens)
        elif isinstance(asked, Verify):
            attributes["bild.checked"] = len(asked.exact)
            attributes["bild.accepted"] = reply.accepted
        name = "bild.draft" if isinstance(asked, Draft) else "bild.verify"
        self._write(name, start_ns, end_ns, attributes)

    def _write(
        self, name: str, start_ns: int, end_ns: int, attributes: dict[str, Any] | None = None
    ) -> None:
        parent, wall_ns = self._spans.within(self._span), self._wall_ns
        self._spans.write(name, parent, start_ns + wall_ns, end_ns + wall_ns, attributes or {})
