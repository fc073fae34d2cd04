"""The session row."""

from __future__ import annotations

from pyconsul_agent.structs.base import Duration, struct, wire


@struct
class ServiceCheck:
    """Consul's `ServiceCheck`."""

    id: str = wire("ID", default="")
    namespace: str = wire("Namespace", default="")


@struct
class Session:
    """Consul's `Session`."""

    id: str = wire("ID", default="")
    name: str = wire("Name", default="")
    node: str = wire("Node", default="")
    lock_delay: Duration = wire("LockDelay", default=Duration(0))
    behavior: str = wire("Behavior", default="")
    ttl: str = wire("TTL", default="")
    node_checks: tuple[str, ...] | None = wire("NodeChecks", default=None)
    service_checks: tuple[ServiceCheck, ...] | None = wire("ServiceChecks", default=None)
    checks: tuple[str, ...] | None = wire("Checks", default=None, json_omit=True)
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)
