"""The visible list of routes and how a path finds its place in it.

A pattern is exact, or a prefix when it ends in `/`; the longest match wins. A prefix asked for without its slash is
redirected to the one with it. The methods stand in the order in which `Allow` names them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from pyconsul_agent.interfaces.http.message import Request, Response

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint. `access` names what authorizes it, so that no route exists without an answer to that question.

    `body_bytes_max` bounds the request's body (None: streamed by the handler).
    """

    pattern: str
    methods: tuple[tuple[str, Handler], ...]
    access: str
    blocking: bool = False
    body_bytes_max: int | None = 512 * 1024
    body_setting: str = "kv_max_value_size"
    """The setting that a refusal of a longer body names."""
    chunked_bytes_max: int = 0
    """A limit of its own for bodies whose length is not declared, where it is larger."""
    state: str = ""
    """The part of the state (see `Delegate.stamp`) that a GET without token or unusual consistency is a function of,
    with the request; its answer may then be given again while that part is unchanged. Empty: never."""
    any_method: Handler | None = None
    """Takes every request, of whatever method, and refuses by itself; `methods` then only tell what there is."""

    def handler(self, method: str) -> Handler | None:
        """The handler of `method`, if there is one."""
        if self.any_method is not None:
            return self.any_method
        for name, handler in self.methods:
            if name == method:
                return handler
        return None

    @property
    def allow(self) -> str:
        """The `Allow` header."""
        return ",".join(["OPTIONS", *(name for name, _ in self.methods)])


class RouteTable:
    """All routes, searchable by path."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._exact = {route.pattern: route for route in routes if not route.pattern.endswith("/")}
        prefixes = [route for route in routes if route.pattern.endswith("/")]
        self._prefixes = {route.pattern: route for route in prefixes}
        self._depth = max((route.pattern.count("/") for route in prefixes), default=0)
        self._without_slash = {route.pattern[:-1] for route in prefixes} - self._exact.keys()
        assert len({route.pattern for route in routes}) == len(routes), "two routes share a pattern"

    def find(self, path: str) -> Route | None:
        """The route of a decoded, clean path."""
        route = self._exact.get(path)
        if route is not None:
            return route
        end = 0
        for _ in range(self._depth):
            end = path.find("/", end) + 1
            if not end:
                break
            route = self._prefixes.get(path[:end], route)
        return route

    def redirect(self, path: str) -> str | None:
        """Where a path that misses only its final slash should go."""
        return path + "/" if path in self._without_slash else None
