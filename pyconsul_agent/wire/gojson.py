r"""JSON text as Go's encoding/json writes it, byte for byte.

What differs from other writers: struct fields stand in declaration order and map keys are sorted bytewise; `<`, `>`,
`&` and the two Unicode line separators are escaped; an integral float has no `.0`; a byte slice is base64 and a nil one
`null`; a string's invalid UTF-8 becomes U+FFFD; with `pretty` four spaces and a final newline.

>>> encode({"b": 1.0, "a": "<x>"})
b'{"a":"\\u003cx\\u003e","b":1}'
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import operator
import re
import typing
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, cast

from pyconsul_agent.structs.base import Duration, GoTime
from pyconsul_agent.structs.health import HealthCheckDefinition
from pyconsul_agent.wire.gotypes import format_duration, format_time

try:
    import orjson
except ImportError:  # the pure path below writes the same bytes, slower
    orjson = None  # type: ignore[assignment]

Render = Callable[[Any], Any]


class Ordered(dict[str, Any]):
    """An object whose keys keep their order (a Go struct built by hand); plain dicts are Go maps and get sorted."""


def encode(value: object, *, pretty: bool = False) -> bytes:
    """`value` (structs, mappings, sequences, scalars) as Go would print it."""
    data = b"true" if value is True else dump(render(value))  # the answer to most writes
    return indent(data) if pretty else data


def render(value: Any) -> Any:
    """Structs and containers as plain dicts and lists in the order in which they will be written."""
    kind = type(value)
    if kind is str:
        return value if value.isascii() else _utf8(value)
    if kind is int or kind is bool or value is None:
        return value
    made = _STRUCTS.get(kind)
    if made is not None:
        return made(value)
    if kind is tuple or kind is list:
        return [render(item) for item in value]
    if kind is bytes:
        return base64.b64encode(value).decode("ascii")
    if kind is Ordered:
        return {key: render(item) for key, item in value.items()}
    if kind is float:
        return _plain_float(value)
    if dataclasses.is_dataclass(kind):
        made = _STRUCTS[kind] = _renderer(kind)
        return made(value)
    if isinstance(value, Mapping):
        return {_utf8(key): render(value[key]) for key in sorted(value, key=_sort_key)}
    if isinstance(value, int):
        return int(value)
    raise TypeError(f"cannot be written as JSON: {kind.__name__}")


def _sort_key(key: str) -> bytes:
    try:
        return key.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a pair, which no byte stands for
        return key.encode("utf-8", "surrogatepass")


def dump(plain: Any) -> bytes:
    """Compact text of rendered values, with Go's escapes."""
    data = _dump_fast(plain)
    if data is None:
        data = _dump_slowly(plain).encode()
    if b"&" in data or b"<" in data or b">" in data or b"\xe2\x80" in data:  # a fifth of the time of a search
        return _ESCAPED.sub(_escape, data)
    return data


class _Number:
    """A number spelled as Go spells it."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def _plain_float(value: float) -> Any:
    """The float itself where every writer agrees with Go about its spelling, else a Number."""
    if value.is_integer() and 0 < abs(value) < 1e15:
        return int(value)
    text = _float(value)
    return value if text == repr(value) and "e" not in text else _Number(text)


def _dump_fast(plain: Any) -> bytes | None:
    """By orjson; None where it is absent or meets a Number."""
    if orjson is None:
        return None
    try:
        return orjson.dumps(plain)
    except TypeError:
        return None


def _dump_slowly(plain: Any) -> str:
    if type(plain) is dict:
        return "{" + ",".join(f"{_dump_slowly(key)}:{_dump_slowly(item)}" for key, item in plain.items()) + "}"
    if type(plain) is list:
        return "[" + ",".join(map(_dump_slowly, plain)) + "]"
    if isinstance(plain, _Number):
        return plain.text
    return json.dumps(plain, ensure_ascii=False)


_ESCAPED = re.compile(rb"[<>&]|\xe2\x80[\xa8\xa9]")
_ESCAPES = {
    b"<": b"\\u003c",
    b">": b"\\u003e",
    b"&": b"\\u0026",
    b"\xe2\x80\xa8": b"\\u2028",
    b"\xe2\x80\xa9": b"\\u2029",
}


def _escape(match: re.Match[bytes]) -> bytes:
    return _ESCAPES[match.group()]


_SURROGATE = re.compile("[\ud800-\udfff]")


def _utf8(text: str) -> str:
    """`text` with what was not UTF-8 replaced, one U+FFFD a byte."""
    if text.isascii():
        return text
    return _SURROGATE.sub("\ufffd", text)


def _float(value: float) -> str:
    """A float64 as Go prints it in JSON."""
    if math.isnan(value) or math.isinf(value):
        raise ValueError(f"json: unsupported value: {'NaN' if math.isnan(value) else '+Inf' if value > 0 else '-Inf'}")
    magnitude = abs(value)
    if magnitude != 0 and (magnitude < 1e-6 or magnitude >= 1e21):
        mantissa, exponent = repr(value).split("e") if "e" in repr(value) else f"{value:e}".split("e")
        sign, digits = exponent[0] if exponent[0] in "+-" else "+", exponent.lstrip("+-").lstrip("0")
        return f"{mantissa.removesuffix('.0')}e{sign}{digits if sign == '-' else digits.rjust(2, '0')}"
    text = repr(value)
    if "e" in text:
        text = format(Decimal(text), "f")
    return text.removesuffix(".0")


# --- structs --------------------------------------------------------------------------------------------------


_STRUCTS: dict[type, Render] = {}
"""Of the structs that were met, made once each."""


def _renderer(kind: Any) -> Render:
    if kind is GoTime:
        return format_time
    hints = typing.get_type_hints(kind)
    durations_are_text = kind is HealthCheckDefinition
    rows: list[tuple[str, str, bool, Any, int]] = []
    for field in dataclasses.fields(kind):
        if field.metadata.get("json_hidden"):
            continue
        hint = hints[field.name]
        as_text = hint is Duration and (durations_are_text or bool(field.metadata.get("json_duration")))
        how = _AS_IS if hint in (int, bool) or (hint is Duration and not as_text) else _RENDERED
        if as_text:
            how = _DURATION
        elif hint is bytes:
            how = _KEY
        elif hint is str:
            how = _TEXT
        omit = bool(field.metadata.get("json_omit"))
        empty = cast(Any, hint)() if omit and dataclasses.is_dataclass(hint) else None
        rows.append((field.metadata.get("json", field.metadata["wire"]), field.name, omit, empty, how))

    names = tuple(row[0] for row in rows)
    values = _reader_of([row[1] for row in rows])
    texts = tuple(name for name, _, omit, _, how in rows if how == _TEXT and not omit)
    some_texts = tuple((name, _utf8) for name, _, omit, _, how in rows if how == _TEXT and omit)
    converted = tuple((name, _CONVERSIONS[how]) for name, _, _, _, how in rows if how not in (_AS_IS, _TEXT))
    converted += some_texts
    omitted = tuple((name, empty) for name, _, omit, empty, _ in rows if omit)

    def render_struct(value: Any) -> dict[str, Any]:
        result = dict(zip(names, values(value), strict=True))
        for name, empty in omitted:
            item = result[name]
            if not item or item == empty:
                del result[name]
        for name in texts:
            text = result[name]
            if not text.isascii():
                result[name] = _utf8(text)
        for name, convert in converted:
            if name in result:
                item = result[name]
                if item is not None:
                    result[name] = convert(item)
        return result

    return render_struct


_AS_IS, _RENDERED, _DURATION, _KEY, _TEXT = 0, 1, 2, 3, 4


def _render_key(item: bytes) -> str:
    return _utf8(item.decode("utf-8", "surrogateescape"))


_CONVERSIONS: dict[int, Render] = {_RENDERED: render, _DURATION: format_duration, _KEY: _render_key}


def _reader_of(attributes: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    """What reads these attributes of a struct at once."""
    if len(attributes) > 1:
        return operator.attrgetter(*attributes)
    return lambda value: tuple(getattr(value, name) for name in attributes)


# --- pretty ---------------------------------------------------------------------------------------------------

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^"{}\[\],:]+')


def indent(compact: bytes) -> bytes:
    """Compact JSON re-written with four spaces a level and a final newline; empty containers stay on one line."""
    out: list[bytes] = []
    depth = 0
    tokens = _TOKEN.findall(compact)
    position, count = 0, len(tokens)
    while position < count:
        token = tokens[position]
        if token in (b"{", b"["):
            if tokens[position + 1] in (b"}", b"]"):
                out.append(token + tokens[position + 1])
                position += 1
            else:
                depth += 1
                out.append(token + b"\n" + b"    " * depth)
        elif token in (b"}", b"]"):
            depth -= 1
            out.append(b"\n" + b"    " * depth + token)
        elif token == b",":
            out.append(b",\n" + b"    " * depth)
        elif token == b":":
            out.append(b": ")
        else:
            out.append(token)
        position += 1
    out.append(b"\n")
    return b"".join(out)
