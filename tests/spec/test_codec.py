"""Both codecs: what goes in comes out, and what is no message is refused."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
import tracemalloc
import typing
from pathlib import Path
from types import UnionType
from typing import Any

import msgpack
import pytest

from bild_dist.errors import InvalidRequest, RemoteProtocolError
from bild_dist.messages import (
    MAX_FRAME,
    NESTED,
    Draft,
    Drafted,
    Encoded,
    Hello,
    Message,
    Open,
    Outlook,
    Ping,
    Reply,
    Request,
    Rules,
)
from bild_dist.transport.grpc import METHOD
from bild_dist.wire.codec import KINDS, Protobuf, from_msgpack, to_msgpack
from bild_dist.wire.pb import worker_pb2

PB = Protobuf()


def example(kind: type) -> Any:
    """A message of this kind with a value of its own in every field."""
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for i, spec in enumerate(dataclasses.fields(kind), start=1):
        hint = hints[spec.name]
        one: dict[Any, Any] = {int: i, float: i + 0.5, bool: True, str: f"é{i}", bytes: b"\0\xff"}
        if hint in NESTED:
            values[spec.name] = example(hint)
        elif typing.get_origin(hint) is tuple:
            values[spec.name] = (one[typing.get_args(hint)[0]],) * 3
        else:
            values[spec.name] = one[int if isinstance(hint, UnionType) else hint]
    return kind(**values)


@pytest.mark.parametrize("kind", KINDS)
def test_every_message_survives_msgpack(kind: type) -> None:
    """What is read equals what was written, field by field and type by type."""
    message = example(kind)
    assert message == from_msgpack(to_msgpack(message))


@pytest.mark.parametrize("kind", KINDS)
def test_every_message_survives_protobuf(kind: type) -> None:
    """The same over protobuf, in whichever direction the message travels."""
    message = example(kind)
    if kind in typing.get_args(Request):
        assert message == PB.read_request(PB.request(message))
    if kind in typing.get_args(Reply):
        assert message == PB.read_reply(PB.reply(message))


def test_an_absent_option_is_not_zero() -> None:
    """A forced first token 0 and none at all are different things on both wires."""
    for forced in (None, 0):
        message = Encoded(seq=1, ids=(), forced_begin=forced)
        assert forced == typing.cast(Encoded, from_msgpack(to_msgpack(message))).forced_begin
        assert forced == typing.cast(Encoded, PB.read_reply(PB.reply(message))).forced_begin


def test_extreme_numbers_survive() -> None:
    """Infinite thresholds, negative ids and the largest digest arrive as they were sent."""
    draft = example(Draft)
    for changes in (
        {"outlook": Outlook(alpha_fb=float("inf"))},
        {"at": -(1 << 63)},
        {"digest": (1 << 63) - 1},
        {"tokens": ()},
    ):
        message = dataclasses.replace(draft, **changes)
        assert message == from_msgpack(to_msgpack(message))
        assert message == PB.read_request(PB.request(message))


def test_whole_numbers_become_floats_where_floats_are_due() -> None:
    """A peer in another language writes 1 for 1.0; who reads the message need not know."""
    name, values = msgpack.unpackb(to_msgpack(example(Drafted)))
    values["low_confidence"], values["confidences"] = 1, [1, 0.5]
    message = typing.cast(Drafted, from_msgpack(msgpack.packb([name, values])))
    assert float is type(message.low_confidence)
    assert [float, float] == [type(c) for c in message.confidences]


def test_unknown_fields_are_ignored() -> None:
    """A newer peer may say more than we understand, on both wires."""
    frame = msgpack.packb(["Ping", {"count": 1, "progress": 2, "mood": {"good": [True]}}])
    assert Ping(count=1, progress=2) == from_msgpack(frame)
    envelope = bytearray(PB.request(Ping(count=1, progress=2)))
    envelope[1] += 3
    assert Ping(count=1, progress=2) == PB.read_request(bytes(envelope) + b"\x98\x06\x05")


BAD_FRAMES: dict[str, Any] = {
    "nothing": b"",
    "no msgpack": b"\xc1",
    "a number": msgpack.packb(7),
    "a list of three": msgpack.packb(["Ping", {}, 1]),
    "an unknown name": msgpack.packb(["Pong2", {}]),
    "a name that is no text": msgpack.packb([1, {}]),
    "fields that are no map": msgpack.packb(["Ping", [1, 2]]),
    "a missing field": msgpack.packb(["Ping", {"count": 1}]),
    "a text for a number": msgpack.packb(["Ping", {"count": "1", "progress": 2}]),
    "a bool for a number": msgpack.packb(["Ping", {"count": True, "progress": 2}]),
    "a fraction for a whole number": msgpack.packb(["Ping", {"count": 1.5, "progress": 2}]),
    "a number beyond 64 bits": msgpack.packb(["Ping", {"count": (1 << 64) - 1, "progress": 2}]),
    "nil where a value is due": msgpack.packb(["Ping", {"count": None, "progress": 2}]),
    "a list of the wrong things": msgpack.packb(
        ["Encoded", {"seq": 1, "ids": ["a"], "forced_begin": 0}]
    ),
    "an extension type": msgpack.packb(
        ["Ping", {"count": msgpack.ExtType(1, b"x"), "progress": 2}]
    ),
    "a second message behind": msgpack.packb(["Ping", {"count": 1, "progress": 2}]) + b"\x00",
    "a promise of four billion items": b"\xdd\xff\xff\xff\xff",
    "deep nesting": b"\x91" * 100_000,
    "a map with keys that are no text": msgpack.packb(["Ping", {1: 2}]),
    "text that is no UTF-8": b"\x92\xa4Ping\x82\xa5count\xa1\xff\xa8progress\x01",
    "half a million maps": b"\x92\xa4Ping\xdd\x00\x08\x00\x00" + b"\x80" * (1 << 19),
    "half a million lists": b"\x92\xa4Ping\xdd\x00\x08\x00\x00" + b"\x91\xc0" * (1 << 19),
    "more than a wire takes": msgpack.packb(["Bye", {"reason": "x" * MAX_FRAME}]),
}


@pytest.mark.parametrize("frame", BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_what_is_no_message_is_refused(frame: bytes) -> None:
    """RemoteProtocolError, whatever is wrong with it, and never anything else."""
    with pytest.raises(RemoteProtocolError):
        from_msgpack(frame)


@pytest.mark.parametrize("bomb", ["half a million maps", "half a million lists"])
def test_a_small_frame_does_not_become_large(bomb: str) -> None:
    """Containers that take a hundred times the memory of the byte that names them are refused while they are read."""
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            from_msgpack(BAD_FRAMES[bomb])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # One pointer for each of the items that the list has been promised.
    assert peak < (1 << 19) * 8 + 1_000_000


def test_protobuf_that_is_no_message_is_refused() -> None:
    """Empty envelopes and broken bytes raise RemoteProtocolError."""
    for frame in (b"", b"\xff\xff\xff", b"\x0a\xff", b"\xa2\x06\x00"):
        with pytest.raises(RemoteProtocolError):
            PB.read_request(frame)


def test_mutated_frames_are_messages_or_refused() -> None:
    """20,000 damaged frames of each codec either still are messages or raise RemoteProtocolError."""
    rng = random.Random(7)
    examples: list[Message] = [example(Open), example(Draft), example(Drafted), example(Hello)]
    frames = [to_msgpack(m) for m in examples]
    envelopes = [PB.request(m) if not isinstance(m, Drafted) else PB.reply(m) for m in examples]
    refused = 0
    for read, originals in ((from_msgpack, frames), (PB.read_request, envelopes)):
        for _ in range(20_000):
            frame = bytearray(rng.choice(originals))
            for _ in range(rng.randint(1, 6)):
                frame[rng.randrange(len(frame))] = rng.randrange(256)
            del frame[rng.randint(1, len(frame)) :]
            try:
                message = read(bytes(frame))
            except RemoteProtocolError:
                refused += 1
            else:
                assert isinstance(message, KINDS)
    assert refused > 20_000


CANNOT_BE_SENT: dict[str, Any] = {
    "too large": Hello(protocol=1, client="x" * (MAX_FRAME + 1)),
    "beyond 64 bits": Ping(count=1 << 70, progress=0),
    "beyond 63 bits": Ping(count=1 << 63, progress=0),
    "a token beyond 63 bits": dataclasses.replace(example(Draft), tokens=(1, 1 << 63)),
    "text for a number": Ping(count=typing.cast(int, "1"), progress=0),
    "nothing for a number": Ping(count=typing.cast(int, None), progress=0),
    "half a character": Hello(protocol=1, client="\ud800"),
}


@pytest.mark.parametrize("message", CANNOT_BE_SENT.values(), ids=CANNOT_BE_SENT)
def test_what_cannot_be_sent_is_the_callers_fault(message: Any) -> None:
    """A value that no wire holds raises InvalidRequest that names the message, before anything leaves."""
    for write in (to_msgpack, PB.request):
        with pytest.raises(InvalidRequest, match=rf"{type(message).__name__}|larger than"):
            write(message)


def test_complaints_do_not_repeat_what_was_sent() -> None:
    """A message may hold a prompt: what is said about a bad one holds names only."""
    name, values = msgpack.unpackb(to_msgpack(example(Open)))
    values["ids"] = "my secret"
    with pytest.raises(RemoteProtocolError, match=r"Open\.ids") as caught:
        from_msgpack(msgpack.packb([name, values]))
    assert "secret" not in str(caught.value)


def test_the_proto_file_has_the_fields_of_the_dataclasses() -> None:
    """Each message of the contract has its fields in the same order under the same names, and no others."""
    for kind in (*KINDS, Rules):
        ours = [field.name for field in dataclasses.fields(kind)]
        theirs = [f.name for f in worker_pb2.DESCRIPTOR.message_types_by_name[kind.__name__].fields]
        assert ours == theirs


def test_the_service_is_the_one_that_is_served() -> None:
    """The method that the gRPC transport serves by name is the one of the contract."""
    service = worker_pb2.DESCRIPTOR.services_by_name["Worker"]
    (method,) = service.methods
    assert f"/{service.full_name}/{method.name}" == METHOD
    assert method.client_streaming
    assert method.server_streaming


def test_the_generated_code_is_up_to_date() -> None:
    """What is committed is what the generator makes of the contract today."""
    pytest.importorskip("grpc_tools")
    root = Path(__file__).parents[2]
    command = [sys.executable, "proto/generate.py", "--check"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)
