"""What is under way in a text, while it is, as small JSON events: for a page that shows two models at
work. `docs/http.md` describes them to those who write such a page.

They are taken from what enters and leaves the machine of the request (`session.Record`), retold by
the same teller that draws timelines (`timeline.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

from bild_dist.clock import now_ns
from bild_dist.messages import Close, Draft, Open, Steer, Verify
from bild_dist.orchestrator.story import Block, Kind, Story, Swap
from bild_dist.orchestrator.text import Text
from bild_dist.orchestrator.timeline import Teller
from bild_dist.policy.events import Command, Emit, Event, Finish, ToWorker

Put: TypeAlias = Callable[[dict[str, Any]], None]

_CONTEXT = 4
"""Tokens before a guess that it is decoded with: a leading space hangs on the one before."""
_UNKNOWN = -1


class Tap:
    """A `session.Record` of one request that turns what it is told into events. Owned by the session
    that calls it; `put` takes each event at once.

    Times are milliseconds since the tap was made, positions count the generated tokens from 0.
    """

    def __init__(self, text: Text | None, put: Put) -> None:
        self._text = text if text is not None else Text.from_files({})
        self._put = put
        self._from_ns = now_ns()
        self._teller = Teller(Story(0, self._from_ns, self._from_ns))
        self._line: list[int] = []
        """The text so far and the guesses behind it."""
        self._blocks = 0
        self._swaps = 0

    def __call__(self, session: int, at_ns: int, what: Event | Command) -> None:
        story = self._teller.story
        self._teller.take(at_ns, what)
        if isinstance(what, ToWorker):
            self._asked(at_ns, what)
        for block in story.blocks[self._blocks :]:
            self._block(block)
        self._blocks = len(story.blocks)
        for swap in story.swaps[self._swaps :]:
            self._swap(swap)
        self._swaps = len(story.swaps)
        if isinstance(what, Emit):
            for token in what.tokens:
                self._write(token.position, [token.token])
        elif isinstance(what, Finish):
            reason = None if what.reason is None else what.reason.value
            self._put({"type": "finished", "at": self._ms(at_ns), "reason": reason})

    def _asked(self, at_ns: int, command: ToWorker) -> None:
        request = command.request
        if isinstance(request, Close | Steer):
            return
        event: dict[str, Any] = {
            "type": "asked", "at": self._ms(at_ns), "role": command.role.value,
            "seq": request.seq, "epoch": request.epoch,
        }  # fmt: skip
        begin = self._teller.begin
        if isinstance(request, Open):
            event |= {"what": "open", "prompt_tokens": len(request.source or request.ids)}
        elif isinstance(request, Draft):
            alone = len(self._teller.story.roles) == 1
            what = Kind.WRITE if alone or command.role.value == "large" else Kind.DRAFT
            place = request.at + len(request.tokens) - begin
            event |= {"what": what.value, "position": place, "limit": request.limit}
        elif isinstance(request, Verify):
            first = request.at + len(request.tokens) - len(request.exact) - begin
            event |= {
                "what": "check", "position": first, "count": len(request.exact),
                "exact": list(request.exact), "bonus": request.bonus,
            }  # fmt: skip
        self._put(event)

    def _block(self, block: Block) -> None:
        """A worker was busy; and what came of it."""
        self._put({
            "type": "busy", "role": block.role.value, "what": block.kind.value,
            "seq": block.seq, "epoch": block.epoch,
            "from": self._ms(block.start_ns), "to": self._ms(block.end_ns),
            "back": self._ms(block.back_ns), "passes": block.passes,
        })  # fmt: skip
        at = self._ms(block.back_ns)
        if block.kind is Kind.DRAFT and (block.cells or block.low is not None):
            self._draft(at, block)
        if block.check is not None:
            check = block.check
            objected = check.accepted < len(check.exact)
            event = {
                "type": "verdict", "at": at, "seq": block.seq, "epoch": block.epoch,
                "position": check.position, "count": len(check.exact), "accepted": check.accepted,
                "objected": objected, "distances": [number(d) for d in check.distances],
                "token": None, "text": None,
            }  # fmt: skip
            if check.token >= 0:
                place = check.position + check.accepted
                event |= {"token": check.token, "text": self._pieces(place, [check.token])[0]}
            self._put(event)

    def _draft(self, at: float, block: Block) -> None:
        cells = block.cells
        stale = block.epoch < self._teller.epoch
        position = cells[0].position if cells else len(self._line)
        tokens = [cell.token for cell in cells]
        event: dict[str, Any] = {
            "type": "draft", "at": at, "seq": block.seq, "epoch": block.epoch,
            "position": position, "tokens": tokens, "texts": self._pieces(position, tokens),
            "confidences": [number(cell.confidence) for cell in cells],
            "final": block.final, "stale": stale, "low": None,
        }  # fmt: skip
        if not stale:
            self._write(position, tokens)
        if block.low is not None:
            token, confidence = block.low
            place = position + len(tokens)
            event["low"] = {
                "position": place, "token": token, "text": self._pieces(place, [token])[0],
                "confidence": number(confidence),
            }  # fmt: skip
        self._put(event)

    def _swap(self, swap: Swap) -> None:
        """The large model has written another token than the small one had drafted."""
        self._put({
            "type": "replaced", "at": self._ms(swap.at_ns), "position": swap.position,
            "source": swap.source.value, "fell": swap.fell,
            "old": {"token": swap.old, "text": self._pieces(swap.position, [swap.old])[0]},
            "new": {"token": swap.new, "text": self._pieces(swap.position, [swap.new])[0]},
        })  # fmt: skip

    def _write(self, position: int, tokens: list[int]) -> None:
        """Tokens stand on the line. What was guessed behind others than these is void."""
        # What a spare slot had guessed was not told of, and leaves a gap.
        self._line += [_UNKNOWN] * (position - len(self._line))
        for place, token in enumerate(tokens, start=position):
            if place < len(self._line) and self._line[place] == token:
                continue
            del self._line[place:]
            self._line.append(token)

    def _pieces(self, position: int, tokens: list[int]) -> list[str]:
        """What each token adds to the text before it; nothing for part of a character."""
        before = self._line[max(0, position - _CONTEXT) : position]
        before = [token for token in before if token != _UNKNOWN]
        pieces, so_far = [], self._text.decode(before)
        for end in range(1, len(tokens) + 1):
            text = self._text.decode([*before, *tokens[:end]])
            pieces.append(text[len(so_far) :] if text.startswith(so_far) else "")
            so_far = text if text.startswith(so_far) else so_far
        return [piece.rstrip("\ufffd") for piece in pieces]

    def _ms(self, at_ns: int) -> float:
        return round((at_ns - self._from_ns) / 1e6, 3)


def number(value: float | None) -> float | None:
    """A measurement as JSON has it: infinity, which it has not, is null."""
    return None if value is None or not math.isfinite(value) else round(value, 6)
