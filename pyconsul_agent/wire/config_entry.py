"""Structs that carry config entries. Each travels as one raw string, and in it values one after another:

| struct                        | values                                                          |
|-------------------------------|-----------------------------------------------------------------|
| `ConfigEntryRequest`          | kind, map                                                       |
| `ConfigEntryResponse`         | kind ("" if there is none), entry if there is one, map of meta  |
| `IndexedConfigEntries`        | count, kind, map                                                |
| `IndexedGenericConfigEntries` | count, for each: kind, entry; map of meta                       |
| `ServiceConfigResponse`       | map                                                             |
| `ProxyConfigEntry`            | map                                                             |

The kind comes first because a reader must know it before it can read the entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgpack

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.structs.config_entry import ProxyConfigEntry
from pyconsul_agent.structs.config_kinds import KINDS, ConfigEntry, kind_of
from pyconsul_agent.structs.config_requests import (
    ConfigEntryRequest,
    ConfigEntryResponse,
    IndexedConfigEntries,
    IndexedGenericConfigEntries,
    ServiceConfigResponse,
)
from pyconsul_agent.wire.msgpack import Convert, build, fields_builder, pack, plain, plain_fields, unpack


def _values(data: Any) -> Iterator[Any]:
    """The values of a raw string, raw strings in them as bytes."""
    if type(data) is not bytes:
        raise DecodeError(f"cannot decode {type(data).__name__} as an encoded value")
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False, max_buffer_size=max(1, len(data)))
    unpacker.feed(data)
    try:
        yield from unpacker
    except (ValueError, msgpack.UnpackException, RecursionError, TypeError) as error:
        raise DecodeError(f"malformed msgpack: {type(error).__name__}: {error}"[:200]) from error


def _next(values: Iterator[Any]) -> Any:
    for value in values:
        return value
    raise DecodeError("an encoded value ends early")


def _map(values: Iterator[Any]) -> dict[bytes, Any]:
    value = _next(values)
    if type(value) is not dict:
        raise DecodeError(f"cannot decode {type(value).__name__} as map")
    return value


def _count(values: Iterator[Any]) -> int:
    value = _next(values)
    if type(value) is not int or value < 0:
        raise DecodeError("not a number of config entries")
    return value


def entry_of(kind: str, value: Any) -> ConfigEntry | None:
    """An entry of a kind from its unpacked value. Raises DecodeError."""
    if value is None:
        return None
    form = KINDS.get(kind)
    if form is None:
        raise DecodeError(f"invalid config entry kind: {kind}")
    return build(form, value)


# --- one map in a string ----------------------------------------------------------------------------------------


def _wrapped(form: type) -> tuple[Convert, Convert]:
    def to_plain(value: Any) -> bytes:
        return pack(plain_fields(value))

    def from_plain(value: Any) -> Any:
        return fields_builder(form)(unpack(value) if type(value) is bytes else value)

    return to_plain, from_plain


# --- kinds before entries ---------------------------------------------------------------------------------------


def _plain_request(value: ConfigEntryRequest) -> bytes:
    return pack("" if value.entry is None else kind_of(value.entry)) + pack(plain_fields(value))


def _request(data: Any) -> ConfigEntryRequest:
    values = _values(data)
    kind = build(str, _next(values))
    fields = _map(values)
    entry = entry_of(kind, fields.pop(b"Entry", None))
    request: ConfigEntryRequest = fields_builder(ConfigEntryRequest)(fields)
    return replace(request, entry=entry)


def _plain_response(value: ConfigEntryResponse) -> bytes:
    fields = plain_fields(value)
    del fields["Entry"]
    if value.entry is None:
        return pack("") + pack(fields)
    return pack(kind_of(value.entry)) + pack(plain(value.entry)) + pack(fields)


def _response(data: Any) -> ConfigEntryResponse:
    values = _values(data)
    kind = build(str, _next(values))
    entry = entry_of(kind, _next(values)) if kind else None
    response: ConfigEntryResponse = fields_builder(ConfigEntryResponse)(_map(values))
    return replace(response, entry=entry)


def _plain_indexed(value: IndexedConfigEntries) -> bytes:
    return pack(len(value.entries or ())) + pack(value.kind) + pack(plain_fields(value))


def _indexed(data: Any) -> IndexedConfigEntries:
    values = _values(data)
    _count(values)
    kind = build(str, _next(values))
    fields = _map(values)
    rows = fields.pop(b"Entries", None)
    if rows is not None and type(rows) is not list:
        raise DecodeError(f"cannot decode {type(rows).__name__} as array")
    entries = None if rows is None else tuple(entry_of(kind, row) for row in rows)
    reply: IndexedConfigEntries = fields_builder(IndexedConfigEntries)(fields)
    return replace(reply, entries=entries)


def _plain_generic(value: IndexedGenericConfigEntries) -> bytes:
    fields = plain_fields(value)
    del fields["Entries"]
    entries = [entry for entry in value.entries or () if entry is not None]
    pairs = b"".join(pack(kind_of(entry)) + pack(plain(entry)) for entry in entries)
    return pack(len(entries)) + pairs + pack(fields)


def _generic(data: Any) -> IndexedGenericConfigEntries:
    values = _values(data)
    entries = []
    for _ in range(_count(values)):
        kind = build(str, _next(values))
        entries.append(entry_of(kind, _next(values)))
    reply: IndexedGenericConfigEntries = fields_builder(IndexedGenericConfigEntries)(_map(values))
    return replace(reply, entries=tuple(entries) or None)


FORMS: dict[type, tuple[Convert, Convert]] = {
    ProxyConfigEntry: _wrapped(ProxyConfigEntry),
    ServiceConfigResponse: _wrapped(ServiceConfigResponse),
    ConfigEntryRequest: (_plain_request, _request),
    ConfigEntryResponse: (_plain_response, _response),
    IndexedConfigEntries: (_plain_indexed, _indexed),
    IndexedGenericConfigEntries: (_plain_generic, _generic),
}
