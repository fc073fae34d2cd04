"""`/v1/connect/intentions`: who may connect to whom."""

from __future__ import annotations

from dataclasses import replace

from pyconsul_agent.agent.delegate import Caller
from pyconsul_agent.errors import ConsulError
from pyconsul_agent.interfaces.http.catalog import read
from pyconsul_agent.interfaces.http.message import HTTPError, Request, Response, bad_request, json_response
from pyconsul_agent.interfaces.http.params import (
    Defaults,
    datacenter_of,
    meta_headers,
    read_fields,
    refuse_namespaces,
    token_of,
)
from pyconsul_agent.interfaces.http.routes import Route
from pyconsul_agent.structs.intention import Intention
from pyconsul_agent.structs.intention_requests import (
    IndexedIntentions,
    IntentionListRequest,
    IntentionMatchEntry,
    IntentionQueryCheck,
    IntentionQueryExact,
    IntentionQueryMatch,
    IntentionQueryRequest,
    IntentionRequest,
)
from pyconsul_agent.structs.methods_mesh import (
    INTENTION_APPLY,
    INTENTION_CHECK,
    INTENTION_GET,
    INTENTION_LIST,
    INTENTION_MATCH,
)
from pyconsul_agent.wire.gojson import Ordered
from pyconsul_agent.wire.gojson_reader import decode, parse
from pyconsul_agent.wire.gotypes import quote

PREFIX = "/v1/connect/intentions/"
NAMESPACE = "default"
SET_BY_SERVERS = ("createdat", "updatedat", "hash")
NOT_FOUND = "Intention not found"


class Intentions:
    """The handlers."""

    def __init__(self, caller: Caller, defaults: Defaults) -> None:
        self._caller = caller
        self._defaults = defaults

    def routes(self) -> list[Route]:
        exact = (("GET", self.exact), ("PUT", self.put_exact), ("DELETE", self.delete_exact))
        single = (("GET", self.single), ("PUT", self.put), ("DELETE", self.delete))
        every = (("GET", self.list), ("POST", self.create))
        access = "intentions:read,intentions:write"
        return [
            Route("/v1/connect/intentions", every, access, blocking=True),
            Route(PREFIX + "match", (("GET", self.match),), "intentions:read", blocking=True),
            Route(PREFIX + "check", (("GET", self.check),), "intentions:read"),
            Route(PREFIX + "exact", exact, access),
            Route(PREFIX, single, access),
        ]

    def _answer(self, request: Request, value: object, headers: dict[str, str] | None = None) -> Response:
        return json_response(value, request, pretty=self._defaults.pretty, headers=headers)

    # --- reads ----------------------------------------------------------------------------------------------------

    async def list(self, request: Request) -> Response:
        """Every intention, those of higher precedence first."""
        fields = read_fields(request, self._defaults)
        refuse_namespaces(request)
        asked = IntentionListRequest(datacenter=datacenter_of(request, self._defaults), **fields)
        reply = await read(self._caller, INTENTION_LIST, asked)
        return self._answer(request, reply.intentions or (), meta_headers(reply))

    async def match(self, request: Request) -> Response:
        """What applies to each of the names given."""
        fields = read_fields(request, self._defaults)
        refuse_namespaces(request)
        by = _required(request, "by")
        if by not in ("source", "destination"):
            raise HTTPError(500, "'by' parameter must be one of 'source' or 'destination'")
        _required(request, "name")
        names = [_name_of("name", text) for text in request.query.all("name")]
        entries = tuple(IntentionMatchEntry(namespace=NAMESPACE, name=name) for name in names)
        asked = IntentionQueryRequest(
            datacenter=datacenter_of(request, self._defaults),
            match=IntentionQueryMatch(type=by, entries=entries),
            **fields,
        )
        reply = await read(self._caller, INTENTION_MATCH, asked)
        rows = {name: found or () for name, found in zip(names, reply.matches or (), strict=False)}
        headers = meta_headers(reply, asked)
        if asked.use_cache:
            headers["X-Cache"] = "MISS"
        return self._answer(request, rows, headers)

    async def check(self, request: Request) -> Response:
        """Whether a source may connect to a destination."""
        fields = read_fields(request, self._defaults)
        refuse_namespaces(request)
        source, destination = _pair(request)
        asked = IntentionQueryRequest(
            datacenter=datacenter_of(request, self._defaults),
            check=IntentionQueryCheck(
                source_ns=NAMESPACE,
                source_name=source,
                destination_ns=NAMESPACE,
                destination_name=destination,
                source_type=request.query.get("source-type") or "consul",
            ),
            **fields,
        )
        reply = await self._caller.call(INTENTION_CHECK, asked)
        return self._answer(request, reply)

    async def exact(self, request: Request) -> Response:
        """The intention between two names."""
        fields = read_fields(request, self._defaults)
        refuse_namespaces(request)
        source, destination = _pair(request)
        asked = IntentionQueryRequest(
            datacenter=datacenter_of(request, self._defaults),
            exact=IntentionQueryExact(
                source_ns=NAMESPACE, source_name=source, destination_ns=NAMESPACE, destination_name=destination
            ),
            **fields,
        )
        return self._one(request, await self._get(asked))

    async def single(self, request: Request) -> Response:
        """The intention with an ID."""
        fields = read_fields(request, self._defaults)
        refuse_namespaces(request)
        identity = request.path[len(PREFIX) :]
        if not identity:
            raise HTTPError(404, NOT_FOUND)
        asked = IntentionQueryRequest(
            datacenter=datacenter_of(request, self._defaults), intention_id=identity, **fields
        )
        return self._one(request, await self._get(asked))

    async def _get(self, asked: IntentionQueryRequest) -> IndexedIntentions:
        try:
            return await self._caller.call(INTENTION_GET, asked)
        except ConsulError as error:
            text = str(error)
            if NOT_FOUND in text:
                raise HTTPError(404, text) from error
            if "UUID" in text:
                raise bad_request(text) from error
            raise

    def _one(self, request: Request, reply: IndexedIntentions) -> Response:
        rows = reply.intentions or ()
        if len(rows) != 1:
            raise HTTPError(404, NOT_FOUND)
        return self._answer(request, rows[0])

    # --- writes ---------------------------------------------------------------------------------------------------

    async def create(self, request: Request) -> Response:
        """Make an intention with a new ID."""
        try:
            row = _body(request)
        except ValueError as error:
            raise HTTPError(500, f"Failed to decode request body: {error}") from None
        identity = await self._apply(request, "create", _plain_names(row))
        return self._answer(request, Ordered(ID=identity))

    async def put(self, request: Request) -> Response:
        """Change the intention with an ID."""
        row = replace(self._decoded(request), id=request.path[len(PREFIX) :])
        await self._apply(request, "update", _plain_names(row))
        return self._answer(request, Ordered(ID=row.id))

    async def put_exact(self, request: Request) -> Response:
        """Make or change the intention between two names; names in the body mean nothing."""
        source, destination = _pair(request)
        row = replace(self._decoded(request), source_name=source, destination_name=destination, precedence=0)
        await self._apply(request, "upsert", replace(row, source_ns=NAMESPACE, destination_ns=NAMESPACE))
        return self._answer(request, True)

    async def delete(self, request: Request) -> Response:
        """Delete the intention with an ID."""
        await self._apply(request, "delete", Intention(id=request.path[len(PREFIX) :]))
        return self._answer(request, True)

    async def delete_exact(self, request: Request) -> Response:
        """Delete the intention between two names; if there is none, that is fine."""
        source, destination = _pair(request)
        row = Intention(source_ns=NAMESPACE, source_name=source, destination_ns=NAMESPACE, destination_name=destination)
        await self._apply(request, "delete", row)
        return self._answer(request, True)

    def _decoded(self, request: Request) -> Intention:
        try:
            return _body(request)
        except ValueError as error:
            raise bad_request(f"Request decode failed: {error}") from None

    async def _apply(self, request: Request, op: str, row: Intention) -> str:
        refuse_namespaces(request)
        asked = IntentionRequest(
            datacenter=datacenter_of(request, self._defaults),
            op=op,
            intention=row,
            token=token_of(request, self._defaults),
        )
        return await self._caller.call(INTENTION_APPLY, asked)


def _body(request: Request) -> Intention:
    value = parse(request.body)
    if isinstance(value, dict):
        value = {name: item for name, item in value.items() if name.lower() not in SET_BY_SERVERS}
    return decode(Intention, value)


def _plain_names(row: Intention) -> Intention:
    """The intention in the only namespace there is. Raises HTTPError for another."""
    for side, namespace in (("SourceNS", row.source_ns), ("DestinationNS", row.destination_ns)):
        if namespace not in ("", NAMESPACE):
            raise bad_request(f"Invalid {side}({namespace}): Namespaces is a Consul Enterprise feature")
    return replace(row, source_ns=NAMESPACE, destination_ns=NAMESPACE)


def _required(request: Request, name: str) -> str:
    value = request.query.get(name)
    if not value:
        raise HTTPError(500, f"required query parameter '{name}' not set")
    return value


def _pair(request: Request) -> tuple[str, str]:
    """The names that `source` and `destination` give."""
    source = _name_of("source", _required(request, "source"))
    return source, _name_of("destination", _required(request, "destination"))


def _name_of(parameter: str, text: str) -> str:
    """A name, perhaps behind its namespace. Raises HTTPError."""
    if text.count("/") > 1:
        raise HTTPError(500, f"{parameter} {quote(text)} is invalid: input can contain at most one '/'")
    namespace, slash, name = text.rpartition("/")
    if slash and namespace != NAMESPACE:
        raise bad_request(f"Invalid {parameter}({namespace}): Namespaces is a Consul Enterprise feature")
    return name
