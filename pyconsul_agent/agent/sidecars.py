"""The sidecar proxy that a service asks for with `connect.sidecar_service`: a service of its own. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from pyconsul_agent.structs.base import Duration
from pyconsul_agent.structs.catalog import (
    CheckType,
    ConnectProxyConfig,
    NodeService,
    ServiceConnect,
    ServiceDefinition,
    Upstream,
)
from pyconsul_agent.structs.proxy_rules import CONNECT_PROXY, LOOPBACK, service_problems

SUFFIX = "-sidecar-proxy"
PORTS = (21000, 21255)
CHECK_INTERVAL = Duration(10_000_000_000)


@dataclass(frozen=True, slots=True)
class Sidecar:
    """A sidecar with its checks and token."""

    service: NodeService
    checks: tuple[CheckType, ...]
    token: str


def without_sidecar(service: NodeService) -> NodeService:
    """The service as it is registered: what it asks for beside it is no part of it."""
    if service.connect.sidecar_service is None:
        return service
    return replace(service, connect=replace(service.connect, sidecar_service=None))


def sidecar_of(
    parent: NodeService, asked: ServiceDefinition, token: str, taken: Collection[int], ports: tuple[int, int] = PORTS
) -> Sidecar:
    """The sidecar of `parent`. Raises ValueError when it cannot be registered, or no port of the range is free."""
    port = asked.port or _free_port(parent, taken, ports)
    proxy = asked.proxy or ConnectProxyConfig()
    proxy = replace(
        proxy,
        destination_service_name=proxy.destination_service_name or parent.service,
        destination_service_id=proxy.destination_service_id or parent.id,
        local_service_address=proxy.local_service_address or ("" if proxy.local_service_socket_path else LOOPBACK),
        local_service_port=proxy.local_service_port or (0 if proxy.local_service_socket_path else parent.port),
        upstreams=None if proxy.upstreams is None else tuple(_typed(upstream) for upstream in proxy.upstreams),
    )
    service = NodeService(
        kind=CONNECT_PROXY,
        id=parent.id + SUFFIX,
        service=asked.name or parent.service + SUFFIX,
        tags=asked.tags if asked.tags else parent.tags,
        address=asked.address or parent.address,
        tagged_addresses=asked.tagged_addresses,
        meta=asked.meta if asked.meta else parent.meta,
        port=port,
        socket_path=asked.socket_path,
        weights=asked.weights,
        enable_tag_override=asked.enable_tag_override or parent.enable_tag_override,
        proxy=proxy,
        connect=asked.connect or ServiceConnect(),
        locally_registered_as_sidecar=True,
    )
    if problem := service_problems(service):
        raise ValueError(problem)
    checks = tuple(check for check in (*(asked.checks or ()), asked.check) if check != CheckType())
    return Sidecar(service, checks or _default_checks(service, parent), asked.token or token)


def _typed(upstream: Upstream) -> Upstream:
    return upstream if upstream.destination_type else replace(upstream, destination_type="service")


def _free_port(parent: NodeService, taken: Collection[int], ports: tuple[int, int]) -> int:
    for port in range(ports[0], ports[1] + 1) if ports[0] > 0 else ():
        if port not in taken:
            return port
    raise ValueError(
        f"none left in the configured range [{ports[0]}, {ports[1]}]"
        if ports[0] > 0
        else f"no port provided for sidecar_service of {parent.id} and none in the configured range"
    )


def _default_checks(service: NodeService, parent: NodeService) -> tuple[CheckType, ...]:
    return (
        CheckType(
            name="Connect Sidecar Listening",
            tcp=f"{service.address or LOOPBACK}:{service.port}",
            interval=CHECK_INTERVAL,
        ),
        CheckType(name=f"Connect Sidecar Aliasing {parent.id}", alias_service=parent.id),
    )
