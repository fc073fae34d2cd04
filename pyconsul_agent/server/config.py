"""What a server node is told by the configuration. Durations in seconds."""

from __future__ import annotations

from dataclasses import dataclass, field

from pyconsul_agent.serf.config import SerfConfig
from pyconsul_agent.structs.config_kinds import ConfigEntry
from pyconsul_agent.structs.operator import AutopilotConfig
from pyconsul_agent.swim.config import LAN, WAN, SwimConfig
from pyconsul_agent.swim.keyring import Keyring


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """One server. Addresses are IPs; `wan_port` 0 is no WAN pool; `expect` 1 is the same as `bootstrap`."""

    node_name: str
    node_id: str
    datacenter: str
    data_dir: str
    build: str

    bind: str
    serf_lan_bind: str
    serf_wan_bind: str
    advertise: str
    advertise_wan: str
    rpc_port: int = 8300
    lan_port: int = 8301
    wan_port: int = 8302

    bootstrap: bool = False
    expect: int = 0
    raft_multiplier: int = 5
    trailing_logs: int = 10240
    snapshot_threshold: int = 16384
    snapshot_interval_s: float = 30.0
    autopilot: AutopilotConfig = field(default_factory=AutopilotConfig)

    keyring: Keyring | None = None
    """Gossip keys; None: gossip in the clear."""
    keyring_dir: str = ""
    """Where the keys are kept across starts; empty: nowhere."""
    verify_incoming: bool = True
    verify_outgoing: bool = True

    lan: SwimConfig = LAN
    wan: SwimConfig = WAN
    lan_serf: SerfConfig = field(default_factory=SerfConfig)
    wan_serf: SerfConfig = field(default_factory=lambda: SerfConfig(pool="wan"))

    leave_drain_s: float = 5.0
    hold_timeout_s: float = 7.0
    rpc_handshake_timeout_s: float = 5.0
    rpc_connections_per_client: int = 100
    enable_streaming: bool = True
    """Whether byte 8 of the server port is served."""
    session_ttl_min_s: float = 10.0
    primary_datacenter: str = ""
    """Where config entries are written; empty: here."""
    connect_enabled: bool = False
    bootstrap_entries: tuple[ConfigEntry, ...] = ()
    """What a new leader of the primary datacenter writes when it is not there."""
    query_default_s: float = 300.0
    query_max_s: float = 600.0
    """How long blocking queries wait that do not say, and at most."""
