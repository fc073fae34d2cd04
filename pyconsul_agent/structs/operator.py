"""What operators ask for: autopilot, raft configuration, keyrings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyconsul_agent.structs.base import Duration, GoTime, struct, wire


@struct
class AutopilotConfig:
    """Consul's `AutopilotConfig`."""

    cleanup_dead_servers: bool = wire("CleanupDeadServers", default=False)
    last_contact_threshold: Duration = wire("LastContactThreshold", default=Duration(0))
    max_trailing_logs: int = wire("MaxTrailingLogs", default=0)
    min_quorum: int = wire("MinQuorum", default=0)
    server_stabilization_time: Duration = wire("ServerStabilizationTime", default=Duration(0))
    redundancy_zone_tag: str = wire("RedundancyZoneTag", default="")
    disable_upgrade_migration: bool = wire("DisableUpgradeMigration", default=False)
    upgrade_version_tag: str = wire("UpgradeVersionTag", default="")
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@struct
class AutopilotServerHealth:
    """Consul's `AutopilotServerHealth`."""

    id: str = wire("ID", default="")
    name: str = wire("Name", default="")
    address: str = wire("Address", default="")
    serf_status: int = wire("SerfStatus", default=0)
    version: str = wire("Version", default="")
    leader: bool = wire("Leader", default=False)
    last_contact: Duration = wire("LastContact", default=Duration(0))
    last_term: int = wire("LastTerm", default=0)
    last_index: int = wire("LastIndex", default=0)
    healthy: bool = wire("Healthy", default=False)
    voter: bool = wire("Voter", default=False)
    stable_since: GoTime = wire("StableSince", default=GoTime())


@struct
class AutopilotHealthReply:
    """Consul's `AutopilotHealthReply`."""

    healthy: bool = wire("Healthy", default=False)
    failure_tolerance: int = wire("FailureTolerance", default=0)
    servers: tuple[AutopilotServerHealth, ...] | None = wire("Servers", default=None)


@struct
class AutopilotServer:
    """Consul's `raft-autopilot.Server`."""

    id: str = wire("ID", default="")
    name: str = wire("Name", default="")
    address: str = wire("Address", default="")
    node_status: str = wire("NodeStatus", default="")
    version: str = wire("Version", default="")
    meta: Mapping[str, str] | None = wire("Meta", default=None)
    raft_version: int = wire("RaftVersion", default=0)
    is_leader: bool = wire("IsLeader", default=False)
    node_type: str = wire("NodeType", default="")
    ext: Any = wire("Ext", default=None)


@struct
class AutopilotStability:
    """Consul's `raft-autopilot.ServerHealth`."""

    healthy: bool = wire("Healthy", default=False)
    stable_since: GoTime = wire("StableSince", default=GoTime())


@struct
class AutopilotServerStats:
    """Consul's `raft-autopilot.ServerStats`."""

    last_contact: Duration = wire("LastContact", default=Duration(0))
    last_term: int = wire("LastTerm", default=0)
    last_index: int = wire("LastIndex", default=0)


@struct
class AutopilotServerState:
    """Consul's `raft-autopilot.ServerState`."""

    server: AutopilotServer = wire("Server", default=AutopilotServer())
    state: str = wire("State", default="")
    stats: AutopilotServerStats = wire("Stats", default=AutopilotServerStats())
    health: AutopilotStability = wire("Health", default=AutopilotStability())


@struct
class AutopilotState:
    """Consul's `raft-autopilot.State`."""

    healthy: bool = wire("Healthy", default=False)
    failure_tolerance: int = wire("FailureTolerance", default=0)
    servers: Mapping[str, AutopilotServerState] | None = wire("Servers", default=None)
    leader: str = wire("Leader", default="")
    voters: tuple[str, ...] | None = wire("Voters", default=None)
    ext: Any = wire("Ext", default=None)


@struct
class RaftServer:
    """Consul's `RaftServer`."""

    id: str = wire("ID", default="")
    node: str = wire("Node", default="")
    address: str = wire("Address", default="")
    leader: bool = wire("Leader", default=False)
    protocol_version: str = wire("ProtocolVersion", default="")
    voter: bool = wire("Voter", default=False)


@struct
class RaftConfigurationResponse:
    """Consul's `RaftConfigurationResponse`."""

    servers: tuple[RaftServer, ...] | None = wire("Servers", default=None)
    index: int = wire("Index", default=0)


@struct
class RaftStats:
    """Consul's `RaftStats`."""

    last_contact: str = wire("LastContact", default="")
    last_term: int = wire("LastTerm", default=0)
    last_index: int = wire("LastIndex", default=0)


@struct
class KeyringResponse:
    """Consul's `KeyringResponse`."""

    wan: bool = wire("WAN", default=False)
    datacenter: str = wire("Datacenter", default="")
    segment: str = wire("Segment", default="")
    messages: Mapping[str, str] | None = wire("Messages", default=None)
    keys: Mapping[str, int] | None = wire("Keys", default=None)
    primary_keys: Mapping[str, int] | None = wire("PrimaryKeys", default=None)
    num_nodes: int = wire("NumNodes", default=0)
    error: str = wire("Error", default="")
