"""Rows and views of health: checks, and instances with their checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyconsul_agent.structs.base import Duration, wire
from pyconsul_agent.structs.catalog import GatewayService, Node, NodeService


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheckDefinition:
    """Consul's `HealthCheckDefinition`."""

    http: str = wire("HTTP", "", json_omit=True)
    tls_server_name: str = wire("TLSServerName", "", json_omit=True)
    tls_skip_verify: bool = wire("TLSSkipVerify", False, json_omit=True)
    header: Mapping[str, tuple[str, ...] | None] | None = wire("Header", None, json_omit=True)
    method: str = wire("Method", "", json_omit=True)
    body: str = wire("Body", "", json_omit=True)
    disable_redirects: bool = wire("DisableRedirects", False, json_omit=True)
    tcp: str = wire("TCP", "", json_omit=True)
    h2ping: str = wire("H2PING", "", json_omit=True)
    interval: Duration = wire("Interval", Duration(0), json_omit=True)
    output_max_size: int = wire("OutputMaxSize", 0, json_omit=True)
    timeout: Duration = wire("Timeout", Duration(0), json_omit=True)
    deregister_critical_service_after: Duration = wire("DeregisterCriticalServiceAfter", Duration(0), json_omit=True)
    script_args: tuple[str, ...] | None = wire("ScriptArgs", None, json_omit=True)
    docker_container_id: str = wire("DockerContainerID", "", json_omit=True)
    shell: str = wire("Shell", "", json_omit=True)
    grpc: str = wire("GRPC", "", json_omit=True)
    grpc_use_tls: bool = wire("GRPCUseTLS", False, json_omit=True)
    alias_node: str = wire("AliasNode", "", json_omit=True)
    alias_service: str = wire("AliasService", "", json_omit=True)
    ttl: Duration = wire("TTL", Duration(0), json_omit=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """Consul's `HealthCheck`."""

    node: str = wire("Node", "")
    check_id: str = wire("CheckID", "")
    name: str = wire("Name", "")
    status: str = wire("Status", "")
    notes: str = wire("Notes", "")
    output: str = wire("Output", "")
    service_id: str = wire("ServiceID", "")
    service_name: str = wire("ServiceName", "")
    service_tags: tuple[str, ...] | None = wire("ServiceTags", None)
    type: str = wire("Type", "")
    interval: str = wire("Interval", "")
    timeout: str = wire("Timeout", "")
    exposed_port: int = wire("ExposedPort", 0)
    definition: HealthCheckDefinition = wire("Definition", HealthCheckDefinition())
    create_index: int = wire("CreateIndex", 0)
    modify_index: int = wire("ModifyIndex", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckServiceNode:
    """Consul's `CheckServiceNode`."""

    node: Node | None = wire("Node", None)
    service: NodeService | None = wire("Service", None)
    checks: tuple[HealthCheck, ...] | None = wire("Checks", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """Consul's `NodeInfo`."""

    id: str = wire("ID", "")
    node: str = wire("Node", "")
    address: str = wire("Address", "")
    tagged_addresses: Mapping[str, str] | None = wire("TaggedAddresses", None)
    meta: Mapping[str, str] | None = wire("Meta", None)
    services: tuple[NodeService, ...] | None = wire("Services", None)
    checks: tuple[HealthCheck, ...] | None = wire("Checks", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceInfo:
    """Consul's `ServiceInfo`."""

    node: Node | None = wire("Node", None)
    service: NodeService | None = wire("Service", None)
    checks: tuple[HealthCheck, ...] | None = wire("Checks", None)
    gateway_service: GatewayService | None = wire("GatewayService", None)
