"""Messages to bytes and back, by the fields of their dataclasses. The only file that knows both sides.

Each class gets a plan once: per field its name, how to check it, and what is inside. A message is checked when it is
read, never trusted: whatever is not exactly a message is a RemoteProtocolError that says what was wrong, without its
contents.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgpack

from bild_dist.errors import InvalidRequest, RemoteProtocolError
from bild_dist.messages import MAX_FRAME, NESTED, Message, Reply, Request

_MIN: Final = -(1 << 63)
_MAX: Final = (1 << 63) - 1
MAPS: Final = 64
"""Maps that one frame may hold. A message has at most two; each costs far more memory than the byte that names it."""
LISTS: Final = 64
"""Lists that one frame may hold."""

Check: TypeAlias = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    check: Check
    """Whether a value, None apart, is one of this field."""
    many: bool
    optional: bool
    nested: type | None
    """The class inside, where there is one."""
    real: bool
    """Floats, which a peer may have written as whole numbers."""


def _is_int(value: Any) -> bool:
    return type(value) is int and _MIN <= value <= _MAX


def _is_real(value: Any) -> bool:
    return type(value) is float or _is_int(value)


def _is_exactly(kind: type) -> Check:
    def check(value: Any) -> bool:
        return type(value) is kind

    return check


_CHECKS: Final[dict[Any, Check]] = {
    int: _is_int,
    float: _is_real,
    bool: _is_exactly(bool),
    str: _is_exactly(str),
    bytes: _is_exactly(bytes),
}


def _are(kind: type) -> Check:
    """The check of a tuple. Asks for the set of types first: most tuples are empty, or long and of one."""
    check = _CHECKS[kind]

    def check_all(values: Any) -> bool:
        if type(values) is not tuple:
            return False
        if not values:
            return True
        kinds = set(map(type, values))
        if kinds <= {kind} and kind is not int:
            return True
        if kinds == {int} and kind in (int, float):
            return _is_int(min(values)) and _is_int(max(values))
        return all(map(check, values))

    return check_all


def _plan(kind: type) -> tuple[_Field, ...]:
    fields = []
    for name, hint in typing.get_type_hints(kind).items():
        optional = isinstance(hint, types.UnionType)
        if optional:
            hint = next(part for part in typing.get_args(hint) if part is not type(None))
        many = typing.get_origin(hint) is tuple
        one = typing.get_args(hint)[0] if many else hint
        nested = one if one in NESTED else None
        check = _is_exactly(dict) if nested else _are(one) if many else _CHECKS[one]
        fields.append(_Field(name, check, many, optional, nested, one is float))
    return tuple(fields)


_KINDS: Final = {
    kind.__name__: kind for kind in (*typing.get_args(Request), *typing.get_args(Reply))
}
_PLANS: Final = {kind: _plan(kind) for kind in (*_KINDS.values(), *NESTED)}


# msgpack: [name, {field: value}].


def to_msgpack(message: Message) -> bytes:
    """One message as a msgpack frame.

    Raises:
        InvalidRequest: it is larger than MAX_FRAME, or a field has a value that no wire holds.
    """
    try:
        frame = msgpack.packb([type(message).__name__, _to_map(message)], use_bin_type=True)
    except (OverflowError, ValueError, TypeError) as error:
        raise InvalidRequest(f"{type(message).__name__} cannot be sent: {error}") from None
    return _sized(frame)


def from_msgpack(frame: bytes) -> Message:
    """The message in a frame. Raises RemoteProtocolError where there is none."""
    if len(frame) > MAX_FRAME:
        raise RemoteProtocolError(f"a frame is larger than {MAX_FRAME} bytes")
    guard = _Guard()
    try:
        value = msgpack.unpackb(
            frame, raw=False, strict_map_key=True, use_list=False, ext_hook=_no_extensions,
            object_hook=guard.on_map, list_hook=guard.on_list,
        )  # fmt: skip
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(f"a frame is not msgpack: {type(error).__name__}") from None
    if not isinstance(value, tuple) or len(value) != 2 or not isinstance(value[0], str):
        raise RemoteProtocolError("a frame is not a message: [name, {field: value}] is needed")
    kind = _KINDS.get(value[0])
    if kind is None:
        raise RemoteProtocolError("a frame holds a message of unknown name")
    return typing.cast(Message, _from_map(kind, value[1]))


class _Guard:
    """Counts what a frame nests while it is read. Owned by that one reading.

    A frame of the largest size could otherwise name four million empty maps, which take a hundred times its own memory.
    """

    __slots__ = ("_lists", "_maps")

    def __init__(self) -> None:
        self._maps = MAPS
        self._lists = LISTS

    def on_map(self, value: Any) -> Any:
        self._maps -= 1
        if self._maps < 0:
            raise ValueError("too many maps")
        return value

    def on_list(self, value: Any) -> Any:
        self._lists -= 1
        if self._lists < 0:
            raise ValueError("too many lists")
        return value


def _to_map(message: Any) -> dict[str, Any]:
    values = {}
    for field in _PLANS[type(message)]:
        value = getattr(message, field.name)
        if field.nested is not None:
            value = _to_map(value)
        elif not (field.check(value) if value is not None else field.optional):
            raise ValueError(f"its field {field.name} has a value of the wrong type or range")
        values[field.name] = value
    return values


def _from_map(kind: type, values: Any) -> Any:
    if type(values) is not dict:
        raise RemoteProtocolError(f"{kind.__name__} is not a map of its fields")
    known = {}
    for field in _PLANS[kind]:
        name = field.name
        if name not in values:
            raise RemoteProtocolError(f"{kind.__name__} lacks its field {name}")
        value = values[name]
        if not (field.check(value) if value is not None else field.optional):
            raise RemoteProtocolError(
                f"{kind.__name__}.{name} has a value of the wrong type or range"
            )
        if field.nested is not None:
            value = _from_map(field.nested, value)
        elif field.real:
            value = float(value) if not field.many else tuple(map(float, value)) if value else ()
        known[name] = value
    return kind(**known)


def _no_extensions(code: int, data: bytes) -> Any:
    raise ValueError("extension types are not part of the protocol")


# protobuf: the fields of the same names, in a oneof.


class Protobuf:
    """The protobuf codec. An object, so that importing this module does not load protobuf."""

    def __init__(self) -> None:
        from google.protobuf.message import DecodeError

        from bild_dist.wire.pb import worker_pb2

        self._pb: Any = worker_pb2
        self._error = DecodeError
        self._slots = {kind: kind.__name__.lower() for kind in _KINDS.values()}

    def request(self, message: Message) -> bytes:
        """A message to a worker. Raises InvalidRequest when it is too large."""
        return self._wrap(self._pb.ToWorker(), message)

    def reply(self, message: Message) -> bytes:
        """A message to an orchestrator. Raises InvalidRequest when it is too large."""
        return self._wrap(self._pb.ToOrchestrator(), message)

    def read_request(self, frame: bytes) -> Message:
        """What an orchestrator sent. Raises RemoteProtocolError where it is no message."""
        return self._unwrap(self._pb.ToWorker(), frame)

    def read_reply(self, frame: bytes) -> Message:
        """What a worker sent. Raises RemoteProtocolError where it is no message."""
        return self._unwrap(self._pb.ToOrchestrator(), frame)

    def _wrap(self, envelope: Any, message: Message) -> bytes:
        try:
            self._fill(getattr(envelope, self._slots[type(message)]), message)
            return _sized(envelope.SerializeToString())
        except (AttributeError, ValueError, TypeError) as error:
            raise InvalidRequest(f"{type(message).__name__} cannot be sent: {error}") from None

    def _unwrap(self, envelope: Any, frame: bytes) -> Message:
        try:
            envelope.ParseFromString(frame)
        except self._error:
            raise RemoteProtocolError("a frame is not protobuf of this protocol") from None
        name = envelope.WhichOneof("message")
        if name is None:
            raise RemoteProtocolError("a frame is empty or of a kind that is not known here")
        kind = _KINDS[name.capitalize()]
        return typing.cast(Message, self._read(kind, getattr(envelope, name)))

    def _fill(self, target: Any, message: Any) -> None:
        target.SetInParent()
        for field in _PLANS[type(message)]:
            value = getattr(message, field.name)
            if field.nested is not None:
                self._fill(getattr(target, field.name), value)
            elif field.many:
                getattr(target, field.name).extend(value)
            elif value is not None:
                setattr(target, field.name, value)
            elif not field.optional:
                raise ValueError(f"its field {field.name} has no value")

    def _read(self, kind: type, source: Any) -> Any:
        values: dict[str, Any] = {}
        for field in _PLANS[kind]:
            if field.optional and not source.HasField(field.name):
                values[field.name] = None
                continue
            value = getattr(source, field.name)
            if field.nested is not None:
                value = self._read(field.nested, value)
            elif field.many:
                value = tuple(value)
            values[field.name] = value
        return kind(**values)


def _sized(frame: bytes) -> bytes:
    if len(frame) > MAX_FRAME:
        raise InvalidRequest(
            f"a message of {len(frame)} bytes is larger than the {MAX_FRAME} that a wire takes"
        )
    return frame


KINDS: Final = tuple(_KINDS.values())
"""Every kind of message."""
