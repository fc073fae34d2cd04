"""Every number of serf as Consul sets it. Data only; source: docs/protocol/gossip.md, section 15."""

from __future__ import annotations

from dataclasses import dataclass

USER_EVENT_BYTES_SANE = 9 * 1024
"""No configuration allows longer user events."""
QUERY_BYTES_MAX = 1024
QUERY_RESPONSE_BYTES_MAX = 1024
EVENT_SLOTS = 512
"""User events and queries are told apart for this many Lamport times back."""
EVENTS_PER_SLOT_MAX = 512
"""Different events (or queries) remembered for one Lamport time; further ones are dropped. Ours."""
INTENTS_MAX = 4096
"""Names of which an intent may be known before the member. Ours."""
PENDING_QUERIES_MAX = 64
"""Own queries and conflict inquiries that may wait for answers. Ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SerfConfig:
    """Timing and limits of one pool. Spans in seconds."""

    pool: str = "lan"
    user_event_bytes_max: int = 512
    retransmit_mult: int = 4
    gossip_interval_s: float = 0.2
    query_timeout_mult: int = 16
    broadcast_timeout_s: float = 5.0
    leave_propagate_delay_s: float = 3.0
    reap_interval_s: float = 15.0
    reconnect_interval_s: float = 30.0
    reconnect_soon_interval_s: float = 2.0
    reconnect_soon_s: float = 600.0
    """Members that failed not longer ago are tried this much oftener: after a cut all are to agree soon."""
    reconnect_timeout_s: float = 72 * 3600.0
    tombstone_timeout_s: float = 24 * 3600.0
    recent_intent_s: float = 300.0
    queue_check_interval_s: float = 30.0
    queue_depth_warning: int = 1_000_000
    queue_depth_min: int = 4096
    snapshot_interval_s: float = 0.5
    snapshot_bytes_min: int = 128 * 1024
    rejoin_after_leave: bool = False
    coalesce_period_s: float = 0.0
    quiescent_period_s: float = 0.0
    user_coalesce_period_s: float = 0.0
    user_quiescent_period_s: float = 0.0
    """Gathering of member events and of user events; 0, as in Consul: each is told at once."""
    resolve_name_conflicts: bool = False
    """Ask the pool who owns our name when another claims it, and give up if most say the other. Off in Consul."""
    allowed_networks: tuple[str, ...] | None = None
    """CIDRs that members may be in; None: any address."""
