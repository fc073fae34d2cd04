"""The kinds of config entries, and what all of them have: a kind and a name."""

from __future__ import annotations

from pyconsul_agent.structs.config_entry import (
    IngressGatewayConfigEntry,
    MeshConfigEntry,
    ProxyConfigEntry,
    ServiceConfigEntry,
    TerminatingGatewayConfigEntry,
)
from pyconsul_agent.structs.config_routing import (
    ServiceResolverConfigEntry,
    ServiceRouterConfigEntry,
    ServiceSplitterConfigEntry,
)
from pyconsul_agent.structs.intention import ServiceIntentionsConfigEntry

SERVICE_DEFAULTS = "service-defaults"
PROXY_DEFAULTS = "proxy-defaults"
SERVICE_ROUTER = "service-router"
SERVICE_SPLITTER = "service-splitter"
SERVICE_RESOLVER = "service-resolver"
INGRESS_GATEWAY = "ingress-gateway"
TERMINATING_GATEWAY = "terminating-gateway"
SERVICE_INTENTIONS = "service-intentions"
MESH = "mesh"

PROXY_GLOBAL = "global"
"""The name of the only proxy-defaults entry."""

WILDCARD = "*"

ConfigEntry = (
    ServiceConfigEntry
    | ProxyConfigEntry
    | ServiceRouterConfigEntry
    | ServiceSplitterConfigEntry
    | ServiceResolverConfigEntry
    | IngressGatewayConfigEntry
    | TerminatingGatewayConfigEntry
    | ServiceIntentionsConfigEntry
    | MeshConfigEntry
)

KINDS: dict[str, type[ConfigEntry]] = {
    SERVICE_DEFAULTS: ServiceConfigEntry,
    PROXY_DEFAULTS: ProxyConfigEntry,
    SERVICE_ROUTER: ServiceRouterConfigEntry,
    SERVICE_SPLITTER: ServiceSplitterConfigEntry,
    SERVICE_RESOLVER: ServiceResolverConfigEntry,
    INGRESS_GATEWAY: IngressGatewayConfigEntry,
    TERMINATING_GATEWAY: TerminatingGatewayConfigEntry,
    SERVICE_INTENTIONS: ServiceIntentionsConfigEntry,
    MESH: MeshConfigEntry,
}

_KIND_OF = {form: kind for kind, form in KINDS.items()}


def kind_of(entry: ConfigEntry) -> str:
    """The kind of an entry, whatever its `Kind` field says."""
    return _KIND_OF[type(entry)]


def name_of(entry: ConfigEntry) -> str:
    """The name of an entry; the mesh has one and only one."""
    return MESH if isinstance(entry, MeshConfigEntry) else entry.name


def related_services(entry: ConfigEntry) -> set[str]:
    """Names of the services that an entry of the discovery chain, or an ingress gateway, refers to."""
    if isinstance(entry, ServiceRouterConfigEntry):
        named = {route.destination.service for route in entry.routes or () if route.destination is not None}
        return (named | {entry.name}) - {""}
    if isinstance(entry, ServiceSplitterConfigEntry):
        return {split.service for split in entry.splits or ()} - {""}
    if isinstance(entry, ServiceResolverConfigEntry):
        named = {failover.service for failover in (entry.failover or {}).values()}
        return (named | ({entry.redirect.service} if entry.redirect else set())) - {""}
    if isinstance(entry, IngressGatewayConfigEntry):
        names = {service.name for listener in entry.listeners or () for service in listener.services or ()}
        return names - {WILDCARD}
    return set()
