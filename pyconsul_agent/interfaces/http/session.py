"""`/v1/session/`: sessions, on which locks stand."""

from __future__ import annotations

from typing import Any

from pyconsul_agent.agent.delegate import Caller
from pyconsul_agent.interfaces.http.catalog import read
from pyconsul_agent.interfaces.http.message import HTTPError, Request, Response, json_response
from pyconsul_agent.interfaces.http.params import Defaults, datacenter_of, meta_headers, read_fields, token_of
from pyconsul_agent.interfaces.http.routes import Route
from pyconsul_agent.structs.base import Duration
from pyconsul_agent.structs.methods import (
    SESSION_APPLY,
    SESSION_GET,
    SESSION_LIST,
    SESSION_NODE_SESSIONS,
    SESSION_RENEW,
)
from pyconsul_agent.structs.requests import NodeSpecificRequest, SessionRequest, SessionSpecificRequest
from pyconsul_agent.structs.session import ServiceCheck, Session
from pyconsul_agent.wire.gojson import Ordered
from pyconsul_agent.wire.gojson_reader import kind_of, mismatch, parse
from pyconsul_agent.wire.gotypes import parse_duration

LOCK_DELAY_DEFAULT = Duration(15_000_000_000)
LOCK_DELAY_IN_SECONDS_BELOW = 1000
"""A LockDelay below this many nanoseconds was surely meant in seconds."""


class Sessions:
    """The handlers."""

    def __init__(self, caller: Caller, defaults: Defaults) -> None:
        self._caller = caller
        self._defaults = defaults

    def routes(self) -> list[Route]:
        return [
            Route("/v1/session/create", (("PUT", self.create),), "session:write"),
            Route("/v1/session/destroy/", (("PUT", self.destroy),), "session:write"),
            Route("/v1/session/renew/", (("PUT", self.renew),), "session:write"),
            Route("/v1/session/info/", (("GET", self.info),), "session:read", blocking=True),
            Route("/v1/session/node/", (("GET", self.node),), "session:read", blocking=True),
            Route("/v1/session/list", (("GET", self.list),), "session:read", blocking=True),
        ]

    async def create(self, request: Request) -> Response:
        """Make a session; without a body, one of this node bound to its serfHealth."""
        session = Session(
            node=self._defaults.node_name,
            node_checks=("serfHealth",),
            lock_delay=LOCK_DELAY_DEFAULT,
            behavior="release",
        )
        if request.body or (request.body_length is None and "transfer-encoding" in request.headers):
            try:
                session = _decode(parse(request.body), session)
            except ValueError as error:
                raise HTTPError(400, f"Request decode failed: {error}") from None
        reply = await self._apply(request, "create", session)
        return json_response(Ordered(ID=reply), request, pretty=self._defaults.pretty)

    async def destroy(self, request: Request) -> Response:
        """End a session; true even if there is none."""
        identity = _rest(request, "/v1/session/destroy/")
        if not identity:
            raise HTTPError(400, "Missing session")
        await self._apply(request, "destroy", Session(id=identity))
        return json_response(True, request, pretty=self._defaults.pretty)

    async def renew(self, request: Request) -> Response:
        """Restart the TTL."""
        identity = _rest(request, "/v1/session/renew/")
        if not identity:
            raise HTTPError(400, "Missing session")
        reply = await self._caller.call(
            SESSION_RENEW,
            SessionSpecificRequest(
                datacenter=datacenter_of(request, self._defaults),
                session_id=identity,
                session=identity,
                token=token_of(request, self._defaults),
            ),
        )
        if not reply.sessions:
            raise HTTPError(404, f"Session id '{identity}' not found")
        return json_response(reply.sessions, request, pretty=self._defaults.pretty)

    async def info(self, request: Request) -> Response:
        """A list of the one session, empty if there is none."""
        identity = _rest(request, "/v1/session/info/")
        fields = read_fields(request, self._defaults)
        if not identity:
            raise HTTPError(400, "Missing session")
        datacenter = datacenter_of(request, self._defaults)
        asked = SessionSpecificRequest(datacenter=datacenter, session_id=identity, session=identity, **fields)
        return self._listed(request, await read(self._caller, SESSION_GET, asked))

    async def list(self, request: Request) -> Response:
        """Every session of the datacenter."""
        fields = read_fields(request, self._defaults)
        asked = SessionSpecificRequest(datacenter=datacenter_of(request, self._defaults), **fields)
        return self._listed(request, await read(self._caller, SESSION_LIST, asked))

    async def node(self, request: Request) -> Response:
        """The sessions of a node."""
        node = _rest(request, "/v1/session/node/")
        fields = read_fields(request, self._defaults)
        if not node:
            raise HTTPError(400, "Missing node name")
        asked = NodeSpecificRequest(datacenter=datacenter_of(request, self._defaults), node=node, **fields)
        return self._listed(request, await read(self._caller, SESSION_NODE_SESSIONS, asked))

    def _listed(self, request: Request, reply: Any) -> Response:
        headers = meta_headers(reply)
        return json_response(reply.sessions or (), request, headers=headers, pretty=self._defaults.pretty)

    async def _apply(self, request: Request, operation: str, session: Session) -> str:
        return await self._caller.call(
            SESSION_APPLY,
            SessionRequest(
                datacenter=datacenter_of(request, self._defaults),
                op=operation,
                session=session,
                token=token_of(request, self._defaults),
            ),
        )


def _rest(request: Request, prefix: str) -> str:
    return request.path[len(prefix) :]


def _decode(value: Any, default: Session) -> Session:
    """The body of create over its defaults; unknown fields are ignored. Raises ValueError with Go's text."""
    if value is None:
        return default
    if not isinstance(value, dict):
        raise mismatch(value, "", "structs.Session")
    given = {name.lower(): item for name, item in value.items() if item is not None}
    node_checks = _strings(given, "NodeChecks")
    legacy = _strings(given, "Checks")
    if legacy is not None and not legacy:
        # compat: an empty old list empties the one that has replaced it
        node_checks, legacy = node_checks or (), None
    elif legacy == (node_checks or default.node_checks):
        legacy = None
    if "checks" in {name.lower() for name in value} and legacy is None and "nodechecks" in given:
        # "Checks": null empties the list that it shares with NodeChecks (Consul 1.10.11, measured).
        node_checks = ()
    return Session(
        name=_text(given, "Name", default.name),
        node=_text(given, "Node", default.node),
        lock_delay=_lock_delay(given.get("lockdelay"), default.lock_delay),
        behavior=_text(given, "Behavior", default.behavior),
        ttl=_text(given, "TTL", default.ttl),
        node_checks=default.node_checks if node_checks is None else node_checks,
        service_checks=_service_checks(given.get("servicechecks")),
        checks=legacy,
    )


def _text(given: dict[str, Any], name: str, default: str) -> str:
    value = given.get(name.lower(), default)
    if not isinstance(value, str):
        raise mismatch(value, name, "string")
    return value


def _strings(given: dict[str, Any], name: str) -> tuple[str, ...] | None:
    value = given.get(name.lower())
    if value is None:
        return None
    if not isinstance(value, list):
        raise mismatch(value, name, "[]types.CheckID")
    for item in value:
        if not isinstance(item, str):
            raise mismatch(item, name, "types.CheckID")
    return tuple(value)


def _lock_delay(value: Any, default: Duration) -> Duration:
    if isinstance(value, str):
        span = int(parse_duration(value))
    elif isinstance(value, int | float) and kind_of(value) == "number":
        span = int(value)
    else:
        return default
    return Duration(span * 1_000_000_000 if span < LOCK_DELAY_IN_SECONDS_BELOW else span)


def _service_checks(value: Any) -> tuple[ServiceCheck, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise mismatch(value, "ServiceChecks", "[]structs.ServiceCheck")
    checks = []
    for item in value:
        if not isinstance(item, dict):
            raise mismatch(item, "ServiceChecks", "structs.ServiceCheck")
        given = {name.lower(): part for name, part in item.items() if part is not None}
        checks.append(ServiceCheck(id=_text(given, "ID", ""), namespace=_text(given, "Namespace", "")))
    return tuple(checks)
