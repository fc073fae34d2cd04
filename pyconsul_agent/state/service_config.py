"""What central configuration says of one service's proxy: proxy-defaults, its own defaults, those of its upstreams."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pyconsul_agent.errors import RPCError
from pyconsul_agent.state.config_entry import CONFIG_ENTRIES, entry_key
from pyconsul_agent.state.store import Store
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.catalog import MeshGatewayConfig
from pyconsul_agent.structs.config_entry import ProxyConfigEntry, ServiceConfigEntry, UpstreamConfig
from pyconsul_agent.structs.config_kinds import PROXY_DEFAULTS, PROXY_GLOBAL, SERVICE_DEFAULTS, WILDCARD
from pyconsul_agent.structs.config_requests import (
    OpaqueUpstreamConfig,
    ServiceConfigRequest,
    ServiceConfigResponse,
    ServiceID,
)

TRANSPARENT = "transparent"


def resolve(store: Store, watch: WatchSet, request: ServiceConfigRequest) -> ServiceConfigResponse:
    """The merged configuration of a service. Raises RPCError when a global protocol is no text."""
    reader = _Reader(store, watch)
    proxy, service = reader.proxy(), reader.service(request.name)
    reply = ServiceConfigResponse(index=store.index(CONFIG_ENTRIES))
    protocol = ""
    if proxy is not None:
        protocol = _protocol(proxy)
        reply = replace(
            reply,
            proxy_config=proxy.config,
            mode=proxy.mode,
            transparent_proxy=proxy.transparent_proxy,
            mesh_gateway=proxy.mesh_gateway,
            expose=proxy.expose,
        )
    if service is not None:
        reply = _with_service(reply, service)
    ids = request.upstream_ids or tuple(ServiceID(id=name) for name in request.upstreams or ())
    if not ids and TRANSPARENT not in (request.mode, reply.mode):
        return reply
    configs = _upstreams(reader, service, ids, protocol, request.mesh_gateway)
    if not configs:
        return reply
    if request.upstream_ids:
        rows = tuple(OpaqueUpstreamConfig(upstream=ServiceID(id=name), config=each) for name, each in configs.items())
        return replace(reply, upstream_id_configs=rows)
    return replace(reply, upstream_configs=configs)


class _Reader:
    """Reads entries and notes that it did."""

    def __init__(self, store: Store, watch: WatchSet) -> None:
        self._store = store
        self._watch = watch

    def _get(self, kind: str, name: str) -> Any:
        self._watch.row(CONFIG_ENTRIES, entry_key(kind, name))
        return self._store.tables.config_entries.get(entry_key(kind, name))

    def proxy(self) -> ProxyConfigEntry | None:
        """The proxies' defaults."""
        found = self._get(PROXY_DEFAULTS, PROXY_GLOBAL)
        return found if isinstance(found, ProxyConfigEntry) else None

    def service(self, name: str) -> ServiceConfigEntry | None:
        """A service's defaults."""
        found = self._get(SERVICE_DEFAULTS, name)
        return found if isinstance(found, ServiceConfigEntry) else None


def _protocol(proxy: ProxyConfigEntry) -> str:
    value = (proxy.config or {}).get("protocol")
    if value is None:
        return ""
    if not isinstance(value, str):
        kind = {bool: "bool", float: "float64", int: "int64", dict: "map[string]interface {}"}
        raise RPCError(f"invalid protocol type {kind.get(type(value), '[]interface {}')}")
    return value


def _with_service(reply: ServiceConfigResponse, service: ServiceConfigEntry) -> ServiceConfigResponse:
    expose, own = reply.expose, service.expose
    expose = replace(expose, checks=expose.checks or own.checks, paths=own.paths or expose.paths)
    transparent, asked = reply.transparent_proxy, service.transparent_proxy
    transparent = replace(
        transparent,
        outbound_listener_port=asked.outbound_listener_port or transparent.outbound_listener_port,
        dialed_directly=asked.dialed_directly or transparent.dialed_directly,
    )
    config = reply.proxy_config
    if service.protocol:
        config = {**(config or {}), "protocol": service.protocol}
    return replace(
        reply,
        proxy_config=config,
        expose=expose,
        transparent_proxy=transparent,
        mesh_gateway=service.mesh_gateway if service.mesh_gateway.mode else reply.mesh_gateway,
        mode=service.mode or reply.mode,
    )


def _upstreams(
    reader: _Reader,
    service: ServiceConfigEntry | None,
    ids: Iterable[ServiceID],
    protocol: str,
    gateway: MeshGatewayConfig,
) -> dict[str, dict[str, Any]]:
    """Configuration by upstream; that for all others under the wildcard."""
    upstreams = service.upstream_config if service is not None else None
    defaults = upstreams.defaults if upstreams is not None else None
    overrides = {each.name: each for each in (upstreams.overrides if upstreams else None) or () if each.name}
    configs = {WILDCARD: _settings(defaults)} if _settings(defaults) else {}
    for name in sorted({each.id for each in ids} | set(overrides)):
        own = reader.service(name)
        spoken = own.protocol if own is not None and own.protocol else protocol
        config: dict[str, Any] = {"protocol": spoken} if spoken else {}
        config |= _settings(defaults)
        if gateway.mode:
            config["mesh_gateway"] = gateway
        config |= _settings(overrides.get(name))
        if config:
            configs[name] = config
    return configs


def _settings(config: UpstreamConfig | None) -> dict[str, Any]:
    """What is set in an upstream's configuration, under the names that proxies know."""
    if config is None:
        return {}
    found = {
        "envoy_listener_json": config.envoy_listener_json,
        "envoy_cluster_json": config.envoy_cluster_json,
        "protocol": config.protocol,
        "connect_timeout_ms": config.connect_timeout_ms,
        "mesh_gateway": config.mesh_gateway if config.mesh_gateway.mode else None,
        "limits": config.limits,
        "passive_health_check": config.passive_health_check,
    }
    return {name: value for name, value in found.items() if value}
