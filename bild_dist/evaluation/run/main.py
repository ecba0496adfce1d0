"""`bild eval`: quality and latency of one setting on one task, normalised by the large model alone, which
is measured in the same run.

The two take turns in blocks of items, so that a machine that warms up or slows down favours neither.
Finished texts are kept in a file beside the record: interrupted, the same command goes on. A finished
record is never replaced: the same command says that it is done, another one is refused.
"""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from bild_dist import log
from bild_dist.clock import now_ns
from bild_dist.config import WorkerConfig
from bild_dist.errors import BildError, ConfigError, InvalidRequest, LocalProtocolError
from bild_dist.evaluation.align.progress import Bar
from bild_dist.evaluation.bench import usage
from bild_dist.evaluation.metrics import reading, registry
from bild_dist.evaluation.run import finished, identity, sheet
from bild_dist.evaluation.run.figures import Judge, Written, merged, repeats
from bild_dist.evaluation.run.held import held
from bild_dist.evaluation.run.options import Plan, around, named, planned
from bild_dist.evaluation.run.partial import Partial
from bild_dist.evaluation.run.record import Failure, Part, Record, Setting, TextRecord
from bild_dist.evaluation.run.running import Outcome, opened, steps, warm_up, worded, write
from bild_dist.evaluation.tasks.base import Item
from bild_dist.messages import Info
from bild_dist.orchestrator.decoder import Decoder
from bild_dist.orchestrator.prompt import prepare
from bild_dist.policy.baselines import alone
from bild_dist.types import Mode, Role

if TYPE_CHECKING:
    from bild_dist.orchestrator.cli import InProcess

_SETTING: Final = "setting"
_LARGE: Final = "large alone"
"""The two parts of a run."""


def main(argv: Sequence[str], inproc: InProcess) -> int:
    """Exit code: 0 every text was written, 1 some failed or a worker did, 2 bad usage or configuration,
    130 interrupted.
    """
    # Whoever ends it by `kill` wants to go on as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        log.configure()
        plan = planned(argv)
        with held(plan.out, again=False):
            return Eval(plan, shlex.join(["bild", "eval", *argv]), inproc).run()
    except BildError as error:
        print(f"bild eval: {error}", file=sys.stderr)  # noqa: T201
        return 2 if isinstance(error, ConfigError | InvalidRequest) else 1
    except KeyboardInterrupt:
        print("bild eval: interrupted; the same command goes on", file=sys.stderr)  # noqa: T201
        return 130


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of the texts: by part its setting, and for each round the outcomes by item."""

    settings: Mapping[str, Setting]
    rounds: Mapping[str, Sequence[Mapping[str, Outcome]]]

    def texts(self, part: str) -> list[dict[str, TextRecord]]:
        """The texts of each round."""
        return [
            {name: found for name, found in ran.items() if isinstance(found, TextRecord)}
            for ran in self.rounds[part]
        ]

    def failed(self, part: str) -> tuple[Failure, ...]:
        """Each item that failed, once."""
        found: dict[str, Failure] = {}
        for ran in self.rounds[part]:
            for name, outcome in ran.items():
                if isinstance(outcome, Failure):
                    found.setdefault(name, outcome)
        return tuple(found.values())


class Eval:
    """One run. Owns what is known of it until the record is written.

    Raises:
        ConfigError: the task, a metric or a file cannot be used.
    """

    def __init__(self, plan: Plan, command: str, inproc: InProcess) -> None:
        self._plan = plan
        self._command = command
        self._inproc = inproc
        self._err = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._items = plan.task.items(plan.split, plan.count)
        self._metrics = registry.chosen(plan.metrics, self._items, plan.task.metric)
        self._reads = any(metric.name == "perplexity" for metric in self._metrics)
        if self._reads and plan.addresses:
            raise ConfigError(
                "perplexity reads with the large model itself: name it with --large instead of joining a "
                "running worker, or leave out --metric perplexity"
            )
        if self._reads:
            reading.refuse_toy(plan.config.large)
        self._infos: dict[Role, Info] = {}
        self._models: dict[Role, dict[str, Any]] = {}
        """As `identity.model` has them, looked at before the first text."""
        self._before = finished.there(plan.out)
        """The record that is there already."""
        self._about: dict[str, Any] = {}
        """What it runs on and which program it is: taken at the beginning, since files may change meanwhile."""
        self._asked = ""
        """As `identity.asked` has it."""
        self._prompts: dict[str, tuple[int, ...]] = {}
        """Ids of what was asked, by item: what the large model reads in front of a text."""
        self._forced: int | None = None
        """The id that begins every text, where there is one."""

    def run(self) -> int:
        """Exit code as `main`."""
        self._about = usage.environment(self._command)
        found = asyncio.run(self._measure())
        if found is None:
            return self._done()
        measured, partial = found
        written = {}
        for part in measured.settings:
            texts = merged(measured.texts(part))
            written[part] = Written(texts, self._nats(texts))
        others = [own for part, own in written.items() if part != _LARGE]
        judge = Judge(self._items, self._metrics, written[_LARGE], others)
        parts = {}
        for part, setting in measured.settings.items():
            figures = judge.figures(written[part])
            if self._plan.rounds > 1:
                figures["repeats"] = repeats(measured.texts(part))
            there = written[part].texts
            kept = tuple(there[item.id] for item in self._items if item.id in there)
            parts[part] = Part(
                setting=setting, texts=kept, failed=measured.failed(part), figures=figures
            )
        record = Record(
            task=self._plan.task.name,
            split=self._plan.split,
            part=parts.get(_SETTING, parts[_LARGE]),
            large=parts[_LARGE] if _SETTING in parts else None,
            models={role.value: asdict(self._infos[role]) | self._models[role] for role in Role},
            environment=self._environment(measured.settings, partial.commits),
        )
        record.write(self._plan.out)
        partial.remove()
        sheet.show(record)
        self._err.print(f"written to {self._plan.out}")
        return 1 if any(part.failed for part in parts.values()) else 0

    def _done(self) -> int:
        """Shows the record that this command has made before. Exit code as it had then."""
        record = self._before
        if record is None:
            raise LocalProtocolError("no record was there")
        sheet.show(record)
        done = f"{self._plan.out} is there already: remove it to measure anew"
        self._err.print(done, soft_wrap=True)
        return 1 if any(part.failed for part in (record.part, record.large) if part) else 0

    async def _measure(self) -> tuple[Measured, Partial] | None:
        """None where the record is there already."""
        plan = self._plan
        async with AsyncExitStack() as stack:
            with self._during("starting the workers"):
                opening = opened(plan.config, plan.addresses, self._inproc)
                decoder = await stack.enter_async_context(opening)
            return await self._write(decoder)

    @contextmanager
    def _during(self, what: str) -> Iterator[None]:
        """Says what takes time: on a terminal as long as it lasts, elsewhere once."""
        if not self._err.is_terminal:
            self._err.print(what)
        with self._err.status(what):
            yield

    async def _write(self, decoder: Decoder) -> tuple[Measured, Partial] | None:
        """All texts that are not there yet; None where the record is.

        Raises:
            ConfigError: what is there is of another run; names what differs.
        """
        plan = self._plan
        self._infos = {role: client.info for role, client in decoder.workers.items()}
        settings = self._settings(decoder)
        items = worded(self._items, around(plan, self._infos[Role.LARGE]))
        self._models = {role: self._model(role) for role in Role}
        self._asked = identity.asked(items)
        if self._before is not None:
            finished.same(self._before, plan.out, self._whole(settings))
            return None
        todo = list(steps(items, list(settings), plan.rounds))
        with Partial(plan.out, self._identity(settings), self._about["commit"]) as partial:
            done = sum(step in partial for step in todo)
            if done:
                self._err.print(f"goes on after {done} of {len(todo)} texts")
            if done < len(todo):
                with self._during(
                    "warming up: a short text with each setting, which does not count"
                ):
                    await warm_up(decoder, items, [s.options for s in settings.values()])
            begun, tokens = now_ns(), 0
            with Bar(f"{plan.task.name}, {plan.split}", len(todo), done) as bar:
                for step in todo:
                    if step in partial:
                        continue
                    outcome = await write(decoder, step.item, settings[step.part].options)
                    partial.add(step, outcome)
                    done += 1
                    tokens += len(outcome.tokens) if isinstance(outcome, TextRecord) else 0
                    bar.at(done, f"{tokens / (now_ns() - begun) * 1e9:,.0f} tokens/s")
            if self._reads:
                await self._remember(decoder, items, partial)
            rounds = {
                part: [partial.outcomes(part, number) for number in range(plan.rounds)]
                for part in settings
            }
        return Measured(settings, rounds), partial

    def _settings(self, decoder: Decoder) -> dict[str, Setting]:
        """What is asked for, and the large model alone: with the same lengths, stop texts and draws."""
        asked = decoder.settled(self._plan.config.generate)
        setting = named(self._plan, asked)
        if asked.mode is Mode.LARGE:
            return {_LARGE: setting}
        return {_SETTING: setting, _LARGE: Setting.of(alone(asked))}

    def _identity(self, settings: Mapping[str, Setting]) -> dict[str, Any]:
        """What makes two runs the same: models, texts, settings, and what decides their speed."""
        plan = self._plan
        return {
            "task": plan.task.name,
            "split": plan.split,
            "items": self._asked,
            "rounds": plan.rounds,
            "transport": plan.config.orchestrator.transport,
            **{name: setting.as_dict() for name, setting in settings.items()},
            **{role.value: model for role, model in self._models.items()},
            **identity.surroundings(),
        }

    def _whole(self, settings: Mapping[str, Setting]) -> dict[str, Any]:
        """What makes two records the same: the run, and what is taken of its texts."""
        return {
            **self._identity(settings),
            "metrics": [metric.name for metric in self._metrics],
            "references": identity.references(self._items),
        }

    def _model(self, role: Role) -> dict[str, Any]:
        config: WorkerConfig = getattr(self._plan.config, role.value)
        return identity.model(self._infos[role], config, joined=bool(self._plan.addresses))

    async def _remember(self, decoder: Decoder, items: Sequence[Item], partial: Partial) -> None:
        """Keeps what each text was asked by, as the models read it, for reading it again."""
        if decoder.text is None:
            raise LocalProtocolError("the decoder has not been entered")
        options = self._plan.config.generate
        there = {key[2] for key, found in partial.found.items() if isinstance(found, TextRecord)}
        for item in items:
            if item.id in there:
                work = await prepare(item.prompt, options, decoder.workers, decoder.text)
                self._prompts[item.id] = work.source or work.ids
                self._forced = work.rules.forced_begin

    def _nats(self, texts: Mapping[str, TextRecord]) -> dict[str, float]:
        if not self._reads:
            return {}
        asked = [reading.Reading(self._prompts[name], text.tokens) for name, text in texts.items()]
        with self._during("the large model reads"):
            found = reading.nats(self._plan.config.large, asked, self._forced)
        return dict(zip(texts, found, strict=True))

    def _environment(
        self, settings: Mapping[str, Setting], commits: Sequence[str]
    ) -> dict[str, Any]:
        small, large = self._infos[Role.SMALL], self._infos[Role.LARGE]
        return {
            **self._about,
            "commits": list(commits),
            "threads_small": small.threads,
            "threads_large": large.threads,
            "dtype": large.dtype,
            "transport": self._plan.config.orchestrator.transport,
            "rounds": self._plan.rounds,
            "items": self._asked,
            "references": identity.references(self._items),
            finished.IDENTITY: self._whole(settings),
        }
