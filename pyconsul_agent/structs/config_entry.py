"""Config entries other than those of the discovery chain: defaults of services and proxies, the mesh, gateways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyconsul_agent.structs.base import Duration, own_form, struct, wire
from pyconsul_agent.structs.catalog import ExposeConfig, MeshGatewayConfig, TransparentProxyConfig


@struct
class UpstreamLimits:
    """Consul's `UpstreamLimits`."""

    max_connections: int | None = wire("MaxConnections", default=None, json_omit=True)
    max_pending_requests: int | None = wire("MaxPendingRequests", default=None, json_omit=True)
    max_concurrent_requests: int | None = wire("MaxConcurrentRequests", default=None, json_omit=True)


@struct
class PassiveHealthCheck:
    """Consul's `PassiveHealthCheck`."""

    interval: Duration = wire("Interval", default=Duration(0), json_omit=True)
    max_failures: int = wire("MaxFailures", default=0, json_omit=True)


@struct
class UpstreamConfig:
    """Consul's `UpstreamConfig`."""

    name: str = wire("Name", default="", json_omit=True)
    envoy_listener_json: str = wire("EnvoyListenerJSON", default="", json_omit=True)
    envoy_cluster_json: str = wire("EnvoyClusterJSON", default="", json_omit=True)
    protocol: str = wire("Protocol", default="", json_omit=True)
    connect_timeout_ms: int = wire("ConnectTimeoutMs", default=0, json_omit=True)
    limits: UpstreamLimits | None = wire("Limits", default=None, json_omit=True)
    passive_health_check: PassiveHealthCheck | None = wire("PassiveHealthCheck", default=None, json_omit=True)
    mesh_gateway: MeshGatewayConfig = wire("MeshGateway", default=MeshGatewayConfig())


@struct
class UpstreamConfiguration:
    """Consul's `UpstreamConfiguration`."""

    overrides: tuple[UpstreamConfig, ...] | None = wire("Overrides", default=None, json_omit=True)
    defaults: UpstreamConfig | None = wire("Defaults", default=None, json_omit=True)


@struct
class ServiceConfigEntry:
    """Consul's `ServiceConfigEntry`."""

    kind: str = wire("Kind", default="")
    name: str = wire("Name", default="")
    protocol: str = wire("Protocol", default="")
    mode: str = wire("Mode", default="", json_omit=True)
    transparent_proxy: TransparentProxyConfig = wire("TransparentProxy", default=TransparentProxyConfig())
    mesh_gateway: MeshGatewayConfig = wire("MeshGateway", default=MeshGatewayConfig())
    expose: ExposeConfig = wire("Expose", default=ExposeConfig())
    external_sni: str = wire("ExternalSNI", default="", json_omit=True)
    upstream_config: UpstreamConfiguration | None = wire("UpstreamConfig", default=None, json_omit=True)
    meta: Mapping[str, str] | None = wire("Meta", default=None, json_omit=True)
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@own_form
@struct
class ProxyConfigEntry:
    """Consul's `ProxyConfigEntry`."""

    kind: str = wire("Kind", default="")
    name: str = wire("Name", default="")
    config: Mapping[str, Any] | None = wire("Config", default=None)
    mode: str = wire("Mode", default="", json_omit=True)
    transparent_proxy: TransparentProxyConfig = wire("TransparentProxy", default=TransparentProxyConfig())
    mesh_gateway: MeshGatewayConfig = wire("MeshGateway", default=MeshGatewayConfig())
    expose: ExposeConfig = wire("Expose", default=ExposeConfig())
    meta: Mapping[str, str] | None = wire("Meta", default=None, json_omit=True)
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@struct
class TransparentProxyMeshConfig:
    """Consul's `TransparentProxyMeshConfig`."""

    mesh_destinations_only: bool = wire("MeshDestinationsOnly", default=False)


@struct
class MeshConfigEntry:
    """Consul's `MeshConfigEntry`."""

    transparent_proxy: TransparentProxyMeshConfig = wire("TransparentProxy", default=TransparentProxyMeshConfig())
    meta: Mapping[str, str] | None = wire("Meta", default=None, json_omit=True)
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@struct
class GatewayTLSConfig:
    """Consul's `GatewayTLSConfig`."""

    enabled: bool = wire("Enabled", default=False)


@struct
class IngressService:
    """Consul's `IngressService`."""

    name: str = wire("Name", default="")
    hosts: tuple[str, ...] | None = wire("Hosts", default=None)
    meta: Mapping[str, str] | None = wire("Meta", default=None, json_omit=True)


@struct
class IngressListener:
    """Consul's `IngressListener`."""

    port: int = wire("Port", default=0)
    protocol: str = wire("Protocol", default="")
    services: tuple[IngressService, ...] | None = wire("Services", default=None)


@struct
class IngressGatewayConfigEntry:
    """Consul's `IngressGatewayConfigEntry`."""

    kind: str = wire("Kind", default="")
    name: str = wire("Name", default="")
    tls: GatewayTLSConfig = wire("TLS", default=GatewayTLSConfig())
    listeners: tuple[IngressListener, ...] | None = wire("Listeners", default=None)
    meta: Mapping[str, str] | None = wire("Meta", default=None, json_omit=True)
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@struct
class LinkedService:
    """Consul's `LinkedService`."""

    name: str = wire("Name", default="", json_omit=True)
    ca_file: str = wire("CAFile", default="", json_omit=True)
    cert_file: str = wire("CertFile", default="", json_omit=True)
    key_file: str = wire("KeyFile", default="", json_omit=True)
    sni: str = wire("SNI", default="", json_omit=True)


@struct
class TerminatingGatewayConfigEntry:
    """Consul's `TerminatingGatewayConfigEntry`."""

    kind: str = wire("Kind", default="")
    name: str = wire("Name", default="")
    services: tuple[LinkedService, ...] | None = wire("Services", default=None)
    meta: Mapping[str, str] | None = wire("Meta", default=None, json_omit=True)
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)
