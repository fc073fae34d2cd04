"""Knobs of the raft core. Durations in seconds, already scaled by `performance.raft_multiplier` where that applies."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftConfig:
    """Defaults are Consul's with raft_multiplier 1; `scaled` makes those of another multiplier."""

    protocol_version: int = 3
    heartbeat_timeout_s: float = 1.0
    election_timeout_s: float = 1.0
    leader_lease_timeout_s: float = 0.5
    """A leader that no quorum answered for this long steps down."""
    commit_timeout_s: float = 0.05
    read_lease_s: float = 0.15
    """How long after the send of heartbeats that a quorum acknowledged default reads need no round (promise P3)."""
    trailing_logs: int = 10240
    evidence_elections: bool = True
    """Forget a leader at once whose connections ended and whose address refuses dials."""
    fast_bootstrap: bool = True
    """Campaign at once after a bootstrap of a virgin cluster (promise P17)."""

    append_entries_max: int = 64
    append_bytes_max: int = 1 << 20
    """Data bytes of one AppendEntries request (one entry may exceed it)."""
    inflight_requests_max: int = 128
    inflight_bytes_max: int = 16 << 20
    ready_committed_max: int = 1024
    ready_committed_bytes_max: int = 8 << 20
    memory_entries_max: int = 2048
    memory_bytes_max: int = 16 << 20
    """Bounds of the in-memory tail of the log; entries not yet durable or not yet applied stay whatever they cost."""
    proposals_max: int = 8192
    proposals_bytes_max: int = 64 << 20
    """Proposals not yet committed; beyond either bound a proposal ends with EnqueueTimeout at once."""

    @staticmethod
    def scaled(multiplier: int) -> RaftConfig:
        """Consul's timing for `performance.raft_multiplier` = 1..10."""
        return RaftConfig(
            heartbeat_timeout_s=1.0 * multiplier,
            election_timeout_s=1.0 * multiplier,
            leader_lease_timeout_s=0.5 * multiplier,
        )
