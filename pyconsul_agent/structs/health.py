"""Rows and views of health: checks, and instances with their checks."""

from __future__ import annotations

from collections.abc import Mapping

from pyconsul_agent.structs.base import Duration, struct, wire
from pyconsul_agent.structs.catalog import GatewayService, Node, NodeService


@struct
class HealthCheckDefinition:
    """Consul's `HealthCheckDefinition`."""

    interval: Duration = wire("Interval", default=Duration(0), json_omit=True)
    output_max_size: int = wire("OutputMaxSize", default=0, json_omit=True)
    timeout: Duration = wire("Timeout", default=Duration(0), json_omit=True)
    deregister_critical_service_after: Duration = wire(
        "DeregisterCriticalServiceAfter", default=Duration(0), json_omit=True
    )
    http: str = wire("HTTP", default="", json_omit=True)
    tls_server_name: str = wire("TLSServerName", default="", json_omit=True)
    tls_skip_verify: bool = wire("TLSSkipVerify", default=False, json_omit=True)
    header: Mapping[str, tuple[str, ...] | None] | None = wire("Header", default=None, json_omit=True)
    method: str = wire("Method", default="", json_omit=True)
    body: str = wire("Body", default="", json_omit=True)
    disable_redirects: bool = wire("DisableRedirects", default=False, json_omit=True)
    tcp: str = wire("TCP", default="", json_omit=True)
    h2ping: str = wire("H2PING", default="", json_omit=True)
    script_args: tuple[str, ...] | None = wire("ScriptArgs", default=None, json_omit=True)
    docker_container_id: str = wire("DockerContainerID", default="", json_omit=True)
    shell: str = wire("Shell", default="", json_omit=True)
    grpc: str = wire("GRPC", default="", json_omit=True)
    grpc_use_tls: bool = wire("GRPCUseTLS", default=False, json_omit=True)
    alias_node: str = wire("AliasNode", default="", json_omit=True)
    alias_service: str = wire("AliasService", default="", json_omit=True)
    ttl: Duration = wire("TTL", default=Duration(0), json_omit=True)


@struct
class HealthCheck:
    """Consul's `HealthCheck`."""

    node: str = wire("Node", default="")
    check_id: str = wire("CheckID", default="")
    name: str = wire("Name", default="")
    status: str = wire("Status", default="")
    notes: str = wire("Notes", default="")
    output: str = wire("Output", default="")
    service_id: str = wire("ServiceID", default="")
    service_name: str = wire("ServiceName", default="")
    service_tags: tuple[str, ...] | None = wire("ServiceTags", default=None)
    type: str = wire("Type", default="")
    interval: str = wire("Interval", default="")
    timeout: str = wire("Timeout", default="")
    exposed_port: int = wire("ExposedPort", default=0)
    definition: HealthCheckDefinition = wire("Definition", default=HealthCheckDefinition())
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@struct
class CheckServiceNode:
    """Consul's `CheckServiceNode`."""

    node: Node | None = wire("Node", default=None)
    service: NodeService | None = wire("Service", default=None)
    checks: tuple[HealthCheck, ...] | None = wire("Checks", default=None)


@struct
class NodeInfo:
    """Consul's `NodeInfo`."""

    id: str = wire("ID", default="")
    node: str = wire("Node", default="")
    address: str = wire("Address", default="")
    tagged_addresses: Mapping[str, str] | None = wire("TaggedAddresses", default=None)
    meta: Mapping[str, str] | None = wire("Meta", default=None)
    services: tuple[NodeService, ...] | None = wire("Services", default=None)
    checks: tuple[HealthCheck, ...] | None = wire("Checks", default=None)


@struct
class ServiceInfo:
    """Consul's `ServiceInfo`."""

    node: Node | None = wire("Node", default=None)
    service: NodeService | None = wire("Service", default=None)
    checks: tuple[HealthCheck, ...] | None = wire("Checks", default=None)
    gateway_service: GatewayService | None = wire("GatewayService", default=None)
