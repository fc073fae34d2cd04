"""Every number of the failure detector, and the three profiles. Data only.

Source: docs/protocol/gossip.md, section 15 (memberlist 0.3.1; Consul's own values as in Consul 1.10.11).
"""

from __future__ import annotations

from dataclasses import dataclass

META_BYTES_MAX = 512
HANDOFF_QUEUE_MAX = 1024
"""Alive, suspect, dead and user messages waiting to be handled, in each of the two queues."""
PUSH_PULL_STREAMS_MAX = 128
"""Incoming push/pulls at one time; the driver closes further ones without an answer."""
PUSH_PULL_SCALE_THRESHOLD = 32
PENDING_ACKS_MAX = 4096
"""Pings, own and relayed, that may wait for an answer at one time."""
MEMBERS_MAX = 1 << 20
"""Records held; beyond it a new name is refused, so a stranger with many names cannot eat the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwimConfig:
    """Timing and limits of one pool. Spans in seconds. Defaults: memberlist's LAN values, Consul's reclaim time."""

    protocol_min: int = 1
    protocol_max: int = 5
    protocol_current: int = 2
    delegate_min: int = 2
    delegate_max: int = 5
    delegate_current: int = 4

    stream_timeout_s: float = 10.0
    indirect_checks: int = 3
    retransmit_mult: int = 4
    suspicion_mult: int = 4
    suspicion_max_timeout_mult: int = 6
    push_pull_interval_s: float = 30.0
    probe_interval_s: float = 1.0
    probe_timeout_s: float = 0.5
    extra_pings_max: int = 4
    """Plain pings to random others with each probe, as many as the pool needs; 0: only what memberlist does."""
    tcp_pings: bool = True
    awareness_max_multiplier: int = 8
    gossip_interval_s: float = 0.2
    gossip_nodes: int = 3
    introduction_steps: int = 30
    """For so many gossip intervals a new incarnation is told to `gossip_nodes` members in turn; 0: as memberlist."""
    gossip_to_the_dead_s: float = 30.0
    dead_node_reclaim_s: float = 30.0
    packet_bytes_max: int = 1400
    packet_overhead: int = 0
    """Bytes that label and encryption add to a packet; the driver sets 29 when keys are in use (plus 2 + label)."""
    compression: bool = True
    members_keep_id_when_moving: bool = True
    """Accept a new address at once for the same node ID when the old address shows no life (reliability rule 2.5)."""

    refusal_shortens_suspicion: bool = True
    """A suspect whose host refuses our connection has the least time of a small pool, whatever the size of this one."""

    def __post_init__(self) -> None:
        assert self.packet_bytes_max > 64 + self.packet_overhead, "a packet must hold a message"

    @property
    def versions(self) -> bytes:
        """PMin PMax PCur DMin DMax DCur as they travel."""
        return bytes((
            self.protocol_min, self.protocol_max, self.protocol_current,
            self.delegate_min, self.delegate_max, self.delegate_current,
        ))  # fmt: skip


LAN = SwimConfig()
WAN = SwimConfig(
    stream_timeout_s=30.0,
    suspicion_mult=6,
    push_pull_interval_s=60.0,
    probe_timeout_s=3.0,
    probe_interval_s=5.0,
    extra_pings_max=0,
    gossip_interval_s=0.5,
    gossip_nodes=3,  # memberlist says 4; Consul's own WAN pool uses 3
    gossip_to_the_dead_s=60.0,
)
LOCAL = SwimConfig(
    stream_timeout_s=1.0,
    indirect_checks=1,
    retransmit_mult=2,
    suspicion_mult=3,
    push_pull_interval_s=15.0,
    probe_timeout_s=0.2,
    extra_pings_max=0,
    gossip_interval_s=0.1,
    gossip_to_the_dead_s=15.0,
)
