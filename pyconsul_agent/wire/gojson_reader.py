"""Request bodies: JSON read as Go's encoding/json reads it, into structs, with Go's error texts.

Names match without regard to letter case, the last duplicate wins, only the first value is read, unknown fields are
refused (unless `lenient`), `null` leaves the zero value, durations are numbers of nanoseconds or Go's text.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NoReturn, TypeVar, cast

from pyconsul_agent.structs.base import Duration
from pyconsul_agent.wire.gotypes import parse_duration, quote

T = TypeVar("T")

DEPTH_MAX = 100
NUMBER_DIGITS_MAX = 308
"""Of a whole number. float64 ends at 1.8e308, so some of 309 digits are refused here that Go would take."""
NUMBER_SHOWN_MAX = 64


def parse(body: bytes) -> Any:
    """The first JSON value in `body` as plain values. Raises ValueError with Go's text."""
    text = body.decode("utf-8", "replace")
    start = len(text) - len(text.lstrip(" \t\r\n"))
    try:
        value, _ = _DECODER.raw_decode(text, start)
    except _TooLarge:
        raise
    except (ValueError, RecursionError):
        Explainer(text).explain()
    return _whole(value) if b"\\u" in body else value


def _whole(value: Any) -> Any:
    """`value` with halves of surrogate pairs, which escapes can spell, replaced by U+FFFD as Go does it."""
    if isinstance(value, str):
        return value if value.isascii() else _HALF.sub("\ufffd", value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {_whole(name): _whole(item) for name, item in value.items()}
    return value


_HALF = re.compile("[\ud800-\udfff]")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


class _TooLarge(ValueError):
    def __init__(self, text: str) -> None:
        super().__init__(f"json: cannot unmarshal number {text[:NUMBER_SHOWN_MAX]} into Go value of type float64")


def _parse_integer(text: str) -> int:
    """Numbers that no float64 can hold are refused at once: whatever is done with them later would fail."""
    if len(text) > NUMBER_DIGITS_MAX:
        raise _TooLarge(text)
    return int(text)


def _parse_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _TooLarge(text)
    return value


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_int=_parse_integer, parse_float=_parse_float)


class Explainer:
    """Walks malformed text to say what Go's scanner would have said of it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def explain(self) -> NoReturn:
        """Raise ValueError with the text."""
        self._skip()
        if self._at >= len(self._text):
            raise ValueError("EOF")
        self._value(0)
        raise ValueError("unexpected EOF")

    def _skip(self) -> None:
        while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
            self._at += 1

    def _peek(self) -> str:
        self._skip()
        if self._at >= len(self._text):
            raise ValueError("unexpected EOF")
        return self._text[self._at]

    def _bad(self, context: str) -> NoReturn:
        character = self._text[self._at]
        shown = "'\\''" if character == "'" else "'\"'" if character == '"' else f"'{quote(character)[1:-1]}'"
        raise ValueError(f"invalid character {shown} {context}")

    def _value(self, depth: int) -> None:
        if depth > DEPTH_MAX:
            raise ValueError("exceeded max depth")
        character = self._peek()
        if character == "{":
            self._object(depth)
        elif character == "[":
            self._array(depth)
        elif character == '"':
            self._string()
        elif character == "-" or character.isdigit():
            self._number()
        elif character in "tfn":
            self._literal({"t": "true", "f": "false", "n": "null"}[character])
        else:
            self._bad("looking for beginning of value")

    def _object(self, depth: int) -> None:
        self._at += 1
        first = True
        while True:
            character = self._peek()
            if character == "}" and first:
                self._at += 1
                return
            if character != '"':
                self._bad("looking for beginning of object key string")
            self._string()
            if self._peek() != ":":
                self._bad("after object key")
            self._at += 1
            self._value(depth + 1)
            character = self._peek()
            if character == "}":
                self._at += 1
                return
            if character != ",":
                self._bad("after object key:value pair")
            self._at += 1
            first = False

    def _array(self, depth: int) -> None:
        self._at += 1
        if self._peek() == "]":
            self._at += 1
            return
        while True:
            self._value(depth + 1)
            character = self._peek()
            if character == "]":
                self._at += 1
                return
            if character != ",":
                self._bad("after array element")
            self._at += 1

    def _string(self) -> None:
        self._at += 1
        while self._at < len(self._text):
            character = self._text[self._at]
            if character == '"':
                self._at += 1
                return
            if ord(character) < 0x20:
                self._bad("in string literal")
            if character == "\\":
                self._at += 1
                if self._at < len(self._text) and self._text[self._at] not in '"\\/bfnrtu':
                    self._bad("in string escape code")
            self._at += 1
        raise ValueError("unexpected EOF")

    def _number(self) -> None:
        if self._text[self._at] == "-":
            self._at += 1
            if self._at >= len(self._text):
                raise ValueError("unexpected EOF")
            if not self._text[self._at].isdigit():
                self._bad("in numeric literal")
        while self._at < len(self._text) and self._text[self._at] in "0123456789+-.eE":
            self._at += 1

    def _literal(self, word: str) -> None:
        for position, wanted in enumerate(word):
            if self._at >= len(self._text):
                raise ValueError("unexpected EOF")
            if self._text[self._at] != wanted:
                self._bad(f"in literal {word} (expecting '{word[position]}')")
            self._at += 1


# --- into structs ---------------------------------------------------------------------------------------------


def decode(form: type[T], value: Any, *, lenient: bool = False, aliases: Mapping[str, str] | None = None) -> T:
    """A parsed value as the struct `form`. `aliases` maps other spellings (lower case) to Go names; those
    mapped to an empty name are known and mean nothing.

    Raises ValueError with Go's text.
    """
    return cast(T, _struct(form, value, "", lenient, aliases or {}))


def kind_of(value: Any) -> str:
    """What Go calls a JSON value of this type."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int | float):
        return "number"
    return "array" if isinstance(value, list) else "object"


def mismatch(value: Any, path: str, go_type: str) -> ValueError:
    """Go's complaint about a value of the wrong type."""
    kind = kind_of(value)
    if path:
        return ValueError(f"json: cannot unmarshal {kind} into Go struct field .{path} of type {go_type}")
    return ValueError(f"json: cannot unmarshal {kind} into Go value of type {go_type}")


@cache
def _fields(form: Any) -> dict[str, tuple[str, str, Any]]:
    """lower-case Go name -> (attribute, Go name, annotation)."""
    hints = typing.get_type_hints(form)
    return {
        field.metadata["wire"].lower(): (field.name, field.metadata["wire"], hints[field.name])
        for field in dataclasses.fields(form)
        if not field.metadata.get("json_hidden")
    }


def _struct(form: Any, value: Any, path: str, lenient: bool, aliases: Mapping[str, str]) -> Any:
    if value is None:
        return form()
    if not isinstance(value, dict):
        raise mismatch(value, path, f"structs.{form.__name__}")
    fields = _fields(form)
    known: dict[str, Any] = {}
    late: dict[str, Any] = {}
    for name, item in value.items():
        lower = name.lower()
        entry = fields.get(lower)
        target = known
        if entry is None and aliases.get(lower) == "":
            continue
        if entry is None and lower in aliases:
            entry = fields.get(aliases[lower].lower())
            target = late
        if entry is None:
            if lenient:
                continue
            raise ValueError(f"json: unknown field {quote(name)}")
        attribute, go_name, hint = entry
        if item is None:
            continue
        where = f"{path}.{go_name}" if path else go_name
        target[attribute] = _convert(hint, item, where, lenient, aliases)
    for attribute, item in late.items():
        if not known.get(attribute):
            known[attribute] = item
    return form(**known)


_GO_TYPES: dict[Any, str] = {str: "string", int: "int", bool: "bool", float: "float64", bytes: "string"}


def _convert(hint: Any, value: Any, path: str, lenient: bool, aliases: Mapping[str, str]) -> Any:
    if hint is Duration:
        return to_duration(value)
    simple = _SIMPLE.get(hint)
    if simple is not None:
        return simple(value, path)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        inner = next(argument for argument in arguments if argument is not type(None))
        return _base64(value, path) if inner is bytes else _convert(inner, value, path, lenient, aliases)
    if origin is tuple:
        if not isinstance(value, list):
            raise mismatch(value, path, f"[]{_GO_TYPES.get(arguments[0], 'struct')}")
        return tuple(_convert(arguments[0], item, path, lenient, aliases) for item in value)
    if dataclasses.is_dataclass(hint):
        return _struct(hint, value, path, lenient, aliases)
    if origin is not None and issubclass(cast(type, origin), Mapping):
        if not isinstance(value, dict):
            raise mismatch(value, path, f"map[string]{_GO_TYPES.get(arguments[1], 'struct')}")
        return {key: _convert(arguments[1], item, path, lenient, aliases) for key, item in value.items()}
    return value


def to_duration(value: Any) -> Duration:
    """A duration given as text or as nanoseconds; other types count as not given. Raises ValueError."""
    if isinstance(value, str):
        return parse_duration(value) if value else Duration(0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Duration(0)
    return Duration(int(value))


def _text(value: Any, path: str) -> str:
    if isinstance(value, str):
        return value
    raise mismatch(value, path, "string")


def _key(value: Any, path: str) -> bytes:
    return _text(value, path).encode("utf-8", "surrogateescape")


def _integer(value: Any, path: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        if -(1 << 63) <= value < 1 << 64:
            return value
        raise ValueError(f"json: cannot unmarshal number {value} into Go struct field .{path} of type int")
    if isinstance(value, float):
        raise ValueError(f"json: cannot unmarshal number {value} into Go struct field .{path} of type int")
    raise mismatch(value, path, "int")


def _bool(value: Any, path: str) -> bool:
    if isinstance(value, bool):
        return value
    raise mismatch(value, path, "bool")


def _float(value: Any, path: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise mismatch(value, path, "float64")


def _base64(value: Any, path: str) -> bytes:
    text = _text(value, path)
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("illegal base64 data at input byte 0") from None


_SIMPLE: dict[Any, Callable[[Any, str], Any]] = {
    str: _text,
    bytes: _key,
    int: _integer,
    bool: _bool,
    float: _float,
}
