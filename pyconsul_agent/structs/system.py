"""What the cluster knows of itself: pairs of system metadata, and the commands that only the log carries."""

from __future__ import annotations

from pyconsul_agent.structs.base import struct, wire
from pyconsul_agent.structs.requests import WriteRequest


@struct
class SystemMetadataEntry:
    """Consul's `SystemMetadataEntry`."""

    key: str = wire("Key", default="")
    value: str = wire("Value", default="")
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@struct
class SystemMetadataRequest(WriteRequest):
    """Consul's `SystemMetadataRequest`."""

    datacenter: str = wire("Datacenter", default="")
    op: str = wire("Op", default="")
    entry: SystemMetadataEntry | None = wire("Entry", default=None)


@struct
class TombstoneRequest(WriteRequest):
    """Consul's `TombstoneRequest`."""

    datacenter: str = wire("Datacenter", default="")
    op: str = wire("Op", default="")
    reap_index: int = wire("ReapIndex", default=0)
