"""What every request goes through, in Consul's order: path rules, routing, blocks, methods, the handler, errors."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import ConsulError, RPCRateExceeded
from pyconsul_agent.interfaces.http.message import (
    TEXT,
    BadQuery,
    HTTPError,
    Query,
    Request,
    Response,
    percent_decode,
    text_response,
)
from pyconsul_agent.interfaces.http.routes import Route, RouteTable
from pyconsul_agent.structs.base import value

READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that `allow_write_http_from` lets everybody use."""


NOT_REPEATABLE = frozenset({"index", "wait", "consistent", "cached", "max_stale", "dc", "token"})
"""Parameters that make an answer depend on more than the state: it waits, asks others, or is for one's eyes only."""
NOT_REPEATABLE_HEADERS = ("cache-control", "x-consul-token", "authorization")

Observe = Callable[[str, str, int, float], None]
"""observe(pattern of the route, method, status, seconds)"""


@dataclass(frozen=True, slots=True)
class Rules:
    """The agent's `http_config` and the like."""

    response_headers: Mapping[str, str] = field(default_factory=dict)
    block_endpoints: Sequence[str] = ()
    allow_write_from: Sequence[str] = ()
    filter_unprintable: bool = True
    default_policy: str = "allow"
    translate_addresses: bool = False


@value
class Target:
    """A request line's target, taken apart: `route` is None where nothing is registered."""

    path: str
    query: Query | None
    route: Route | None


class Pipeline:
    """Applies the rules around the handlers. `fallback` answers paths outside `/v1/` (root, UI)."""

    def __init__(
        self,
        table: RouteTable,
        rules: Rules,
        log: Log,
        *,
        fallback: Callable[[Request], Response | None] | None = None,
        stamp: Callable[[str], Hashable | None] = lambda part: None,
        observe: Observe | None = None,
        now: Callable[[], float] = lambda: 0.0,
        again: dict[str, int] | None = None,
    ) -> None:
        """`stamp` is `Delegate.stamp`; `again` counts, by pattern, answers that were given again without a handler."""
        self._observe = observe
        self.again: dict[str, int] = {} if again is None else again
        self._now = now
        self._table = table
        self._rules = rules
        self._log = log
        self._fallback = fallback
        self._write_networks = [ipaddress.ip_network(text, strict=False) for text in rules.allow_write_from]
        self._common = dict(rules.response_headers)
        self._blocked = tuple(rules.block_endpoints)
        self._v1 = self._v1_headers()
        self._stamp = stamp
        self._reloads = 0

    def set_response_headers(self, headers: Mapping[str, str]) -> None:
        """Send these with every answer from now on (reload)."""
        self._common = dict(headers)
        self._v1 = self._v1_headers()
        self._reloads += 1

    def at_once(
        self, target: Target, request: Request, *, again: bool = True
    ) -> tuple[Response, Hashable | None] | None:
        """The answer, if it depends on state that is here and can be had without waiting; None if not.

        With it comes the stamp under which it may be given `again`, if any. No task is made: the handler runs here, and
        a read that finds that it must wait after all (the lease ended meanwhile) is given up, to be asked in a task.
        """
        if target.route is None or not self.repeatable(target, request):
            return None
        stamp = self.stamp(target.route)
        if stamp is None:
            return None
        work = self.answer(target, request)
        try:
            work.send(None)
        except StopIteration as done:
            return done.value, stamp if again and stamp == self.stamp(target.route) else None
        work.close()
        return None

    def stamp(self, route: Route) -> Hashable | None:
        """While this stays equal, repeatable requests of `route` are answered alike; None when that is not known."""
        state = self._stamp(route.state)
        return None if state is None else (state, self._reloads)

    @staticmethod
    def repeatable(target: Target, request: Request) -> bool:
        """Whether the answer depends on nothing but the request and the state that its route names."""
        if target.route is None or not target.route.state or request.method != "GET" or request.body:
            return False
        if any(name in NOT_REPEATABLE for name, _ in request.query.pairs):
            return False
        return not any(name in request.headers for name in NOT_REPEATABLE_HEADERS)

    def locate(self, raw_target: str, method: str) -> Target | Response:
        """Decode, clean and route a raw target before its body is read; a Response ends the matter."""
        if raw_target == "*" and method == "OPTIONS":
            return Response(200)
        raw_path, _, raw_query = raw_target.partition("?")
        if not raw_path.startswith("/") and (
            "://" in raw_path.split("/", 1)[0] + "/" or raw_path.startswith(("http://", "https://"))
        ):
            raw_path = "/" + raw_path.split("://", 1)[1].partition("/")[2]
        try:
            path = percent_decode(raw_path) if "%" in raw_path else raw_path
        except BadQuery:
            return Response(400, b"400 Bad Request", TEXT, close=True, bare=True)
        if self._rules.filter_unprintable and not _printable(path):
            return Response(400)
        if (clean := clean_path(path)) != path:
            return self._redirect(clean, raw_query, method)
        if (moved := self._table.redirect(path)) is not None:
            return self._redirect(moved, raw_query, method)
        try:
            query: Query | None = Query(raw_query)
        except BadQuery:
            query = None
        return Target(path, query, self._table.find(path))

    def _redirect(self, path: str, raw_query: str, method: str) -> Response:
        location = quote(path, safe="/$&+,:;=@~!*'()", errors="surrogateescape") + (
            f"?{raw_query}" if raw_query else ""
        )
        response = Response(301, headers={**self._common, "Location": location})
        if method == "GET":
            escaped = location.replace("&", "&amp;").replace('"', "&#34;").replace("<", "&lt;").replace(">", "&gt;")
            response.body = f'<a href="{escaped}">Moved Permanently</a>.\n\n'.encode("utf-8", "surrogateescape")
            response.content_type = "text/html; charset=utf-8"
        return response

    def refuse(self, target: Target, method: str, remote: str) -> Response | None:
        """What ends a request to a route before its body is read: a Response, or None to go on."""
        if target.route is None:
            return None
        response = self._refusal(target, target.route, method, remote)
        return None if response is None else self.dressed(response)

    def dressed(self, response: Response) -> Response:
        """A response of a route with the headers that all of them carry."""
        response.headers = {**self._v1, **response.headers}
        return response

    async def answer(self, target: Target, request: Request) -> Response:
        """Run the request through the rules and its handler."""
        if target.route is None:
            other = self._fallback(request) if self._fallback is not None else None
            response = other or Response(404)
            response.headers = {**self._common, **response.headers}
            return response
        refusal = self._refusal(target, target.route, request.method, request.remote)
        if refusal is not None:
            return self.dressed(refusal)
        handler = target.route.handler(request.method)
        assert handler is not None, "refused"
        began = self._now()
        try:
            response = await handler(request)
        except Exception as error:
            response = self._failed(request, error)
        self.dressed(response)
        if self._observe is not None:
            self._observe(target.route.pattern, request.method, response.status, self._now() - began)
        return response

    def _v1_headers(self) -> dict[str, str]:
        headers = dict(self._common)
        headers["Vary"] = "Accept-Encoding"
        headers["X-Consul-Default-Acl-Policy"] = self._rules.default_policy
        if self._rules.translate_addresses:
            headers["X-Consul-Translate-Addresses"] = "true"
        return headers

    def _refusal(self, target: Target, route: Route, method: str, remote: str) -> Response | None:
        if target.query is None:
            return Response(500)
        if self._blocked and target.path.startswith(self._blocked):
            return text_response("Endpoint is blocked by agent configuration", status=403)
        if method == "OPTIONS" and route.any_method is None:
            return Response(200, headers={"Allow": route.allow})
        if route.handler(method) is None:
            body = "" if method == "HEAD" else f"method {method} not allowed"
            return text_response(body, status=405, headers={"Allow": route.allow})
        if method not in READING and self._write_networks and not self._may_write(remote):
            return text_response("Access is restricted", status=403)
        return None

    def _failed(self, request: Request, error: Exception) -> Response:
        """The answer to a request whose handler raised."""
        if isinstance(error, HTTPError):
            return error.response()
        if isinstance(error, ConsulError):
            return text_response(str(error), status=status_of(error), headers=dict(getattr(error, "headers", {})))
        self._log.error(
            "Request failed", method=request.method, url=redact(request), from_=request.remote, error=repr(error)
        )
        return text_response("internal error", status=500)

    def _may_write(self, remote: str) -> bool:
        try:
            address = ipaddress.ip_address(remote)
        except ValueError:
            return False
        return any(address in network for network in self._write_networks)


def status_of(error: ConsulError) -> int:
    """The status that an error's class and text ask for; the text test also covers errors that crossed an RPC."""
    text = str(error)
    if "Permission denied" in text or "ACL not found" in text:
        return 403
    if isinstance(error, RPCRateExceeded) or "RPC rate limit exceeded" in text:
        return 429
    return 500


def redact(request: Request) -> str:
    """The request's path and parameters for a log line, secrets hidden."""
    parts = [f"{key}={'<hidden>' if key == 'token' else value}" for key, value in request.query.pairs]
    return request.path + ("?" + "&".join(parts) if parts else "")


def clean_path(path: str) -> str:
    """`path` without `//`, `.` and `..`, a final slash kept; what Go's mux redirects to."""
    if not path.startswith("/"):
        path = "/" + path
    if "//" not in path and "/." not in path:
        return path
    out: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if out:
                out.pop()
        elif part not in ("", "."):
            out.append(part)
    clean = "/" + "/".join(out)
    if path.endswith(("/", "/.", "/..")) and clean != "/":
        # Go keeps the slash only where the path itself ended with one.
        return clean + "/" if path.endswith("/") else clean
    return clean


def _printable(path: str) -> bool:
    if path.isascii():
        return path.isprintable()
    return all(character.isprintable() or "\udc80" <= character <= "\udcff" for character in path)
