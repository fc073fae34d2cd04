"""Rows of the catalog: nodes, services and what a service declares about its proxy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyconsul_agent.structs.base import Duration, struct, wire


@struct
class Node:
    """Consul's `Node`."""

    id: str = wire("ID", default="")
    node: str = wire("Node", default="")
    address: str = wire("Address", default="")
    datacenter: str = wire("Datacenter", default="")
    tagged_addresses: Mapping[str, str] | None = wire("TaggedAddresses", default=None)
    meta: Mapping[str, str] | None = wire("Meta", default=None)
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@struct
class Weights:
    """Consul's `Weights`."""

    passing: int = wire("Passing", default=0)
    warning: int = wire("Warning", default=0)


@struct
class ServiceAddress:
    """Consul's `ServiceAddress`."""

    address: str = wire("Address", default="")
    port: int = wire("Port", default=0)


@struct
class MeshGatewayConfig:
    """Consul's `MeshGatewayConfig`."""

    mode: str = wire("Mode", default="", json_omit=True)


@struct
class ExposePath:
    """Consul's `ExposePath`."""

    listener_port: int = wire("ListenerPort", default=0, json_omit=True)
    path: str = wire("Path", default="", json_omit=True)
    local_path_port: int = wire("LocalPathPort", default=0, json_omit=True)
    protocol: str = wire("Protocol", default="", json_omit=True)
    parsed_from_check: bool = wire("ParsedFromCheck", default=False, json_omit=True)


@struct
class ExposeConfig:
    """Consul's `ExposeConfig`."""

    checks: bool = wire("Checks", default=False, json_omit=True)
    paths: tuple[ExposePath, ...] | None = wire("Paths", default=None, json_omit=True)


@struct
class TransparentProxyConfig:
    """Consul's `TransparentProxyConfig`."""

    outbound_listener_port: int = wire("OutboundListenerPort", default=0, json_omit=True)
    dialed_directly: bool = wire("DialedDirectly", default=False, json_omit=True)


@struct
class Upstream:
    """Consul's `Upstream`."""

    destination_type: str = wire("DestinationType", default="")
    destination_namespace: str = wire("DestinationNamespace", default="", json_omit=True)
    destination_name: str = wire("DestinationName", default="")
    datacenter: str = wire("Datacenter", default="")
    local_bind_address: str = wire("LocalBindAddress", default="", json_omit=True)
    local_bind_port: int = wire("LocalBindPort", default=0, json_omit=True)
    local_bind_socket_path: str = wire("LocalBindSocketPath", default="", json_omit=True)
    local_bind_socket_mode: str = wire("LocalBindSocketMode", default="", json_omit=True)
    config: Mapping[str, Any] | None = wire("Config", default=None, json_omit=True)
    mesh_gateway: MeshGatewayConfig = wire("MeshGateway", default=MeshGatewayConfig())
    ingress_hosts: tuple[str, ...] | None = wire("IngressHosts", default=None, json_omit=True)
    centrally_configured: bool = wire("CentrallyConfigured", default=False, json_omit=True)


@struct
class ConnectProxyConfig:
    """Consul's `ConnectProxyConfig`."""

    destination_service_name: str = wire("DestinationServiceName", default="", json_omit=True)
    destination_service_id: str = wire("DestinationServiceID", default="", json_omit=True)
    local_service_address: str = wire("LocalServiceAddress", default="", json_omit=True)
    local_service_port: int = wire("LocalServicePort", default=0, json_omit=True)
    local_service_socket_path: str = wire("LocalServiceSocketPath", default="", json_omit=True)
    mode: str = wire("Mode", default="")
    config: Mapping[str, Any] | None = wire("Config", default=None, json_omit=True)
    upstreams: tuple[Upstream, ...] | None = wire("Upstreams", default=None, json_omit=True)
    mesh_gateway: MeshGatewayConfig = wire("MeshGateway", default=MeshGatewayConfig())
    expose: ExposeConfig = wire("Expose", default=ExposeConfig())
    transparent_proxy: TransparentProxyConfig = wire(
        "TransparentProxy", default=TransparentProxyConfig(), json_omit=True
    )


@struct
class CheckType:
    """Consul's `CheckType`."""

    check_id: str = wire("CheckID", default="")
    name: str = wire("Name", default="")
    status: str = wire("Status", default="")
    notes: str = wire("Notes", default="")
    script_args: tuple[str, ...] | None = wire("ScriptArgs", default=None)
    http: str = wire("HTTP", default="")
    h2ping: str = wire("H2PING", default="")
    header: Mapping[str, tuple[str, ...] | None] | None = wire("Header", default=None)
    method: str = wire("Method", default="")
    body: str = wire("Body", default="")
    disable_redirects: bool = wire("DisableRedirects", default=False)
    tcp: str = wire("TCP", default="")
    interval: Duration = wire("Interval", default=Duration(0))
    alias_node: str = wire("AliasNode", default="")
    alias_service: str = wire("AliasService", default="")
    docker_container_id: str = wire("DockerContainerID", default="")
    shell: str = wire("Shell", default="")
    grpc: str = wire("GRPC", default="")
    grpc_use_tls: bool = wire("GRPCUseTLS", default=False)
    tls_server_name: str = wire("TLSServerName", default="")
    tls_skip_verify: bool = wire("TLSSkipVerify", default=False)
    timeout: Duration = wire("Timeout", default=Duration(0))
    ttl: Duration = wire("TTL", default=Duration(0))
    success_before_passing: int = wire("SuccessBeforePassing", default=0)
    failures_before_critical: int = wire("FailuresBeforeCritical", default=0)
    proxy_http: str = wire("ProxyHTTP", default="")
    proxy_grpc: str = wire("ProxyGRPC", default="")
    deregister_critical_service_after: Duration = wire("DeregisterCriticalServiceAfter", default=Duration(0))
    output_max_size: int = wire("OutputMaxSize", default=0)
    udp: str = wire("UDP", default="", json_omit=True, omit_zero=True, own=True)
    """As in 1.13. Like the next two it is no field of 1.10: no agent of ours sends one that is empty."""
    os_service: str = wire("OSService", default="", json_omit=True, omit_zero=True, own=True)
    """As in 1.15."""
    python: str = wire("Python", default="", json_omit=True, omit_zero=True, own=True)
    """Ours: `module:function`."""


@struct
class ServiceConnect:
    """Consul's `ServiceConnect`."""

    native: bool = wire("Native", default=False, json_omit=True)
    sidecar_service: ServiceDefinition | None = wire("SidecarService", default=None, json_omit=True)


@struct
class ServiceDefinition:
    """Consul's `ServiceDefinition`."""

    kind: str = wire("Kind", default="")
    id: str = wire("ID", default="")
    name: str = wire("Name", default="")
    tags: tuple[str, ...] | None = wire("Tags", default=None)
    address: str = wire("Address", default="")
    tagged_addresses: Mapping[str, ServiceAddress] | None = wire("TaggedAddresses", default=None)
    meta: Mapping[str, str] | None = wire("Meta", default=None)
    port: int = wire("Port", default=0)
    socket_path: str = wire("SocketPath", default="")
    check: CheckType = wire("Check", default=CheckType())
    checks: tuple[CheckType, ...] | None = wire("Checks", default=None)
    weights: Weights | None = wire("Weights", default=None)
    token: str = wire("Token", default="")
    enable_tag_override: bool = wire("EnableTagOverride", default=False)
    proxy: ConnectProxyConfig | None = wire("Proxy", default=None)
    connect: ServiceConnect | None = wire("Connect", default=None)


@struct
class NodeService:
    """Consul's `NodeService`."""

    kind: str = wire("Kind", default="", json_omit=True)
    id: str = wire("ID", default="")
    service: str = wire("Service", default="")
    tags: tuple[str, ...] | None = wire("Tags", default=None)
    address: str = wire("Address", default="")
    tagged_addresses: Mapping[str, ServiceAddress] | None = wire("TaggedAddresses", default=None, json_omit=True)
    meta: Mapping[str, str] | None = wire("Meta", default=None)
    port: int = wire("Port", default=0, json_omit=True)
    socket_path: str = wire("SocketPath", default="", json_omit=True)
    weights: Weights | None = wire("Weights", default=None)
    enable_tag_override: bool = wire("EnableTagOverride", default=False)
    proxy: ConnectProxyConfig = wire("Proxy", default=ConnectProxyConfig())
    connect: ServiceConnect = wire("Connect", default=ServiceConnect())
    locally_registered_as_sidecar: bool = wire("LocallyRegisteredAsSidecar", default=False, json_hidden=True)
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@struct
class NodeServices:
    """Consul's `NodeServices`."""

    node: Node | None = wire("Node", default=None)
    services: Mapping[str, NodeService] | None = wire("Services", default=None)


@struct
class NodeServiceList:
    """Consul's `NodeServiceList`."""

    node: Node | None = wire("Node", default=None)
    services: tuple[NodeService, ...] | None = wire("Services", default=None)


@struct
class ServiceNode:
    """Consul's `ServiceNode`."""

    id: str = wire("ID", default="")
    node: str = wire("Node", default="")
    address: str = wire("Address", default="")
    datacenter: str = wire("Datacenter", default="")
    tagged_addresses: Mapping[str, str] | None = wire("TaggedAddresses", default=None)
    node_meta: Mapping[str, str] | None = wire("NodeMeta", default=None)
    service_kind: str = wire("ServiceKind", default="")
    service_id: str = wire("ServiceID", default="")
    service_name: str = wire("ServiceName", default="")
    service_tags: tuple[str, ...] | None = wire("ServiceTags", default=None)
    service_address: str = wire("ServiceAddress", default="")
    service_tagged_addresses: Mapping[str, ServiceAddress] | None = wire(
        "ServiceTaggedAddresses", default=None, json_omit=True
    )
    service_weights: Weights = wire("ServiceWeights", default=Weights())
    service_meta: Mapping[str, str] | None = wire("ServiceMeta", default=None)
    service_port: int = wire("ServicePort", default=0)
    service_socket_path: str = wire("ServiceSocketPath", default="")
    service_enable_tag_override: bool = wire("ServiceEnableTagOverride", default=False)
    service_proxy: ConnectProxyConfig = wire("ServiceProxy", default=ConnectProxyConfig())
    service_connect: ServiceConnect = wire("ServiceConnect", default=ServiceConnect())
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@struct
class ServiceName:
    """Consul's `ServiceName`."""

    name: str = wire("Name", default="")


@struct
class GatewayService:
    """Consul's `GatewayService`."""

    gateway: ServiceName = wire("Gateway", default=ServiceName())
    service: ServiceName = wire("Service", default=ServiceName())
    gateway_kind: str = wire("GatewayKind", default="")
    port: int = wire("Port", default=0)
    protocol: str = wire("Protocol", default="")
    hosts: tuple[str, ...] | None = wire("Hosts", default=None)
    ca_file: str = wire("CAFile", default="")
    cert_file: str = wire("CertFile", default="")
    key_file: str = wire("KeyFile", default="")
    sni: str = wire("SNI", default="")
    from_wildcard: bool = wire("FromWildcard", default=False)
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)
