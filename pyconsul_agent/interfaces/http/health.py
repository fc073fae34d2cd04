"""`/v1/health/`: checks, and instances with their checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pyconsul_agent.agent import cache
from pyconsul_agent.agent.delegate import Caller
from pyconsul_agent.interfaces.http.catalog import read, service_json
from pyconsul_agent.interfaces.http.message import HTTPError, Request, Response, json_response
from pyconsul_agent.interfaces.http.params import (
    Defaults,
    datacenter_of,
    meta_headers,
    node_meta_of,
    read_fields,
    refuse_namespaces,
    source_of,
)
from pyconsul_agent.interfaces.http.routes import Route
from pyconsul_agent.structs.base import Duration
from pyconsul_agent.structs.health import CheckServiceNode, HealthCheck
from pyconsul_agent.structs.methods import (
    HEALTH_CHECKS_IN_STATE,
    HEALTH_NODE_CHECKS,
    HEALTH_SERVICE_CHECKS,
    HEALTH_SERVICE_NODES,
)
from pyconsul_agent.structs.requests import (
    ChecksInStateRequest,
    IndexedHealthChecks,
    NodeSpecificRequest,
    QueryOptions,
    ServiceSpecificRequest,
)
from pyconsul_agent.wire.gotypes import parse_bool

STREAMING = 1
"""Of `QueryMeta.backend`."""


class Health:
    """The handlers."""

    def __init__(self, caller: Caller, defaults: Defaults, kept: cache.Cache) -> None:
        self._caller = caller
        self._defaults = defaults
        self._cache = kept

    def routes(self) -> list[Route]:
        return [
            Route("/v1/health/node/", (("GET", self.node),), "node:read", blocking=True, state="catalog"),
            Route("/v1/health/checks/", (("GET", self.checks),), "service:read", blocking=True, state="catalog"),
            Route("/v1/health/state/", (("GET", self.state),), "node:read", blocking=True, state="catalog"),
            Route("/v1/health/service/", (("GET", self.service),), "service:read", blocking=True, state="catalog"),
            Route("/v1/health/connect/", (("GET", self.connect),), "service:read", blocking=True, state="catalog"),
            Route("/v1/health/ingress/", (("GET", self.ingress),), "service:read", blocking=True, state="catalog"),
        ]

    async def node(self, request: Request) -> Response:
        """The checks of a node."""
        fields = read_fields(request, self._defaults, discovery=True)
        refuse_namespaces(request)
        node = request.path.removeprefix("/v1/health/node/")
        if not node:
            raise HTTPError(400, "Missing node name")
        asked = NodeSpecificRequest(datacenter=datacenter_of(request, self._defaults), node=node, **fields)
        return self._checks(request, await read(self._caller, HEALTH_NODE_CHECKS, asked), asked)

    async def checks(self, request: Request) -> Response:
        """The checks of a service."""
        asked = self._service_request(request, "/v1/health/checks/", with_tags=False)
        return self._checks(request, await read(self._caller, HEALTH_SERVICE_CHECKS, asked), asked)

    async def state(self, request: Request) -> Response:
        """The checks in a state, or in `any`."""
        fields = read_fields(request, self._defaults, discovery=True)
        refuse_namespaces(request)
        state = request.path.removeprefix("/v1/health/state/")
        if not state:
            raise HTTPError(400, "Missing check state")
        asked = ChecksInStateRequest(
            datacenter=datacenter_of(request, self._defaults),
            node_meta_filters=node_meta_of(request),
            source=source_of(request, self._defaults),
            state=state,
            **fields,
        )
        return self._checks(request, await read(self._caller, HEALTH_CHECKS_IN_STATE, asked), asked)

    async def service(self, request: Request) -> Response:
        """The instances of a service with their checks."""
        return await self._instances(request, self._service_request(request, "/v1/health/service/"))

    async def connect(self, request: Request) -> Response:
        """The instances that offer Connect for a service."""
        asked = self._service_request(request, "/v1/health/connect/")
        return await self._instances(request, replace(asked, connect=True))

    async def ingress(self, request: Request) -> Response:
        """The ingress gateways of a service."""
        asked = self._service_request(request, "/v1/health/ingress/")
        return await self._instances(request, replace(asked, ingress=True))

    async def _instances(self, request: Request, asked: ServiceSpecificRequest) -> Response:
        streamed = self._streamed(asked)
        # What must be consistent is asked of the leader, though 1.10 gives the subscription's answer.
        if asked.use_cache or (streamed and self._cache.streams and not asked.require_consistent):
            found = await self._cache.get(cache.HEALTH_NODES, asked)
            reply, more = found.value, found.headers if asked.use_cache else {}
        else:
            reply, more = await self._caller.call(HEALTH_SERVICE_NODES, asked), {}
        if streamed and not self._cache.streams:
            reply = replace(reply, known_leader=False, last_contact=Duration(0), backend=STREAMING)
        headers = {**meta_headers(reply, asked), **more}
        nodes = list(reply.nodes or ())
        if _passing(request, headers):
            nodes = only_passing(nodes)
        shown = [
            replace(
                node,
                service=None if node.service is None else service_json(node.service),
                checks=tuple(_check_json(check) for check in node.checks or ()),
            )
            for node in nodes
        ]
        return json_response(shown, request, headers=headers, pretty=self._defaults.pretty)

    def _streamed(self, asked: ServiceSpecificRequest) -> bool:
        """Whether Consul would answer this from a subscription, which knows nothing of a leader.

        compat: a client agent does the same; on a server a blocking query answers, and what is shown is equal.
        """
        waits = asked.use_cache or asked.min_query_index > 0
        return self._defaults.use_streaming and waits and not asked.ingress and not asked.source.node

    def _service_request(self, request: Request, prefix: str, *, with_tags: bool = True) -> ServiceSpecificRequest:
        fields = read_fields(request, self._defaults, discovery=True)
        refuse_namespaces(request)
        name = request.path[len(prefix) :]
        if not name:
            raise HTTPError(400, "Missing service name")
        tags = request.query.all("tag") if with_tags else []
        return ServiceSpecificRequest(
            datacenter=datacenter_of(request, self._defaults),
            node_meta_filters=node_meta_of(request),
            source=source_of(request, self._defaults),
            service_name=name,
            service_tags=tuple(tags) if tags else None,
            tag_filter=bool(tags),
            **fields,
        )

    def _checks(self, request: Request, reply: IndexedHealthChecks, asked: QueryOptions) -> Response:
        checks = [_check_json(check) for check in reply.health_checks or ()]
        return json_response(checks, request, headers=meta_headers(reply, asked), pretty=self._defaults.pretty)


def _check_json(check: HealthCheck) -> HealthCheck:
    return check if check.service_tags is not None else replace(check, service_tags=())


def _passing(request: Request, headers: dict[str, str]) -> bool:
    if "passing" not in request.query:
        return False
    text = request.query.get("passing")
    if not text:
        return True
    try:
        return parse_bool(text)
    except ValueError:
        raise HTTPError(400, "Invalid value for ?passing", headers=headers) from None


def only_passing(nodes: Sequence[CheckServiceNode]) -> list[CheckServiceNode]:
    """Instances with no check other than passing. A dropped one is replaced by the last, as Consul does it."""
    kept = list(nodes)
    position = 0
    while position < len(kept):
        if all(check.status == "passing" for check in kept[position].checks or ()):
            position += 1
        else:
            kept[position] = kept[-1]
            kept.pop()
    return kept
