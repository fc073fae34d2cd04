"""Structs to and from the msgpack that Consul's RPC, raft and gossip speak (go-msgpack 0.5, the old "raw" flavor).

A struct is a map whose keys are the Go field names in bytewise order, all present. Text and bytes are both "raw"
(`a0`-`bf`, `da`, `db`); a nil slice, map, pointer or []byte is `c0` inside a message and the empty value of its kind as
a whole message. Readers are lenient: unknown keys are skipped, missing and nil ones are zero, newer string and bin
types are taken. A number for text or a float for an integer is refused, as the original does.

"""

from __future__ import annotations

import dataclasses
import operator
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar, cast

import msgpack

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.structs.base import OWN_FORMS, Duration, Float32, GoTime
from pyconsul_agent.wire.gotime import decode_time, encode_time

T = TypeVar("T")
Convert = Callable[[Any], Any]

TEXT_ERRORS = "surrogateescape"


def encode(value: object) -> bytes:
    """One message. A struct, a list or tuple of them, a mapping, or a scalar."""
    try:
        # A packer of its own: one that is shared would be met again by other threads, and by what it calls itself.
        packer = msgpack.Packer(default=_opened, strict_types=True, use_bin_type=False, unicode_errors=TEXT_ERRORS)
        return cast(bytes, packer.pack(value))
    except TypeError:  # as in `pack`
        return _pack_slowly(plain(value))


def pack(value: object) -> bytes:
    """Pack plain values (dicts in the order given) in the raw flavor."""
    try:
        packer = msgpack.Packer(use_bin_type=False, unicode_errors=TEXT_ERRORS)
        return cast(bytes, packer.pack(value))
    except TypeError:  # there is a Single in it, or what cannot be packed at all
        return _pack_slowly(value)


class Single:
    """A float that is packed in four bytes."""

    __slots__ = ("value",)

    def __init__(self, value: float) -> None:
        self.value = value


def _pack_slowly(value: object) -> bytes:
    """As `pack`, for values that hold a Single: the library writes all floats in one size."""
    if isinstance(value, Single):
        return cast(bytes, msgpack.packb(value.value, use_single_float=True))
    packer = msgpack.Packer(use_bin_type=False, unicode_errors=TEXT_ERRORS, autoreset=False)
    if isinstance(value, dict):
        packer.pack_map_header(len(value))
        return cast(bytes, packer.bytes()) + b"".join(pack(each) for pair in value.items() for each in pair)
    if isinstance(value, list | tuple):
        packer.pack_array_header(len(value))
        return cast(bytes, packer.bytes()) + b"".join(map(pack, value))
    raise TypeError(f"cannot be sent as msgpack: {type(value).__name__}")


def decode(form: type[T], data: bytes) -> T:
    """The message `data` as `form` (a struct, `list[...]`, `str`, `bool`, ...). Raises DecodeError."""
    return build(form, unpack(data))


def unpack(data: bytes) -> Any:
    """The plain value in `data`, raw strings as bytes. No length is believed beyond the bytes that are there."""
    try:
        return msgpack.unpackb(data, raw=True, strict_map_key=False)
    except msgpack.ExtraData as error:
        raise DecodeError("bytes left after the msgpack value") from error
    except (ValueError, msgpack.UnpackException, RecursionError, TypeError) as error:
        raise DecodeError(f"malformed msgpack: {type(error).__name__}: {error}"[:200]) from error


def build(form: type[T], value: object) -> T:
    """Turn an unpacked plain value into `form`. Raises DecodeError."""
    any_form: Any = form
    made: T = _builder(any_form)(value)
    return made


def plain(value: object) -> Any:
    """A struct (or a container of structs) as plain values, map keys sorted as on the wire."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is list:
        return [plain(item) for item in cast(list[Any], value)]
    if kind is dict:
        return {key: plain(item) for key, item in cast(dict[Any, Any], value).items()}
    return plain(_opened(value))


def plain_fields(value: Any) -> dict[str, Any]:
    """A struct as a plain map, sorted."""
    kind: Any = type(value)
    return {name: plain(item) for name, item in _fields_opener(kind)(value).items()}


# --- encoding -------------------------------------------------------------------------------------------------


_SCALARS = frozenset({str, bytes, int, float, bool, type(None), Single})


def _opened(value: Any) -> Any:
    """What is neither scalar, list nor dict as one of these. What is in it stays as it is: the packer asks again."""
    kind: Any = type(value)
    return _opener(kind)(value)


@cache
def _opener(kind: type) -> Convert:
    """What opens values of that very type."""
    if kind is tuple:
        return list
    if kind is GoTime:
        return encode_time
    if kind in OWN_FORMS:
        return _own_form(kind)[0]
    if kind is not Single and dataclasses.is_dataclass(kind):
        return _fields_opener(kind)
    for base, convert in ((Mapping, dict), (int, int), (str, str)):  # the last two are for enumerations
        if issubclass(kind, base):
            return cast(Convert, convert)
    raise TypeError(f"cannot be sent as msgpack: {kind.__name__}")


@cache
def _own_form(kind: type) -> tuple[Convert, Convert]:
    """To plain and back, of a struct with a form of its own. Few processes ever meet one."""
    from pyconsul_agent.wire import config_entry

    return config_entry.FORMS[kind]


@cache
def _fields_opener(kind: type) -> Callable[[Any], dict[str, Any]]:
    """What turns a struct into a map from wire names, in order, to the values of its fields."""
    hints = typing.get_type_hints(kind)
    fields = sorted(dataclasses.fields(kind), key=lambda field: str(field.metadata["wire"]))
    names = tuple(field.metadata["wire"] for field in fields)
    singles = tuple(field.metadata["wire"] for field in fields if hints[field.name] is Float32)
    omitted = tuple(field.metadata["wire"] for field in fields if field.metadata.get("omit_zero"))
    items = _reader(tuple(field.name for field in fields))

    def open_all(value: Any) -> dict[str, Any]:
        return dict(zip(names, items(value)))  # noqa: B905 - strict costs; both are of the same fields

    def open_some(value: Any) -> dict[str, Any]:
        result = open_all(value)
        for name in omitted:
            if not result[name]:
                del result[name]
        for name in singles:
            if name in result:
                result[name] = Single(result[name])
        return result

    return open_some if singles or omitted else open_all


def _reader(attributes: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    if len(attributes) > 1:
        return operator.attrgetter(*attributes)
    return lambda value: tuple(getattr(value, name) for name in attributes)


# --- decoding -------------------------------------------------------------------------------------------------


@cache
def _builder(form: Any) -> Convert:
    simple = _SIMPLE.get(form)
    if simple is not None:
        return simple
    origin, arguments = typing.get_origin(form), typing.get_args(form)
    if origin in (types.UnionType, typing.Union):
        inner = [argument for argument in arguments if argument is not type(None)]
        return _optional(_builder(inner[0]) if len(inner) == 1 else _undecided)
    if origin is tuple:
        return _sequence(_builder(arguments[0]), tuple)
    if origin is list:
        return _sequence(_builder(arguments[0]), list)
    if origin in (Mapping, dict) or origin is typing.get_origin(Mapping[str, int]):
        return _mapping(_builder(arguments[1]))
    if form in OWN_FORMS:
        return _own_form(cast(Any, form))[1]
    if dataclasses.is_dataclass(form):
        return fields_builder(cast(type, form))
    raise TypeError(f"no msgpack form for {form!r}")


def _wrong(value: object, wanted: str) -> DecodeError:
    return DecodeError(f"cannot decode {type(value).__name__} as {wanted}")


def _text(value: Any) -> str:
    if type(value) is bytes:
        return value.decode("utf-8", TEXT_ERRORS)
    if value is None:
        return ""
    if type(value) is str:
        return value
    raise _wrong(value, "string")


def _raw(value: Any) -> bytes:
    if type(value) is bytes:
        return value
    if value is None:
        return b""
    raise _wrong(value, "bytes")


def _integer(value: Any) -> int:
    if type(value) is int:
        return value
    if value is None:
        return 0
    raise _wrong(value, "integer")


def _float(value: Any) -> float:
    if type(value) is float:
        return value
    if type(value) is int:
        return float(value)
    if value is None:
        return 0.0
    raise _wrong(value, "float")


def _bool(value: Any) -> bool:
    if type(value) is bool:
        return value
    if value is None:
        return False
    raise _wrong(value, "bool")


def _time(value: Any) -> GoTime:
    return decode_time(_raw(value))


def _anything(value: Any) -> Any:
    """interface{}: raw strings become text, everything else keeps its dynamic type."""
    if type(value) is bytes:
        return value.decode("utf-8", TEXT_ERRORS)
    if type(value) is list:
        return [_anything(item) for item in value]
    if type(value) is dict:
        return {_anything(key): _anything(item) for key, item in value.items()}
    return value


_SIMPLE: dict[Any, Convert] = {
    str: _text,
    bytes: _raw,
    int: _integer,
    float: _float,
    bool: _bool,
    Duration: _integer,
    Float32: _float,
    GoTime: _time,
    Any: _anything,
}


def _optional(convert: Convert) -> Convert:
    def build_optional(value: Any) -> Any:
        return None if value is None else convert(value)

    return build_optional


def _sequence(convert: Convert, container: Callable[[list[Any]], Any]) -> Convert:
    def build_sequence(value: Any) -> Any:
        if type(value) is list:
            return container([convert(item) for item in value])
        if value is None:
            return container([])
        raise _wrong(value, "array")

    return build_sequence


def _mapping(convert: Convert) -> Convert:
    def build_mapping(value: Any) -> Any:
        if type(value) is dict:
            return {_text(key): convert(item) for key, item in value.items()}
        if value is None:
            return {}
        raise _wrong(value, "map")

    return build_mapping


def _undecided(value: Any) -> Any:
    raise DecodeError("of what kind this is was not said")


@cache
def fields_builder(kind: type) -> Convert:
    """A function that turns an unpacked map into a struct of `kind`."""
    general = general_builder(kind)
    quick = _written_out(kind)
    if quick is None:
        return general

    def build_struct(value: Any) -> Any:
        made = quick(value) if type(value) is dict else None
        return general(value) if made is None else made

    return build_struct


def _written_out(kind: type) -> Convert | None:
    """Its function in `written_out`, if any. That is loaded only by who has loaded such structs: no short command."""
    if kind.__name__ not in WRITTEN_OUT:
        return None
    from pyconsul_agent.wire import written_out

    return written_out.QUICK.get(kind)


WRITTEN_OUT = frozenset({"DirEntry", "KVSRequest", "LogEntry"})


def general_builder(kind: type) -> Convert:
    """As `fields_builder`, with no regard to `written_out`."""
    table: dict[bytes, tuple[str, Convert, type | None]] = {}

    def build_struct(value: Any) -> Any:
        if type(value) is not dict:
            if value is None or value == []:
                return kind()
            raise DecodeError(f"Only encoded map or array can be decoded into a struct. ({type(value).__name__})")
        if not table and dataclasses.fields(kind):
            _fill(kind, table)
        known = {}
        for key, item in value.items():
            entry = table.get(key)
            if entry is not None and item is not None:
                name, convert, as_is = entry
                known[name] = item if type(item) is as_is else convert(item)
        return kind(**known)

    return build_struct


_AS_IS: dict[Any, type] = {bytes: bytes, bytes | None: bytes, int: int, Duration: int, bool: bool, float: float}
"""Values of this very type need no conversion."""


def _fill(kind: type, table: dict[bytes, tuple[str, Convert, type | None]]) -> None:
    """Done at first use, not at definition, because structs may contain themselves."""
    hints = typing.get_type_hints(kind)
    entries = {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        entries[field.metadata["wire"].encode()] = (field.name, _builder(hint), _AS_IS.get(hint))
    table.update(entries)  # at once: another thread that found half of it would skip the other half
