"""Raft's vocabulary: log entries, configurations and the messages between servers.

Names are hashicorp/raft's; the wire form is `docs/protocol/raft.md`. Every request and response embeds a header,
which is flattened into the same map. `Leader` and `Candidate` carry the sender's "ip:port" as bytes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pyconsul_agent.structs.base import GoTime, wire


class EntryType(enum.IntEnum):
    """What a log entry is for."""

    COMMAND = 0
    NOOP = 1
    ADD_PEER_DEPRECATED = 2
    REMOVE_PEER_DEPRECATED = 3
    BARRIER = 4
    CONFIGURATION = 5


class Suffrage(enum.IntEnum):
    """What part a server has in elections and commitment."""

    VOTER = 0
    NONVOTER = 1
    STAGING = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One entry of the log. `type` is an EntryType value; unknown ones are kept as they came."""

    index: int = wire("Index", 0)
    term: int = wire("Term", 0)
    type: int = wire("Type", 0)
    data: bytes | None = wire("Data", None)
    extensions: bytes | None = wire("Extensions", None)
    appended_at: GoTime = wire("AppendedAt", GoTime())


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A member of a configuration. `suffrage` is a Suffrage value."""

    suffrage: int = wire("Suffrage", 0)
    id: str = wire("ID", "")
    address: str = wire("Address", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The servers of the cluster, in the order in which they were added."""

    servers: tuple[Server, ...] | None = wire("Servers", ())


@dataclass(frozen=True, slots=True, kw_only=True)
class RPCHeader:
    """In every request and response. `id` and `addr` are filled by us and by raft 1.7, absent in 1.3."""

    protocol_version: int = wire("ProtocolVersion", 0)
    id: bytes | None = wire("ID", None, omit_zero=True)
    addr: bytes | None = wire("Addr", None, omit_zero=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendEntriesRequest(RPCHeader):
    """A leader's entries, commit index, or (all but term and leader zero, entries None) heartbeat."""

    term: int = wire("Term", 0)
    leader: bytes | None = wire("Leader", None)
    prev_log_entry: int = wire("PrevLogEntry", 0)
    prev_log_term: int = wire("PrevLogTerm", 0)
    entries: tuple[LogEntry, ...] | None = wire("Entries", None)
    leader_commit_index: int = wire("LeaderCommitIndex", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendEntriesResponse(RPCHeader):
    """`last_log` is the follower's last index as it was when the request came in."""

    term: int = wire("Term", 0)
    last_log: int = wire("LastLog", 0)
    success: bool = wire("Success", False)
    no_retry_backoff: bool = wire("NoRetryBackoff", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestVoteRequest(RPCHeader):
    """A candidate's plea."""

    term: int = wire("Term", 0)
    candidate: bytes | None = wire("Candidate", None)
    last_log_index: int = wire("LastLogIndex", 0)
    last_log_term: int = wire("LastLogTerm", 0)
    leadership_transfer: bool = wire("LeadershipTransfer", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestVoteResponse(RPCHeader):
    """`peers` is a relic of protocol 1; nil since."""

    term: int = wire("Term", 0)
    peers: bytes | None = wire("Peers", None)
    granted: bool = wire("Granted", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPreVoteRequest(RPCHeader):
    """Raft 1.7: would you vote for me? The candidate is the header's id and addr; term is current + 1."""

    term: int = wire("Term", 0)
    last_log_index: int = wire("LastLogIndex", 0)
    last_log_term: int = wire("LastLogTerm", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPreVoteResponse(RPCHeader):
    """The answer changes nothing at the responder."""

    term: int = wire("Term", 0)
    granted: bool = wire("Granted", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallSnapshotRequest(RPCHeader):
    """Followed on the wire by exactly `size` bytes of the FSM stream."""

    snapshot_version: int = wire("SnapshotVersion", 1)
    term: int = wire("Term", 0)
    leader: bytes | None = wire("Leader", None)
    last_log_index: int = wire("LastLogIndex", 0)
    last_log_term: int = wire("LastLogTerm", 0)
    peers: bytes | None = wire("Peers", None)
    configuration: bytes | None = wire("Configuration", None)
    configuration_index: int = wire("ConfigurationIndex", 0)
    size: int = wire("Size", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallSnapshotResponse(RPCHeader):
    """`success` is false when the snapshot was refused or could not be restored."""

    term: int = wire("Term", 0)
    success: bool = wire("Success", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutNowRequest(RPCHeader):
    """Stand for election at once (leadership transfer)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutNowResponse(RPCHeader):
    """Acknowledged; the election follows."""


RaftRequest = (
    AppendEntriesRequest | RequestVoteRequest | RequestPreVoteRequest | InstallSnapshotRequest | TimeoutNowRequest
)
RaftResponse = (
    AppendEntriesResponse | RequestVoteResponse | RequestPreVoteResponse | InstallSnapshotResponse | TimeoutNowResponse
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotMeta:
    """What a snapshot of the state machine covers. `size` is in bytes; `id` names it in its store."""

    id: str = ""
    index: int = 0
    term: int = 0
    configuration: Configuration = Configuration()
    configuration_index: int = 0
    size: int = 0
