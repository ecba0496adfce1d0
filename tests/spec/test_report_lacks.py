"""The commands by which a report says how to fill what it lacks: their runs stand beside those that are there."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bild_dist.app import inproc
from bild_dist.evaluation.report.files import Found, read
from bild_dist.evaluation.report.lacks import Lack
from bild_dist.evaluation.report.report import sections
from bild_dist.evaluation.report.runs import studies
from bild_dist.evaluation.run import main as evaluation
from bild_dist.evaluation.run.record import Part, Record, Setting, TextRecord
from bild_dist.policy.baselines import alone
from bild_dist.types import Options


def run(options: Options, command: str = "", name: str = "", split: str = "all") -> Record:
    setting = Setting.of(options)
    text = TextRecord(id="a", text="a", tokens=(1,), sources=("large",))
    figures = {"agreement": {"value": 1.0, "low": 1.0, "high": 1.0},
               "speedup": {"value": 2.0, "low": 1.0, "high": 3.0}}  # fmt: skip
    parts = [
        Part(setting=one, texts=(text,), figures=figures)
        for one in (replace(setting, name=name or setting.name), Setting.of(alone(options)))
    ]
    about = {"command": command} if command else {}
    return Record(task="mine", split=split, part=parts[0], large=parts[1], environment=about)


def of(*records: Record) -> dict[str, str]:
    """The commands, by the beginnings of what they fill."""
    (part,) = sections(Found(records), {})
    found: Sequence[Lack] = part.lacks
    return {lack.what.partition(",")[0]: lack.command for lack in found}


def test_a_command_is_that_of_the_first_run_but_for_its_setting() -> None:
    """Its count, template, lengths and models stay; thresholds, name and file are the other run's own."""
    how = of(run(
        Options(alpha_fb=0.2, max_new_tokens=8),
        "bild eval --task mine --pair de-en --count 9 --template 'Say: {prompt}' --alpha-fb 0.2 --alpha-rb=4 "
        "--no-verify-tail --max-new-tokens 8 --name 'my run' --out a.json",
    ))  # fmt: skip
    base = (
        "bild eval --task mine --pair de-en --count 9 --template 'Say: {prompt}' --max-new-tokens 8"
    )
    assert how["Table 3"] == f"{base} --baseline 'rejection 4' --out FILE.json, and other lengths"
    assert how["Figure 6"] == (
        f"{base.replace('--pair de-en ', '')} --large L --exit-layer K --out FILE.json"
    )
    assert how["Figure 7"].startswith(
        f"{base.replace('--pair de-en ', '')} -c FILE.toml --mode small"
    )


def test_a_baseline_that_drew_is_said_in_options() -> None:
    """`--baseline nucleus` stands for its temperature and share, which the next baseline needs as well."""
    drawn = Options(temperature=1.0, top_p=0.8, seed=7)
    how = of(run(drawn, "bild eval --task mine --baseline nucleus --seed 7 --out a.json"))
    base = "bild eval --task mine --temperature=1.0 --top-p=0.8 --seed=7"
    assert how["Table 3"].startswith(f"{base} --baseline 'rejection 4'")


def test_without_a_command_the_options_are_said() -> None:
    """A record that names none still says what its texts were asked for, and a split may have a space."""
    how = of(
        run(
            Options(max_new_tokens=8, truncate=True, chat_template=False, stop=(".", "-")),
            split="my half",
        )
    )
    assert how["Figure 2"].startswith(
        "bild eval --task mine --split 'my half' --small S --large L --max-new-tokens=8 --stop=. --stop=- "
        "--truncate --no-chat-template --oracle 3 "
    )


def test_a_run_of_calm_names_no_pair() -> None:
    """Its configuration has the large model twice: the command of another run is given on."""
    first = run(
        Options(mode="small"), "bild eval --task mine -c calm.toml --mode small", "calm 0.9"
    )
    how = of(first, run(Options(), "bild eval --task mine --small s --large l --out b.json"))
    assert how["Table 3"].startswith("bild eval --task mine --small s --large l --baseline")


@pytest.mark.timeout(120)
def test_what_the_command_writes_stands_in_the_same_section(tmp_path: Path) -> None:
    """Of runs with a count and a template: else the new one would open a section of its own."""
    task, house = tmp_path / "task.jsonl", tmp_path / "house.toml"
    lines = [{"id": f"t{n}", "prompt": f"text {n}"} for n in range(3)]
    task.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    house.write_text('[orchestrator]\ntransport = "inproc"\n', "utf-8")
    spec = "seed=1&f=0.3&end=0.05"
    argv: list[Any] = [
        "--small", f"toy:small?{spec}", "--large", f"toy:large?{spec}", "-c", str(house), "--task", str(task),
        "--count", "2", "--template", "Say: {prompt}", "--max-new-tokens", "8", "--metric", "agreement",
        "--alpha-fb", "0.3", "--out", str(tmp_path / "0.json"),
    ]  # fmt: skip
    assert evaluation.main(argv, inproc) == 0
    (part,) = sections(read([tmp_path]), {})
    how = {lack.what.partition(",")[0]: lack.command for lack in part.lacks}["Table 3"]
    words = shlex.split(how.partition(", and other")[0])
    assert words[:2] == ["bild", "eval"]
    words = [str(tmp_path / "1.json") if word == "FILE.json" else word for word in words[2:]]
    assert evaluation.main(words, inproc) == 0
    (study,) = studies(read([tmp_path]).records)
    assert [row.name for row in study.rows] == ["large", "bild 0.3/2", "rejection 4"]
