"""`/v1/agent/`: this agent itself, its members, joining and leaving."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pyconsul_agent.agent.delegate import Delegate
from pyconsul_agent.interfaces.http.agent_view import member_json
from pyconsul_agent.interfaces.http.message import HTTPError, Request, Response, bad_request, json_response
from pyconsul_agent.interfaces.http.params import Defaults
from pyconsul_agent.interfaces.http.routes import Route
from pyconsul_agent.structs.member import MemberStatus
from pyconsul_agent.version import CONSUL_REVISION, CONSUL_VERSION
from pyconsul_agent.wire.gojson import Ordered

LOG_LEVELS = {"TRACE", "DEBUG", "INFO", "WARN", "ERR", "ERROR"}


class LogStream(Protocol):
    """Subscribes to the log: lines from `level` on, as they are logged."""

    def __call__(self, level: str, *, json_lines: bool) -> AsyncIterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class Actions:
    """What the agent can be asked to do."""

    leave: Callable[[], Awaitable[None]]
    stats: Callable[[], Mapping[str, Mapping[str, str]]]
    monitor: LogStream
    reload: Callable[[], Awaitable[None]] | None = None
    host: Callable[[], Mapping[str, Any]] = dict


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this agent is."""

    node_name: str
    node_id: str
    datacenter: str
    server: bool
    meta: Mapping[str, str]
    debug_config: Mapping[str, Any]


class AgentEndpoints:
    """The handlers."""

    def __init__(self, identity: Identity, delegate: Delegate, actions: Actions, defaults: Defaults) -> None:
        self._identity = identity
        self._delegate = delegate
        self._actions = actions
        self._defaults = defaults

    def show(self, identity: Identity) -> None:
        """Show this from now on (reload)."""
        self._identity = identity

    def routes(self) -> list[Route]:
        return [
            Route("/v1/agent/self", (("GET", self.self_),), "agent:read"),
            Route("/v1/agent/host", (("GET", self.host),), "operator:read"),
            Route("/v1/agent/members", (("GET", self.members),), "node:read"),
            Route("/v1/agent/join/", (("PUT", self.join),), "agent:write"),
            Route("/v1/agent/reload", (("PUT", self.reload),), "agent:write"),
            Route("/v1/agent/leave", (("PUT", self.leave),), "agent:write"),
            Route("/v1/agent/force-leave/", (("PUT", self.force_leave),), "operator:write"),
            Route("/v1/agent/monitor", (("GET", self.monitor),), "agent:read"),
        ]

    async def host(self, request: Request) -> Response:
        """The machine that the agent runs on: memory, processors, system, disk."""
        return self._json(self._actions.host(), request)

    async def self_(self, request: Request) -> Response:
        """Configuration, coordinate, member, statistics."""
        who = self._identity
        value = Ordered(
            Config=Ordered(
                Datacenter=who.datacenter,
                PrimaryDatacenter=who.datacenter,
                NodeName=who.node_name,
                NodeID=who.node_id,
                Revision=CONSUL_REVISION,
                Server=who.server,
                Version=CONSUL_VERSION,
            ),
            DebugConfig=dict(who.debug_config),
            Coord=self._delegate.lan_coordinate(),
            Member=member_json(self._delegate.local_member()),
            Stats={section: dict(values) for section, values in self._actions.stats().items()},
            Meta=dict(who.meta),
        )
        return self._json(value, request)

    async def members(self, request: Request) -> Response:
        """The members of the LAN or (`wan`) WAN pool."""
        wan = bool(request.query.get("wan"))
        segment = request.query.get("segment")
        if wan and segment and segment != "_all":
            raise HTTPError(400, "Cannot provide a segment with wan=true")
        if segment and segment != "_all":
            raise HTTPError(500, "Network segments are not supported in this version of Consul")
        members = self._delegate.wan_members() if wan else self._delegate.lan_members()
        if wan and not self._delegate.is_server:
            return self._json(None, request)
        # compat: Consul's order is random. Here those that are not alive come first, then as the pool lists them.
        ordered = sorted(members, key=lambda member: member.status is MemberStatus.ALIVE)
        return self._json([member_json(member) for member in ordered], request)

    async def join(self, request: Request) -> Response:
        """Join another member's cluster."""
        address = request.path.removeprefix("/v1/agent/join/")
        if "wan" in request.query:
            if not self._delegate.is_server:
                raise HTTPError(500, "Must be a server to join WAN cluster")
            await self._delegate.join_wan([address])
        else:
            await self._delegate.join_lan([address])
        return Response()

    async def leave(self, request: Request) -> Response:
        """Leave in order; the process ends after the answer."""
        await self._actions.leave()
        return Response()

    async def reload(self, request: Request) -> Response:
        """Read the configuration again; an error is the answer."""
        if self._actions.reload is None:
            raise HTTPError(500, "this agent has no configuration to read again")
        await self._actions.reload()
        return Response()

    async def force_leave(self, request: Request) -> Response:
        """Turn a failed member into a left one."""
        node = request.path.removeprefix("/v1/agent/force-leave/")
        await self._delegate.force_leave(node, prune="prune" in request.query)
        return Response()

    async def monitor(self, request: Request) -> Response:
        """The log as it is written."""
        level = (request.query.get("loglevel") or "INFO").upper()
        if level not in LOG_LEVELS:
            raise bad_request(f"Unknown log level: {request.query.get('loglevel')}")
        as_json = request.query.get("logjson") not in ("", "false")
        return Response(stream=self._actions.monitor(level, json_lines=as_json))

    def _json(self, value: object, request: Request) -> Response:
        return json_response(value, request, pretty=self._defaults.pretty)


__all__ = ["Actions", "AgentEndpoints", "Identity"]
