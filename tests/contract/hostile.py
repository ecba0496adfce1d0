"""Frames that no honest peer sends, made from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgpack

from bild_dist.errors import InvalidRequest
from bild_dist.messages import MAX_FRAME, Message
from bild_dist.wire.codec import KINDS, Protobuf, to_msgpack
from tests.spec.test_codec import example

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def mutated(rng: random.Random, originals: list[bytes]) -> bytes:
    """A valid frame with bytes changed, lost, doubled or cut off."""
    frame = bytearray(rng.choice(originals))
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(frame))
        change = rng.randrange(4)
        if change == 0:
            frame[at] = rng.randrange(256)
        elif change == 1:
            frame[at:at] = frame[at : at + rng.randint(1, 20)]
        elif change == 2 and len(frame) > 2:
            del frame[at : at + rng.randint(1, 20)]
        elif len(frame) > 2:
            del frame[max(1, at) :]
        frame = frame or bytearray(b"\0")
    return bytes(frame)


def msgpack_frames(rng: random.Random) -> Iterator[bytes]:
    """Without end: noise, damage, lies about lengths, bombs, wrong types and unknown names."""
    originals = [to_msgpack(example(kind)) for kind in KINDS]
    while True:
        yield rng.randbytes(rng.randint(1, 300))
        for _ in range(4):
            yield mutated(rng, originals)
        yield rng.choice((
            b"\x91" * rng.randint(1, 100_000),  # lists in lists in lists
            b"\x81\xa1a" * rng.randint(1, 50_000),
            b"\xdd\xff\xff\xff\xff",  # four billion items follow
            b"\xdf\xff\xff\xff\xff",
            b"\xc6\xff\xff\xff\xff",
            b"\xdc\xff\xff" + b"\x80" * 65_535,  # many maps
            b"\xdd\x00\x01\x00\x00" + b"\x90" * 65_536,
            b"\xc7\x01\x05\x00",  # an extension type
        ))  # fmt: skip
        yield _wrong_types(rng)
        yield msgpack.packb([rng.choice(("Pingg", "", "__class__", "Rules", "é" * 50)), {}])


def _wrong_types(rng: random.Random) -> bytes:
    kind = rng.choice(KINDS)
    name, values = msgpack.unpackb(to_msgpack(example(kind)), use_list=True)
    strange: tuple[object, ...] = (
        None,
        True,
        -1,
        1.5,
        "x",
        b"x",
        [],
        [[]],
        {"a": 1},
        (1 << 64) - 1,
        [None],
        float("nan"),
    )
    values[rng.choice(list(values))] = rng.choice(strange)
    return bytes(msgpack.packb([name, values]))


def protobuf_frames(rng: random.Random) -> Iterator[bytes]:
    """The same in protobuf."""
    codec = Protobuf()

    def requests() -> Iterator[bytes]:
        for kind in KINDS:
            message: Message = example(kind)
            for write in (codec.request, codec.reply):
                try:
                    yield write(message)
                except InvalidRequest:
                    continue  # it goes the other way only

    originals = list(requests())
    while True:
        yield rng.randbytes(rng.randint(1, 300))
        for _ in range(5):
            yield mutated(rng, originals)
        yield rng.choice((
            b"",
            b"\x0b" * rng.randint(1, 10_000),  # groups in groups in groups
            b"\x32\xff\xff\xff\xff\x0f",  # a length of four billion
            b"\xfa\xff\xff\xff\x0f\x00",  # a field number beyond all
            b"\x32" + b"\x80" * 20,  # a number without end
            b"x" * (MAX_FRAME + 1),
        ))  # fmt: skip


def _http2(kind: int, size: int, flags: int, stream: int) -> bytes:
    """The head of an HTTP/2 frame."""
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")


def tcp_garbage(rng: random.Random) -> Iterator[bytes]:
    """What may arrive at a port from a browser, a port scanner or worse."""
    settings = _http2(4, 0, 0, 0)
    while True:
        yield rng.randbytes(rng.randint(1, 2_000))
        yield b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        yield b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000
        yield PREFACE + rng.randbytes(500)
        yield PREFACE + settings + _http2(1, 0xFFFFFF, 4, 1) + rng.randbytes(100_000)
        yield PREFACE + settings + _http2(0, 0xFFFFFF, 0, 1)
        yield (
            PREFACE
            + settings
            + _http2(1, 20_000, 0, 1)
            + b"\x00" * 20_000
            + (_http2(9, 16_000, 0, 1) + b"\x40\x01a\x7f" * 4_000) * 5
        )  # headers without end
        yield PREFACE + (settings + _http2(6, 8, 0, 0) + b"\0" * 8) * 200  # pings, hundreds
        yield b"\xff" + b"\0" * 8 + b"\x7f\x03\x00" + rng.randbytes(100)  # almost ZeroMQ's greeting
        yield b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + b"\xff" * 1_000
