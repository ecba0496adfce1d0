"""The command line as its users meet it: real processes, real exit codes, good and bad input."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

pytestmark = pytest.mark.process

PAIR = ("--small", "toy:small?seed=1&f=0.3&end=0.01", "--large", "toy:large?seed=1&f=0.3&end=0.01")


Launched: TypeAlias = tuple[subprocess.Popen[str], dict[str, int], list[str]]
"""The process, the workers' process ids, and their addresses: large, small."""


def bild(*words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bild_dist", *words],
        input=text if text is not None else "", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def records(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.parametrize("transport", ["inproc", "zmq", "grpc"])
def test_a_prompt_gives_a_text_and_a_summary(transport: str) -> None:
    """The text goes to standard output, the summary to standard error, and no colour to a file."""
    done = bild("generate", *PAIR, "--transport", transport, "Hello")
    assert 0 == done.returncode
    assert "\x1b" not in done.stdout
    assert done.stdout.endswith("\n")
    assert "large passes" in done.stderr


def test_json_has_the_fields_that_are_promised() -> None:
    """`--json` prints one object with exactly the documented fields."""
    (record,) = records(bild("generate", *PAIR, "--json", "Hello").stdout)
    assert ["id", "text", "tokens", "sources", "finish_reason", "trace"] == list(record)
    assert [
        "small_passes", "large_passes", "drafted", "wasted", "fallbacks", "rollbacks", "windows",
        "guessed", "hits", "draft_ns", "verify_ns", "queue_ns", "wire_ns", "first_token_ns", "wall_ns",
    ] == list(record["trace"])  # fmt: skip
    assert len(record["tokens"]) == len(record["sources"])
    assert record["finish_reason"] in ("eos", "length", "stop")


def test_log_probabilities_are_told_where_asked(tmp_path: Path) -> None:
    """By the command line, a file or a line of the input; one a token, with its alternatives; a count out
    of range ends its own line.
    """
    source, config = tmp_path / "in.jsonl", tmp_path / "bild.toml"
    source.write_text(
        '{"prompt": "a"}\n{"prompt": "a", "logprobs": 0}\n{"prompt": "a", "logprobs": null}\n'
        '{"prompt": "a", "logprobs": 21}'
    )
    config.write_text("[generate]\nlogprobs = 3\nmax_new_tokens = 5\n")
    words = ("--transport", "inproc", "--input", str(source))
    done = bild("generate", "-c", str(config), *PAIR, "--logprobs", "2", *words)
    named, own, none, wrong = records(done.stdout)
    assert 1 == done.returncode
    assert len(named["tokens"]) == len(named["logprobs"]) == len(named["top"])
    assert {2} == {len(top) for top in named["top"]}
    assert named["logprobs"] == own["logprobs"]
    assert named["tokens"] == none["tokens"]
    assert [True, False] == ["logprobs" in own, "top" in own]
    assert not {"logprobs", "top"} & {*none}
    assert "logprobs = 21 must be a whole number from 0 to 20" in wrong["error"]["message"]
    by_file = records(bild("generate", "-c", str(config), *PAIR, *words).stdout)[0]
    assert [3] * 5 == [len(top) for top in by_file["top"]]


def test_a_file_ends_with_a_summary_and_counts_lines_as_an_editor_does(tmp_path: Path) -> None:
    """What was written goes to standard error, unless --json wants objects alone; a blank line is no prompt, and
    has its number.
    """
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "a"}\n\n{"prompt": "b"}\n')
    words = ("generate", *PAIR, "--transport", "inproc", "--input", str(source))
    done = bild(*words)
    assert ["1", "3"] == [r["id"] for r in records(done.stdout)]
    assert done.stderr.startswith("2 texts, ")
    assert "" == bild(*words, "--json").stderr


def test_a_log_line_begins_on_a_line_of_its_own(tmp_path: Path) -> None:
    """Also where the text that is being streamed has not ended its line, in a terminal that both go to."""
    config = tmp_path / "bild.toml"
    config.write_text('[telemetry]\nlevel = "info"\n')
    done = subprocess.run(
        [sys.executable, "-m", "bild_dist", "generate", "-c", str(config), *PAIR, "--transport", "inproc", "Hello"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=True,
    )  # fmt: skip
    (line,) = [line for line in done.stdout.splitlines() if "request ended" in line]
    assert line.startswith("20")
    assert "\n\n" not in done.stdout


def test_the_text_does_not_depend_on_transport_or_concurrency(tmp_path: Path) -> None:
    """Sixteen prompts give the same lines over every transport, one at a time and eight at once."""
    lines = [json.dumps({"id": str(n), "prompt": f"Prompt number {n}."}) for n in range(16)]
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join(lines))
    outputs = []
    for transport in ("inproc", "zmq", "grpc"):
        for concurrency in ("1", "8"):
            done = bild(
                "generate", *PAIR, "--input", str(source), "--transport", transport,
                "--concurrency", concurrency, "--max-new-tokens", "40",
            )  # fmt: skip
            assert 0 == done.returncode, done.stderr
            kept = ("id", "text", "tokens", "sources", "finish_reason")
            outputs.append([{key: r[key] for key in kept} for r in records(done.stdout)])

    assert [str(n) for n in range(16)] == [r["id"] for r in outputs[0]]
    assert all(output == outputs[0] for output in outputs)


def test_a_bad_line_fails_in_its_place_and_the_rest_goes_on(tmp_path: Path) -> None:
    """Each kind of bad line gives an error object that names what is wrong; exit code 1."""
    lines = [
        '{"id": "good", "prompt": "Hello", "max_new_tokens": 3}',
        "not json",
        "[1, 2]",
        '{"id": "none"}',
        '{"id": "two", "prompt": "a", "prompt_tokens": [1]}',
        '{"id": "empty", "prompt": "  "}',
        '{"id": "typo", "prompt": "a", "alpha_fbb": 0.5}',
        '{"id": "range", "prompt": "a", "alpha_fb": -1}',
        '{"id": "nan", "prompt": "a", "alpha_rb": NaN}',
        '{"id": "type", "prompt": 7}',
        '{"id": "ids", "prompt_tokens": [1, 99999]}',
        '{"id": "long", "prompt": "' + "x" * 5000 + '"}',
        '{"id": "late", "prompt": "a", "deadline": 1e-9}',
        '{"id": "chat", "messages": [{"role": "user", "content": "a"}]}',
        '{"id": 7, "prompt_tokens": [72, 105], "mode": "large", "max_new_tokens": 2}',
    ]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(lines))
    done = bild("generate", *PAIR, "--input", str(source), "--output", str(target))
    got = records(target.read_text())
    errors = {r["id"]: r["error"] for r in got if "error" in r}

    assert 1 == done.returncode
    assert f"13 of {len(lines)} lines failed; see {target}\n" == done.stderr
    assert len(lines) == len(got)
    assert ["good", 7] == [r["id"] for r in got if "text" in r]
    assert ["2", "3"] == [r["id"] for r in got[1:3]]
    assert "not JSON" in errors["2"]["message"]
    assert "did you mean 'alpha_fb'" in errors["typo"]["message"]
    assert "from 0 to 1" in errors["range"]["message"]
    assert "a number of at least 0" in errors["nan"]["message"]
    assert "shorten" in errors["long"]["message"]
    assert "chat template" in errors["chat"]["message"]
    assert "DeadlineExceeded" == errors["late"]["type"]
    others = {name: e["type"] for name, e in errors.items() if name != "late"}
    assert {"InvalidRequest"} == set(others.values())


BAD_USE = {
    "an unknown option": (("--alpha-bf", "1", "x"), "--alpha-fb"),
    "an option of a later version": (("--on-small-loss", "wait", "x"), "planned"),
    "a threshold below its range": ((*PAIR, "--alpha-fb", "-0.1", "x"), "alpha_fb"),
    "a threshold that is no number": ((*PAIR, "--alpha-rb", "nan", "x"), "alpha_rb"),
    "an empty prompt": ((*PAIR, ""), "empty"),
    "no prompt": (("--input", "/nowhere.jsonl"), "cannot be read"),
    "an empty pipe": (PAIR, "the prompt is empty"),
    "nowhere to write": ((*PAIR, "--output", "/nowhere/x.jsonl", "x"), "no folder /nowhere"),
    "a folder to write to": ((*PAIR, "--output", "/", "x"), "it is a folder"),
    "one model of two": (("--small", "toy:small", "x"), "both"),
    "an unknown pair": (("--pair", "de-eng", "x"), "did you mean 'de-en'"),
    "one worker of two": (("--small-worker", "zmq://127.0.0.1:1", "x"), "both"),
    "a missing configuration": (("-c", "/nowhere.toml", "x"), "/nowhere.toml"),
    "a missing model folder": (("--small", "./nowhere", "--large", "./nowhere", "x"), "nowhere"),
    "twins that do not match": (
        ("--small", "toy:small?encdec=1", "--large", "toy:large", "x"), "encoder-decoder",
    ),
    "a bad toy": (("--small", "toy:small?z=1", "--large", "toy:large", "x"), "z"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "needle"), BAD_USE.values(), ids=BAD_USE)
def test_bad_use_is_refused_with_a_reason(words: tuple[str, ...], needle: str) -> None:
    """Exit code 2, one message that names the thing, no traceback."""
    done = bild("generate", *words)
    assert 2 == done.returncode, done.stderr
    assert needle in done.stderr
    assert "Traceback" not in done.stderr


def test_nobody_at_the_address_is_a_failure() -> None:
    """A worker that is not there is no bad usage: exit code 1, and the address is named."""
    done = bild(
        "generate",
        "--small-worker",
        "zmq://127.0.0.1:9",
        "--large-worker",
        "grpc://127.0.0.1:9",
        "x",
    )
    assert 1 == done.returncode
    assert "127.0.0.1:9" in done.stderr


def test_a_prompt_can_come_from_standard_input() -> None:
    """`-`, or nothing at all with a pipe, reads the prompt there."""
    one = bild("generate", *PAIR, "--json", "-", text="Hello\n")
    two = bild("generate", *PAIR, "--json", text="Hello\n")
    three = bild("generate", *PAIR, "--json", "Hello")
    assert records(one.stdout)[0]["tokens"] == records(three.stdout)[0]["tokens"]
    assert records(two.stdout)[0]["tokens"] == records(three.stdout)[0]["tokens"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[Launched]:
    """`bild launch` with one worker on gRPC and one on ZeroMQ, both ready."""
    config = tmp_path / "pair.toml"
    addresses = [f"zmq+ipc://{tmp_path}/large.sock", f"grpc://127.0.0.1:{free_port()}"]
    config.write_text(
        f'[large]\nmodel = "toy:large?seed=1"\nlisten = "{addresses[0]}"\n'
        f'[small]\nmodel = "toy:small?seed=1"\nlisten = "{addresses[1]}"\n'
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "bild_dist", "launch", "-c", str(config)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    lines = [process.stdout.readline(), process.stdout.readline()]
    assert all("ready" in line for line in lines), lines
    pids = {line.split()[0]: int(line.partition("pid=")[2].split()[0]) for line in lines}
    yield process, pids, addresses
    if process.poll() is None:
        process.terminate()
    process.communicate(timeout=20)


def test_launched_workers_are_joined_and_stop_in_order(
    launched: Launched,
) -> None:
    """Running workers serve any number of programs; a signal stops launch with exit code 0."""
    process, _, (large, small) = launched
    for _ in range(2):
        done = bild("generate", "--small-worker", small, "--large-worker", large, "--json", "Hello")
        assert 0 == done.returncode, done.stderr
    process.send_signal(signal.SIGTERM)
    assert 0 == process.wait(10)


def test_launch_starts_a_dead_worker_again(
    launched: Launched,
) -> None:
    """A killed worker is named, started again on its address, and serves."""
    process, pids, (large, small) = launched
    assert process.stdout is not None
    os.kill(pids["large"], signal.SIGKILL)
    lines = [process.stdout.readline() for _ in range(3)]
    assert "SIGKILL" in lines[0]
    assert "again" in lines[1]
    assert "ready" in lines[2]
    done = bild("generate", "--small-worker", small, "--large-worker", large, "Hello")
    assert 0 == done.returncode, done.stderr


def test_a_port_in_use_is_a_configuration_error(
    launched: Launched,
) -> None:
    """A second worker on either address is refused with exit code 2, and the first goes on."""
    _, _, addresses = launched
    for address in addresses:
        done = bild("worker", "--model", "toy:small", "--listen", address)
        assert 2 == done.returncode
        assert "in use" in done.stderr
    done = bild("generate", "--small-worker", addresses[1], "--large-worker", addresses[0], "Hello")
    assert 0 == done.returncode, done.stderr


def test_a_worker_refuses_to_listen_to_everybody() -> None:
    """Without authentication only this host may connect."""
    done = bild("worker", "--model", "toy:small", "--listen", "grpc://0.0.0.0:0")
    assert 2 == done.returncode
    assert "127.0.0.1" in done.stderr


@pytest.mark.parametrize("words", [("--help",), ("generate", "--help"), ("worker", "--help")])
def test_help_loads_nothing_heavy(words: tuple[str, ...]) -> None:
    """Help is there without torch, transformers, gRPC, ZeroMQ or rich being imported."""
    script = (
        "import sys\nfrom bild_dist.app import main\n"
        f"try:\n    main({list(words)!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'grpc', 'zmq', 'rich', 'tokenizers'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stderr
    assert "usage" in done.stdout


def test_the_orchestrator_starts_without_torch() -> None:
    """A whole text over two worker processes, and torch was never imported here."""
    script = (
        "import sys, bild_dist\n"
        "print(bild_dist.generate('Hello', 'toy:small', 'toy:large', max_new_tokens=5).text)\n"
        "sys.exit(f'loaded torch' if 'torch' in sys.modules else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stderr
