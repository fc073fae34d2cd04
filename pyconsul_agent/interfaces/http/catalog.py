"""`/v1/catalog/`: nodes and services as the servers know them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

from pyconsul_agent.agent import cache
from pyconsul_agent.agent.delegate import Caller
from pyconsul_agent.errors import ConsulError
from pyconsul_agent.interfaces.http.message import HTTPError, Request, Response, json_response, text_response
from pyconsul_agent.interfaces.http.params import (
    Defaults,
    datacenter_of,
    meta_headers,
    node_meta_of,
    read_fields,
    refuse_namespaces,
    source_of,
    token_of,
)
from pyconsul_agent.interfaces.http.pipeline import status_of
from pyconsul_agent.interfaces.http.routes import Route
from pyconsul_agent.structs.base import Duration
from pyconsul_agent.structs.catalog import NodeService
from pyconsul_agent.structs.methods import (
    CATALOG_DEREGISTER,
    CATALOG_GATEWAY_SERVICES,
    CATALOG_LIST_DATACENTERS,
    CATALOG_LIST_NODES,
    CATALOG_NODE_SERVICE_LIST,
    CATALOG_NODE_SERVICES,
    CATALOG_REGISTER,
    Method,
)
from pyconsul_agent.structs.requests import (
    DatacentersRequest,
    DCSpecificRequest,
    DeregisterRequest,
    NodeSpecificRequest,
    QueryMeta,
    QueryOptions,
    RegisterRequest,
    ServiceSpecificRequest,
)
from pyconsul_agent.wire.gojson import Ordered
from pyconsul_agent.wire.gojson_reader import decode, parse

RequestT = TypeVar("RequestT", bound=QueryOptions)
ReplyT = TypeVar("ReplyT", bound=QueryMeta)

NOTHING_MORE: Mapping[str, str] = MappingProxyType({})
SERVICE_ALIASES = {
    "enable_tag_override": "EnableTagOverride",
    "tagged_addresses": "TaggedAddresses",
    "sidecar_service": "SidecarService",
    "destination_service_name": "DestinationServiceName",
    "destination_service_id": "DestinationServiceID",
    "local_service_address": "LocalServiceAddress",
    "local_service_port": "LocalServicePort",
    "local_service_socket_path": "LocalServiceSocketPath",
    "mesh_gateway": "MeshGateway",
    "transparent_proxy": "TransparentProxy",
    "destination_type": "DestinationType",
    "destination_namespace": "DestinationNamespace",
    "destination_name": "DestinationName",
    "local_bind_address": "LocalBindAddress",
    "local_bind_port": "LocalBindPort",
    "local_bind_socket_path": "LocalBindSocketPath",
    "local_bind_socket_mode": "LocalBindSocketMode",
}
"""Snake-case spellings that service bodies may use where the CamelCase one is empty."""


async def read(caller: Caller, method: Method[RequestT, ReplyT], asked: RequestT) -> ReplyT:
    """Call; an error is answered with zero meta headers, as these handlers do.

    An answer staler than the request allows (`max_stale`, `discovery_max_stale`) is asked for again at the leader.
    """
    try:
        reply = await caller.call(method, asked)
        if asked.allow_stale and 0 < asked.max_stale_duration < reply.last_contact:
            reply = await caller.call(method, replace(asked, allow_stale=False, max_stale_duration=Duration(0)))
        return reply
    except ConsulError as error:
        raise HTTPError(status_of(error), str(error), headers=meta_headers(QueryMeta())) from error


async def read_cached(
    caller: Caller, kept: cache.Cache, kind: cache.Kind[RequestT, ReplyT], asked: RequestT
) -> tuple[ReplyT, dict[str, str]]:
    """As `read`, from the agent's cache if the request wants that; the second are the headers that tell of it."""
    if not asked.use_cache:
        return await read(caller, kind.method, asked), {}
    try:
        found = await kept.get(kind, asked)
    except ConsulError as error:
        raise HTTPError(status_of(error), str(error), headers=meta_headers(QueryMeta())) from error
    return found.value, found.headers


def service_json(service: NodeService) -> NodeService:
    """A service row with its lists as users expect them: `[]`, not null."""
    return service if service.tags is not None else replace(service, tags=())


ENTERPRISE = " - Namespaces are a Consul Enterprise feature"


class Catalog:
    """The handlers."""

    def __init__(self, caller: Caller, defaults: Defaults, kept: cache.Cache) -> None:
        self._caller = caller
        self._defaults = defaults
        self._cache = kept

    def routes(self) -> list[Route]:
        return [
            Route("/v1/catalog/register", (("PUT", self.register),), "node:write,service:write"),
            Route("/v1/catalog/deregister", (("PUT", self.deregister),), "node:write,service:write"),
            Route("/v1/catalog/datacenters", (("GET", self.datacenters),), "none"),
            Route("/v1/catalog/nodes", (("GET", self.nodes),), "node:read", blocking=True, state="catalog"),
            Route("/v1/catalog/services", (("GET", self.services),), "service:read", blocking=True, state="catalog"),
            Route("/v1/catalog/service/", (("GET", self.service),), "service:read", blocking=True, state="catalog"),
            Route("/v1/catalog/connect/", (("GET", self.connect),), "service:read", blocking=True, state="catalog"),
            Route("/v1/catalog/node/", (("GET", self.node),), "node:read", blocking=True, state="catalog"),
            Route(
                "/v1/catalog/node-services/",
                (("GET", self.node_services),),
                "node:read",
                blocking=True,
                state="catalog",
            ),
            Route("/v1/catalog/gateway-services/", (("GET", self.gateway_services),), "service:read", blocking=True),
        ]

    async def register(self, request: Request) -> Response:
        """Write a node, a service and checks, past any agent."""
        body = self._body(RegisterRequest, request)
        await self._caller.call(CATALOG_REGISTER, body)
        return json_response(True, request, pretty=self._defaults.pretty)

    async def deregister(self, request: Request) -> Response:
        """Remove a check, a service, or a node with everything. An `Address` is taken and means nothing."""
        body = self._body(DeregisterRequest, request, ignored="address")
        await self._caller.call(CATALOG_DEREGISTER, body)
        return json_response(True, request, pretty=self._defaults.pretty)

    def _body(self, form: type[BodyT], request: Request, *, ignored: str = "") -> BodyT:
        refuse_namespaces(request)
        try:
            value = parse(request.body)
            if isinstance(value, dict):
                value = {name: item for name, item in value.items() if name.lower() != ignored}
            body = decode(form, value, aliases=SERVICE_ALIASES)
        except ValueError as error:
            enterprise = ENTERPRISE if str(error) == 'json: unknown field "Namespace"' else ""
            raise HTTPError(400, f"Request decode failed: {error}{enterprise}") from None
        return replace(
            body,
            datacenter=body.datacenter or self._defaults.datacenter,
            token=token_of(request, self._defaults),
        )

    async def datacenters(self, request: Request) -> Response:
        """The known datacenters, nearest first. Bad parameters are told, then ignored, as Consul does."""
        complaint = b""
        asked = DatacentersRequest()
        try:
            asked = DatacentersRequest(**read_fields(request, self._defaults))
        except HTTPError as error:
            complaint = error.text.encode("utf-8", "surrogateescape")
        if asked.use_cache:
            found = await self._cache.get(cache.DATACENTERS, asked)
            reply, headers = found.value, found.headers
        else:
            reply, headers = await self._caller.call(CATALOG_LIST_DATACENTERS, asked), {}
        response = json_response(reply, request, headers=headers, pretty=self._defaults.pretty)
        if complaint:
            response = text_response((complaint + response.body).decode("utf-8", "surrogateescape"), status=400)
        return response

    async def nodes(self, request: Request) -> Response:
        """Every node."""
        asked = self._datacenter_request(request)
        reply = await read(self._caller, CATALOG_LIST_NODES, asked)
        return self._answer(request, reply.nodes or (), reply, asked)

    async def services(self, request: Request) -> Response:
        """Service names with the tags in use."""
        asked = self._datacenter_request(request)
        reply, headers = await read_cached(self._caller, self._cache, cache.SERVICES, asked)
        services = {name: tags or () for name, tags in (reply.services or {}).items()}
        return self._answer(request, services, reply, asked, headers)

    async def service(self, request: Request) -> Response:
        """The instances of a service."""
        return await self._instances(request, "/v1/catalog/service/", connect=False)

    async def connect(self, request: Request) -> Response:
        """The instances that offer Connect for a service."""
        return await self._instances(request, "/v1/catalog/connect/", connect=True)

    async def _instances(self, request: Request, prefix: str, *, connect: bool) -> Response:
        fields = read_fields(request, self._defaults, discovery=True)
        refuse_namespaces(request)
        tags = request.query.all("tag")
        asked = ServiceSpecificRequest(
            datacenter=datacenter_of(request, self._defaults),
            node_meta_filters=node_meta_of(request),
            source=source_of(request, self._defaults),
            service_name=request.path[len(prefix) :],
            service_tags=tuple(tags) if tags else None,
            tag_filter=bool(tags),
            connect=connect,
            **fields,
        )
        if not asked.service_name:
            raise HTTPError(400, "Missing service name")
        reply, headers = await read_cached(self._caller, self._cache, cache.SERVICE_NODES, asked)
        rows = [
            replace(row, service_tags=row.service_tags or (), service_meta=row.service_meta or {})
            for row in reply.service_nodes or ()
        ]
        return self._answer(request, rows, reply, asked, headers)

    async def node(self, request: Request) -> Response:
        """A node with its services by id; null for an unknown one."""
        asked = self._node_request(request, "/v1/catalog/node/")
        reply = await read(self._caller, CATALOG_NODE_SERVICES, asked)
        found = reply.node_services
        if found is None or found.node is None:
            return self._answer(request, None, reply, asked)
        services = {identity: service_json(service) for identity, service in (found.services or {}).items()}
        return self._answer(request, Ordered(Node=found.node, Services=services), reply, asked)

    async def node_services(self, request: Request) -> Response:
        """A node with its services as a list."""
        asked = self._node_request(request, "/v1/catalog/node-services/")
        reply = await read(self._caller, CATALOG_NODE_SERVICE_LIST, asked)
        found = reply.node_services
        services = None if found.services is None else [service_json(service) for service in found.services]
        return self._answer(request, Ordered(Node=found.node, Services=services), reply, asked)

    async def gateway_services(self, request: Request) -> Response:
        """The services that a gateway serves."""
        fields = read_fields(request, self._defaults, discovery=True)
        name = request.path.removeprefix("/v1/catalog/gateway-services/")
        if not name:
            raise HTTPError(400, "Missing gateway name")
        asked = ServiceSpecificRequest(datacenter=datacenter_of(request, self._defaults), service_name=name, **fields)
        reply = await read(self._caller, CATALOG_GATEWAY_SERVICES, asked)
        return self._answer(request, reply.services, reply, asked)

    def _datacenter_request(self, request: Request) -> DCSpecificRequest:
        fields = read_fields(request, self._defaults, discovery=True)
        refuse_namespaces(request)
        return DCSpecificRequest(
            datacenter=datacenter_of(request, self._defaults),
            node_meta_filters=node_meta_of(request),
            source=source_of(request, self._defaults),
            **fields,
        )

    def _node_request(self, request: Request, prefix: str) -> NodeSpecificRequest:
        fields = read_fields(request, self._defaults, discovery=True)
        refuse_namespaces(request)
        node = request.path[len(prefix) :]
        if not node:
            raise HTTPError(400, "Missing node name")
        return NodeSpecificRequest(datacenter=datacenter_of(request, self._defaults), node=node, **fields)

    def _answer(
        self,
        request: Request,
        value: object,
        meta: QueryMeta,
        asked: QueryOptions,
        headers: Mapping[str, str] = NOTHING_MORE,
    ) -> Response:
        shown = {**meta_headers(meta, asked), **headers}
        return json_response(value, request, headers=shown, pretty=self._defaults.pretty)


BodyT = TypeVar("BodyT", RegisterRequest, DeregisterRequest)
