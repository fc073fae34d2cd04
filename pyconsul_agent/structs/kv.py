"""The KV row. Keys are bytes: Consul compares and orders them bytewise and they may be any bytes."""

from __future__ import annotations

from pyconsul_agent.structs.base import struct, wire


@struct
class DirEntry:
    """Consul's `DirEntry`."""

    lock_index: int = wire("LockIndex", default=0)
    key: bytes = wire("Key", default=b"")
    flags: int = wire("Flags", default=0)
    value: bytes | None = wire("Value", default=None)
    session: str = wire("Session", default="", json_omit=True)
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)
