"""Both codecs: what goes in comes out, and what is no message is refused."""

from __future__ import annotations

import dataclasses
import random
import typing
from types import UnionType
from typing import Any

import msgpack
import pytest

from bild_dist.errors import InvalidRequest, RemoteProtocolError
from bild_dist.messages import (
    MAX_FRAME,
    Draft,
    Drafted,
    Encoded,
    Hello,
    Message,
    Open,
    Ping,
    Reply,
    Request,
    Rules,
)
from bild_dist.wire.codec import KINDS, Protobuf, from_msgpack, to_msgpack

PB = Protobuf()


def example(kind: type) -> Any:
    """A message of this kind with a value of its own in every field."""
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for i, spec in enumerate(dataclasses.fields(kind), start=1):
        hint = hints[spec.name]
        one: dict[Any, Any] = {int: i, float: i + 0.5, bool: True, str: f"é{i}", bytes: b"\0\xff"}
        if hint is Rules:
            values[spec.name] = example(Rules)
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
        {"stop_below": float("inf")},
        {"at": -(1 << 63)},
        {"digest": (1 << 63) - 1},
        {"tokens": ()},
    ):
        message = dataclasses.replace(draft, **changes)
        assert message == from_msgpack(to_msgpack(message))
        assert message == PB.read_request(PB.request(message))


def test_unknown_fields_are_ignored() -> None:
    """A newer peer may say more than we understand."""
    frame = msgpack.packb(["Ping", {"count": 1, "progress": 2, "mood": "good"}])
    assert Ping(count=1, progress=2) == from_msgpack(frame)


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
    "a list of the wrong things": msgpack.packb(["Encoded", {"seq": 1, "ids": ["a"], "forced_begin": 0}]),
    "an extension type": msgpack.packb(["Ping", {"count": msgpack.ExtType(1, b"x"), "progress": 2}]),
    "a second message behind": msgpack.packb(["Ping", {"count": 1, "progress": 2}]) + b"\x00",
    "a promise of four billion items": b"\xdd\xff\xff\xff\xff",
    "deep nesting": b"\x91" * 100_000,
    "a map with keys that are no text": msgpack.packb(["Ping", {1: 2}]),
}


@pytest.mark.parametrize("frame", BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_what_is_no_message_is_refused(frame: bytes) -> None:
    """RemoteProtocolError, whatever is wrong with it, and never anything else."""
    with pytest.raises(RemoteProtocolError):
        from_msgpack(frame)


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


def test_what_cannot_be_sent_is_the_callers_fault() -> None:
    """Too large a message, or a number that no wire holds, raises InvalidRequest before anything leaves."""
    for message in (
        Hello(protocol=1, client="x" * (MAX_FRAME + 1)),
        Ping(count=1 << 70, progress=0),
    ):
        with pytest.raises(InvalidRequest):
            to_msgpack(message)
        with pytest.raises(InvalidRequest):
            PB.request(message)
