"""The stages of a sweep: record, read, predict, write, measure, judge. Each leaves what it made in
the journal, so that an interrupted sweep goes on where it was.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bild_dist.clock import now_ns
from bild_dist.config import Config
from bild_dist.errors import ConfigError
from bild_dist.evaluation.align.progress import Bar
from bild_dist.evaluation.metrics.base import Metric
from bild_dist.evaluation.run import running
from bild_dist.evaluation.run.record import Failure, Part, Setting, TextRecord
from bild_dist.evaluation.sweep import alone, timing
from bild_dist.evaluation.sweep.alone import ALONE, counted
from bild_dist.evaluation.sweep.aside import aside
from bild_dist.evaluation.sweep.grid import Grid, Rule, front, rule
from bild_dist.evaluation.sweep.journal import Journal
from bild_dist.evaluation.sweep.judging import difference, judged
from bild_dist.evaluation.sweep.memory import Memory
from bild_dist.evaluation.sweep.pair import Pair, remembered
from bild_dist.evaluation.sweep.reading import Reading, read
from bild_dist.evaluation.sweep.replay import Marks, Played, changed, replay
from bild_dist.evaluation.sweep.study import MEASURED, Point, Study
from bild_dist.evaluation.sweep.texts import Texts
from bild_dist.evaluation.tasks.base import PLACE, Item
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.orchestrator.prompt import prepare
from bild_dist.simulator import Costs
from bild_dist.types import Mode, Options, Role, Schedule

if TYPE_CHECKING:
    from bild_dist.orchestrator.cli import InProcess

NEAR: Final = 0.1
"""Settings that would be on the predicted front if they were faster by this share count as near."""
RECORDED: Final = ("middle", "large")
"""Texts that are read, and that predictions can be made from."""
_SPENT: Final = "spent"
"""Under which name the journal has the time of each stage, ns; its last line of that name counts."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What to do. `items`: with `template`, the task's wording, around their prompts. `only_front`: write
    and measure only settings near the predicted front.
    """

    config: Config
    grid: Grid
    task: str
    split: str
    items: tuple[Item, ...]
    metrics: tuple[Metric, ...]
    main: str
    template: str = PLACE
    recorded: str = "middle"
    only_front: bool = False
    measure: bool = False


class Stages:
    """Carries out a sweep. Owns what was found so far."""

    def __init__(
        self, sweep: Sweep, journal: Journal, environment: Mapping[str, Any], inproc: InProcess
    ) -> None:
        self._sweep = sweep
        self._inproc = inproc
        self._journal = journal
        self._environment = environment
        self._spent: dict[str, int] = defaultdict(int)
        if _SPENT in journal:
            # Earlier starts count too.
            self._spent.update(journal[_SPENT])
        self._items: tuple[Item, ...] = ()
        self._timed: dict[str, tuple[TextRecord, ...]] = {}
        self._readings: dict[str, tuple[Reading, ...]] = {}
        self._played: dict[str, tuple[Played, ...]] = {}
        self._same: dict[str, list[bool | None]] = defaultdict(list)
        self._costs: Costs
        self._times: dict[str, Any] = {}
        """As `Study.costs` has them."""

    async def run(self) -> Study:
        """All stages.

        Raises:
            BildError: a worker failed, or nothing could be written.
        """
        sweep, journal = self._sweep, self._journal
        done = timing.recorded(sweep.items, journal)
        with (
            self._timing("record"),
            Bar("recorded run", len(sweep.items), done, unit="texts") as bar,
        ):
            opening = running.opened(sweep.config, {}, self._inproc)
            models = await timing.record(opening, sweep.grid, sweep.items, journal, bar.at)
        sweep = dataclasses.replace(sweep, grid=timing.settled(sweep.grid, journal))
        self._sweep = sweep
        failed = self._take()
        self._costs = Costs(**journal["costs"])
        self._times = dict(journal["costs"])
        async with remembered(sweep.config, Memory()) as pair:
            with self._timing("read"):
                await self._read(pair)
            settings = sweep.grid.settings()
            # Aside: the workers of this process take a loop that is busy for ten seconds for a lost one.
            with self._timing("replay"):
                points = await aside(lambda: self._predicted(settings))
            wanted = self._wanted(points)
            with self._timing("write"):
                texts = await self._write(pair, [p.setting for p in wanted])
        played = dict(await aside(lambda: self._replayed(wanted, texts)))
        walls: Mapping[str, Sequence[Played]] = {}
        if sweep.measure:
            with self._timing("measure"):
                walls = await self._measured([point.setting for point in wanted])
            # Divided by the time that it took beside them, not by that of another hour.
            self._timed["large"] = tuple(
                dataclasses.replace(text, wall_ns=ran.wall_ns, walls_ns=(ran.wall_ns,))
                for text, ran in zip(self._timed["large"], walls[Mode.LARGE.value], strict=True)
            )
        names = {point.setting.name for point in wanted}
        finished = [
            self._finished(point, texts, played, walls) if point.setting.name in names else point
            for point in points
        ]
        study = Study(
            task=sweep.task, split=sweep.split, metric=sweep.main, items=self._items,
            large=self._part("large"), small=self._part("small"), middle=self._part("middle"),
            readings=self._readings, recorded=sweep.recorded, failed=tuple(failed),
            costs=self._times, models=models, environment=self._environment,
            spent_ns=dict(self._spent),
        )  # fmt: skip
        study = judged(study, finished, sweep.metrics)
        return dataclasses.replace(study, difference=difference(study, sweep.grid))

    @contextmanager
    def _timing(self, stage: str) -> Iterator[None]:
        """Adds the time of a stage to what it took before, also where it is interrupted."""
        started_ns = now_ns()
        try:
            yield
        finally:
            self._spent[stage] += now_ns() - started_ns
            self._journal.put(_SPENT, self._spent)

    def _take(self) -> list[Failure]:
        """What the recorded run left. An item without its three texts is left out everywhere."""
        found = {item.id: self._journal[f"timed {item.id}"] for item in self._sweep.items}
        failed = [Failure.from_dict(f["failed"]) for f in found.values() if "failed" in f]
        kept = [item for item in self._sweep.items if "failed" not in found[item.id]]
        kept = [item for item in kept if all(found[item.id][k]["tokens"] for k in timing.KINDS)]
        if not kept:
            why = f": {failed[0].message}" if failed else ""
            raise ConfigError(f"no text of {self._sweep.task} could be written{why}")
        self._items = tuple(kept)
        self._timed = {
            kind: tuple(TextRecord.from_dict(found[item.id][kind]) for item in kept)
            for kind in timing.KINDS
        }
        return failed

    async def _read(self, pair: Pair) -> None:
        """Both models read the recorded texts."""
        found: dict[str, list[Reading]] = {kind: [] for kind in RECORDED}
        done = sum(f"read {item.id}" in self._journal for item in self._items)
        with Bar("reading", len(self._items), done, unit="texts") as bar:
            for number, item in enumerate(self._items):
                if f"read {item.id}" not in self._journal:
                    texts = {kind: self._timed[kind][number].tokens for kind in RECORDED}
                    said = {
                        kind: (await self._reading(pair, item, tokens)).as_dict()
                        for kind, tokens in texts.items()
                    }
                    self._journal.put(f"read {item.id}", said)
                    pair.memory.forget()
                    done += 1
                    bar.at(done)
                for kind in RECORDED:
                    found[kind].append(Reading.from_dict(self._journal[f"read {item.id}"][kind]))
        self._readings = {kind: tuple(read) for kind, read in found.items()}

    async def _reading(self, pair: Pair, item: Item, tokens: Sequence[int]) -> Reading:
        decoder, options = pair.decoder, self._sweep.grid.middle
        if decoder.text is None:
            raise ConfigError("the decoder has not been entered")
        work = await prepare(item.prompt, options, decoder.workers, decoder.text)
        # No text is under way, so the models are free.
        return await asyncio.to_thread(read, item.id, work, tokens, pair.models)

    def _predicted(self, settings: Sequence[Setting]) -> Generator[Point]:
        """The replay of the whole grid, a setting after the other."""
        marks = {kind: [Marks.of(r) for r in read] for kind, read in self._readings.items()}
        self._time_besides(replay(marks["middle"], self._sweep.grid.middle, self._costs))
        with Bar("replay", len(settings), unit="settings") as bar:
            for number, setting in enumerate(settings, start=1):
                texts = marks[self._sweep.recorded]
                yield Point(setting=setting, played=self._timed_by(texts, setting.options))
                bar.at(number)

    def _time_besides(self, own: Sequence[Played]) -> None:
        """Finds what a text takes beside its passes. `own`: the recorded setting, played over its own texts."""
        texts, times = self._timed["middle"], self._times
        times |= alone.paces(times, {role: self._timed[role.value] for role in Role})
        times |= alone.recorded(times, texts, own)

    def _timed_by(self, texts: Sequence[Marks], options: Options) -> tuple[Played, ...]:
        """A replay with the time that every text takes besides."""
        if options.mode in ALONE:
            role = ALONE[options.mode]
            return alone.predicted(self._timed[role.value], role, self._times)
        found = replay(texts, options, self._costs)
        return tuple(p._replace(wall_ns=p.wall_ns + self._times["opening_ns"]) for p in found)

    def _wanted(self, points: Sequence[Point]) -> list[Point]:
        """Which settings are written: all, or those that may be on the front."""
        if not self._sweep.only_front:
            return list(points)
        marks = [Marks.of(reading) for reading in self._readings[self._sweep.recorded]]

        def quality(point: Point) -> float:
            options = point.setting.options
            if options.mode is not Mode.BILD:
                return -np.inf if options.mode is Mode.SMALL else 0.0
            return -float(sum(changed(text, options) for text in marks))

        return front(points, quality=quality, latency=lambda p: p.latency_ms, slack=NEAR)

    async def _write(self, pair: Pair, settings: Sequence[Setting]) -> dict[Rule, Texts]:
        """The texts of some settings, item by item, so that one item's rows are all there is to
        remember. They stay in the journal.
        """
        rules = {rule(setting.options): setting.options for setting in settings}
        # A text over the memory takes no time to speak of, and passes of schedules that look at the clock
        # are not its own. So what was not measured is played over it.
        timed = {
            rule(s.options)
            for s in settings
            if not (self._sweep.measure or s.options.mode in ALONE)
        }
        texts = len(self._items) * len(rules)
        done = sum(_written(i, each) in self._journal for i in self._items for each in rules)
        with Bar("writing", texts, done, unit="texts") as bar:
            for number, item in enumerate(self._items):
                for each, options in rules.items():
                    name = _written(item, each)
                    if name not in self._journal:
                        said = await self._one(pair, item, number, options, read=each in timed)
                        self._journal.put(name, said)
                        done += 1
                        bar.at(done)
                pair.memory.forget()
        return {key: Texts(len(self._items), partial(self._texts, key)) for key in rules}

    def _texts(self, key: Rule) -> Iterator[TextRecord]:
        """The texts of a rule as the journal has them."""
        for item in self._items:
            yield TextRecord.from_dict(self._journal[_written(item, key)]["text"])

    async def _one(
        self, pair: Pair, item: Item, number: int, options: Options, *, read: bool
    ) -> dict[str, Any]:
        """One text of a setting over the memory, and what both models say of it if asked for."""
        if options.mode in (Mode.LARGE, Mode.EXACT, Mode.SMALL):
            kind = "small" if options.mode is Mode.SMALL else "large"
            text = self._timed[kind][number]
        else:
            paper = options.merged({"schedule": Schedule.PAPER})
            text = await timing.write(pair.decoder, item, paper)
        reading = (await self._reading(pair, item, text.tokens)).as_dict() if read else None
        return {"text": dataclasses.asdict(text), "reading": reading}

    def _replayed(
        self, points: Sequence[Point], texts: Mapping[Rule, Sequence[TextRecord]]
    ) -> Generator[tuple[str, list[Played]]]:
        """Passes of settings over their own texts, by name."""
        for point in points:
            yield point.setting.name, self._own(point.setting.options, texts)

    def _own(self, options: Options, texts: Mapping[Rule, Sequence[TextRecord]]) -> list[Played]:
        """Passes of a setting over the texts that it really wrote."""
        if options.mode in ALONE:
            return list(self._timed_by((), options))
        ran = [counted(text) for text in texts[rule(options)]]
        if self._sweep.measure:
            return ran
        said = (self._journal[_written(item, rule(options))]["reading"] for item in self._items)
        played = self._timed_by([Marks.of(Reading.from_dict(one)) for one in said], options)
        if not _counts(options):
            return list(played)
        return [one._replace(wall_ns=other.wall_ns) for one, other in zip(ran, played, strict=True)]

    async def _measured(self, settings: Sequence[Setting]) -> dict[str, list[Played]]:
        """The settings and the large model alone in worker processes, item by item. By name."""
        found = defaultdict(list)
        large = Setting.of(timing.of_kind(self._sweep.grid, "large"))
        todo = list({setting.name: setting for setting in (large, *settings)}.values())
        options = [setting.options for setting in todo]
        done = sum(f"measured {item.id}" in self._journal for item in self._items)
        if done < len(self._items):
            opening = running.opened(self._sweep.config, {}, self._inproc)
            with Bar("measuring", len(self._items), done, unit="rounds") as bar:
                async with opening as decoder:
                    # Otherwise each would begin as if it were its first text.
                    decoder.expect(len(todo))
                    await running.warm_up(decoder, self._items[:1], options)
                    bar.at(done)
                    for number, item in enumerate(self._items, start=1):
                        if f"measured {item.id}" not in self._journal:
                            # Who comes first changes, so that what follows a pause favours nobody.
                            turn = number % len(todo)
                            ran = await self._all(decoder, item, todo[turn:] + todo[:turn])
                            self._journal.put(f"measured {item.id}", self._compared(ran, number))
                            done += 1
                            bar.at(done)
        for item in self._items:
            for name, said in self._journal[f"measured {item.id}"].items():
                # Earlier versions did not compare the texts.
                old = isinstance(said, list)
                found[name].append(Played(*(said if old else said["ran"])))
                self._same[name].append(None if old else said["same"])
        return dict(found)

    @staticmethod
    async def _all(
        decoder: Decoder, item: Item, settings: Sequence[Setting]
    ) -> dict[Setting, TextRecord]:
        """One item under every setting."""
        return {setting: await timing.write(decoder, item, setting.options) for setting in settings}

    def _compared(self, ran: Mapping[Setting, TextRecord], number: int) -> dict[str, Any]:
        """Passes and time of one item's texts by name, and whether each is the text that is judged. `number`: of
        the item, from 1.
        """
        found, item = {}, self._items[number - 1]
        for setting, text in ran.items():
            if setting.options.mode is Mode.LARGE:
                tokens = self._timed["large"][number - 1].tokens
            else:
                name = _written(item, rule(setting.options))
                tokens = tuple(self._journal[name]["text"]["tokens"])
            found[setting.name] = {"ran": list(counted(text)), "same": text.tokens == tokens}
        return found

    def _finished(
        self, point: Point, texts: Mapping[Rule, Sequence[TextRecord]],
        played: Mapping[str, Sequence[Played]], walls: Mapping[str, Sequence[Played]],
    ) -> Point:  # fmt: skip
        name, options = point.setting.name, point.setting.options
        source = MEASURED if name in walls else "counted" if _counts(options) else "own text"
        return dataclasses.replace(
            point, texts=texts[rule(options)], ran=tuple(walls.get(name, played[name])),
            source=source, same_texts=self._share(name),
        )  # fmt: skip

    def _share(self, name: str) -> float | None:
        """Of the texts that were timed, how many are those that were judged; None where nobody knows."""
        said = self._same.get(name, [])
        known = [one for one in said if one is not None]
        return sum(known) / len(known) if known and len(known) == len(said) else None

    def _part(self, kind: str) -> Part:
        options = timing.of_kind(self._sweep.grid, kind)
        return Part(setting=Setting.of(options), texts=self._timed[kind])


def _written(item: Item, key: Rule) -> str:
    """Under which name the journal has a text."""
    return f"written {item.id} " + "/".join(map(str, key))


def _counts(options: Options) -> bool:
    """Whether the passes of a text depend on nothing but the text."""
    drafted = options.mode is Mode.BILD and options.schedule is Schedule.PAPER
    return drafted or options.mode in ALONE
