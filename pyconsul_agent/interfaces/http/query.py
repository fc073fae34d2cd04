"""`/v1/query`: prepared queries, stored under an id and perhaps a name, and run by either."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

from pyconsul_agent.agent import cache
from pyconsul_agent.agent.delegate import Caller
from pyconsul_agent.interfaces.http.catalog import ReplyT, RequestT, read, read_cached
from pyconsul_agent.interfaces.http.message import HTTPError, Request, Response, json_response, text_response
from pyconsul_agent.interfaces.http.params import (
    Defaults,
    datacenter_of,
    effective_consistency,
    meta_headers,
    read_fields,
    source_of,
    token_of,
)
from pyconsul_agent.interfaces.http.routes import Route
from pyconsul_agent.structs.methods import (
    PREPARED_QUERY_APPLY,
    PREPARED_QUERY_EXPLAIN,
    PREPARED_QUERY_GET,
    PREPARED_QUERY_LIST,
    Method,
)
from pyconsul_agent.structs.prepared_query import PreparedQuery
from pyconsul_agent.structs.requests import (
    DCSpecificRequest,
    PreparedQueryExecuteRequest,
    PreparedQueryRequest,
    PreparedQuerySpecificRequest,
    QueryMeta,
    QueryOptions,
    QuerySource,
)
from pyconsul_agent.wire.gojson import Ordered
from pyconsul_agent.wire.gojson_reader import decode, parse
from pyconsul_agent.wire.gotypes import parse_bool, parse_int

PREFIX = "/v1/query/"
EXECUTE = "/execute"
EXPLAIN = "/explain"
NOT_FOUND = "Query not found"


class PreparedQueries:
    """The handlers."""

    def __init__(self, caller: Caller, defaults: Defaults, kept: cache.Cache) -> None:
        self._caller = caller
        self._defaults = defaults
        self._cache = kept

    def routes(self) -> list[Route]:
        one = (("GET", self.get), ("PUT", self.update), ("DELETE", self.delete))
        return [
            Route("/v1/query", (("GET", self.list), ("POST", self.create)), "query:read, query:write", blocking=True),
            Route(PREFIX, one, "query:read, query:write", blocking=True, any_method=self.specific),
        ]

    async def list(self, request: Request) -> Response:
        """Every prepared query of the datacenter."""
        fields = read_fields(request, self._defaults)
        asked = DCSpecificRequest(datacenter=datacenter_of(request, self._defaults), **fields)
        reply = await read(self._caller, PREPARED_QUERY_LIST, asked)
        return self._shown(request, reply.queries or (), reply, asked)

    async def create(self, request: Request) -> Response:
        """Store a query; the answer is its id."""
        reply = await self._apply(request, "create", _body(request))
        return json_response(Ordered(ID=reply), request, pretty=self._defaults.pretty)

    async def specific(self, request: Request) -> Response:
        """What stands below the prefix: the methods that a path takes depend on how it ends."""
        action = next((end for end in (EXECUTE, EXPLAIN) if request.path.endswith(end)), "")
        handlers = {
            "": {"GET": self.get, "PUT": self.update, "DELETE": self.delete},
            EXECUTE: {"GET": self.execute},
            EXPLAIN: {"GET": self.explain},
        }[action]
        if request.method == "OPTIONS":
            headers = {"Allow": ",".join(["OPTIONS", *handlers])}
            return json_response({}, request, headers=headers, pretty=self._defaults.pretty)
        if request.method not in handlers:
            # compat: unlike elsewhere, OPTIONS is not among what this Allow names
            text, headers = f"method {request.method} not allowed", {"Allow": ",".join(handlers)}
            return text_response(text, status=405, headers=headers)
        return await handlers[request.method](request)

    async def get(self, request: Request) -> Response:
        """A list of the one query; with `/execute` its instances, with `/explain` the query that a template gives."""
        fields = read_fields(request, self._defaults)
        asked = PreparedQuerySpecificRequest(
            datacenter=datacenter_of(request, self._defaults), query_id=_identity(request), **fields
        )
        reply = await self._found(PREPARED_QUERY_GET, asked)
        return self._shown(request, reply.queries or (), reply, asked)

    async def update(self, request: Request) -> Response:
        """Replace a query."""
        await self._apply(request, "update", replace(_body(request), id=_identity(request)))
        return Response()

    async def delete(self, request: Request) -> Response:
        """Forget a query."""
        await self._apply(request, "delete", PreparedQuery(id=_identity(request)))
        return Response()

    async def execute(self, request: Request) -> Response:
        """The instances that a query finds."""
        asked = self._execution(request, EXECUTE)
        if connect := request.query.get("connect"):
            try:
                asked = replace(asked, connect=parse_bool(connect))
            except ValueError as error:
                raise HTTPError(500, f"Error parsing 'connect' value: {error}") from None
        try:
            reply, headers = await read_cached(self._caller, self._cache, cache.QUERY_EXECUTE, asked)
        except HTTPError as error:
            raise _not_found(error) from None
        shown = Ordered(
            Service=reply.service,
            Nodes=reply.nodes or (),
            DNS=reply.dns,
            Datacenter=reply.datacenter,
            Failovers=reply.failovers,
            **_meta(reply, asked),
        )
        response = self._shown(request, shown, reply, asked)
        response.headers.update(headers)
        return response

    async def explain(self, request: Request) -> Response:
        """The query that would run for a name."""
        asked = self._execution(request, EXPLAIN)
        reply = await self._found(PREPARED_QUERY_EXPLAIN, asked)
        return self._shown(request, Ordered(Query=reply.query, **_meta(reply, asked)), reply, asked)

    def _execution(self, request: Request, end: str) -> PreparedQueryExecuteRequest:
        fields = read_fields(request, self._defaults)
        text = request.query.get("limit")
        try:
            limit = parse_int(text) if text else 0
        except ValueError as error:
            raise HTTPError(500, f"Bad limit: {error}") from None
        defaults = self._defaults
        datacenter = datacenter_of(request, defaults)
        return PreparedQueryExecuteRequest(
            datacenter=datacenter,
            query_id_or_name=_identity(request).removesuffix(end),
            limit=limit,
            source=replace(source_of(request, defaults), datacenter=datacenter, ip=client_address(request)),
            agent=QuerySource(datacenter=defaults.datacenter, node=defaults.node_name),
            **fields,
        )

    async def _found(self, method: Method[RequestT, ReplyT], asked: RequestT) -> ReplyT:
        try:
            return await read(self._caller, method, asked)
        except HTTPError as error:
            raise _not_found(error) from None

    async def _apply(self, request: Request, operation: str, query: PreparedQuery) -> str:
        asked = PreparedQueryRequest(
            datacenter=datacenter_of(request, self._defaults),
            op=operation,
            query=query,
            token=token_of(request, self._defaults),
        )
        return await self._caller.call(PREPARED_QUERY_APPLY, asked)

    def _shown(self, request: Request, value: object, reply: QueryMeta, asked: QueryOptions) -> Response:
        return json_response(value, request, headers=meta_headers(reply, asked), pretty=self._defaults.pretty)


def client_address(request: Request) -> str:
    """Who asks, for `Near: _ip`: the first address of `X-Forwarded-For`, else the other end of the connection."""
    forwarded = request.headers.get("x-forwarded-for", "").split(",")[0].strip()
    for text in (forwarded, request.remote):
        try:
            return str(ipaddress.ip_address(text))
        except ValueError:
            continue
    return ""


def _not_found(error: HTTPError) -> HTTPError:
    """What is answered instead of an error: 404 when it says that there is no such query."""
    return HTTPError(404, error.text) if NOT_FOUND in error.text else error


def _identity(request: Request) -> str:
    return request.path.removeprefix(PREFIX)


def _body(request: Request) -> PreparedQuery:
    try:
        return decode(PreparedQuery, parse(request.body))
    except ValueError as error:
        raise HTTPError(400, f"Request decode failed: {error}") from None


def _meta(reply: QueryMeta, asked: QueryOptions) -> dict[str, object]:
    """What these answers, unlike others, show of the meta data in their body."""
    return {
        "Index": reply.index,
        "LastContact": reply.last_contact,
        "KnownLeader": reply.known_leader,
        "ConsistencyLevel": effective_consistency(asked),
        "NotModified": reply.not_modified,
        "Backend": reply.backend,
    }
