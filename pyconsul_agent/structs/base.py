"""What every struct is made of: the field helper and the few Go types that Python has no equal for.

A struct field is declared once as `name: type = wire("GoName", default)`. The Go name is its spelling on the wire
(msgpack and, unless the JSON codec says otherwise, JSON); declaration order is Go's, which is the order of JSON.
Types and their zero values, as Go has them:

| annotation                     | Go                         | zero   |
|--------------------------------|----------------------------|--------|
| `str`                          | string (text)              | `""`   |
| `bytes`                        | string of any bytes (keys) | `b""`  |
| `bytes | None`                 | []byte, nil kept apart     | `None` |
| `int` / `float` / `bool`       | any integer / float64      | 0      |
| `Float32`                      | float32                    | 0      |
| `Duration`                     | time.Duration, nanoseconds | 0      |
| `GoTime`                       | time.Time                  | year 1 |
| `tuple[T, ...] | None`         | []T, nil kept apart        | `None` |
| `Mapping[str, T] | None`       | map[string]T, nil apart    | `None` |
| a struct / `struct | None`     | T / *T                     | T() / `None` |
| `Any`                          | interface{}                | `None` |

Text from the wire that is not UTF-8 is carried by the `surrogateescape` error handler, so no byte is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cache
from operator import attrgetter
from typing import Any, NewType, TypeVar, cast, dataclass_transform

Duration = NewType("Duration", int)
"""A span of time in whole nanoseconds, as Go's time.Duration travels."""

Float32 = NewType("Float32", float)
"""A number that travels in four bytes."""

ClassT = TypeVar("ClassT")

NANOSECONDS_PER_SECOND = 1_000_000_000
ZERO_TIME_UNIX_SECONDS = -62_135_596_800


def duration(seconds: float) -> Duration:
    """`seconds` as nanoseconds, rounded to the nearest."""
    return Duration(round(seconds * NANOSECONDS_PER_SECOND))


def seconds(value: int) -> float:
    """Nanoseconds as float seconds."""
    return value / NANOSECONDS_PER_SECOND


@dataclass_transform(frozen_default=True)
def _instant(cls: type[ClassT]) -> type[ClassT]:
    """A dataclass that is frozen to the type checker only, for the reason that `struct` gives."""
    return dataclass(slots=True, unsafe_hash=True)(cls)


@_instant
class GoTime:
    """An instant: unix seconds, nanoseconds within it, and the zone offset in minutes that Go writes (-1 is UTC).

    The default is Go's zero time, 0001-01-01T00:00:00Z.
    """

    unix_seconds: int = ZERO_TIME_UNIX_SECONDS
    nanoseconds: int = 0
    offset_minutes: int = -1

    @property
    def is_zero(self) -> bool:
        """Whether this is Go's zero time."""
        return self.unix_seconds == ZERO_TIME_UNIX_SECONDS and self.nanoseconds == 0


def wire(name: str, default: Any, **more: Any) -> Any:
    """Declare a struct field: its Go name, its zero value, and what codecs may want to know of it."""
    return field(default=default, metadata={"wire": name, **more})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(wire,))
def struct(cls: type[ClassT]) -> type[ClassT]:
    """A frozen, slotted, keyword-only dataclass.

    That it is frozen is checked by the type checker, not at run time: an instance of a real frozen dataclass costs
    twice as much (every field goes through `object.__setattr__`). Structs are hashable because they never change.
    Comparing, hashing and showing are one function for all, because compiling them for each class is a good part of an
    agent's start.
    """
    made: Any = dataclass(slots=True, kw_only=True, repr=False, eq=False, match_args=False)(cls)
    made.__repr__, made.__eq__, made.__hash__ = _shown, _equal, _hashed
    return cast(type[ClassT], made)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[ClassT]) -> type[ClassT]:
    """As `struct`, for what never travels: a slotted dataclass that is frozen to the type checker only."""
    return cast(type[ClassT], dataclass(slots=True, eq=False)(cls))


def fill(new: Any, **fields_: Any) -> None:
    """Set fields of a struct that was just made and that nobody else has seen; a third of the time of `replace`."""
    for name, item in fields_.items():
        setattr(new, name, item)


@cache
def _values(kind: type) -> Callable[[Any], Any]:
    """What reads all fields of a struct, as something that compares and hashes as they do."""
    names = [each.name for each in fields(kind)]
    return attrgetter(*names) if names else lambda value: ()


def _equal(self: Any, other: object) -> Any:
    if type(self) is not type(other):
        return NotImplemented
    kind: Any = type(self)
    values = _values(kind)
    return values(self) == values(other)


def _hashed(self: Any) -> int:
    kind: Any = type(self)
    return hash(_values(kind)(self))


OWN_FORMS: set[type] = set()
"""Structs that travel as a raw string with msgpack of their own inside; `wire.config_entry` knows what is in it."""


def own_form(cls: type[ClassT]) -> type[ClassT]:
    """Mark a struct as one of `OWN_FORMS`."""
    OWN_FORMS.add(cls)
    return cls


def _shown(self: Any) -> str:
    inside = ", ".join(f"{each.name}={getattr(self, each.name)!r}" for each in fields(self))
    return f"{type(self).__name__}({inside})"
