"""What operators ask for: autopilot, raft configuration, keyrings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyconsul_agent.structs.base import Duration, GoTime, wire


@dataclass(frozen=True, slots=True, kw_only=True)
class AutopilotConfig:
    """Consul's `AutopilotConfig`."""

    cleanup_dead_servers: bool = wire("CleanupDeadServers", False)
    last_contact_threshold: Duration = wire("LastContactThreshold", Duration(0))
    max_trailing_logs: int = wire("MaxTrailingLogs", 0)
    min_quorum: int = wire("MinQuorum", 0)
    server_stabilization_time: Duration = wire("ServerStabilizationTime", Duration(0))
    redundancy_zone_tag: str = wire("RedundancyZoneTag", "")
    disable_upgrade_migration: bool = wire("DisableUpgradeMigration", False)
    upgrade_version_tag: str = wire("UpgradeVersionTag", "")
    create_index: int = wire("CreateIndex", 0)
    modify_index: int = wire("ModifyIndex", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AutopilotServerHealth:
    """Consul's `AutopilotServerHealth`."""

    id: str = wire("ID", "")
    name: str = wire("Name", "")
    address: str = wire("Address", "")
    serf_status: int = wire("SerfStatus", 0)
    version: str = wire("Version", "")
    leader: bool = wire("Leader", False)
    last_contact: Duration = wire("LastContact", Duration(0))
    last_term: int = wire("LastTerm", 0)
    last_index: int = wire("LastIndex", 0)
    healthy: bool = wire("Healthy", False)
    voter: bool = wire("Voter", False)
    stable_since: GoTime = wire("StableSince", GoTime())


@dataclass(frozen=True, slots=True, kw_only=True)
class AutopilotHealthReply:
    """Consul's `AutopilotHealthReply`."""

    healthy: bool = wire("Healthy", False)
    failure_tolerance: int = wire("FailureTolerance", 0)
    servers: tuple[AutopilotServerHealth, ...] | None = wire("Servers", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class AutopilotServer:
    """Consul's `raft-autopilot.Server`."""

    id: str = wire("ID", "")
    name: str = wire("Name", "")
    address: str = wire("Address", "")
    node_status: str = wire("NodeStatus", "")
    version: str = wire("Version", "")
    meta: Mapping[str, str] | None = wire("Meta", None)
    raft_version: int = wire("RaftVersion", 0)
    is_leader: bool = wire("IsLeader", False)
    node_type: str = wire("NodeType", "")
    ext: Any = wire("Ext", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class AutopilotStability:
    """Consul's `raft-autopilot.ServerHealth`."""

    healthy: bool = wire("Healthy", False)
    stable_since: GoTime = wire("StableSince", GoTime())


@dataclass(frozen=True, slots=True, kw_only=True)
class AutopilotServerStats:
    """Consul's `raft-autopilot.ServerStats`."""

    last_contact: Duration = wire("LastContact", Duration(0))
    last_term: int = wire("LastTerm", 0)
    last_index: int = wire("LastIndex", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AutopilotServerState:
    """Consul's `raft-autopilot.ServerState`."""

    server: AutopilotServer = wire("Server", AutopilotServer())
    state: str = wire("State", "")
    stats: AutopilotServerStats = wire("Stats", AutopilotServerStats())
    health: AutopilotStability = wire("Health", AutopilotStability())


@dataclass(frozen=True, slots=True, kw_only=True)
class AutopilotState:
    """Consul's `raft-autopilot.State`."""

    healthy: bool = wire("Healthy", False)
    failure_tolerance: int = wire("FailureTolerance", 0)
    servers: Mapping[str, AutopilotServerState] | None = wire("Servers", None)
    leader: str = wire("Leader", "")
    voters: tuple[str, ...] | None = wire("Voters", None)
    ext: Any = wire("Ext", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftServer:
    """Consul's `RaftServer`."""

    id: str = wire("ID", "")
    node: str = wire("Node", "")
    address: str = wire("Address", "")
    leader: bool = wire("Leader", False)
    protocol_version: str = wire("ProtocolVersion", "")
    voter: bool = wire("Voter", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftConfigurationResponse:
    """Consul's `RaftConfigurationResponse`."""

    servers: tuple[RaftServer, ...] | None = wire("Servers", None)
    index: int = wire("Index", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftStats:
    """Consul's `RaftStats`."""

    last_contact: str = wire("LastContact", "")
    last_term: int = wire("LastTerm", 0)
    last_index: int = wire("LastIndex", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyringResponse:
    """Consul's `KeyringResponse`."""

    wan: bool = wire("WAN", False)
    datacenter: str = wire("Datacenter", "")
    segment: str = wire("Segment", "")
    messages: Mapping[str, str] | None = wire("Messages", None)
    keys: Mapping[str, int] | None = wire("Keys", None)
    primary_keys: Mapping[str, int] | None = wire("PrimaryKeys", None)
    num_nodes: int = wire("NumNodes", 0)
    error: str = wire("Error", "")
