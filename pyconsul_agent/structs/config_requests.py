"""Arguments and replies of the ConfigEntry methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyconsul_agent.structs.base import own_form, struct, wire
from pyconsul_agent.structs.catalog import ExposeConfig, MeshGatewayConfig, TransparentProxyConfig
from pyconsul_agent.structs.config_kinds import ConfigEntry
from pyconsul_agent.structs.requests import QueryMeta, QueryOptions, WriteRequest


@struct
class ServiceID:
    """Consul's `ServiceID`."""

    id: str = wire("ID", default="")


@struct
class OpaqueUpstreamConfig:
    """Consul's `OpaqueUpstreamConfig`."""

    upstream: ServiceID = wire("Upstream", default=ServiceID())
    config: Mapping[str, Any] | None = wire("Config", default=None)


@struct
class ConfigEntryQuery(QueryOptions):
    """Consul's `ConfigEntryQuery`."""

    kind: str = wire("Kind", default="")
    name: str = wire("Name", default="")
    datacenter: str = wire("Datacenter", default="")


@struct
class ConfigEntryListAllRequest(QueryOptions):
    """Consul's `ConfigEntryListAllRequest`."""

    kinds: tuple[str, ...] | None = wire("Kinds", default=None)
    datacenter: str = wire("Datacenter", default="")


@own_form
@struct
class ConfigEntryRequest(WriteRequest):
    """Consul's `ConfigEntryRequest`."""

    op: str = wire("Op", default="")
    datacenter: str = wire("Datacenter", default="")
    entry: ConfigEntry | None = wire("Entry", default=None)


@own_form
@struct
class ConfigEntryResponse(QueryMeta):
    """Consul's `ConfigEntryResponse`."""

    entry: ConfigEntry | None = wire("Entry", default=None)


@own_form
@struct
class IndexedConfigEntries(QueryMeta):
    """Consul's `IndexedConfigEntries`."""

    kind: str = wire("Kind", default="")
    entries: tuple[ConfigEntry | None, ...] | None = wire("Entries", default=None)


@own_form
@struct
class IndexedGenericConfigEntries(QueryMeta):
    """Consul's `IndexedGenericConfigEntries`."""

    entries: tuple[ConfigEntry | None, ...] | None = wire("Entries", default=None)


@struct
class ServiceConfigRequest(QueryOptions):
    """Consul's `ServiceConfigRequest`."""

    name: str = wire("Name", default="")
    datacenter: str = wire("Datacenter", default="")
    mesh_gateway: MeshGatewayConfig = wire("MeshGateway", default=MeshGatewayConfig())
    mode: str = wire("Mode", default="")
    upstream_ids: tuple[ServiceID, ...] | None = wire("UpstreamIDs", default=None)
    upstreams: tuple[str, ...] | None = wire("Upstreams", default=None)


@own_form
@struct
class ServiceConfigResponse(QueryMeta):
    """Consul's `ServiceConfigResponse`."""

    proxy_config: Mapping[str, Any] | None = wire("ProxyConfig", default=None)
    upstream_configs: Mapping[str, Mapping[str, Any] | None] | None = wire("UpstreamConfigs", default=None)
    upstream_id_configs: tuple[OpaqueUpstreamConfig, ...] | None = wire("UpstreamIDConfigs", default=None)
    mesh_gateway: MeshGatewayConfig = wire("MeshGateway", default=MeshGatewayConfig())
    expose: ExposeConfig = wire("Expose", default=ExposeConfig())
    transparent_proxy: TransparentProxyConfig = wire("TransparentProxy", default=TransparentProxyConfig())
    mode: str = wire("Mode", default="")
