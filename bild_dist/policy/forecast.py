"""What a pair of models has shown so far: times of passes, and how often a drafted token stands.

Nothing here touches the text. A forecast only says how far to draft before a check, so it may be
shared by all requests of a pair and learn from whichever comes first.
"""

from __future__ import annotations

from typing import Final

from bild_dist.messages import Outlook
from bild_dist.policy.rules import Ruler
from bild_dist.types import Mode, Options

BUCKETS: Final = 8
"""Classes of confidence, of equal width."""

AHEAD: Final = 0.05
"""Tokens less likely to count than this are not drafted ahead: they would only heat the room."""

_PRIOR_WEIGHT: Final = 16.0
_CLASS_WEIGHT: Final = 24.0
_MEMORY: Final = 400.0
"""Observations per class of confidence that are remembered; older ones fade."""
_MARGIN: Final = 1.2
"""What a draft step must promise over its cost: where both are equal nothing is gained by it."""
_FAR: Final = 64
"""Tokens beyond which nothing is reckoned: few drafts get there, and a window may be of any size."""
_FADE: Final = 0.99
"""Weight of a cycle when the next one comes."""


class Costs:
    """Times of a pair's passes and round trips, ns. Owned by whoever owns the connections.

    A pass of the large model over n tokens takes `large_ns(n)`, fitted as a straight line. Before
    anything is measured the large model counts as five times as slow as the small one.
    """

    def __init__(self) -> None:
        self.small_ns = 1.0
        self.large_trip_ns = 0.0
        self.small_trip_ns = 0.0
        self._small_seen = False
        # Fading sums over checks: weight, tokens, times, and their products.
        self._w = self._n = self._t = self._nn = self._nt = 0.0

    def drafted(self, passes: int, compute_ns: int, wire_ns: int) -> None:
        """A report of `passes` draft steps; `wire_ns` 0 where nothing was asked just before."""
        if passes > 0:
            one = max(compute_ns / passes, 1.0)
            self.small_ns = _towards(self.small_ns, one) if self._small_seen else one
            self._small_seen = True
        if wire_ns > 0:
            self.small_trip_ns = _towards(self.small_trip_ns or wire_ns, wire_ns)

    def checked(self, fed: int, compute_ns: int, wire_ns: int) -> None:
        """A pass of the large model over `fed` tokens."""
        spent = max(float(compute_ns), 1.0)
        # One slow pass (another program's turn) must not tilt the line.
        if self._w > 3:
            spent = min(spent, 3 * self.large_ns(fed))
        for name, value in (("_w", 1), ("_n", fed), ("_t", spent), ("_nn", fed * fed),
                            ("_nt", fed * spent)):  # fmt: skip
            setattr(self, name, 0.97 * getattr(self, name) + value)
        if wire_ns > 0:
            self.large_trip_ns = _towards(self.large_trip_ns or wire_ns, wire_ns)

    @property
    def large_token_ns(self) -> float:
        """What one more token adds to a pass of the large model."""
        spread = self._w * self._nn - self._n**2
        if spread <= 1e-3 * self._w**2:
            return 0.0
        slope = (self._w * self._nt - self._n * self._t) / spread
        return min(max(slope, 0.0), 0.25 * self._t / self._w)

    def large_ns(self, fed: float) -> float:
        if self._w == 0:
            return 5 * self.small_ns
        mean = self._t / self._w
        return max(mean + self.large_token_ns * (fed - self._n / self._w), 0.2 * mean)


class Chances:
    """How often tokens stood, by confidence. Owned by a Forecast."""

    def __init__(self, prior: tuple[float, ...], caution: float = 0.0) -> None:
        # What all classes together say is what each class is held to be, until it has shown
        # otherwise: a class that a few lucky guesses make look good would be drafted into blindly.
        self._prior = prior
        self._caution = caution
        self._stood = [0.0] * BUCKETS
        self._seen = [0.0] * BUCKETS
        self._expected = 0.0
        self._table: tuple[float, ...] | None = prior

    def saw(self, confidence: float, stood: bool) -> None:
        i = min(int(confidence * BUCKETS), BUCKETS - 1)
        if self._seen[i] > _MEMORY:
            self._expected -= 0.5 * self._seen[i] * self._prior[i]
            self._seen[i] *= 0.5
            self._stood[i] *= 0.5
        self._seen[i] += 1
        self._stood[i] += stood
        self._expected += self._prior[i]
        self._table = None

    @property
    def table(self) -> tuple[float, ...]:
        """For each class of confidence the chance that a token stands."""
        if self._table is None:
            self._table = self._make()
        return self._table

    def _make(self) -> tuple[float, ...]:
        scale = (sum(self._stood) + _PRIOR_WEIGHT) / (self._expected + _PRIOR_WEIGHT)
        return tuple(
            self._surely((k + _CLASS_WEIGHT * min(scale * p, 1.0)) / (n + _CLASS_WEIGHT), n)
            for k, n, p in zip(self._stood, self._seen, self._prior, strict=True)
        )

    def _surely(self, rate: float, seen: float) -> float:
        """A rate less so many standard deviations of its estimate as caution asks; below 0 it is
        given the benefit of the doubt.
        """
        deviation = (rate * (1 - rate) / (seen + _CLASS_WEIGHT)) ** 0.5
        return float(min(max(rate - self._caution * deviation, 0.0), 1.0))


class Forecast:
    """What drafting brings under one setting of the thresholds. Owned as its `costs` are."""

    def __init__(self, costs: Costs, options: Options) -> None:
        self.costs = costs
        self._window = options.window
        self._exactly = options.mode is Mode.EXACT
        middles = [(i + 0.5) / BUCKETS for i in range(BUCKETS)]
        # A model that knows how sure it may be is right as often as it says; where it owns the
        # position, the large one objects rarely.
        self._exact = Chances(tuple(0.8 * m for m in middles), caution=2.5)
        self._soft = Chances((0.97,) * BUCKETS, caution=-1.0)
        self.blind = 0.45
        """How often a guess at a position of the large model has hit of late, whatever its
        confidence.
        """
        # Fading sums over cycles of drafting and checking.
        self._tokens = self._passes = 3.0
        self._trips = self._checks = 1.0
        self._fed = 4.0

    def saw(self, confidence: float, *, exact: bool, stood: bool) -> None:
        """The large model has judged a token, softly or exactly."""
        (self._exact if exact else self._soft).saw(confidence, stood)
        if exact:
            self.blind += (stood - self.blind) / 32

    def cycle(self, tokens: int, passes: int, trips: int, fed: int) -> None:
        """A check has brought `tokens` of text; the large model waited `passes` draft steps and
        `trips` of their round trips for it, then took `fed` ids.
        """
        self._tokens = _FADE * self._tokens + tokens
        self._passes = _FADE * self._passes + passes
        self._trips = _FADE * self._trips + trips
        self._checks = _FADE * self._checks + 1
        self._fed = _FADE * self._fed + fed

    @property
    def rate(self) -> float:
        """Tokens of text per ns that this setting makes while it drafts, at the costs of now."""
        costs = self.costs
        spent = self._passes * costs.small_ns + self._trips * costs.small_trip_ns
        spent += self._checks * (costs.large_ns(self._fed / self._checks) + costs.large_trip_ns)
        return self._tokens / spent

    @property
    def floor(self) -> float:
        """Tokens of text that a draft step could have been instead. Below 1, since something must
        be drafted before anything can be checked.
        """
        costs = self.costs
        rate = max(self.rate, self.alone) if self._exactly else self.rate
        return min(_MARGIN * rate * (costs.small_ns + costs.large_token_ns), 0.95)

    @property
    def alone(self) -> float:
        """Tokens per ns that the large model writes without help."""
        return 1 / self.costs.large_ns(1)

    @property
    def pays(self) -> bool:
        """Whether drafting beats the large model alone, where it could go on alone (mode `exact`).

        Either it has been seen to, or it would with guesses that hit as often as of late.
        """
        costs, best = self.costs, self.rate
        if self.blind < self.floor:
            return False
        tokens = reach = 1.0
        spent = costs.small_trip_ns + costs.large_trip_ns
        for n in range(1, min(self._window, _FAR) + 1):
            reach *= self.blind
            tokens += reach
            best = max(best, tokens / (spent + n * costs.small_ns + costs.large_ns(n + 1)))
        return best > self.alone

    @property
    def _lead(self) -> int:
        """How many tokens to draft while a check is under way.

        A step that still runs when the check fails delays the next draft; one that was not begun is
        missing when it stands. Most checks fail, so the last step should be all but done by then.
        """
        costs = self.costs
        steps = (costs.large_ns(self._fed / self._checks) + costs.large_trip_ns) / costs.small_ns
        return min(int(steps + 0.3), _FAR)

    def outlook(self, reach: float, ruler: Ruler, *, overlap: bool) -> Outlook:
        """For a draft whose first token counts with the chance `reach`, where `ruler` stands."""
        floor = self.floor
        return ruler.seen(Outlook(
            reach=reach, floor=floor, ahead=min(AHEAD, floor), lead=self._lead if overlap else 0,
            blind=self.blind, soft=self._soft.table, exact=self._exact.table,
        ))  # fmt: skip


def _towards(old: float, new: float) -> float:
    """A running mean that one outlier cannot move far."""
    return old + (min(new, 4 * old) - old) / 8
