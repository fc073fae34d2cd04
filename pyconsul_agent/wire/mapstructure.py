"""Plain values into structs, the lenient way that configuration is read: as Go's mapstructure with weak typing.

Names match without regard to letter case and underscores. A number may stand for text, text for a number or a bool,
one value for a list of one; durations are Go's text or nanoseconds. What names no field is reported, not refused: the
caller decides.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar, cast

from pyconsul_agent.structs.base import Duration, Float32, GoTime
from pyconsul_agent.wire.gotypes import parse_bool, parse_duration

T = TypeVar("T")

DEPTH_MAX = 100
INTEGER_MAX = (1 << 63) - 1


class _Problems(Exception):
    """What was wrong with one value."""


class Decoded:
    """The outcome: keys that named no field, and what could not be converted."""

    def __init__(self) -> None:
        self.unused: list[str] = []
        self.errors: list[str] = []


def decode(form: type[T], value: object) -> tuple[T, list[str]]:
    """A struct from plain values (as JSON gives them), and the keys that were not used.

    Raises ValueError with the original's words.
    """
    outcome = Decoded()
    try:
        result = _Decoder(outcome).struct(form, value, "", 0)
    except _Problems as error:
        raise ValueError(str(error)) from None
    if outcome.errors:
        lines = "".join(f"\n* {line}" for line in sorted(outcome.errors))
        raise ValueError(f"{len(outcome.errors)} error(s) decoding:\n{lines}")
    return cast(T, result), outcome.unused


def _fold(name: str) -> str:
    return name.replace("_", "").lower()


@cache
def _fields(form: type) -> dict[str, tuple[str, str, Any]]:
    hints = typing.get_type_hints(form)
    found = {}
    for field in dataclasses.fields(form):
        name = field.metadata["wire"]
        found[_fold(name)] = (field.name, name, hints[field.name])
    return found


def _kind(value: object) -> str:
    """The Go kind of a JSON value."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int | float):
        return "float64"
    return "map" if isinstance(value, dict) else "slice"


class _Decoder:
    """One decoding. Methods take the value, its path, and how deep it lies."""

    def __init__(self, outcome: Decoded) -> None:
        self._outcome = outcome

    def struct(self, form: type, value: Any, path: str, depth: int) -> Any:
        if depth > DEPTH_MAX:
            raise _Problems("exceeded max depth")
        if isinstance(value, list) and len(value) == 1 and path:
            value = value[0]
        if not isinstance(value, dict):
            raise _Problems(f"'{path}' expected a map, got '{_kind(value)}'")
        fields, known = _fields(form), {}
        for key, item in value.items():
            found = fields.get(_fold(key))
            where = f"{path}.{found[1] if found else key}".lstrip(".")
            if found is None:
                self._outcome.unused.append(where)
            elif item is not None:
                try:
                    known[found[0]] = self.convert(found[2], item, where, depth + 1)
                except _Problems as error:
                    self._outcome.errors.append(str(error))
        return form(**known)

    def convert(self, hint: Any, value: Any, path: str, depth: int) -> Any:
        if depth > DEPTH_MAX:
            raise _Problems("exceeded max depth")
        scalar = _SCALARS.get(hint)
        if scalar is not None:
            return scalar(value, path)
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin in (types.UnionType, typing.Union):
            inner = next(argument for argument in arguments if argument is not type(None))
            return None if value is None else self.convert(inner, value, path, depth)
        if origin is tuple:
            return self._sequence(arguments[0], value, path, depth)
        if hint is Any:
            return anything(value, depth)
        if dataclasses.is_dataclass(hint):
            return self.struct(cast(type, hint), value, path, depth)
        return self._mapping(arguments[1], value, path, depth)

    def _sequence(self, hint: Any, value: Any, path: str, depth: int) -> tuple[Any, ...]:
        items = value if isinstance(value, list) else [] if value == {} else [value]
        return tuple(
            self.convert(hint, {} if item is None else item, f"{path}[{place}]", depth + 1)
            for place, item in enumerate(items)
        )

    def _mapping(self, hint: Any, value: Any, path: str, depth: int) -> Mapping[str, Any]:
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            value = {key: item for each in value for key, item in each.items()}
        if not isinstance(value, dict):
            raise _Problems(f"'{path}' expected a map, got '{_kind(value)}'")
        return {key: self.convert(hint, item, f"{path}[{key}]", depth + 1) for key, item in value.items()}


def anything(value: Any, depth: int = 0) -> Any:
    """A value of no declared type: numbers are floats, as JSON has no others. Raises ValueError when too deep."""
    if depth > DEPTH_MAX:
        raise _Problems("exceeded max depth")
    if isinstance(value, dict):
        return {key: anything(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [anything(item, depth + 1) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise _Problems("a number is out of range") from None
    return value


# --- scalars ------------------------------------------------------------------------------------------------------


def _unconvertible(value: Any, path: str, wanted: str) -> _Problems:
    names = {"map": "map[string]interface {}", "slice": "[]interface {}"}
    kind = _kind(value)
    return _Problems(f"'{path}' expected type '{wanted}', got unconvertible type '{names.get(kind, kind)}'")


def _text(value: Any, path: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, int):
        return str(value) if abs(value) <= INTEGER_MAX else _out_of_range(path)
    if isinstance(value, float):
        return format(value, "f").rstrip("0").rstrip(".")
    if value == []:
        return ""
    raise _unconvertible(value, path, "string")


def _out_of_range(path: str) -> Any:
    raise _Problems(f"cannot parse '{path}': value out of range")


def _integer(value: Any, path: str) -> int:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str):
        try:
            value = int(value, 0) if len(value) <= 24 else _out_of_range(path)
        except ValueError:
            raise _Problems(
                f"cannot parse '{path}' as int: strconv.ParseInt: parsing \"{value}\": invalid syntax"
            ) from None
    if not isinstance(value, int | float):
        raise _unconvertible(value, path, "int")
    if abs(value) > INTEGER_MAX:
        _out_of_range(path)
    return int(value)


def _float(value: Any, path: str) -> float:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise _Problems(
                f"cannot parse '{path}' as float: strconv.ParseFloat: parsing \"{value}\": invalid syntax"
            ) from None
    if not isinstance(value, int | float):
        raise _unconvertible(value, path, "float64")
    try:
        return float(value)
    except OverflowError:
        return cast(float, _out_of_range(path))


def _bool(value: Any, path: str) -> bool:
    if isinstance(value, int | float):
        return bool(value)
    if isinstance(value, str):
        try:
            return value != "" and parse_bool(value)
        except ValueError as error:
            raise _Problems(f"cannot parse '{path}' as bool: {error}") from None
    raise _unconvertible(value, path, "bool")


def _duration(value: Any, path: str) -> Duration:
    if isinstance(value, str):
        try:
            return parse_duration(value)
        except ValueError as error:
            raise _Problems(f"error decoding '{path}': {error}") from None
    return Duration(_integer(value, path))


def _no_time(value: Any, path: str) -> GoTime:
    raise _unconvertible(value, path, "time.Time")


_SCALARS: dict[Any, Callable[[Any, str], Any]] = {
    str: _text,
    int: _integer,
    float: _float,
    Float32: _float,
    bool: _bool,
    Duration: _duration,
    GoTime: _no_time,
}
