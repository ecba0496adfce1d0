"""Jobs, results and tokens as they travel: what is taken, and what is refused."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from bild_dist.errors import BrokerUnavailable, ConfigError, InvalidRequest, WorkerFault
from bild_dist.orchestrator.queue import job as form
from bild_dist.orchestrator.queue.job import Job, word
from bild_dist.orchestrator.queue.note import Note
from bild_dist.orchestrator.queue.source import pause_s, plain_url
from bild_dist.orchestrator.queue.tokens import TokenStream
from bild_dist.tables import QueueConfig
from bild_dist.types import FinishReason, Result, Source, TokenEvent


def test_a_job_is_a_line_with_an_id() -> None:
    """What `bild generate --input` reads, an id, and where the result is to go; a number is a name."""
    job = Job.parse(b'{"id": 7, "prompt": "Hi", "mode": "exact", "reply": "mine"}')
    assert ("7", "Hi", "mine", {"mode": "exact"}) == (job.id, job.prompt, job.reply, job.options)
    assert "default" == Job.parse('{"id": "a", "prompt_tokens": [1, 2]}').reply


BAD = {
    "bytes that are no text": b"\xff\xfe{}",
    "no JSON": b"{",
    "nested too deep": b"[" * 100_000,
    "a list": b"[]",
    "no id": b'{"prompt": "a"}',
    "an empty id": b'{"id": "", "prompt": "a"}',
    "an id that is none": b'{"id": true, "prompt": "a"}',
    "an id that is too long": json.dumps({"id": "x" * 300, "prompt": "a"}).encode(),
    "no prompt": b'{"id": "a"}',
    "two prompts": b'{"id": "a", "prompt": "a", "prompt_tokens": [1]}',
    "a prompt of another kind": b'{"id": "a", "prompt": 7}',
    "a reply that no broker takes": b'{"id": "a", "prompt": "a", "reply": "*.>"}',
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_what_is_no_job_is_refused(body: bytes) -> None:
    """Each with an InvalidRequest, never with anything else, and a dead letter can be made of it."""
    with pytest.raises(InvalidRequest) as refused:
        Job.parse(body)
    letter = json.loads(form.letter(body, refused.value, 1))
    assert ("InvalidRequest", 1) == (letter["error"]["type"], letter["attempts"])


def test_somebody_may_wait_for_what_is_no_job() -> None:
    """Where it has an id all the same, its sender can be told."""
    assert ("a", "mine") == form.address(b'{"id": "a", "reply": "mine"}')
    assert ("a", "default") == form.address(b'{"id": "a", "reply": 7}')
    assert form.address(b"{}") is None
    assert form.address(b"\xff") is None


def test_names_become_words() -> None:
    """Subjects, routing keys and keys have characters of their own: other names are hashed, apart."""
    assert "job-1_A" == word("job-1_A")
    strange = ["a.b", "a b", "*", ">", "#", "a:b", "ä", "", "\ud800", "x" * 65]
    words = [word(name) for name in strange]
    assert len(strange) == len(set(words))
    assert all(w.isalnum() and len(w) <= 64 for w in words)


def test_a_result_says_what_became_of_the_job() -> None:
    """`done` has the text and its digest, `failed` the error, `cancelled` neither."""
    result = Result(
        text="ä", tokens=(1,), sources=(Source.SMALL,), finish_reason=FinishReason.EOS
    )  # fmt: skip
    record = json.loads(form.done("a", result, 2))
    assert ("a", "done", 2, "ä") == tuple(record[k] for k in ("id", "status", "attempt", "text"))
    assert hashlib.sha256("ä".encode()).hexdigest() == record["sha256"]
    failed = json.loads(form.failed("a", WorkerFault("no memory"), 5))
    assert {"type": "WorkerFault", "message": "no memory"} == failed["error"]
    assert "cancelled" == json.loads(form.cancelled("a", 1))["status"]


class Wire:
    """Takes the token messages of a job, but for those that it is told to lose."""

    def __init__(self, losing: int = -1) -> None:
        self.messages: list[dict[str, Any]] = []
        self._losing = losing
        self._count = 0

    async def tell(self, word: str, body: bytes) -> None:
        self._count += 1
        if self._count - 1 == self._losing:
            raise BrokerUnavailable("gone")
        self.messages.append(json.loads(body))


def event(position: int) -> TokenEvent:
    return TokenEvent(
        position=position, token=position, text="a", source=Source.SMALL, confidence=None, distance=None
    )  # fmt: skip


async def test_tokens_are_gathered() -> None:
    """The first leaves at once, those that come together leave together, and none is left behind."""
    wire = Wire()
    async with TokenStream(wire, "j", 3) as stream:  # type: ignore[arg-type]
        stream.push(event(0))
        await asyncio.sleep(0.01)
        assert 1 == len(wire.messages)
        for position in range(1, 9):
            stream.push(event(position))
    assert [(0, 0, 1), (1, 1, 8)] == [
        (m["seq"], m["offset"], len(m["tokens"])) for m in wire.messages
    ]
    assert {3} == {m["attempt"] for m in wire.messages}


async def test_a_lost_message_shows_as_a_gap() -> None:
    """What the broker does not take is not sent again, and its number is not used again."""
    wire = Wire(losing=0)
    async with TokenStream(wire, "j", 1) as stream:  # type: ignore[arg-type]
        stream.push(event(0))
        await asyncio.sleep(0.01)
        stream.push(event(1))
    assert [(1, 1)] == [(m["seq"], m["offset"]) for m in wire.messages]


def test_pauses_double_up_to_a_bound() -> None:
    """A job that fails again and again does not occupy the pair, and does not wait for ever."""
    config = QueueConfig(retry_s=0.5, retry_most_s=3)
    assert [0.5, 1, 2, 3, 3] == [pause_s(config, n) for n in range(1, 6)]
    assert 3 == pause_s(config, 100_000)


@pytest.mark.parametrize(
    "values",
    [{"url": "kafka://host"}, {"url": "nats"}, {"url": "redis:///0"}, {"prefix": "a.b"}, {"lease_s": 0},
     {"attempts": 0}, {"drain_s": -1}, {"keep_s": float("inf")}, {"lease_s": True}],
)  # fmt: skip
def test_a_bad_setting_is_refused(values: dict[str, Any]) -> None:
    """By its name, before anything is connected."""
    with pytest.raises(ConfigError, match=next(iter(values))):
        QueueConfig(**values)


def test_a_password_is_not_shown() -> None:
    """Addresses go to logs and screens."""
    assert "amqp://host:1/x" == plain_url(QueueConfig(url="amqp://me:secret@host:1/x"))


def test_an_error_quotes_no_more_than_anybody_reads() -> None:
    """A value as large as a broker takes would make a result that it does not take."""
    with pytest.raises(InvalidRequest) as caught:
        Job.parse(json.dumps({"id": "a", "prompt": "b", "reply": "x" * 10_000}))
    assert len(str(caught.value)) < 300
    assert str(caught.value).endswith("letters, digits, - or _")
    told = form.told(InvalidRequest("y" * 10_000 + ": choose a smaller one"))
    assert len(told["message"]) < 1100
    assert told["message"].endswith("choose a smaller one")


def test_a_note_says_what_is_on_the_queue(tmp_path: Path) -> None:
    """Ids of the same jobs on the same queue come back; those of others count for nothing, and what a
    killed run wrote of a line neither.
    """
    path, earlier = tmp_path / "out.submitted", tmp_path / "in.submitted"
    with Note(earlier, "a") as note:
        note.add("7")
        note.add("a\nb\u2028")
    with path.open("w") as file:
        file.write("of something else")
    with Note(path, "a", earlier) as note:
        assert {"7", "a\nb\u2028"} == note.names
        note.add("8")
    with path.open("a") as file:
        file.write('"9')
    assert not earlier.exists()
    with Note(path, "a", earlier) as note:
        assert {"7", "a\nb\u2028", "8"} == note.names
        note.add("9")
    with Note(path, "a") as note:
        assert 4 == len(note.names)
    with Note(path, "b") as note:
        assert set() == note.names
        note.remove()
    assert not path.exists()
    with Note(tmp_path / "nowhere" / "x", "a") as note:
        note.add("1")
    assert "nowhere" in note.error
