"""Builders of the few structs that a busy server decodes all the time, with each field written out.

`msgpack.fields_builder` builds any struct in a loop over its fields; half of the time of decoding a write went there.
A function of `QUICK` takes only what every writer sends: all keys, in order, values of the usual types. For anything
else it returns None, and the loop decides what that means; so no rule of decoding and no error text is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyconsul_agent.structs.kv import DirEntry
from pyconsul_agent.structs.raft import LogEntry
from pyconsul_agent.structs.requests import KVSRequest
from pyconsul_agent.wire.gotime import decode_time
from pyconsul_agent.wire.msgpack import TEXT_ERRORS

Unpacked = dict[Any, Any]

_DIR_ENTRY = (b"CreateIndex", b"Flags", b"Key", b"LockIndex", b"ModifyIndex", b"Session", b"Value")


def _dir_entry(value: Unpacked) -> DirEntry | None:
    if tuple(value) != _DIR_ENTRY:
        return None
    created, flags, key, lock_index, modified, session, content = value.values()
    if not type(created) is type(flags) is type(lock_index) is type(modified) is int:
        return None
    if not type(key) is type(session) is bytes or not (content is None or type(content) is bytes):
        return None
    return DirEntry(
        lock_index=lock_index,
        key=key,
        flags=flags,
        value=content,
        session=session.decode("utf-8", TEXT_ERRORS),
        create_index=created,
        modify_index=modified,
    )


_KVS_REQUEST = (b"Datacenter", b"DirEnt", b"Op", b"Token")


def _kvs_request(value: Unpacked) -> KVSRequest | None:
    if tuple(value) != _KVS_REQUEST:
        return None
    datacenter, inner, op, token = value.values()
    if not type(datacenter) is type(op) is type(token) is bytes or type(inner) is not dict:
        return None
    entry = _dir_entry(inner)
    if entry is None:
        return None
    return KVSRequest(
        datacenter=datacenter.decode("utf-8", TEXT_ERRORS),
        op=op.decode("utf-8", TEXT_ERRORS),
        dir_ent=entry,
        token=token.decode("utf-8", TEXT_ERRORS),
    )


_LOG_ENTRY = (b"AppendedAt", b"Data", b"Extensions", b"Index", b"Term", b"Type")


def _log_entry(value: Unpacked) -> LogEntry | None:
    if tuple(value) != _LOG_ENTRY:
        return None
    appended_at, data, extensions, index, term, kind = value.values()
    if not type(index) is type(term) is type(kind) is int or type(appended_at) is not bytes:
        return None
    if not (data is None or type(data) is bytes) or not (extensions is None or type(extensions) is bytes):
        return None
    return LogEntry(
        index=index,
        term=term,
        type=kind,
        data=data,
        extensions=extensions,
        appended_at=decode_time(appended_at),
    )


QUICK: Mapping[type, Callable[[Unpacked], Any]] = {
    DirEntry: _dir_entry,
    KVSRequest: _kvs_request,
    LogEntry: _log_entry,
}
"""By struct: what builds it from an unpacked map, or returns None. Raises DecodeError as the loop would."""
