"""Rows of the catalog: nodes, services and what a service declares about its proxy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyconsul_agent.structs.base import Duration, wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Consul's `Node`."""

    id: str = wire("ID", "")
    node: str = wire("Node", "")
    address: str = wire("Address", "")
    datacenter: str = wire("Datacenter", "")
    tagged_addresses: Mapping[str, str] | None = wire("TaggedAddresses", None)
    meta: Mapping[str, str] | None = wire("Meta", None)
    create_index: int = wire("CreateIndex", 0)
    modify_index: int = wire("ModifyIndex", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Consul's `Weights`."""

    passing: int = wire("Passing", 0)
    warning: int = wire("Warning", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAddress:
    """Consul's `ServiceAddress`."""

    address: str = wire("Address", "")
    port: int = wire("Port", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshGatewayConfig:
    """Consul's `MeshGatewayConfig`."""

    mode: str = wire("Mode", "", json_omit=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposePath:
    """Consul's `ExposePath`."""

    listener_port: int = wire("ListenerPort", 0, json_omit=True)
    path: str = wire("Path", "", json_omit=True)
    local_path_port: int = wire("LocalPathPort", 0, json_omit=True)
    protocol: str = wire("Protocol", "", json_omit=True)
    parsed_from_check: bool = wire("ParsedFromCheck", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposeConfig:
    """Consul's `ExposeConfig`."""

    checks: bool = wire("Checks", False, json_omit=True)
    paths: tuple[ExposePath, ...] | None = wire("Paths", None, json_omit=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransparentProxyConfig:
    """Consul's `TransparentProxyConfig`."""

    outbound_listener_port: int = wire("OutboundListenerPort", 0, json_omit=True)
    dialed_directly: bool = wire("DialedDirectly", False, json_omit=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """Consul's `Upstream`."""

    destination_type: str = wire("DestinationType", "")
    destination_namespace: str = wire("DestinationNamespace", "", json_omit=True)
    destination_name: str = wire("DestinationName", "")
    datacenter: str = wire("Datacenter", "")
    local_bind_address: str = wire("LocalBindAddress", "", json_omit=True)
    local_bind_port: int = wire("LocalBindPort", 0, json_omit=True)
    local_bind_socket_path: str = wire("LocalBindSocketPath", "", json_omit=True)
    local_bind_socket_mode: str = wire("LocalBindSocketMode", "", json_omit=True)
    config: Mapping[str, Any] | None = wire("Config", None, json_omit=True)
    mesh_gateway: MeshGatewayConfig = wire("MeshGateway", MeshGatewayConfig())
    ingress_hosts: tuple[str, ...] | None = wire("IngressHosts", None, json_omit=True)
    centrally_configured: bool = wire("CentrallyConfigured", False, json_omit=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectProxyConfig:
    """Consul's `ConnectProxyConfig`."""

    destination_service_name: str = wire("DestinationServiceName", "", json_omit=True)
    destination_service_id: str = wire("DestinationServiceID", "", json_omit=True)
    local_service_address: str = wire("LocalServiceAddress", "", json_omit=True)
    local_service_port: int = wire("LocalServicePort", 0, json_omit=True)
    local_service_socket_path: str = wire("LocalServiceSocketPath", "", json_omit=True)
    mode: str = wire("Mode", "")
    config: Mapping[str, Any] | None = wire("Config", None, json_omit=True)
    upstreams: tuple[Upstream, ...] | None = wire("Upstreams", None, json_omit=True)
    mesh_gateway: MeshGatewayConfig = wire("MeshGateway", MeshGatewayConfig())
    expose: ExposeConfig = wire("Expose", ExposeConfig())
    transparent_proxy: TransparentProxyConfig = wire("TransparentProxy", TransparentProxyConfig(), json_omit=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckType:
    """Consul's `CheckType`."""

    check_id: str = wire("CheckID", "")
    name: str = wire("Name", "")
    status: str = wire("Status", "")
    notes: str = wire("Notes", "")
    script_args: tuple[str, ...] | None = wire("ScriptArgs", None)
    http: str = wire("HTTP", "")
    h2ping: str = wire("H2PING", "")
    header: Mapping[str, tuple[str, ...] | None] | None = wire("Header", None)
    method: str = wire("Method", "")
    body: str = wire("Body", "")
    disable_redirects: bool = wire("DisableRedirects", False)
    tcp: str = wire("TCP", "")
    interval: Duration = wire("Interval", Duration(0))
    alias_node: str = wire("AliasNode", "")
    alias_service: str = wire("AliasService", "")
    docker_container_id: str = wire("DockerContainerID", "")
    shell: str = wire("Shell", "")
    grpc: str = wire("GRPC", "")
    grpc_use_tls: bool = wire("GRPCUseTLS", False)
    tls_server_name: str = wire("TLSServerName", "")
    tls_skip_verify: bool = wire("TLSSkipVerify", False)
    timeout: Duration = wire("Timeout", Duration(0))
    ttl: Duration = wire("TTL", Duration(0))
    success_before_passing: int = wire("SuccessBeforePassing", 0)
    failures_before_critical: int = wire("FailuresBeforeCritical", 0)
    proxy_http: str = wire("ProxyHTTP", "")
    proxy_grpc: str = wire("ProxyGRPC", "")
    deregister_critical_service_after: Duration = wire("DeregisterCriticalServiceAfter", Duration(0))
    output_max_size: int = wire("OutputMaxSize", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConnect:
    """Consul's `ServiceConnect`."""

    native: bool = wire("Native", False, json_omit=True)
    sidecar_service: ServiceDefinition | None = wire("SidecarService", None, json_omit=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceDefinition:
    """Consul's `ServiceDefinition`."""

    kind: str = wire("Kind", "")
    id: str = wire("ID", "")
    name: str = wire("Name", "")
    tags: tuple[str, ...] | None = wire("Tags", None)
    address: str = wire("Address", "")
    tagged_addresses: Mapping[str, ServiceAddress] | None = wire("TaggedAddresses", None)
    meta: Mapping[str, str] | None = wire("Meta", None)
    port: int = wire("Port", 0)
    socket_path: str = wire("SocketPath", "")
    check: CheckType = wire("Check", CheckType())
    checks: tuple[CheckType, ...] | None = wire("Checks", None)
    weights: Weights | None = wire("Weights", None)
    token: str = wire("Token", "")
    enable_tag_override: bool = wire("EnableTagOverride", False)
    proxy: ConnectProxyConfig | None = wire("Proxy", None)
    connect: ServiceConnect | None = wire("Connect", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeService:
    """Consul's `NodeService`."""

    kind: str = wire("Kind", "", json_omit=True)
    id: str = wire("ID", "")
    service: str = wire("Service", "")
    tags: tuple[str, ...] | None = wire("Tags", None)
    address: str = wire("Address", "")
    tagged_addresses: Mapping[str, ServiceAddress] | None = wire("TaggedAddresses", None, json_omit=True)
    meta: Mapping[str, str] | None = wire("Meta", None)
    port: int = wire("Port", 0)
    socket_path: str = wire("SocketPath", "", json_omit=True)
    weights: Weights | None = wire("Weights", None)
    enable_tag_override: bool = wire("EnableTagOverride", False)
    proxy: ConnectProxyConfig = wire("Proxy", ConnectProxyConfig())
    connect: ServiceConnect = wire("Connect", ServiceConnect())
    locally_registered_as_sidecar: bool = wire("LocallyRegisteredAsSidecar", False, json_hidden=True)
    create_index: int = wire("CreateIndex", 0)
    modify_index: int = wire("ModifyIndex", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeServices:
    """Consul's `NodeServices`."""

    node: Node | None = wire("Node", None)
    services: Mapping[str, NodeService] | None = wire("Services", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeServiceList:
    """Consul's `NodeServiceList`."""

    node: Node | None = wire("Node", None)
    services: tuple[NodeService, ...] | None = wire("Services", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceNode:
    """Consul's `ServiceNode`."""

    id: str = wire("ID", "")
    node: str = wire("Node", "")
    address: str = wire("Address", "")
    datacenter: str = wire("Datacenter", "")
    tagged_addresses: Mapping[str, str] | None = wire("TaggedAddresses", None)
    node_meta: Mapping[str, str] | None = wire("NodeMeta", None)
    service_kind: str = wire("ServiceKind", "")
    service_id: str = wire("ServiceID", "")
    service_name: str = wire("ServiceName", "")
    service_tags: tuple[str, ...] | None = wire("ServiceTags", None)
    service_address: str = wire("ServiceAddress", "")
    service_tagged_addresses: Mapping[str, ServiceAddress] | None = wire("ServiceTaggedAddresses", None, json_omit=True)
    service_weights: Weights = wire("ServiceWeights", Weights())
    service_meta: Mapping[str, str] | None = wire("ServiceMeta", None)
    service_port: int = wire("ServicePort", 0)
    service_socket_path: str = wire("ServiceSocketPath", "")
    service_enable_tag_override: bool = wire("ServiceEnableTagOverride", False)
    service_proxy: ConnectProxyConfig = wire("ServiceProxy", ConnectProxyConfig())
    service_connect: ServiceConnect = wire("ServiceConnect", ServiceConnect())
    create_index: int = wire("CreateIndex", 0)
    modify_index: int = wire("ModifyIndex", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceName:
    """Consul's `ServiceName`."""

    name: str = wire("Name", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayService:
    """Consul's `GatewayService`."""

    gateway: ServiceName = wire("Gateway", ServiceName())
    service: ServiceName = wire("Service", ServiceName())
    gateway_kind: str = wire("GatewayKind", "")
    port: int = wire("Port", 0)
    protocol: str = wire("Protocol", "")
    hosts: tuple[str, ...] | None = wire("Hosts", None)
    ca_file: str = wire("CAFile", "")
    cert_file: str = wire("CertFile", "")
    key_file: str = wire("KeyFile", "")
    sni: str = wire("SNI", "")
    from_wildcard: bool = wire("FromWildcard", False)
    create_index: int = wire("CreateIndex", 0)
    modify_index: int = wire("ModifyIndex", 0)
