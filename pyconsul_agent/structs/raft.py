"""Raft's vocabulary: log entries, configurations and the messages between servers.

Names are hashicorp/raft's; the wire form is `docs/protocol/raft.md`. Every request and response embeds a header,
which is flattened into the same map. `Leader` and `Candidate` carry the sender's "ip:port" as bytes.
"""

from __future__ import annotations

import enum

from pyconsul_agent.structs.base import GoTime, struct, wire


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


@struct
class LogEntry:
    """One entry of the log. `type` is an EntryType value; unknown ones are kept as they came."""

    index: int = wire("Index", default=0)
    term: int = wire("Term", default=0)
    type: int = wire("Type", default=0)
    data: bytes | None = wire("Data", default=None)
    extensions: bytes | None = wire("Extensions", default=None)
    appended_at: GoTime = wire("AppendedAt", default=GoTime())


@struct
class Server:
    """A member of a configuration. `suffrage` is a Suffrage value."""

    suffrage: int = wire("Suffrage", default=0)
    id: str = wire("ID", default="")
    address: str = wire("Address", default="")


@struct
class Configuration:
    """The servers of the cluster, in the order in which they were added."""

    servers: tuple[Server, ...] | None = wire("Servers", default=())


@struct
class RPCHeader:
    """In every request and response. `id` and `addr` are filled by us and by raft 1.7, absent in 1.3."""

    protocol_version: int = wire("ProtocolVersion", default=0)
    id: bytes | None = wire("ID", default=None, omit_zero=True)
    addr: bytes | None = wire("Addr", default=None, omit_zero=True)


@struct
class AppendEntriesRequest(RPCHeader):
    """A leader's entries, commit index, or (all but term and leader zero, entries None) heartbeat."""

    term: int = wire("Term", default=0)
    leader: bytes | None = wire("Leader", default=None)
    prev_log_entry: int = wire("PrevLogEntry", default=0)
    prev_log_term: int = wire("PrevLogTerm", default=0)
    entries: tuple[LogEntry, ...] | None = wire("Entries", default=None)
    leader_commit_index: int = wire("LeaderCommitIndex", default=0)


@struct
class AppendEntriesResponse(RPCHeader):
    """`last_log` is the follower's last index as it was when the request came in."""

    term: int = wire("Term", default=0)
    last_log: int = wire("LastLog", default=0)
    success: bool = wire("Success", default=False)
    no_retry_backoff: bool = wire("NoRetryBackoff", default=False)


@struct
class RequestVoteRequest(RPCHeader):
    """A candidate's plea."""

    term: int = wire("Term", default=0)
    candidate: bytes | None = wire("Candidate", default=None)
    last_log_index: int = wire("LastLogIndex", default=0)
    last_log_term: int = wire("LastLogTerm", default=0)
    leadership_transfer: bool = wire("LeadershipTransfer", default=False)


@struct
class RequestVoteResponse(RPCHeader):
    """`peers` is a relic of protocol 1; nil since."""

    term: int = wire("Term", default=0)
    peers: bytes | None = wire("Peers", default=None)
    granted: bool = wire("Granted", default=False)


@struct
class RequestPreVoteRequest(RPCHeader):
    """Raft 1.7: would you vote for me? The candidate is the header's id and addr; term is current + 1."""

    term: int = wire("Term", default=0)
    last_log_index: int = wire("LastLogIndex", default=0)
    last_log_term: int = wire("LastLogTerm", default=0)


@struct
class RequestPreVoteResponse(RPCHeader):
    """The answer changes nothing at the responder."""

    term: int = wire("Term", default=0)
    granted: bool = wire("Granted", default=False)


@struct
class InstallSnapshotRequest(RPCHeader):
    """Followed on the wire by exactly `size` bytes of the FSM stream."""

    snapshot_version: int = wire("SnapshotVersion", default=1)
    term: int = wire("Term", default=0)
    leader: bytes | None = wire("Leader", default=None)
    last_log_index: int = wire("LastLogIndex", default=0)
    last_log_term: int = wire("LastLogTerm", default=0)
    peers: bytes | None = wire("Peers", default=None)
    configuration: bytes | None = wire("Configuration", default=None)
    configuration_index: int = wire("ConfigurationIndex", default=0)
    size: int = wire("Size", default=0)
    unproven: bool = wire("Unproven", default=False, omit_zero=True)
    """Ours: a user's restore, of which the sender does not know yet whether a quorum has it. Others do not read it."""


@struct
class InstallSnapshotResponse(RPCHeader):
    """`success` is false when the snapshot was refused or could not be restored."""

    term: int = wire("Term", default=0)
    success: bool = wire("Success", default=False)


@struct
class TimeoutNowRequest(RPCHeader):
    """Stand for election at once (leadership transfer)."""


@struct
class TimeoutNowResponse(RPCHeader):
    """Acknowledged; the election follows."""


RaftRequest = (
    AppendEntriesRequest | RequestVoteRequest | RequestPreVoteRequest | InstallSnapshotRequest | TimeoutNowRequest
)
RaftResponse = (
    AppendEntriesResponse | RequestVoteResponse | RequestPreVoteResponse | InstallSnapshotResponse | TimeoutNowResponse
)


@struct
class SnapshotMeta:
    """What a snapshot of the state machine covers. `size` is in bytes; `id` names it in its store."""

    id: str = ""
    index: int = 0
    term: int = 0
    configuration: Configuration = Configuration()
    configuration_index: int = 0
    size: int = 0
