"""The KV row. Keys are bytes: Consul compares and orders them bytewise and they may be any bytes."""

from __future__ import annotations

from dataclasses import dataclass

from pyconsul_agent.structs.base import wire


@dataclass(frozen=True, slots=True, kw_only=True)
class DirEntry:
    """Consul's `DirEntry`."""

    lock_index: int = wire("LockIndex", 0)
    key: bytes = wire("Key", b"")
    flags: int = wire("Flags", 0)
    value: bytes | None = wire("Value", None)
    session: str = wire("Session", "", json_omit=True)
    create_index: int = wire("CreateIndex", 0)
    modify_index: int = wire("ModifyIndex", 0)
