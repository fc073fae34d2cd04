"""The requests a leader sends, filled from its state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.raft.quorum import voters
from pyconsul_agent.raft.state import State
from pyconsul_agent.structs.raft import (
    AppendEntriesRequest,
    Configuration,
    EntryType,
    InstallSnapshotRequest,
    LogEntry,
    Server,
    SnapshotMeta,
    Suffrage,
    TimeoutNowRequest,
)
from pyconsul_agent.wire import msgpack


class Header(TypedDict):
    """What stands in every request and response."""

    protocol_version: int
    id: bytes
    addr: bytes


def header(s: State) -> Header:
    """Ours; `id` and `addr` are read by raft 1.7 and harmless to 1.3."""
    return {"protocol_version": s.config.protocol_version, "id": s.me.id.encode(), "addr": s.address_bytes}


def heartbeat(s: State) -> AppendEntriesRequest:
    """Only term and leader, so that the receiver answers without queueing (section 1)."""
    return AppendEntriesRequest(
        **header(s),
        term=s.term,
        leader=s.address_bytes,
    )


def append(s: State, previous: int, previous_term: int, entries: Sequence[LogEntry]) -> AppendEntriesRequest:
    """Entries after (previous, previous_term), perhaps none, and our commit index."""
    return AppendEntriesRequest(
        **header(s),
        term=s.term,
        leader=s.address_bytes,
        prev_log_entry=previous,
        prev_log_term=previous_term,
        entries=tuple(entries),
        leader_commit_index=s.committed,
    )


def install_snapshot(s: State, meta: SnapshotMeta) -> InstallSnapshotRequest:
    """The head of a snapshot stream; `peers` is the old list, for receivers of version 0."""
    return InstallSnapshotRequest(
        **header(s),
        term=s.term,
        leader=s.address_bytes,
        last_log_index=meta.index,
        last_log_term=meta.term,
        peers=msgpack.pack([server.address for server in voters(meta.configuration)]),
        configuration=msgpack.encode(meta.configuration),
        configuration_index=meta.configuration_index,
        size=meta.size,
        unproven=bool(s.unproven) and meta.index == s.unproven,
    )


def timeout_now(s: State) -> TimeoutNowRequest:
    """Ask the receiver to stand at once."""
    return TimeoutNowRequest(**header(s))


def configuration_in(entry: LogEntry) -> Configuration | None:
    """The configuration that an entry carries, None for other entries. Raises DecodeError."""
    if entry.type == EntryType.CONFIGURATION:
        return msgpack.decode(Configuration, entry.data or b"")
    if entry.type in (EntryType.ADD_PEER_DEPRECATED, EntryType.REMOVE_PEER_DEPRECATED):
        return old_peers(entry.data or b"")
    return None


def old_peers(data: bytes) -> Configuration:
    """The peer list of protocol 0 and 1: an array of "ip:port"; the ID is the address. Raises DecodeError."""
    listed = msgpack.decode(list[str], data)
    if not isinstance(listed, list):
        raise DecodeError("peer list is no array")
    return Configuration(
        servers=tuple(Server(suffrage=Suffrage.VOTER, id=address, address=address) for address in listed)
    )
