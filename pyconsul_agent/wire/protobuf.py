"""Protocol Buffers (proto3) for our structs, by tables: a `Message` names the fields of a struct and how each lies.

Only what Consul's gRPC needs. Fields are written in order of their numbers, zero values are left out unless a field
says otherwise, maps are sorted by key; unknown fields are skipped. Nil and empty lists and maps cannot be told apart:
both are read as nil.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.structs.base import NANOSECONDS_PER_SECOND, Duration

StructT = TypeVar("StructT")

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
VARINT_BYTES_MAX = 10
ELEMENTS_MAX = 200_000
"""Fields read from one message with all that is in it; each may become an object larger than its bytes."""
DEPTH_MAX = 32
"""Of messages in messages; only a free-form `Struct` can be deep at all."""

_U64 = (1 << 64) - 1


# --- bytes ----------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    """`value` as a varint; negative numbers take 10 bytes, as everywhere in proto3."""
    value &= _U64
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number_field(number: int, value: int) -> bytes:
    """A whole varint field."""
    return varint(number << 3 | VARINT) + varint(value)


def bytes_field(number: int, data: bytes) -> bytes:
    """A whole length-delimited field."""
    return varint(number << 3 | BYTES) + varint(len(data)) + data


class Budget:
    """What one `decode` may still make."""

    __slots__ = ("elements",)

    def __init__(self) -> None:
        self.elements = ELEMENTS_MAX

    def take(self, depth: int) -> None:
        self.elements -= 1
        if self.elements < 0:
            raise DecodeError("too many protobuf fields")
        if depth > DEPTH_MAX:
            raise DecodeError("protobuf messages too deep")


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for length in range(VARINT_BYTES_MAX):
        if at >= len(data):
            raise DecodeError("protobuf number is cut off", offset=at)
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << (7 * length)
        if byte < 0x80:
            if value > _U64:
                break
            return value, at
    raise DecodeError("protobuf number is too long", offset=at)


def _fields(data: bytes, budget: Budget, depth: int) -> Iterator[tuple[int, int, Any]]:
    """(number, wire type, value) of each field; bytes for what has a length, else the number's 64 bits."""
    at = 0
    while at < len(data):
        budget.take(depth)
        key, at = _read_varint(data, at)
        number, kind = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise DecodeError(f"protobuf field number {number}", offset=at)
        value: Any
        if kind == VARINT:
            value, at = _read_varint(data, at)
        elif kind == BYTES:
            length, at = _read_varint(data, at)
            if length > len(data) - at:
                raise DecodeError("protobuf field is cut off", offset=at)
            value, at = data[at : at + length], at + length
        elif kind in (FIXED64, FIXED32):
            width = 8 if kind == FIXED64 else 4
            if width > len(data) - at:
                raise DecodeError("protobuf field is cut off", offset=at)
            value, at = int.from_bytes(data[at : at + width], "little"), at + width
        else:
            raise DecodeError(f"protobuf wire type {kind}", offset=at)
        yield number, kind, value


# --- fields ---------------------------------------------------------------------------------------------------


class Field:
    """How one attribute lies in a message. `take` puts what was read into `into`, the arguments of the struct."""

    wire_type = BYTES

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name

    def write(self, value: Any) -> bytes:
        """The field with its key, or nothing."""
        raise NotImplementedError

    def write_of(self, source: Any) -> bytes:
        """The field as `source` has it."""
        return self.write(getattr(source, self.name))

    def take(self, into: dict[str, Any], value: Any, budget: Budget, depth: int) -> None:
        """Add one occurrence."""
        raise NotImplementedError


class Text(Field):
    """A string."""

    def write(self, value: Any) -> bytes:
        return bytes_field(self.number, value.encode("utf-8", "surrogateescape")) if value else b""

    def take(self, into: dict[str, Any], value: Any, budget: Budget, depth: int) -> None:
        into[self.name] = value.decode("utf-8", "surrogateescape")


class Texts(Field):
    """Repeated strings, a tuple or None."""

    def write(self, value: Any) -> bytes:
        return b"".join(bytes_field(self.number, each.encode("utf-8", "surrogateescape")) for each in value or ())

    def take(self, into: dict[str, Any], value: Any, budget: Budget, depth: int) -> None:
        into.setdefault(self.name, []).append(value.decode("utf-8", "surrogateescape"))


class Unsigned(Field):
    """uint32, uint64, an enum."""

    wire_type = VARINT

    def write(self, value: Any) -> bytes:
        return number_field(self.number, value) if value else b""

    def take(self, into: dict[str, Any], value: Any, budget: Budget, depth: int) -> None:
        into[self.name] = value


class Signed(Unsigned):
    """int32: only the low 32 bits of what comes count, as in every implementation."""

    def take(self, into: dict[str, Any], value: Any, budget: Budget, depth: int) -> None:
        value &= 0xFFFFFFFF
        into[self.name] = value - (1 << 32) if value >= 1 << 31 else value


class Flag(Unsigned):
    """bool."""

    def take(self, into: dict[str, Any], value: Any, budget: Budget, depth: int) -> None:
        into[self.name] = value != 0


class Sub(Field):
    """Another message. It is written even when it is empty; None is left out."""

    def __init__(self, number: int, name: str, message: Message[Any]) -> None:
        super().__init__(number, name)
        self._message = message

    def write(self, value: Any) -> bytes:
        return b"" if value is None else bytes_field(self.number, self._message.encode(value))

    def take(self, into: dict[str, Any], value: Any, budget: Budget, depth: int) -> None:
        # compat: a message that comes twice is to be merged; no Consul writes one twice, and the last counts here.
        into[self.name] = self._message.read(value, budget, depth + 1)


class Subs(Sub):
    """Repeated messages, a tuple or None."""

    def write(self, value: Any) -> bytes:
        return b"".join(bytes_field(self.number, self._message.encode(each)) for each in value or ())

    def take(self, into: dict[str, Any], value: Any, budget: Budget, depth: int) -> None:
        into.setdefault(self.name, []).append(self._message.read(value, budget, depth + 1))


class Inline(Field):
    """A message whose fields are attributes of the struct around it (`RaftIndex`); without fields, an empty one."""

    def __init__(self, number: int, *inner: Field) -> None:
        super().__init__(number, "")
        self._inner = inner
        self._by_number = {field.number: field for field in inner}

    def write_of(self, source: Any) -> bytes:
        return bytes_field(self.number, b"".join(field.write_of(source) for field in self._inner))

    def take(self, into: dict[str, Any], value: Any, budget: Budget, depth: int) -> None:
        for number, kind, inside in _fields(value, budget, depth + 1):
            field = self._by_number.get(number)
            if field is not None and field.wire_type == kind:
                field.take(into, inside, budget, depth + 1)


class MapOf(Field):
    """map<string, X>: a dict or None. `inner` writes and reads one value as field 2; `zero` is its zero value."""

    def __init__(self, number: int, name: str, inner: Field, zero: Any) -> None:
        super().__init__(number, name)
        self._inner = inner
        self._zero = zero

    def write(self, value: Any) -> bytes:
        out = []
        for key in sorted(value or ()):
            name = bytes_field(1, key.encode("utf-8", "surrogateescape"))
            # Go writes both fields of an entry, whatever they are.
            item = self._inner.write(value[key]) or bytes_field(2, b"")
            out.append(bytes_field(self.number, name + item))
        return b"".join(out)

    def take(self, into: dict[str, Any], value: Any, budget: Budget, depth: int) -> None:
        entry: dict[str, Any] = {}
        for number, kind, inside in _fields(value, budget, depth + 1):
            if kind == BYTES and number == 1:
                entry["key"] = inside.decode("utf-8", "surrogateescape")
            elif kind == BYTES and number == 2:
                entry.pop(self._inner.name, None)
                self._inner.take(entry, inside, budget, depth + 1)
        found = entry.get(self._inner.name, self._zero)
        into.setdefault(self.name, {})[entry.get("key", "")] = tuple(found) if isinstance(found, list) else found


class Span(Field):
    """google.protobuf.Duration for whole nanoseconds; written even when it is zero."""

    def write(self, value: Any) -> bytes:
        sign = -1 if value < 0 else 1
        whole, rest = divmod(abs(value), NANOSECONDS_PER_SECOND)
        parts = (number_field(1, sign * whole) if whole else b"") + (number_field(2, sign * rest) if rest else b"")
        return bytes_field(self.number, parts)

    def take(self, into: dict[str, Any], value: Any, budget: Budget, depth: int) -> None:
        found = {1: 0, 2: 0}
        for number, kind, inside in _fields(value, budget, depth + 1):
            if kind == VARINT and number in found:
                found[number] = inside - (1 << 64) if inside >= 1 << 63 else inside
        total = found[1] * NANOSECONDS_PER_SECOND + found[2]
        if not -(1 << 63) <= total < 1 << 63:
            raise DecodeError("duration out of range")
        into[self.name] = Duration(total)


# --- messages -------------------------------------------------------------------------------------------------


class Message(Generic[StructT]):
    """A struct as a message."""

    def __init__(self, form: Callable[..., StructT], *fields: Field) -> None:
        self._form = form
        self._fields = tuple(sorted(fields, key=lambda field: field.number))
        self._by_number = {field.number: field for field in fields}

    def encode(self, value: StructT) -> bytes:
        """The message without a length."""
        return b"".join([field.write_of(value) for field in self._fields])

    def decode(self, data: bytes) -> StructT:
        """Raises DecodeError."""
        return self.read(data, Budget(), 0)

    def read(self, data: bytes, budget: Budget, depth: int) -> StructT:
        """`decode` for a message inside another."""
        found: dict[str, Any] = {}
        for number, kind, value in _fields(data, budget, depth):
            field = self._by_number.get(number)
            if field is None:
                continue
            if field.wire_type != kind:
                raise DecodeError(f"protobuf field {number} has wire type {kind}")
            field.take(found, value, budget, depth)
        return self._form(**{key: tuple(each) if isinstance(each, list) else each for key, each in found.items()})


class FreeForm(Field):
    """google.protobuf.Struct: a map of anything that JSON has. Numbers come back as floats, bytes go as text."""

    def write(self, value: Any) -> bytes:
        return b"" if value is None else bytes_field(self.number, _write_struct(value, 0))

    def take(self, into: dict[str, Any], value: Any, budget: Budget, depth: int) -> None:
        into[self.name] = _read_struct(value, budget, depth + 1)


def _as_text(value: Any) -> bytes:
    return bytes(value) if isinstance(value, (bytes, bytearray)) else str(value).encode("utf-8", "surrogateescape")


def _write_struct(value: Mapping[Any, Any], depth: int) -> bytes:
    named = sorted((_as_text(key), each) for key, each in value.items())
    return b"".join(
        bytes_field(1, bytes_field(1, key) + bytes_field(2, _write_value(each, depth + 1))) for key, each in named
    )


def _write_value(value: Any, depth: int) -> bytes:
    if value is None or depth > DEPTH_MAX:
        return number_field(1, 0)
    if isinstance(value, bool):
        return number_field(4, value)
    if isinstance(value, (int, float)):
        return varint(2 << 3 | FIXED64) + _double(float(value))
    if isinstance(value, Mapping):
        return bytes_field(5, _write_struct(value, depth))
    if isinstance(value, (list, tuple)):
        return bytes_field(6, b"".join(bytes_field(1, _write_value(each, depth + 1)) for each in value))
    return bytes_field(3, _as_text(value))


def _double(value: float) -> bytes:
    return struct.pack("<d", value)


def _read_struct(data: bytes, budget: Budget, depth: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for number, kind, entry in _fields(data, budget, depth):
        if (number, kind) != (1, BYTES):
            continue
        key, item = "", None
        for inner, inner_kind, inside in _fields(entry, budget, depth + 1):
            if (inner, inner_kind) == (1, BYTES):
                key = inside.decode("utf-8", "surrogateescape")
            elif (inner, inner_kind) == (2, BYTES):
                item = _read_value(inside, budget, depth + 2)
        out[key] = item
    return out


def _read_value(data: bytes, budget: Budget, depth: int) -> Any:
    found: Any = None
    for number, kind, value in _fields(data, budget, depth):
        match number, kind:
            case 2, 1:
                found = struct.unpack("<d", value.to_bytes(8, "little"))[0]
            case 3, 2:
                found = value.decode("utf-8", "surrogateescape")
            case 4, 0:
                found = value != 0
            case 5, 2:
                found = _read_struct(value, budget, depth + 1)
            case 6, 2:
                items = _fields(value, budget, depth + 1)
                found = [_read_value(each, budget, depth + 2) for at, how, each in items if (at, how) == (1, BYTES)]
            case _:
                found = None
    return found
