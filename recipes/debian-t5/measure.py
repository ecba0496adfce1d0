"""Step 6: speed and quality of the pair, against transformers on the same models.

Each contestant runs in a process of its own that ends before the next one starts, every second
round in reverse order; speed-ups are taken within a round, and their median over the rounds is
said. Interrupted, the same command goes on with the first round that is not complete.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import sheet
from lineup import ALONE, BASE, TRANSPORT, Desk, Entry, Setting, lineup
from rich.console import Console
from scores import Judge
from summary import Summary
from ties import differences

from bild_dist import log
from bild_dist.errors import BildError, ConfigError, InvalidRequest
from bild_dist.evaluation.bench import usage
from bild_dist.evaluation.bench.main import measured
from bild_dist.evaluation.bench.prompts import Task
from bild_dist.evaluation.corpora import named
from bild_dist.evaluation.sweep.journal import first_difference
from bild_dist.types import Schedule

SMALLS = ("unaligned", "aligned")
_ROOT = Path(__file__).parents[2]


def main(argv: Sequence[str]) -> int:
    """Exit code: 0 all were measured, 1 some could not be, 2 bad usage, 130 interrupted."""
    # Whoever ends it by `kill` wants to see what there is as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    log.configure()
    try:
        # The file is committed: no folders of this machine.
        command = shlex.join(["measure.py", *argv])
        for folder, name in ((f"{_ROOT}/", ""), (str(Path.home()), "~")):
            command = command.replace(folder, name)
        return Measurement(_asked(argv), command).run()
    except BildError as error:
        sys.stderr.write(f"measure: {error}\n")
        return 2 if isinstance(error, ConfigError | InvalidRequest) else 1


def parser() -> argparse.ArgumentParser:
    """All options."""
    top = argparse.ArgumentParser(description=__doc__)
    top.add_argument("--large", required=True, metavar="FOLDER")
    top.add_argument("--unaligned", metavar="FOLDER", help="the small model before its alignment")
    top.add_argument("--aligned", metavar="FOLDER", help="and after it")
    top.add_argument("--corpus", required=True, metavar="NAME", help=", ".join(named.names()))
    top.add_argument("--split", default="test", choices=named.SPLITS)
    top.add_argument("--count", type=int, metavar="N", help="take the first N texts only")
    top.add_argument("--setting", nargs="+", default=["0.5/2", "0.3/2", "0.2/2"], metavar="FB/RB",
                     help="thresholds of mode bild: ALPHA_FB/ALPHA_RB (default: 0.5/2 0.3/2 0.2/2)")  # fmt: skip
    top.add_argument(
        "--schedule", choices=[s.value for s in Schedule], help="default: as a user gets it"
    )
    top.add_argument("--threads", type=int, default=2, metavar="N",
                     help="of transformers and of each worker (default: 2)")  # fmt: skip
    top.add_argument("--device", default="cpu")
    top.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    top.add_argument("--max-new-tokens", type=int, default=128, metavar="N")
    top.add_argument("--rounds", type=int, default=3, metavar="R")
    top.add_argument("--pair", default="de-en", help="what the pair is called in the report")
    top.add_argument("--agreement", type=Path, metavar="FILE.json",
                     help="the report of bild align, to go into this one")  # fmt: skip
    top.add_argument("--keep", type=Path, metavar="FOLDER",
                     help="raw numbers and texts of the rounds (default: beside the large model)")  # fmt: skip
    top.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    return top


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure, and where to write it."""

    desk: Desk
    field: tuple[Entry, ...]
    references: tuple[str, ...]
    settings: dict[str, Any]
    rounds: int
    agreement: Path | None
    keep: Path
    out: Path


def _asked(argv: Sequence[str]) -> Plan:
    """What a command line asks for.

    Raises:
        ConfigError, InvalidRequest: something in it is wrong; names it and the remedy.
    """
    given = parser().parse_args(argv)
    smalls = [name for name in SMALLS if getattr(given, name)]
    if not smalls:
        raise ConfigError("name a small model: --unaligned FOLDER, --aligned FOLDER or both")
    for name in ("count", "rounds", "threads", "max_new_tokens"):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {value} must be at least 1")
    models = {name: str(Path(getattr(given, name)).resolve()) for name in (ALONE, *smalls)}
    for name, folder in models.items():
        if not _weights(folder).is_file():
            raise ConfigError(f"--{name} {folder} holds no model.safetensors: make that step first")
    settings = [Setting.read(text) for text in given.setting]
    examples = named.load(given.corpus, given.split)[: given.count]
    desk = Desk(
        models=models, tasks=tuple(Task(example.prompt) for example in examples),
        threads=given.threads, device=given.device, dtype=given.dtype,
        max_new_tokens=given.max_new_tokens,
    )  # fmt: skip
    field = tuple(lineup(smalls, settings, given.schedule and Schedule(given.schedule)))
    for entry in field:
        desk.job(entry)
    return Plan(
        desk=desk, field=field, references=tuple(example.reference for example in examples),
        settings={
            "pair": given.pair, "corpus": given.corpus, "split": given.split, "texts": len(examples),
            "rounds": given.rounds, "threads": given.threads, "device": given.device,
            "dtype": given.dtype, "batch": 1, "schedule": given.schedule, "transport": TRANSPORT,
            "max_new_tokens": given.max_new_tokens,
            "contestants": [entry.name for entry in field],
        },
        rounds=given.rounds, agreement=given.agreement,
        keep=given.keep or Path(models[ALONE]).with_name(f"measured-{given.threads}"), out=given.out,
    )  # fmt: skip


class Measurement:
    """One measurement. Owner of the rounds that are complete, and of the files they lie in."""

    def __init__(self, plan: Plan, command: str) -> None:
        self._plan = plan
        self._command = command
        self._err = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._judge = Judge(plan.references)
        self._identity = {
            "hardware": usage.hardware(),
            "versions": usage.versions(),
            "models": {name: _facts(folder) for name, folder in plan.desk.models.items()},
            # More rounds of the same are the same measurement.
            **{name: value for name, value in plan.settings.items() if name != "rounds"},
        }
        self._rounds: list[dict[str, Any]] = []

    def run(self) -> int:
        """Measures what is not there yet, and shows what there is even when cut short."""
        self._rounds = self._kept()
        if self._rounds:
            self._err.print(f"{len(self._rounds)} rounds are there already, in {self._plan.keep}")
        try:
            while len(self._rounds) < self._plan.rounds:
                self._rounds.append(self._round(len(self._rounds)))
                self._keep(len(self._rounds) - 1)
                self._write()
        except KeyboardInterrupt:
            sheet.show(self._report)
            return 130
        report = self._write()
        sheet.show(report)
        return int(any(row["error"] is not None for row in report["contestants"]))

    def _round(self, number: int) -> dict[str, Any]:
        begun = datetime.now(UTC)
        outcomes: dict[str, Any] = {}
        for entry in self._plan.field[:: -1 if number % 2 else 1]:
            outcome = outcomes[entry.name] = measured(self._plan.desk.job(entry))
            said = outcome.get("error", {}).get("message", "")
            if not said:
                mean_ms = outcome["wall_ns"] / len(outcome["texts"]) / 1e6
                said = f"{mean_ms:.0f} ms a text"
            self._err.print(f"round {number + 1}: {entry.name}: {said}", soft_wrap=True)
        return {
            "date": begun.isoformat(timespec="seconds"), "commit": usage.commit(),
            "load": os.getloadavg()[0],
            "identity": self._identity, "outcomes": outcomes,
        }  # fmt: skip

    def _kept(self) -> list[dict[str, Any]]:
        """The rounds of this very measurement that were complete when it was interrupted."""
        found: list[dict[str, Any]] = []
        while (file := self._file(len(found))).is_file() and len(found) < self._plan.rounds:
            kept = json.loads(file.read_text(encoding="utf-8"))
            differs = first_difference(kept["identity"], json.loads(json.dumps(self._identity)))
            if differs is not None:
                name, old, new = differs
                self._err.print(
                    f"{file} is of another measurement ({name} was {old}, is {new}): measured anew and written over. "
                    "To keep it, name another --keep",
                    soft_wrap=True,
                )
                break
            found.append(kept)
        return found

    def _keep(self, number: int) -> None:
        self._plan.keep.mkdir(parents=True, exist_ok=True)
        _write(self._file(number), self._rounds[number])

    def _file(self, number: int) -> Path:
        return self._plan.keep / f"round-{number + 1}.json"

    def _write(self) -> dict[str, Any]:
        report = self._report
        self._plan.out.parent.mkdir(parents=True, exist_ok=True)
        _write(self._plan.out, report)
        return report

    @property
    def _report(self) -> dict[str, Any]:
        """All that is said so far."""
        plan = self._plan
        rounds = [kept["outcomes"] for kept in self._rounds]
        last = self._rounds[-1] if self._rounds else {}
        summary = Summary(plan.field, rounds, self._judge)
        return {
            "pair": plan.settings["pair"],
            "command": self._command,
            **{name: last.get(name) for name in ("commit", "date")},
            **{name: self._identity[name] for name in ("hardware", "versions")},
            "settings": plan.settings,
            "models": self._identity["models"],
            "signatures": self._judge.signatures,
            "complete": len(rounds) == plan.rounds,
            **summary.as_dict(),
            "same_text": self._same_text(summary),
            **self._agreement,
            "rounds": [_numbers(kept) for kept in self._rounds],
        }

    def _same_text(self, summary: Summary) -> dict[str, Any]:
        own = summary.texts(BASE)
        if own is None:
            return {}
        exact = [entry.name for entry in self._plan.field if entry.contestant.exact]
        others = {name: texts for name in exact if (texts := summary.texts(name)) is not None}
        del others[BASE]
        prompts = [str(task.prompt) for task in self._plan.desk.tasks]
        return differences(self._plan.desk.models[ALONE], prompts, own, others)

    @cached_property
    def _agreement(self) -> dict[str, Any]:
        """What `bild align` counted, under the names that it gives it."""
        file = self._plan.agreement
        if file is None or not file.is_file():
            return {}
        found = json.loads(file.read_text(encoding="utf-8"))
        return {name: found[name] for name in ("before", "after") if name in found}


def _facts(folder: str) -> dict[str, Any]:
    """Which model it is, read without loading it."""
    config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    weights = _weights(folder)
    with weights.open("rb") as stream:
        head = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        stream.seek(0)
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    head.pop("__metadata__", None)
    sizes = []
    for tensor in head.values():
        size = 1
        for length in tensor["shape"]:
            size *= length
        sizes.append(size)
    known = ("num_layers", "num_decoder_layers", "d_model", "d_ff", "num_heads", "vocab_size")
    return {
        "parameters": sum(sizes),
        "bytes": weights.stat().st_size,
        "sha256": digest,
        **{name: config[name] for name in known if name in config},
    }


def _weights(folder: str) -> Path:
    return Path(folder, "model.safetensors")


def _numbers(kept: dict[str, Any]) -> dict[str, Any]:
    """A round as the report has it: sums, not texts."""
    return {
        **{name: kept[name] for name in ("date", "commit", "load")},
        "contestants": {
            name: {
                "wall_ns": outcome["wall_ns"],
                "tokens": sum(len(text["tokens"]) for text in outcome["texts"]),
                "large_passes": outcome["large_passes"],
            }
            for name, outcome in kept["outcomes"].items()
            if "error" not in outcome
        },
    }


def _write(file: Path, record: Any) -> None:
    """Whole or not at all."""
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
