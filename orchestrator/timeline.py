"""The story of each request, rebuilt from a recording: which model was busy when, with which tokens,
and what became of them.

When an answer was sent for, came back and was taken up is read off the orchestrator's clock. The
rest is worked out: an answer says how long it waited in the worker and computed, and what is left
of its round trip is taken to lie half before and half behind. A worker that shares its time with
other requests waits between its passes too, which is drawn as one wait before them.

What became of a guess follows from what was given out: the token that is text at its position is
the guess or it is not. So nothing here depends on a schedule.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from bild_dist.messages import Close, Draft, Drafted, Open, Opened, Steer, Verified, Verify
from bild_dist.orchestrator.recording import Moment
from bild_dist.orchestrator.story import Block, Cell, Check, Chip, Fate, Kind, Story, Swap, Wait
from bild_dist.policy.events import Cancelled, Emit, Failed, Finish, FromWorker, Token, ToWorker
from bild_dist.types import Role


def stories(moments: Iterable[Moment]) -> list[Story]:
    """The requests of a recording, in the order in which they began."""
    tellers: dict[int, Teller] = {}
    for session, at_ns, what in moments:
        teller = tellers.get(session)
        if teller is None:
            teller = tellers[session] = Teller(Story(session, at_ns, at_ns))
        teller.take(at_ns, what)
    return [teller.story for teller in tellers.values()]


@dataclass(slots=True)
class _Asked:
    """A command on its way. `next`: the position of the next token that comes of it."""

    request: Open | Draft | Verify
    sent_ns: int
    next: int
    answered: bool = False
    taken_back: bool = False


@dataclass(slots=True)
class _Lane:
    """What is known of one worker. `free_ns`: when its last block ended."""

    pending: dict[int, _Asked] = field(default_factory=dict)
    stopped: _Asked | None = None
    opening_ns: int = 0
    opened_ns: int = 0
    blocks: list[Block] = field(default_factory=list)
    free_ns: int = 0
    half_ns: int = 0
    fresh: bool = True


class Teller:
    """Follows one request through its moments, and grows its story. Owned by whoever makes it."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.begin = 0
        """Length of the decoder prompt: the index of the first generated token."""
        self.epoch = 0
        self._lanes = {role: _Lane(free_ns=story.from_ns) for role in Role}
        self._live: dict[int, tuple[int, Cell]] = {}
        """Guesses that may still become text, by position, with the block that brought each."""
        self._waiting: tuple[Role, ...] = ()
        self._since_ns = story.from_ns

    def take(self, at_ns: int, what: object) -> None:
        """The next moment of this request."""
        self.story.to_ns = max(self.story.to_ns, at_ns)
        if isinstance(what, ToWorker):
            self._sent(at_ns, what)
        elif isinstance(what, FromWorker):
            self._answered(at_ns, what)
        elif isinstance(what, Emit):
            for token in what.tokens:
                self._given(at_ns, token)
        elif isinstance(what, Finish):
            self._finished(at_ns, what)
        elif isinstance(what, Failed | Cancelled):
            self.story.end = f"{type(what.error).__name__}: {what.error}"

    def _sent(self, at_ns: int, command: ToWorker) -> None:
        lane, request = self._lanes[command.role], command.request
        if isinstance(request, Close):
            return
        if request.epoch > self.epoch:
            self.epoch = request.epoch
            self._take_back()
        if isinstance(request, Open):
            self.begin = len(request.ids)
            lane.opening_ns = at_ns
            self.story.prompt = request.source or request.ids
            self.story.roles.append(command.role)
        if not isinstance(request, Steer):
            place = 0 if isinstance(request, Open) else request.at + len(request.tokens)
            lane.pending[request.seq] = _Asked(request, at_ns, place - self.begin)
        self._wait(at_ns)

    def _take_back(self) -> None:
        """Drafts of older epochs stop; answers of theirs that are on their way still come."""
        for lane in self._lanes.values():
            for asked in lane.pending.values():
                if asked.request.epoch < self.epoch and not asked.taken_back:
                    asked.taken_back, lane.stopped = True, asked

    def _wait(self, at_ns: int) -> None:
        """What is waited for from this moment on."""
        roles = tuple(
            role
            for role, lane in self._lanes.items()
            if not all(asked.taken_back for asked in lane.pending.values())
        )
        if roles != self._waiting:
            if self._waiting and at_ns > self._since_ns:
                self.story.waits.append(Wait(self._since_ns, at_ns, self._waiting))
            self._since_ns = max(at_ns, self._since_ns)
            self._waiting = roles

    def _answered(self, at_ns: int, event: FromWorker) -> None:
        lane, reply = self._lanes[event.role], event.reply
        asked = lane.pending.get(reply.seq)
        if asked is None:
            return
        back_ns = event.at_ns or at_ns
        if not isinstance(reply, Drafted) or reply.final:
            del lane.pending[reply.seq]
        if isinstance(reply, Opened):
            lane.opened_ns = back_ns
        else:
            block = self._block(event.role, asked, reply, event.wire_ns, back_ns)
            block.seen_ns = at_ns
            self.story.blocks.append(block)
            if isinstance(reply, Drafted):
                self._draft(block, asked, reply)
        self._wait(back_ns)

    def _block(
        self, role: Role, asked: _Asked, reply: Drafted | Verified, wire_ns: int, back_ns: int
    ) -> Block:
        """Works out when the answer was computed."""
        lane = self._lanes[role]
        if not asked.answered:
            lane.half_ns = wire_ns // 2
        half_ns = lane.half_ns
        begin_ns = 0 if asked.answered else asked.sent_ns + half_ns
        asked.answered = True
        end_ns = max(back_ns - half_ns, lane.free_ns, begin_ns)
        own = min(_own_passes(reply), reply.passes)
        surplus = reply.passes - own
        own_ns = reply.compute_ns * own // reply.passes if surplus else reply.compute_ns
        start_ns = self._room(lane, max(end_ns - own_ns, begin_ns))
        if surplus:
            self._carried(role, surplus, reply.compute_ns - own_ns, start_ns)
        elif lane.fresh and start_ns > end_ns - own_ns:
            self._prefill(role, asked, own_ns - (end_ns - start_ns), start_ns)
        block = Block(
            role=role, kind=self._kind(role, reply), epoch=reply.epoch, seq=reply.seq,
            sent_ns=asked.sent_ns, came_ns=max(start_ns - reply.queue_ns, lane.free_ns, begin_ns),
            start_ns=start_ns, end_ns=end_ns, back_ns=back_ns, seen_ns=back_ns, wire_ns=wire_ns,
            passes=own, first=lane.fresh, check=_check(asked, reply),
        )  # fmt: skip
        lane.blocks.append(block)
        lane.free_ns, lane.fresh = end_ns, False
        return block

    def _room(self, lane: _Lane, from_ns: int) -> int:
        """When the worker is free for a block from then on. Where the one before ends later, its
        answer was slow and not its pass: it moves back, if need be with those before it.
        """
        moved, until_ns = 0, from_ns
        for block in reversed(lane.blocks):
            if block.end_ns <= until_ns:
                break
            _move(block, until_ns - block.end_ns)
            until_ns, moved = block.start_ns, moved + 1
        first = len(lane.blocks) - moved
        free_ns = lane.blocks[first - 1].end_ns if first > 0 else 0
        for block in lane.blocks[first:]:
            # But not to before it was asked for.
            _move(block, max(0, block.sent_ns - block.start_ns, free_ns - block.start_ns))
            free_ns = block.end_ns
        lane.free_ns = max(free_ns, self.story.from_ns)
        return max(from_ns, lane.free_ns)

    def _kind(self, role: Role, reply: Drafted | Verified) -> Kind:
        if isinstance(reply, Verified):
            return Kind.CHECK
        alone = role is Role.LARGE or len(self.story.roles) == 1
        return Kind.WRITE if alone else Kind.DRAFT

    def _carried(self, role: Role, passes: int, spent_ns: int, before_ns: int) -> None:
        """An answer brings the passes of a draft that was stopped before it."""
        lane = self._lanes[role]
        stopped, lane.stopped = lane.stopped, None
        sent_ns = stopped.sent_ns + lane.half_ns if stopped is not None else lane.free_ns
        from_ns = min(max(lane.free_ns, sent_ns), self._room(lane, before_ns - spent_ns))
        self._spent(role, Kind.STOPPED, max(lane.free_ns, from_ns), spent_ns, before_ns, passes)

    def _prefill(self, role: Role, asked: _Asked, spent_ns: int, before_ns: int) -> None:
        """The first answer computed for longer than it was asked for: the rest was done before."""
        lane = self._lanes[role]
        from_ns = min(lane.opened_ns or asked.sent_ns, before_ns - spent_ns)
        self._spent(role, Kind.PREFILL, max(from_ns, lane.opening_ns), spent_ns, before_ns, 0)

    def _spent(
        self, role: Role, kind: Kind, from_ns: int, spent_ns: int, before_ns: int, passes: int
    ) -> None:
        start_ns = min(from_ns, before_ns)
        end_ns = min(start_ns + spent_ns, before_ns)
        block = Block(
            role=role, kind=kind, epoch=self.epoch, seq=0, sent_ns=start_ns, came_ns=start_ns,
            start_ns=start_ns, end_ns=end_ns, back_ns=end_ns, seen_ns=end_ns, passes=passes,
        )  # fmt: skip
        self.story.blocks.append(block)
        lane = self._lanes[role]
        lane.blocks.append(block)
        lane.free_ns = end_ns

    def _draft(self, block: Block, asked: _Asked, reply: Drafted) -> None:
        """Puts the tokens of a draft on the line, or aside where the line has changed."""
        block.final = reply.final
        if reply.low:
            block.low = (reply.low_token, reply.low_confidence)
        old = reply.epoch < self.epoch
        index = len(self.story.blocks) - 1
        for token, confidence in zip(reply.tokens, reply.confidences, strict=False):
            cell = Cell(asked.next, token, confidence, Fate.OLD if old else Fate.OPEN)
            block.cells.append(cell)
            asked.next += 1
            if not old:
                self._live[cell.position] = (index, cell)

    def _given(self, at_ns: int, token: Token) -> None:
        """A token is text: so what was guessed there stood, or it and all behind it fell."""
        index = len(self.story.blocks) - 1
        chip = Chip(token.token, token.source, token.confidence, token.distance, at_ns, index)
        self.story.chips.append(chip)
        drafted, cell = self._live.pop(token.position, (-1, None))
        if cell is None:
            return
        if cell.token == token.token:
            cell.fate = Fate.STOOD
            return
        cell.fate = Fate.REPLACED
        fell = [self._live.pop(p)[1] for p in sorted(self._live) if p > token.position]
        for other in fell:
            other.fate = Fate.BEHIND
        self.story.swaps.append(
            Swap(
                token.position, cell.token, token.token, token.source, at_ns, index, drafted,
                len(fell),
            )
        )  # fmt: skip

    def _finished(self, at_ns: int, finish: Finish) -> None:
        for _, cell in self._live.values():
            cell.fate = Fate.END
        self._live.clear()
        for lane in self._lanes.values():
            lane.pending.clear()
        self._wait(at_ns)
        story = self.story
        story.failed = finish.reason is None
        if finish.reason is not None:
            story.end = finish.reason.value
        elif finish.error is not None:
            story.end = f"{type(finish.error).__name__}: {finish.error}"


def _move(block: Block, by_ns: int) -> None:
    block.start_ns += by_ns
    block.end_ns += by_ns
    block.came_ns = min(max(block.came_ns + by_ns, block.sent_ns), block.start_ns)


def _own_passes(reply: Drafted | Verified) -> int:
    """Passes of an answer's own tokens; the worker's count holds those of a stopped draft too."""
    return len(reply.tokens) + reply.low if isinstance(reply, Drafted) else 1


def _check(asked: _Asked, reply: Drafted | Verified) -> Check | None:
    request = asked.request
    if not isinstance(request, Verify) or not isinstance(reply, Verified):
        return None
    first = asked.next - len(request.exact)
    return Check(first, request.exact, reply.accepted, reply.token, reply.distances)
