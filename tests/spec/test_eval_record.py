"""Records of `bild eval`: over which texts figures stand, what a touched file says, what baselines are named."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from math import inf
from pathlib import Path
from typing import Any

import pytest

from bild_dist.app import inproc
from bild_dist.errors import ConfigError
from bild_dist.evaluation.metrics import registry
from bild_dist.evaluation.run import main as front
from bild_dist.evaluation.run.figures import Judge, Written, merged
from bild_dist.evaluation.run.files import write_whole
from bild_dist.evaluation.run.options import planned
from bild_dist.evaluation.run.partial import Partial
from bild_dist.evaluation.run.record import Failure, Record, TextRecord
from bild_dist.evaluation.run.running import Step
from bild_dist.evaluation.tasks.base import Item

SPEC = "seed=1&f=0.3&end=0.05"
ITEMS = [Item(str(n), f"text number {n}", ("a text", "a number")) for n in range(1, 8)]


def evaluate(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, Path]:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # SIGTERM is pytest's here
    task, file = folder / "task.jsonl", folder / "out.json"
    records = [{"prompt": item.prompt, "references": item.references} for item in ITEMS]
    task.write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")
    argv = ["--task", str(task), "--out", str(file), "--max-new-tokens", "20", "--transport", "inproc",
            "--small", f"toy:small?{SPEC}", "--large", f"toy:large?{SPEC}", *words]  # fmt: skip
    return front.main(argv, inproc), file


def test_a_full_disk_is_said_with_its_remedy(tmp_path: Path) -> None:
    """Closing the file fails as well, and must not stand before what is said."""
    step, outcome = Step("bild", 0, ITEMS[0]), Failure(ITEMS[0].id, "X", "y" * 100_000)

    def run() -> None:
        with (
            suppress(OSError),
            ExitStack() as stack,
            Partial(tmp_path / "out.json", {"task": "one"}) as partial,
        ):
            partial._file.close()
            # Whatever is written to it, the disk is full.
            partial._file = stack.enter_context(Path("/dev/full").open("a", encoding="utf-8"))
            partial.add(step, outcome)

    with pytest.raises(ConfigError, match=r"No space left .* make room"):
        run()


def test_a_last_line_that_was_cut_off_is_cut_off_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The texts before it stay where they are in the file: repairing it cannot lose them."""
    out, steps = tmp_path / "out.json", [Step("bild", 0, item) for item in ITEMS[:3]]
    with Partial(out, {"task": "one"}) as partial:
        for step in steps:
            partial.add(step, Failure(step.item.id, "X", "ö"))
    whole = partial.path.read_bytes()
    partial.path.write_bytes(whole[:-3])
    kept = whole[: whole[:-1].rfind(b"\n") + 1]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", None)
        again = Partial(out, {"task": "one"})
    assert len(again.found) == 2
    again.__exit__()
    assert again.path.read_bytes() == kept


def test_a_file_has_its_name_when_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was made of is removed next: a machine that stops then must find it whole."""
    file, synced = tmp_path / "out.json", []

    def told(number: int) -> None:
        synced.append((os.fstat(number).st_size, file.exists()))

    monkeypatch.setattr(os, "fsync", told)
    write_whole(file, ["one\n", "two\n"])
    assert synced == [(8, False)]
    assert file.read_text() == "one\ntwo\n"


BROKEN: dict[str, tuple[tuple[str | int, ...], Any, str]] = {
    "a source that is none": (
        ("texts", 0, "sources", 0),
        "smal",
        r"texts\[0\]\.sources has 'smal'",
    ),
    "a source too few": (("texts", 1, "sources"), [], r"texts\[1\]\.sources has 0 entries"),
    "a distance too many": (("texts", 0, "distances"), [1.0], r"texts\[0\]\.distances has 1"),
    "a text that is none": (("texts", 0, "text"), 7, r"texts\[0\]\.text must be a text, not 7"),
    "a token that is none": (("texts", 0, "tokens", 0), "a", r"texts\[0\]\.tokens must be"),
    "a list of models": (("models",), [], "models must be an object, not a list"),
    "a model that is none": (("models", "small"), 1, r"models\.small must be an object"),
    "no figures": (("figures",), None, "figures is null"),
    "a figure without a number": (
        ("figures", "bleu", "value"),
        "x",
        r"figures\.bleu\.value must be",
    ),
    "no environment": (("environment",), None, "environment is null"),
    "the large model's texts": (("large", "texts"), None, r"large\.texts is null"),
    "an option that is none": (("setting", "alpha_fb"), 7, "alpha_fb = 7"),
    "a time that is none": (("texts", 0, "wall_ns"), -1, r"texts\[0\]\.wall_ns must be"),
}


def test_a_record_that_somebody_touched_is_refused_by_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files get edited and cut: the message names the file and the field, whatever is wrong."""
    _, file = evaluate(tmp_path, monkeypatch, "--count", "2")
    for path, value, needle in BROKEN.values():
        found = json.loads(file.read_text("utf-8"))
        inner: Any = found
        for part in path[:-1]:
            inner = inner[part]
        inner[path[-1]] = value
        other = tmp_path / "touched.json"
        other.write_text(json.dumps(found), "utf-8")
        with pytest.raises(ConfigError, match=rf"touched\.json is no whole record.*{needle}"):
            Record.read(other)


@pytest.mark.parametrize(
    ("words", "name", "changed"),
    [
        (("--baseline", "no rollback"), "no rollback, bild 0.6/inf", {"alpha_rb": inf}),
        (
            ("--baseline", "no fallback", "--window", "5"),
            "no fallback, bild 0/2 window 5",
            {"alpha_fb": 0},
        ),
        (("--baseline", "rejection 4"), "rejection 4", {"policy": "rejection", "window": 4}),
        (("--baseline", "nucleus"), "nucleus, bild 0.6/2", {"temperature": 1, "top_p": 0.8}),
        (("--baseline", "exact"), "exact", {"mode": "exact"}),
        (("--oracle", "2.5"), "oracle 2.5", {"alpha_rb": 2.5, "alpha_fb": 0}),
        (("--oracle", "inf"), "oracle inf", {"alpha_rb": inf}),
    ],
)
def test_a_baseline_is_a_setting_by_its_name(
    words: Sequence[str], name: str, changed: dict[str, Any]
) -> None:
    """The name sets the options and stands in the record, so that a report knows the series."""
    plan = planned(["--task", "debian-de-en", "--out", "out.json", *words])
    assert plan.name == name
    assert {field: getattr(plan.config.generate, field) for field in changed} == changed


def test_the_oracle_leads_to_the_large_models_own_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a threshold of nought every token that the large model would write otherwise is replaced."""
    code, file = evaluate(
        tmp_path, monkeypatch, "--oracle", "0", "--count", "3", "--metric", "agreement"
    )
    record = Record.read(file)
    assert code == 0
    assert record.setting.name == "oracle 0"
    assert record.figures["agreement"]["identical"] == 1
    assert record.environment["items"].startswith("3 (")


def text(id: str, tokens: int, **more: Any) -> TextRecord:
    return TextRecord(
        id=id, text="a text", tokens=(1,) * tokens, sources=("large",) * tokens, **more
    )


def test_every_column_stands_over_the_same_items() -> None:
    """An item that failed in one part only is in no figure of the other either: means over different
    texts compare nothing.
    """
    large = Written({str(n): text(str(n), n, wall_ns=n) for n in range(1, 8)}, {})
    part = Written({str(n): text(str(n), n, wall_ns=n) for n in range(2, 8)}, {})
    judge = Judge(ITEMS, registry.chosen(["agreement"], ITEMS), large, [part])
    ours, theirs = judge.figures(part), judge.figures(large)
    assert ours["texts"] == theirs["texts"] == 6
    assert ours["latency_ms"] == theirs["latency_ms"]
    assert ours["tokens_per_text"] == theirs["tokens_per_text"] == 4.5
    assert Judge(ITEMS, [], large, [Written({}, {})]).figures(large) == {}


def test_times_of_a_text_are_medians_over_the_rounds() -> None:
    """The first token too: the first round is often the slowest."""
    rounds = [
        {"1": text("1", 2, wall_ns=wall, first_token_ns=first)}
        for wall, first in ((90, 30), (50, 10), (60, 20))
    ]
    found = merged(rounds)["1"]
    assert (found.wall_ns, found.first_token_ns) == (60, 20)
    assert found.walls_ns == (90, 50, 60)
