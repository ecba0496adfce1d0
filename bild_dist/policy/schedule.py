"""When each model runs. The text does not depend on it; only the time does.

`paper` drafts to the hand-over and waits for the check. `through` guesses through hand-overs while
that pays, then waits. `overlap` goes on guessing while the large model checks. A schedule is asked
by its machine, after every event, what the free workers shall do; it sees the line and its own
books, never a clock.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple, TypeAlias

from bild_dist.messages import Outlook
from bild_dist.policy.forecast import AHEAD, Forecast
from bild_dist.policy.line import Line
from bild_dist.policy.rules import Ruler
from bild_dist.types import Mode, Options, Role, Schedule

_BURST: Final = (8, 64)
"""Tokens that the large model writes alone before drafting is tried again: at first, and at most."""
_PROBE: Final = 2
"""Tokens of such a trial. While all of them stand the next trial follows at once, twice as long."""


SECOND: Final = 0.2
"""What a second guess is held to be worth."""


class Ask(NamedTuple):
    """What to ask of a draft."""

    limit: int
    stops: bool
    piece: int
    outlook: Outlook = Outlook()
    others: int = 0


class Paper:
    """Algorithm 1 of the paper: nothing ever runs ahead. Owned by its machine."""

    spares = 0
    """Slots for second guesses."""

    def __init__(self, options: Options) -> None:
        self._exact = options.mode is Mode.EXACT

    def alone(self, line: Line, *, drafting: bool) -> int:
        """How many tokens the large model shall write without a draft; 0 for none."""
        return 0

    def due(self, line: Line, *, drafting: bool) -> int | None:
        """How many guesses the large model, which is free, shall check now; None for no check."""
        if drafting:
            return None
        if line.guesses:
            return len(line.guesses)
        # In mode `exact` every check adds a token of its own, so the last is not worth guessing.
        drafts = self._exact and line.room > 1 and not line.starts_large
        return None if line.handover is None or drafts else 0

    def wish(self, line: Line, *, checking: bool) -> Ask | None:
        """What the small model, which is free, shall draft; None for nothing."""
        if checking or line.ended:
            return None
        ruler = line.ruler
        outlook = ruler.seen(Outlook())
        if self._exact:
            return Ask(min(ruler.window, line.room - 1), False, 0, outlook)
        return Ask(min(ruler.window - ruler.run, line.room), True, 0, outlook)

    def drafted(self, passes: int, *, asked: bool) -> None:
        """The large model waited for so many draft steps, and for a round trip if they were
        asked for.
        """

    def aside(self, ruler: Ruler) -> Outlook:
        """How far a spare slot shall draft behind a second guess, where `ruler` stands."""
        return ruler.seen(Outlook())

    def checked(self, tokens: int, fed: int) -> None:
        """A check over `fed` ids brought `tokens` of text."""

    def heard(self, role: Role, at_ns: int) -> None:
        """A worker's answer came at that time."""


class Eager:
    """The schedules `through` and `overlap`: drafting stops where it no longer pays. Owned by its
    machine; what it learns goes to the forecast.
    """

    def __init__(self, options: Options, forecast: Forecast) -> None:
        self._forecast = forecast
        self._overlap = options.schedule is Schedule.OVERLAP
        self._exact = options.mode is Mode.EXACT
        self.spares = options.branches - 1 if self._overlap else 0
        self._burst = _BURST[0]
        self._probing = False
        self._probe = _PROBE
        self._led = False
        """Whether the small model has drafted ahead of the present check."""
        self._passes = 0
        self._trips = 0
        self._now_ns = 0
        self._step_ns = 0
        """When the draft step that runs was begun, as far as is known."""

    def alone(self, line: Line, *, drafting: bool) -> int:
        if self._forecast.pays:
            self._probing = False
        if not self._exact or drafting or line.guesses or self._probing or self._forecast.pays:
            return 0
        burst, self._burst = self._burst, min(2 * self._burst, _BURST[1])
        self._probing = True
        return burst

    def due(self, line: Line, *, drafting: bool) -> int | None:
        count, known = len(line.guesses), line.handover is not None
        if count == 0 and not known:
            return None
        if line.ended or (known and line.room == 1):
            return count
        if self._probing:
            return None if drafting or count == 0 else count
        if self._worth(line) < self._forecast.floor * (self._left if drafting else 1.0):
            self._led = drafting
            return self._paying(line)
        # Without overlap a draft has ended by its own outlook, of a moment ago.
        return count if count > 0 and not drafting and not self._overlap else None

    def wish(self, line: Line, *, checking: bool) -> Ask | None:
        if line.ended or (checking and not self._leads(line)):
            return None
        self._led = checking
        self._step_ns = self._now_ns
        limit = line.room - self._exact
        if limit == 0:
            return None
        if self._probing:
            outlook = line.ruler.seen(Outlook())
            return None if checking else Ask(min(self._probe, limit), False, 0, outlook)
        outlook = self._forecast.outlook(line.reach, line.ruler, overlap=self._overlap)
        return Ask(limit, False, 0, outlook, self.spares)

    def aside(self, ruler: Ruler) -> Outlook:
        return replace(self._forecast.outlook(SECOND, ruler, overlap=True), floor=1.0)

    def drafted(self, passes: int, *, asked: bool) -> None:
        self._passes += passes
        self._trips += asked

    def checked(self, tokens: int, fed: int) -> None:
        self._forecast.cycle(tokens, self._passes, self._trips, fed)
        self._passes = self._trips = 0
        self._led = False
        self._probing = self._probing and tokens > self._probe
        self._probe = 2 * self._probe if self._probing else _PROBE
        if self._forecast.pays:
            self._burst = _BURST[0]

    def heard(self, role: Role, at_ns: int) -> None:
        self._now_ns = at_ns
        if role is Role.SMALL:
            self._step_ns = at_ns

    @property
    def _left(self) -> float:
        """How much of the draft step that runs is still to come: waiting for it costs no more."""
        spent_ns = self._now_ns - self._step_ns
        return max(1 - spent_ns / self._forecast.costs.small_ns, 0.0)

    def _leads(self, line: Line) -> bool:
        """Whether to draft ahead of a check: once for each."""
        return self._overlap and not self._led and self._worth(line) >= AHEAD

    def _worth(self, line: Line) -> float:
        """What one more token behind the line is worth, as in `outlook.py`."""
        return line.reach * (1.0 if line.handover is None else self._forecast.blind)

    def _paying(self, line: Line) -> int:
        """How many guesses are worth the time that they add to the check; the first always is."""
        cost = self._forecast.rate * self._forecast.costs.large_token_ns
        reach, count = 1.0, 0
        for guess in line.guesses:
            if count > 0 and reach < cost:
                break
            reach *= guess.chance
            count += 1
        return count


Plan: TypeAlias = Paper | Eager


def schedule_of(options: Options, forecast: Forecast) -> Plan:
    """The schedule that a request asks for.

    Without `verify_tail` a verdict counts only once its run is known to end in a hand-over, so such
    a request keeps to `paper`.
    """
    if options.schedule in (None, Schedule.PAPER) or not options.verify_tail:
        return Paper(options)
    return Eager(options, forecast)
