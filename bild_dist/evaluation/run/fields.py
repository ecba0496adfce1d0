"""Reads a JSON object field by field, each of the kind that it must be: whoever wrote the file, an error
says which field is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from bild_dist.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Fields:
    """An object and where it stands in its file (empty at the top). Every method raises ConfigError for
    a field that is missing or of another kind; `default`, where given, stands in for a missing one.
    """

    found: Mapping[str, Any]
    where: str = ""

    @classmethod
    def of(cls, value: Any, where: str = "") -> Self:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where or 'it'} must be an object, not {_kind(value)}")
        return cls(value, where)

    def path(self, name: str) -> str:
        """How errors call a field."""
        return f"{self.where}.{name}" if self.where else name

    def only(self, names: Sequence[str]) -> None:
        """Refuses fields of any other name."""
        for name in self.found:
            if name not in names:
                raise ConfigError(f"{self.path(str(name))} is unknown")

    def text(self, name: str, default: str | None = None) -> str:
        value = self._value(name, default)
        return str(self._checked(name, value, isinstance(value, str), "a text"))

    def whole(self, name: str, default: int | None = None) -> int:
        value = self._value(name, default)
        return int(self._checked(name, value, _whole(value), "a whole number of at least 0"))

    def number(self, name: str) -> float:
        value = self._value(name, None)
        return float(self._checked(name, value, number(value), "a number"))

    def object(self, name: str, default: Mapping[str, Any] | None = None) -> Fields:
        return Fields.of(self._value(name, default), self.path(name))

    def objects(self, name: str) -> list[Fields]:
        return [Fields.of(v, f"{self.path(name)}[{i}]") for i, v in enumerate(self._list(name))]

    def texts(self, name: str, known: Sequence[str]) -> tuple[str, ...]:
        """Texts of which each is one of the known."""
        found = self._list(name)
        for value in found:
            if value not in known:
                raise ConfigError(
                    f"{self.path(name)} has {value!r}, which is none of {', '.join(known)}"
                )
        return tuple(found)

    def wholes(self, name: str, default: Sequence[int] | None = None) -> tuple[int, ...]:
        found = self._list(name, default)
        self._checked(name, found, all(map(_whole, found)), "a list of whole numbers")
        return tuple(found)

    def numbers(self, name: str, count: int) -> tuple[float | None, ...]:
        """So many numbers, or none at all; null is one that nobody knows."""
        found = self._list(name, ())
        known = all(value is None or number(value) for value in found)
        self._checked(name, found, known, "a list of numbers and nulls")
        if found and len(found) != count:
            raise ConfigError(f"{self.path(name)} has {len(found)} entries for {count} tokens")
        return tuple(found)

    def _value(self, name: str, default: Any) -> Any:
        value = self.found.get(name, default)
        if value is None:
            missing = "is null" if name in self.found else "is missing"
            raise ConfigError(f"{self.path(name)} {missing}")
        return value

    def _list(self, name: str, default: Any = None) -> Sequence[Any]:
        value = self._value(name, default)
        self._checked(name, value, isinstance(value, list | tuple), "a list")
        found: Sequence[Any] = value
        return found

    def _checked(self, name: str, value: Any, good: bool, what: str) -> Any:
        if not good:
            raise ConfigError(f"{self.path(name)} must be {what}, not {_kind(value)}")
        return value


def number(value: Any) -> bool:
    """Whether it is one; a truth value is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}
    if value is None:
        return "null"
    return names.get(type(value), "a number" if not number(value) else f"{value}")
