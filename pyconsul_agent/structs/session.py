"""The session row."""

from __future__ import annotations

from dataclasses import dataclass

from pyconsul_agent.structs.base import Duration, wire


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceCheck:
    """Consul's `ServiceCheck`."""

    id: str = wire("ID", "")
    namespace: str = wire("Namespace", "", json_hidden=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Consul's `Session`."""

    id: str = wire("ID", "")
    name: str = wire("Name", "")
    node: str = wire("Node", "")
    lock_delay: Duration = wire("LockDelay", Duration(0))
    behavior: str = wire("Behavior", "")
    ttl: str = wire("TTL", "")
    node_checks: tuple[str, ...] | None = wire("NodeChecks", None)
    service_checks: tuple[ServiceCheck, ...] | None = wire("ServiceChecks", None)
    checks: tuple[str, ...] | None = wire("Checks", None, json_omit=True)
    create_index: int = wire("CreateIndex", 0)
    modify_index: int = wire("ModifyIndex", 0)
