"""`bild bench` as its users meet it: real processes, a table, a file, and an end in good order."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.process.signals import heed_ctrl_c
from tests.tiny import write_model, write_pair

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

PACED = ("--paced", "small=1ms,large=4ms", "--max-new-tokens", "12", "--count", "2")
BENCH = (sys.executable, "-m", "bild_dist", "bench")


def bench(*words: str, timeout: float = 55) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BENCH, *words], capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


def report(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def rows(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {contestant["name"]: contestant for contestant in found["contestants"]}


def children_of(marker: str) -> list[int]:
    """Processes whose command line or environment names a folder of ours."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                said = (entry / "environ").read_bytes()
            except OSError:
                continue
            if marker.encode() in said:
                pids.append(int(entry.name))
    return pids


@pytest.mark.slow
def test_paced_toys_run_over_every_transport(tmp_path: Path) -> None:
    """A row each, medians over rounds in alternating order, and the numbers of every round in the
    file.
    """
    target = tmp_path / "out.json"
    done = bench(*PACED, "--rounds", "2", "--modes", "exact", "--schedules", "paper",
                 "--transports", "zmq,grpc,inproc", "--output", str(target))  # fmt: skip
    names = ["exact/paper/zmq", "exact/paper/grpc", "exact/paper/inproc"]
    found = report(target)

    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines() if "exact" in line] == names
    assert found["complete"]
    assert [list(one) for one in found["rounds"]] == [names, names[::-1]]
    assert {"command", "commit", "date", "hardware", "versions", "settings"} <= set(found)
    for row in rows(found).values():
        assert row["repeats"]
        assert row["figures"]["same_text"]["median"] == 1
        assert 0.1 < row["figures"]["efficiency"]["median"] <= 1
    texts = {json.dumps(row["texts"]) for row in rows(found).values()}
    assert len(texts) == 1


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_transformers_writes_with_the_very_same_weights(tmp_path: Path) -> None:
    """An encoder-decoder: both peers, `exact` and `large` give one text, and say what they ran
    on.
    """
    small, large = write_pair(tmp_path, "t5")
    prompts, target = tmp_path / "prompts.jsonl", tmp_path / "out.json"
    lines = [{"prompt_tokens": [n + 2, 7, 9, 1], "reference": "x"} for n in range(3)]
    prompts.write_text("\n".join(map(json.dumps, lines)))
    done = bench(
        "--small", str(small), "--large", str(large), "--prompts", str(prompts), "--rounds", "1",
        "--modes", "exact,large", "--schedules", "overlap", "--max-new-tokens", "12", "--threads", "1",
        "--output", str(target), timeout=230,
    )  # fmt: skip
    found = rows(report(target))

    assert done.returncode == 0, done.stdout
    assert list(found) == ["generate", "assisted", "exact/overlap/zmq", "large/zmq"]
    for row in found.values():
        assert row["figures"]["same_text"]["median"] == 1, row
        assert row["figures"]["ratio"]["median"] > 0
        assert "T5" in row["runs_on"] or "large" in row["runs_on"]
    assert found["generate"]["figures"]["large_passes_per_token"]["median"] == 1
    assert found["assisted"]["figures"]["large_passes_per_token"]["median"] < 1
    assert "plain" in found["generate"]["runs_on"]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_pair_that_cannot_be_assisted_says_so_and_the_others_go_on(tmp_path: Path) -> None:
    """Vocabularies padded to different sizes are fine here and refused by transformers: its row has
    the reason, the exit code is 1.
    """
    small = write_model(tmp_path / "small", "llama", tokenizer=True, noise=0.05)
    width = json.loads((small / "config.json").read_text())["vocab_size"]
    large = write_model(tmp_path / "large", "llama", vocabulary=width + 16)
    for file in small.glob("token*"):
        shutil.copy(file, large)
    target = tmp_path / "out.json"
    done = bench(
        "--small", str(small), "--large", str(large), "--count", "1", "--rounds", "1", "--modes", "exact",
        "--schedules", "paper", "--max-new-tokens", "8", "--threads", "1", "--output", str(target), timeout=230,
    )  # fmt: skip
    found = rows(report(target))

    assert done.returncode == 1, done.stderr
    assert "tokenizer" in found["assisted"]["error"]["message"]
    assert "assisted: transformers refuses" in done.stdout
    assert [name for name in found if found[name]["error"] is None] == [
        "generate",
        "exact/paper/zmq",
    ]


@pytest.mark.slow
def test_built_in_prompts_are_not_for_encoder_decoders(tmp_path: Path) -> None:
    """What such a model can be asked depends on its training, so nobody runs: exit code 2."""
    small, large = write_pair(tmp_path, "t5", tokenizer=True)
    done = bench("--small", str(small), "--large", str(large), "--no-peers", "--modes", "large",
                 "--rounds", "1")  # fmt: skip
    assert done.returncode == 2
    assert "--prompts" in done.stdout


BAD_USE = {
    "an unknown option": (("--round", "1"), "--rounds"),
    "an unknown contestant": (("--modes", "exakt"), "'exact'"),
    "a file that cannot be written": ((*PACED, "--output", "/nowhere/out.json"), "/nowhere/out.json"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "needle"), BAD_USE.values(), ids=BAD_USE)
def test_bad_use_is_refused_with_a_reason(words: Sequence[str], needle: str) -> None:
    """Exit code 2, one message that names the thing, no traceback."""
    done = bench(*words)
    assert done.returncode == 2, done.stderr
    assert needle in done.stderr
    assert "Traceback" not in done.stderr


def test_the_commands_are_listed_with_it() -> None:
    """`bild --help` names the command, `bild bench --help` its options."""
    words = [sys.executable, "-m", "bild_dist", "--help"]
    said = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout
    assert "bench" in said
    assert "--paced" in bench("--help").stdout


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_measurement_leaves_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    """Ctrl-C and `kill` show the table so far; whatever ends the program, the file has the first contestants
    and no process is left.
    """
    monkeypatch.setenv("BILD_BENCH_TEST", str(tmp_path))
    target = tmp_path / "out.json"
    words = [*BENCH, *PACED, "--rounds", "50", "--modes", "exact", "--output", str(target)]
    if how is signal.SIGKILL:  # as a shell starts what runs in its background
        words = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *words]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=heed_ctrl_c,
    ) as process:  # fmt: skip
        until = time.monotonic() + 40
        while not (target.exists() and report(target)["rounds"] and report(target)["rounds"][0]):
            assert time.monotonic() < until, "nothing was measured"
            time.sleep(0.05)
        process.send_signal(how)
        stdout, stderr = process.communicate(timeout=60)
    found = report(target)

    assert not found["complete"]
    assert found["rounds"][0]["exact/paper/zmq"]["texts"]
    if how is not signal.SIGKILL:
        assert process.returncode == 130, stderr
        assert "interrupted" in stdout
        assert "exact/paper/zmq" in stdout
    until = time.monotonic() + 10
    while left := children_of(str(tmp_path)):
        assert time.monotonic() < until, left
        time.sleep(0.05)
