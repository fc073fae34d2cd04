"""What a proxy or a gateway must have to be registered; Consul's texts. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pyconsul_agent.structs.catalog import NodeService, ServiceDefinition, Upstream

CONNECT_PROXY = "connect-proxy"
GATEWAYS = ("mesh-gateway", "terminating-gateway", "ingress-gateway")
DESTINATION_TYPES = ("", "service", "prepared_query")
LOOPBACK = "127.0.0.1"


def multi_error(problems: Sequence[str]) -> str:
    """Problems as Consul lists them, empty if there are none."""
    if not problems:
        return ""
    noun = "error" if len(problems) == 1 else "errors"
    return f"{len(problems)} {noun} occurred:\n" + "".join(f"\t* {problem}\n" for problem in problems) + "\n"


def service_problems(service: NodeService) -> str:
    """Why a service of a special kind, or with a sidecar, cannot be registered, empty if it can."""
    problems: list[str] = []
    if service.kind == CONNECT_PROXY:
        problems += _of_proxy(service)
    elif service.kind in GATEWAYS:
        problems += _of_gateway(service)
    if service.connect.sidecar_service is not None:
        problems += _of_sidecar(service.connect.sidecar_service)
    return multi_error(problems)


def _of_proxy(service: NodeService) -> Iterable[str]:
    proxy = service.proxy
    if not proxy.destination_service_name:
        yield "Proxy.DestinationServiceName must be non-empty for Connect proxy services"
    if proxy.destination_service_name == "*":
        yield "Proxy.DestinationServiceName must not be a wildcard for Connect proxy services"
    if not service.port and not service.socket_path:
        yield "Port or SocketPath must be set for a Connect proxy"
    if service.connect.native:
        yield "A Proxy cannot also be Connect Native, only typical services"
    yield from _of_upstreams(proxy.upstreams or ())


def _of_upstreams(upstreams: Iterable[Upstream]) -> Iterable[str]:
    seen: set[str] = set()
    for upstream in upstreams:
        problem = _of_upstream(upstream)
        if problem:
            yield problem
            continue
        at = upstream.local_bind_socket_path
        if not at and upstream.local_bind_port:
            at = f"{upstream.local_bind_address or LOOPBACK}:{upstream.local_bind_port}"
        if at and at in seen:
            quoted = '"' + at.replace("\\", "\\\\").replace('"', '\\"') + '"'
            where = "local bind address and port or unix path"
            yield f"upstreams cannot contain duplicates by {where}; {quoted} is specified twice"
        seen.add(at)


def _of_upstream(upstream: Upstream) -> str:
    if upstream.destination_type not in DESTINATION_TYPES:
        return f'unknown upstream destination type: "{upstream.destination_type}"'
    if not upstream.destination_name:
        return "upstream destination name cannot be empty"
    if upstream.destination_name == "*" and not upstream.centrally_configured:
        return "upstream destination name cannot be a wildcard"
    if not upstream.local_bind_port and not upstream.local_bind_socket_path and not upstream.centrally_configured:
        return "upstream local bind port or local socket path must be defined and nonzero"
    return ""


def _of_gateway(service: NodeService) -> Iterable[str]:
    proxy, kind = service.proxy, service.kind
    if kind == "mesh-gateway" and not service.port:
        yield f"Port must be non-zero for a {kind}"
    if service.connect.sidecar_service is not None:
        yield f"A {kind} cannot have a sidecar service"
    for name, value in (
        ("DestinationServiceName", proxy.destination_service_name),
        ("DestinationServiceID", proxy.destination_service_id),
        ("LocalServiceAddress", proxy.local_service_address),
        ("LocalServicePort", proxy.local_service_port),
        ("LocalServiceSocketPath", proxy.local_service_socket_path),
        ("Upstreams", proxy.upstreams),
    ):
        if value:
            yield f"The Proxy.{name} configuration is invalid for a {kind}"


def _of_sidecar(sidecar: ServiceDefinition) -> Iterable[str]:
    if sidecar.id:
        yield "A SidecarService cannot specify an ID as this is managed by the agent"
    if sidecar.connect is not None:
        if sidecar.connect.sidecar_service is not None:
            yield "A SidecarService cannot have a nested SidecarService"
        if sidecar.connect.native:
            yield "A Proxy cannot also be Connect Native, only typical services"
