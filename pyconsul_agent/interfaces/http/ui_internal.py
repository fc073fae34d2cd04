"""`/v1/internal/ui/`: what web interfaces ask for: nodes and services with their checks, summed up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pyconsul_agent.agent.delegate import Delegate
from pyconsul_agent.interfaces.http.catalog import read
from pyconsul_agent.interfaces.http.message import HTTPError, Request, Response, json_response
from pyconsul_agent.interfaces.http.params import Defaults, datacenter_of, meta_headers, read_fields, refuse_namespaces
from pyconsul_agent.interfaces.http.routes import Route
from pyconsul_agent.structs import methods, methods_mesh
from pyconsul_agent.structs.health import CheckServiceNode, NodeInfo
from pyconsul_agent.structs.intention_requests import IntentionMatchEntry, IntentionQueryMatch, IntentionQueryRequest
from pyconsul_agent.structs.methods import Method
from pyconsul_agent.structs.requests import (
    DCSpecificRequest,
    NodeSpecificRequest,
    QueryMeta,
    QueryOptions,
    ServiceDumpRequest,
    ServiceSpecificRequest,
)
from pyconsul_agent.wire.gojson import Ordered
from pyconsul_agent.wire.gotypes import quote

PREFIX = "/v1/internal/ui/"
EXTERNAL_SOURCE = "external-source"
NO_LEADER = "No cluster leader"

RequestT = TypeVar("RequestT", bound=QueryOptions)
ReplyT = TypeVar("ReplyT", bound=QueryMeta)


class InternalUI:
    """The handlers."""

    def __init__(self, delegate: Delegate, defaults: Defaults) -> None:
        self._delegate = delegate
        self._defaults = defaults

    def routes(self) -> list[Route]:
        def get(name: str, handler: Callable[[Request], Awaitable[Response]], access: str) -> Route:
            return Route(PREFIX + name, (("GET", handler),), access, blocking=True)

        return [
            get("nodes", self.nodes, "node:read"),
            get("node/", self.node, "node:read"),
            get("services", self.services, "service:read"),
            get("gateway-services-nodes/", self.gateway_services, "service:read"),
            get("gateway-intentions/", self.gateway_intentions, "intentions:read"),
            get("service-topology/", self.service_topology, "service:read"),
            Route(PREFIX + "metrics-proxy/", (("GET", self.metrics_proxy),), "none"),
        ]

    async def nodes(self, request: Request) -> Response:
        """Every node with its services and checks."""
        reply = await self._ask(
            request,
            methods.INTERNAL_NODE_DUMP,
            DCSpecificRequest(**self._fields(request), datacenter=datacenter_of(request, self._defaults)),
        )
        return self._json([node_json(row) for row in reply.dump or ()], request, reply)

    async def node(self, request: Request) -> Response:
        """One node with its services and checks; 404 when there is none."""
        name = request.path.removeprefix(PREFIX + "node/")
        fields = self._fields(request)
        if not name:
            raise HTTPError(400, "Missing node name")
        reply = await self._ask(
            request,
            methods.INTERNAL_NODE_INFO,
            NodeSpecificRequest(**fields, datacenter=datacenter_of(request, self._defaults), node=name),
        )
        if not reply.dump:
            return Response(404)
        return self._json(node_json(reply.dump[0]), request, reply)

    async def services(self, request: Request) -> Response:
        """Every service, its instances and checks counted."""
        fields = self._fields(request)
        reply = await self._ask(
            request,
            methods.INTERNAL_SERVICE_DUMP,
            ServiceDumpRequest(**fields, datacenter=datacenter_of(request, self._defaults)),
        )
        datacenter = datacenter_of(request, self._defaults)
        return self._json(summaries(reply.nodes or (), datacenter), request, reply)

    async def gateway_services(self, request: Request) -> Response:
        """Every service behind a gateway, its instances and checks counted."""
        name = request.path.removeprefix(PREFIX + "gateway-services-nodes/")
        fields = self._fields(request)
        if not name:
            raise HTTPError(400, "Missing gateway name")
        asked = ServiceSpecificRequest(**fields, datacenter=datacenter_of(request, self._defaults), service_name=name)
        reply = await self._ask(request, methods.INTERNAL_GATEWAY_SERVICE_DUMP, asked)
        rows = [
            CheckServiceNode(node=row.node, service=row.service, checks=row.checks)
            for row in reply.dump or ()
            if row.service is not None
        ]
        datacenter = datacenter_of(request, self._defaults)
        return self._json(summaries(rows, datacenter), request, reply)

    async def gateway_intentions(self, request: Request) -> Response:
        """The intentions whose destination is a service behind a gateway."""
        name = request.path.removeprefix(PREFIX + "gateway-intentions/")
        fields = self._fields(request)
        if not name:
            raise HTTPError(400, "Missing gateway name")
        match = IntentionQueryMatch(type="destination", entries=(IntentionMatchEntry(name=name),))
        asked = IntentionQueryRequest(**fields, datacenter=datacenter_of(request, self._defaults), match=match)
        reply = await self._ask(request, methods_mesh.INTERNAL_GATEWAY_INTENTIONS, asked)
        return self._json(list(reply.intentions or ()), request, reply)

    async def service_topology(self, request: Request) -> Response:
        """What a service of the mesh talks to."""
        name = request.path.removeprefix(PREFIX + "service-topology/")
        fields = self._fields(request)
        if not name:
            raise HTTPError(400, "Missing service name")
        if "kind" not in request.query:
            raise HTTPError(400, "Missing service kind")
        kind = request.query.get("kind")
        if kind not in ("", "ingress-gateway"):
            raise HTTPError(400, f"Unsupported service kind {quote(kind)}")
        datacenter = datacenter_of(request, self._defaults)
        asked = ServiceSpecificRequest(**fields, datacenter=datacenter, service_name=name, service_kind=kind)
        reply = await self._ask(request, methods_mesh.INTERNAL_SERVICE_TOPOLOGY, asked)
        return self._json(reply.service_topology, request, reply)

    async def metrics_proxy(self, request: Request) -> Response:
        """Consul can pass requests on to a metrics server; this agent does not."""
        raise HTTPError(404, "Metrics proxy is not enabled")

    def _fields(self, request: Request) -> Any:
        refuse_namespaces(request)
        return read_fields(request, self._defaults)

    async def _ask(self, request: Request, method: Method[RequestT, ReplyT], asked: RequestT) -> ReplyT:
        """The reply; without a leader once more from whoever answers. Errors carry the headers of an empty reply."""
        try:
            return await read(self._delegate, method, asked)
        except HTTPError as error:
            if asked.allow_stale or NO_LEADER not in error.text:
                raise
            return await read(self._delegate, method, replace(asked, allow_stale=True, require_consistent=False))

    def _json(self, value: object, request: Request, reply: QueryMeta) -> Response:
        return json_response(value, request, headers=meta_headers(reply), pretty=self._defaults.pretty)


def node_json(row: NodeInfo) -> NodeInfo:
    """A node as it is shown: its lists of services and checks are never null."""
    return replace(row, services=row.services or (), checks=row.checks or ())


def summaries(rows: Iterable[CheckServiceNode], datacenter: str) -> list[Ordered]:
    """Instances summed up by service, in the order of names."""
    by_name: dict[str, list[CheckServiceNode]] = {}
    for row in rows:
        if row.service is not None:
            by_name.setdefault(row.service.service, []).append(row)
    proxied = {
        row.service.proxy.destination_service_name
        for group in by_name.values()
        for row in group
        if row.service is not None and row.service.kind == "connect-proxy"
    }
    return [_summary(name, by_name[name], datacenter, name in proxied) for name in sorted(by_name)]


def _summary(name: str, rows: Sequence[CheckServiceNode], datacenter: str, proxied: bool) -> Ordered:
    tags: set[str] = set()
    sources: set[str] = set()
    nodes: list[str] = []
    counts = {"passing": 0, "warning": 0, "critical": 0}
    kind, transparent = "", False
    for row in rows:
        service, node = row.service, row.node
        assert service is not None, "selected"
        kind = service.kind
        transparent = transparent or service.proxy.mode == "transparent"
        tags.update(service.tags or ())
        if source := (service.meta or {}).get(EXTERNAL_SOURCE):
            sources.add(source)
        if node is not None and node.node not in nodes:
            nodes.append(node.node)
        for check in row.checks or ():
            if check.status in counts:
                counts[check.status] += 1
    out = Ordered()
    if kind:
        out["Kind"] = kind
    out.update(
        Name=name,
        Datacenter=datacenter,
        Tags=sorted(tags) or None,
        Nodes=sorted(nodes),
        ExternalSources=sorted(sources) or None,
        InstanceCount=len(rows),
        ChecksPassing=counts["passing"],
        ChecksWarning=counts["warning"],
        ChecksCritical=counts["critical"],
        GatewayConfig={},
        TransparentProxy=transparent,
        ConnectedWithProxy=proxied,
        ConnectedWithGateway=False,
    )
    return out
