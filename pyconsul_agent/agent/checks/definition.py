"""Check definitions: which kind they are, whether they may run, and the row that they become. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pyconsul_agent.agent.checks.own import OWN_PROBLEMS
from pyconsul_agent.structs.base import Duration
from pyconsul_agent.structs.catalog import CheckType
from pyconsul_agent.structs.health import HealthCheck, HealthCheckDefinition
from pyconsul_agent.wire.gotypes import format_duration

INTERVAL_MIN = Duration(1_000_000_000)
REAP_AFTER_MIN = Duration(60_000_000_000)

REMOTE_SCRIPTS_OFF = (
    "Scripts are disabled on this agent from remote calls; to enable, configure 'enable_script_checks' to true"
)
LOCAL_SCRIPTS_OFF = (
    "Scripts are disabled on this agent; to enable, configure 'enable_script_checks' or "
    "'enable_local_script_checks' to true"
)


def type_of(check: CheckType) -> str:
    """The `Type` text of a check's row."""
    if check.grpc:
        return "grpc"
    if check.http:
        return "http"
    if check.ttl:
        return "ttl"
    if check.tcp:
        return "tcp"
    if check.alias_node or check.alias_service:
        return "alias"
    if check.docker_container_id:
        return "docker"
    if check.script_args:
        return "script"
    for kind in ("h2ping", "udp", "os_service", "python"):
        if getattr(check, kind):
            return kind
    return ""


def validate(check: CheckType) -> str:
    """Why the definition cannot run, empty if it can. Consul's texts."""
    interval_type = bool(
        check.script_args or check.http or check.tcp or check.grpc or check.h2ping
        or check.udp or check.os_service or check.python
    )  # fmt: skip
    alias = bool(check.alias_node or check.alias_service)
    if check.interval > 0 and check.ttl > 0:
        return "Interval and TTL cannot both be specified"
    if interval_type and check.interval <= 0:
        return "Interval must be > 0 for Script, HTTP, H2PING, or TCP checks"
    if alias and interval_type:
        return "Interval cannot be set for Alias checks"
    if alias and check.ttl > 0:
        return "TTL must be not be set for Alias checks"
    if not interval_type and not alias and check.ttl <= 0:
        return "TTL must be > 0 for TTL checks"
    if check.output_max_size < 0:
        return "MaxOutputMaxSize must be positive"
    return "" if type_of(check) not in OWN_PROBLEMS else OWN_PROBLEMS[type_of(check)](check)


def is_script(check: CheckType) -> bool:
    """Whether running it executes a command of the definition's author."""
    return bool(check.script_args or check.python)


def with_ids(checks: Sequence[CheckType], service_id: str, service_name: str) -> list[CheckType]:
    """A service's checks with the ids and names that Consul gives to those without."""
    out = []
    for position, check in enumerate(checks, start=1):
        identity = check.check_id or (
            f"service:{service_id}" if len(checks) == 1 else f"service:{service_id}:{position}"
        )
        out.append(replace(check, check_id=identity, name=check.name or f"Service '{service_name}' check"))
    return out


def row(check: CheckType, node: str, *, service_id: str = "", with_timing: bool = False) -> HealthCheck:
    """The row of a definition. Only checks registered on their own carry interval and time-out texts."""
    return HealthCheck(
        node=node,
        check_id=check.check_id or check.name,
        name=check.name,
        status=check.status or "critical",
        notes=check.notes,
        service_id=service_id,
        type=type_of(check),
        interval=format_duration(check.interval) if with_timing else "",
        timeout=format_duration(check.timeout) if with_timing else "",
        definition=HealthCheckDefinition(),
    )
