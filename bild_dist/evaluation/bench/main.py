"""`bild bench`: speed against peers, in one command.

Contestants run one after another, each in a process of its own that ends before the next one
starts; every second round they run in reverse order, so that a machine that warms up or slows down
favours nobody. Starting does not count. Ratios are taken within a round, and their median over the
rounds is reported.
"""

from __future__ import annotations

import contextlib
import json
import math
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bild_dist.errors import BildError, ConfigError, InvalidRequest, WorkerFault
from bild_dist.evaluation.bench import child, table, usage
from bild_dist.evaluation.bench.contestants import Contestant
from bild_dist.evaluation.bench.figures import Comparison, Round
from bild_dist.evaluation.bench.job import Job, Outcome, refusal
from bild_dist.evaluation.bench.options import Plan, planned
from bild_dist.evaluation.run.files import write_whole

if TYPE_CHECKING:
    from bild_dist.orchestrator.cli import InProcess

ONE: Final = "--one"
"""First word of the command line by which this program starts itself for one contestant."""
STOP_S: Final = 15.0
"""Seconds for a process to stop its workers in order before it is killed."""


def main(argv: Sequence[str], inproc: InProcess) -> int:
    """Exit code: 0 all were measured, 1 some could not be, 2 bad usage or configuration, or nobody
    could run, 130 interrupted.
    """
    if argv[:1] == [ONE]:
        return child.main(argv[1], argv[2], inproc)
    # Whoever ends it by `kill` wants to see what there is as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        plan = planned(argv)
        return Bench(plan, shlex.join(["bild", "bench", *argv])).run()
    except BildError as error:
        print(f"bild bench: {error}", file=sys.stderr)  # noqa: T201
        return 2 if isinstance(error, ConfigError | InvalidRequest) else 1
    except KeyboardInterrupt:
        return 130


class Bench:
    """One measurement. Owns what was measured so far; the file is rewritten whenever that grows.

    Raises:
        ConfigError: the output file cannot be written.
    """

    def __init__(self, plan: Plan, command: str) -> None:
        self._plan = plan
        self._errors: dict[str, dict[str, str]] = {}
        self._rounds: list[Round] = []
        sampled = plan.config.generate.temperature > 0
        self._comparison = Comparison(plan.field, plan.tasks, sampled=sampled)
        self._about = {
            "command": command,
            "commit": usage.commit(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "hardware": usage.hardware(),
            "versions": usage.versions(),
            "settings": {
                "rounds": plan.rounds,
                "texts": len(plan.tasks),
                "paced": plan.paced,
                **_plain(asdict(plan.config)),
            },
        }
        self._write(complete=False)

    def run(self) -> int:
        """Measures, and shows what was measured even when that was cut short. Exit code as
        `main`.
        """
        try:
            with _progress(self._plan.rounds * len(self._plan.field)) as advance:
                for number in range(self._plan.rounds):
                    self._round(number, advance)
        except KeyboardInterrupt:
            table.show(self._write(complete=False))
            return 130
        report = self._write(complete=True)
        table.show(report)
        if len(self._errors) < len(self._plan.field):
            return 1 if self._errors else 0
        kinds = {error["type"] for error in self._errors.values()}
        return 2 if kinds <= {ConfigError.__name__, InvalidRequest.__name__} else 1

    def _round(self, number: int, advance: _Advance) -> None:
        order = self._plan.field[:: -1 if number % 2 else 1]
        self._rounds.append({})
        for contestant in order:
            # What failed once would fail again: it is not asked a second time.
            if contestant.name not in self._errors:
                advance(0, f"round {number + 1}: {contestant.name}")
                plan = self._plan
                outcome = measured(Job(contestant, plan.config, plan.tasks, plan.built_in))
                self._rounds[-1][contestant.name] = outcome
                if "error" in outcome:
                    self._errors[contestant.name] = outcome["error"]
                self._write(complete=False)
            advance(1, "")

    def _write(self, *, complete: bool) -> dict[str, Any]:
        """Makes the report of what there is, and writes it where it was asked for."""
        medians = self._comparison.medians(self._rounds)
        report = {
            **self._about,
            "complete": complete,
            "contestants": [
                {
                    "name": contestant.name,
                    **_facts(contestant, self._rounds),
                    "ratio_to": self._comparison.base(contestant),
                    "error": self._errors.get(contestant.name),
                    "figures": medians[contestant.name],
                }
                for contestant in self._plan.field
            ],
            "rounds": [_numbers(ran) for ran in self._rounds],
        }
        if self._plan.output is not None:
            text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
            write_whole(Path(self._plan.output), text, "--output")
        return report


def measured(job: Job) -> Outcome:
    """One contestant, once, in a process of its own; an `error` where it could not take part."""
    with tempfile.TemporaryDirectory(prefix="bild-bench-") as folder:
        asked, answer = Path(folder, "job.json"), Path(folder, "answer.json")
        job.write(asked)
        with Path(folder, "errors.txt").open("w+", encoding="utf-8") as errors:
            code = _run([ONE, str(asked), str(answer)], errors)
            if answer.exists():
                outcome: Outcome = json.loads(answer.read_text(encoding="utf-8"))
                return outcome
            errors.seek(0)
            said = [line.strip() for line in errors if line.strip()]
    last = said[-1] if said else "it said nothing"
    return refusal(WorkerFault(f"its process ended with exit code {code}: {last}"))


def _facts(contestant: Contestant, rounds: Sequence[Round]) -> dict[str, Any]:
    """What a contestant ran on and what it wrote first, and whether it wrote the same again."""
    ran = [one[contestant.name] for one in rounds if contestant.name in one]
    ran = [outcome for outcome in ran if "error" not in outcome]
    if not ran:
        return {"runs_on": None, "texts": [], "repeats": None}
    written = [[text["tokens"] for text in outcome["texts"]] for outcome in ran]
    return {
        "runs_on": ran[0]["runs_on"],
        "texts": [text["text"] for text in ran[0]["texts"]],
        "repeats": all(texts == written[0] for texts in written),
    }


def _numbers(ran: Round) -> dict[str, Any]:
    """The raw numbers of a round: of each text how many tokens, not which."""
    record: dict[str, Any] = {}
    for name, outcome in ran.items():
        if "error" in outcome:
            continue
        rest = {key: value for key, value in outcome.items() if key not in ("texts", "runs_on")}
        texts = [
            {**{k: v for k, v in text.items() if k != "text"}, "tokens": len(text["tokens"])}
            for text in outcome["texts"]
        ]
        record[name] = {**rest, "texts": texts}
    return record


def _plain(value: Any) -> Any:
    """A value that every JSON reader takes: an infinite number becomes its name."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, float) and math.isinf(value):
        return str(value)
    return value


def _run(words: Sequence[str], errors: IO[str]) -> int:
    """Runs this program in a session of its own, to its end or until we are interrupted."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bild_dist", "bench", *words],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors,
        # Ctrl-C is for us alone: the child hears of it when its standard input ends.
        start_new_session=True,
    )  # fmt: skip
    try:
        return process.wait()
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _Advance:
    """Moves the bar by so many runs, and says what runs now."""

    def __init__(self, bar: Progress, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=total)

    def __call__(self, runs: int, what: str) -> None:
        self._bar.update(self._task, advance=runs, description=what)


@contextlib.contextmanager
def _progress(total: int) -> Iterator[_Advance]:
    """A bar on standard error, where that is a terminal."""
    err = Console(file=sys.stderr, highlight=False, markup=False, emoji=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar:
        yield _Advance(bar, total)
