"""Messages to bytes and back, by the fields of their dataclasses. The only file that knows both sides.

Each class gets a plan once: per field its name, how to check it, and what is inside. A message is checked when it is read,
never trusted: whatever is not exactly a message is a RemoteProtocolError that says what was wrong, without its contents.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from bild_dist.errors import InvalidRequest, RemoteProtocolError
from bild_dist.messages import MAX_FRAME, Message, Reply, Request, Rules

_INT64: Final = range(-(1 << 63), 1 << 63)


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    check: Callable[[Any], bool]
    item: type | None
    """Type of a tuple's items; None for single values."""
    optional: bool
    nested: bool


def _is_int(value: Any) -> bool:
    return type(value) is int and value in _INT64


def _is_float(value: Any) -> bool:
    return type(value) is float or _is_int(value)


_CHECKS: Final[dict[Any, Callable[[Any], bool]]] = {
    int: _is_int,
    float: _is_float,
    bool: lambda value: type(value) is bool,
    str: lambda value: type(value) is str,
    bytes: lambda value: type(value) is bytes,
    Rules: lambda value: type(value) is dict,
}


def _plan(kind: type) -> tuple[_Field, ...]:
    fields = []
    for name, hint in typing.get_type_hints(kind).items():
        optional = isinstance(hint, types.UnionType)
        if optional:
            hint = next(part for part in typing.get_args(hint) if part is not type(None))
        item = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else None
        check = _CHECKS[item if item is not None else hint]
        fields.append(_Field(name, check, item, optional, hint is Rules))
    return tuple(fields)


_KINDS: Final = {kind.__name__: kind for kind in (*typing.get_args(Request), *typing.get_args(Reply))}
_PLANS: Final = {kind: _plan(kind) for kind in (*_KINDS.values(), Rules)}


# msgpack: [name, {field: value}].


def to_msgpack(message: Message) -> bytes:
    """One message as a msgpack frame.

    Raises:
        InvalidRequest: it is larger than MAX_FRAME.
    """
    try:
        frame = msgpack.packb([type(message).__name__, _to_map(message)], use_bin_type=True)
    except (OverflowError, ValueError, TypeError) as error:
        raise InvalidRequest(f"{type(message).__name__} cannot be sent: {error}") from None
    return _sized(frame)


def from_msgpack(frame: bytes) -> Message:
    """The message in a frame. Raises RemoteProtocolError where there is none."""
    try:
        value = msgpack.unpackb(
            frame, raw=False, strict_map_key=True, use_list=False, ext_hook=_no_extensions
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(f"a frame is not msgpack: {type(error).__name__}") from None
    if not isinstance(value, tuple) or len(value) != 2 or not isinstance(value[0], str):
        raise RemoteProtocolError("a frame is not a message: [name, {field: value}] is needed")
    kind = _KINDS.get(value[0])
    if kind is None:
        raise RemoteProtocolError("a frame holds a message of unknown name")
    return typing.cast(Message, _from_map(kind, value[1]))


def _to_map(message: Any) -> dict[str, Any]:
    plan = _PLANS[type(message)]
    values = {field.name: getattr(message, field.name) for field in plan}
    for field in plan:
        if field.nested:
            values[field.name] = _to_map(values[field.name])
    return values


def _from_map(kind: type, values: Any) -> Any:
    if type(values) is not dict:
        raise RemoteProtocolError(f"{kind.__name__} is not a map of its fields")
    known = {}
    for field in _PLANS[kind]:
        if field.name not in values:
            raise RemoteProtocolError(f"{kind.__name__} lacks its field {field.name}")
        value = values[field.name]
        if not _good(field, value):
            raise RemoteProtocolError(f"{kind.__name__}.{field.name} has a value of the wrong type")
        known[field.name] = _from_map(Rules, value) if field.nested else value
    return kind(**known)


def _good(field: _Field, value: Any) -> bool:
    if value is None:
        return field.optional
    if field.item is None:
        return field.check(value)
    return type(value) is tuple and all(map(field.check, value))


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
            raise RemoteProtocolError("a frame is empty or of a kind that this version does not know")
        kind = _KINDS[name.capitalize()]
        return typing.cast(Message, self._read(kind, getattr(envelope, name)))

    def _fill(self, target: Any, message: Any) -> None:
        target.SetInParent()
        for field in _PLANS[type(message)]:
            value = getattr(message, field.name)
            if field.nested:
                self._fill(getattr(target, field.name), value)
            elif field.item is not None:
                getattr(target, field.name).extend(value)
            elif value is not None:
                setattr(target, field.name, value)

    def _read(self, kind: type, source: Any) -> Any:
        values: dict[str, Any] = {}
        for field in _PLANS[kind]:
            if field.optional and not source.HasField(field.name):
                values[field.name] = None
                continue
            value = getattr(source, field.name)
            if field.nested:
                value = self._read(Rules, value)
            elif field.item is not None:
                value = tuple(value)
            values[field.name] = value
        return kind(**values)


def _sized(frame: bytes) -> bytes:
    if len(frame) > MAX_FRAME:
        raise _too_large(len(frame))
    return frame


def _too_large(size: int) -> InvalidRequest:
    return InvalidRequest(f"a message of {size} bytes is larger than the {MAX_FRAME} that a wire takes")


KINDS: Final = tuple(_KINDS.values())
"""Every kind of message."""
