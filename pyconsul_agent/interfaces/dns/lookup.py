"""Answers one question: makes the look-ups that its plan asks for and builds the reply. Knows no sockets."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pyconsul_agent.agent.cache import HEALTH_NODES, NODE_SERVICES, QUERY_EXECUTE, Cache, Kind
from pyconsul_agent.agent.delegate import Caller
from pyconsul_agent.env.base import Clock
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import RPCError
from pyconsul_agent.interfaces.dns import plan as plans
from pyconsul_agent.interfaces.dns import resolve
from pyconsul_agent.interfaces.dns.config import DNSConfig
from pyconsul_agent.interfaces.dns.finish import Instances, Outcome
from pyconsul_agent.interfaces.dns.prepared import LocalCatalog, order
from pyconsul_agent.interfaces.dns.recursor import Recursor
from pyconsul_agent.interfaces.dns.resolve import Asked, Built
from pyconsul_agent.structs.base import NANOSECONDS_PER_SECOND, duration, seconds
from pyconsul_agent.structs.catalog import Node
from pyconsul_agent.structs.health import CheckServiceNode
from pyconsul_agent.structs.methods import (
    CATALOG_LIST_NODES,
    CATALOG_NODE_SERVICES,
    CATALOG_SERVICE_NODES,
    HEALTH_SERVICE_NODES,
    PREPARED_QUERY_EXECUTE,
    Method,
)
from pyconsul_agent.structs.requests import (
    DCSpecificRequest,
    NodeSpecificRequest,
    PreparedQueryExecuteRequest,
    QueryMeta,
    QueryOptions,
    QuerySource,
    ServiceSpecificRequest,
)
from pyconsul_agent.telemetry.net_meters import STALE_S
from pyconsul_agent.wire.dns import ANY, IN, NOERROR, NOTIMP, NXDOMAIN, SERVFAIL, SOA, TXT, Query, Record

RequestT = TypeVar("RequestT", bound=QueryOptions)
ReplyT = TypeVar("ReplyT", bound=QueryMeta)

CACHED: dict[str, Kind[Any, Any]] = {kind.method.name: kind for kind in (HEALTH_NODES, NODE_SERVICES, QUERY_EXECUTE)}
"""What `use_cache` takes from the cache, by method; reverse names are always asked for."""

CHASE_DEPTH_MAX = 3
"""Names in our own zone that point to further names in it are followed so many times."""

CHASED_HOSTS_MAX = 64
"""Host names that are followed for one answer; instances beyond get a bare CNAME or no glue."""

SERVERS_SERVICE = "consul"
"""The service that servers register themselves under."""

# Errors of RPC calls that mean "there is no such thing", by their words: they may have come through other servers.
_ABSENT = ("No path to datacenter", "Permission denied", "Query not found", "rpc: can't find")


class Failed(Exception):
    """The catalog could not be asked, or has no such thing: the rcode to answer with."""

    def __init__(self, rcode: int, *, by_catalog: bool = False) -> None:
        super().__init__(rcode)
        self.rcode = rcode
        self.by_catalog = by_catalog
        """Whether the catalog was asked and told so."""


class Unanswered(Exception):
    """A reverse name that the catalog does not know: others may."""


class Lookups:
    """Turns plans into answers by RPC."""

    def __init__(
        self,
        caller: Caller,
        config: DNSConfig,
        clock: Clock,
        random: random.Random,
        recursor: Recursor,
        log: Log,
        *,
        cache: Cache | None = None,
        local: LocalCatalog | None = None,
        stale: Callable[[], None] = lambda: None,
    ) -> None:
        """`stale` hears of each answer from an old catalog."""
        self.config = config
        self._stale = stale
        self._cache = cache
        self._local = local
        self._caller = caller
        self._clock = clock
        self._random = random
        self._recursor = recursor
        self._log = log
        self._handlers: dict[type, Callable[..., Any]] = {
            plans.ServiceLookup: self._service,
            plans.NodeLookup: self._node,
            plans.QueryLookup: self._query,
        }

    async def answer(self, query: Query, plan: plans.Plan, peer: str, depth: int = CHASE_DEPTH_MAX) -> Outcome:
        """Answer a question of our zone or a reverse one. Raises Unanswered, and CannotPack."""
        try:
            if isinstance(plan, plans.Reverse):
                return await self._reverse(query, plan)
            if isinstance(plan, plans.Apex):
                return await self._apex(plan, depth)
            if isinstance(plan, plans.Unsupported):
                return Outcome(NOTIMP)
            if isinstance(plan, plans.Literal):
                return Outcome(NOERROR, Built(list(plan.records), []))
            handler = self._handlers.get(type(plan))
            if handler is None:
                raise Failed(NXDOMAIN, by_catalog=True)  # whatever it holds
            outcome: Outcome = await handler(query, plan, peer, depth)
            return outcome
        except Failed as failure:
            outcome = Outcome(failure.rcode)
            if failure.rcode == NXDOMAIN:
                self._add_soa(outcome)
            outcome.is_fixed = failure.by_catalog and self._is_repeatable(plan)
            return outcome

    def _add_soa(self, outcome: Outcome) -> None:
        outcome.authority.append(self._soa())

    def _soa(self) -> Record:
        return resolve.soa(self.config, self._clock.wall_ns() // NANOSECONDS_PER_SECOND)

    # --- the catalog ----------------------------------------------------------------------------------------------

    async def _call(self, method: Method[RequestT, ReplyT], request: RequestT) -> ReplyT:
        """Ask any server if that is allowed, and the leader if the reply is too old. Raises Failed."""
        config = self.config
        request = replace(request, token=config.token, allow_stale=config.allow_stale)
        try:
            reply = await self._cached(method, request)
            if reply is None:
                reply = await self._caller.call(method, request)
            if request.allow_stale and seconds(reply.last_contact) > config.max_stale_s:
                self._log.warn("Query results too stale, re-requesting")
                reply = await self._caller.call(method, replace(request, allow_stale=False))
            elif request.allow_stale and seconds(reply.last_contact) > STALE_S:
                self._stale()
            return reply
        except RPCError as error:
            if any(words in str(error) for words in _ABSENT):
                raise Failed(NXDOMAIN) from error
            self._log.error("rpc error", method=method.name, error=str(error))
            raise Failed(SERVFAIL) from error

    async def _cached(self, method: Method[RequestT, ReplyT], request: RequestT) -> ReplyT | None:
        """The agent's cached answer, fetched if there is none; None when the cache is not for this."""
        config = self.config
        kind = CACHED.get(method.name) if config.use_cache and self._cache is not None else None
        if kind is None or self._cache is None:
            return None
        if kind.refreshed and self._is_here(getattr(request, "datacenter", "")):
            return None  # the own state is at least as new, and costs less to ask
        request = replace(request, max_age=duration(config.cache_max_age_s))
        reply: ReplyT = (await self._cache.get(kind, request)).value
        return reply

    def _is_here(self, datacenter: str) -> bool:
        """Whether this very process has the catalog, and may answer from it."""
        config, local = self.config, self._local
        if local is None or not config.allow_stale or datacenter != config.datacenter:
            return False
        age_s = local.catalog_age_s()
        return age_s is not None and age_s <= config.max_stale_s

    async def _instances(self, plan: plans.ServiceLookup) -> list[CheckServiceNode]:
        """Healthy instances. Raises Failed."""
        request = ServiceSpecificRequest(
            datacenter=plan.datacenter,
            service_name=plan.service,
            service_tags=(plan.tag,) if plan.tag else None,
            tag_filter=bool(plan.tag),
            connect=plan.connect,
            ingress=plan.ingress,
        )
        reply = await self._call(HEALTH_SERVICE_NODES, request)
        rows = [row for row in reply.nodes or () if row.node is not None and row.service is not None]
        return resolve.healthy(rows, only_passing=self.config.only_passing)

    def _shuffled(self, rows: Sequence[CheckServiceNode]) -> list[CheckServiceNode]:
        return [rows[place] for place in order(self._random, len(rows), len(rows))]

    # --- kinds of names -------------------------------------------------------------------------------------------

    async def _service(self, query: Query, plan: plans.ServiceLookup, peer: str, depth: int) -> Outcome:
        if not plan.service:
            raise Failed(NXDOMAIN, by_catalog=True)
        rows = await self._instances(plan)
        ttl = resolve.service_ttl(plan.service, self.config)
        outcome = await self._rows(query, self._shuffled(rows), plan.datacenter, ttl, depth)
        if not self._is_repeatable(plan):
            outcome.made_of, outcome.is_fixed = None, False
        elif outcome.made_of is not None:
            outcome.made_of.rows = rows
        return outcome

    def _is_repeatable(self, plan: plans.Plan) -> bool:
        """Whether nothing but nodes, services and checks of this datacenter decides over the answer."""
        if isinstance(plan, plans.ServiceLookup) and (plan.connect or plan.ingress):
            return False
        if isinstance(plan, plans.ServiceLookup | plans.NodeLookup):
            return plan.datacenter == self.config.datacenter
        return isinstance(plan, plans.Absent)

    async def _rows(
        self, query: Query, rows: Sequence[CheckServiceNode], datacenter: str, ttl: int, depth: int
    ) -> Outcome:
        """The records of instances; NXDOMAIN without any, the SOA when none has a record of the type."""
        if not rows:
            raise Failed(NXDOMAIN, by_catalog=True)
        asked = Asked(query.name or ".", query.type, datacenter, ttl, query.edns is not None, self.config)
        hosts = resolve.hosts(rows, asked)
        outcome = Outcome(NOERROR, resolve.service_answer(rows, asked, await self._chase(hosts, depth)))
        if not outcome.answers:
            self._add_soa(outcome)
            outcome.is_fixed = not hosts
        elif not hosts:
            outcome.made_of = Instances(rows, asked)
        return outcome

    async def _node(self, query: Query, plan: plans.NodeLookup, peer: str, depth: int) -> Outcome:
        if query.type not in resolve.NODE_TYPES:
            outcome = Outcome()
            outcome.is_fixed = self._is_repeatable(plan)
            return outcome
        request = NodeSpecificRequest(datacenter=plan.datacenter, node=plan.node)
        reply = await self._call(CATALOG_NODE_SERVICES, request)
        node = reply.node_services.node if reply.node_services is not None else None
        if node is None:
            raise Failed(NXDOMAIN, by_catalog=True)
        host = resolve.node_host(node, query.type, plan.datacenter, self.config) if query.type != TXT else None
        chased = await self._chase([host] if host else [], depth)
        owner = query.name or "."
        built = resolve.node_answer(node, owner, query.type, plan.datacenter, self.config, chased)
        outcome = Outcome(NOERROR, built)
        outcome.is_fixed = host is None and self._is_repeatable(plan)
        return outcome

    async def _query(self, query: Query, plan: plans.QueryLookup, peer: str, depth: int) -> Outcome:
        config = self.config
        subnet = query.edns.ecs if query.edns is not None else None
        request = PreparedQueryExecuteRequest(
            datacenter=plan.datacenter,
            query_id_or_name=plan.query,
            source=QuerySource(ip=_subnet_address(subnet) if subnet else peer),
            agent=QuerySource(datacenter=config.datacenter, node=config.node_name),
        )
        reply = await self._call(PREPARED_QUERY_EXECUTE, request)
        ttl = _query_ttl(reply.dns.ttl)
        if ttl is None:
            ttl = resolve.service_ttl(reply.service, config)
        rows = [row for row in reply.nodes or () if row.node is not None and row.service is not None]
        outcome = await self._rows(query, rows, reply.datacenter or plan.datacenter, ttl, depth)
        outcome.made_of, outcome.is_fixed = None, False  # the server has its own order, and judges by the client
        outcome.uses_subnet = True
        return outcome

    async def _apex(self, plan: plans.Apex, depth: int) -> Outcome:
        servers = await self._name_servers(depth)
        outcome = Outcome()
        outcome.additional = servers.additional
        if plan.type == SOA:
            outcome.answers, outcome.authority = [self._soa()], servers.answers
        else:
            outcome.answers = servers.answers
        return outcome

    async def _name_servers(self, depth: int) -> Built:
        """NS records and glue; none when the servers cannot be found."""
        config = self.config
        try:
            rows = await self._instances(plans.ServiceLookup(SERVERS_SERVICE, "", config.datacenter))
        except Failed:
            return Built([], [])
        nodes = resolve.name_servers(self._shuffled(rows))
        found = (resolve.node_host(node, ANY, config.datacenter, config) for node in nodes)
        return resolve.name_server_records(
            nodes, config, await self._chase([host for host in found if host is not None], depth)
        )

    async def _reverse(self, query: Query, plan: plans.Reverse) -> Outcome:
        """The node, else the service, with that address. A catalog that cannot be asked knows neither."""
        record = None
        if plan.address is not None:
            try:
                record = await self._node_at(query, plan.address)
            except Failed:
                record = None
            if record is None:
                try:
                    record = await self._service_at(query, plan.address)
                except Failed:
                    record = None
        if record is None:
            raise Unanswered
        outcome = Outcome(NOERROR, Built([record], []))
        if query.type == SOA:
            self._add_soa(outcome)
        return outcome

    async def _node_at(self, query: Query, address: str) -> Record | None:
        config = self.config
        reply = await self._call(CATALOG_LIST_NODES, DCSpecificRequest(datacenter=config.datacenter))
        node: Node
        for node in reply.nodes or ():
            if resolve.same_address(node.address, address):
                return resolve.pointer(query.name or ".", node.node, "node", config.datacenter, config)
        return None

    async def _service_at(self, query: Query, address: str) -> Record | None:
        config = self.config
        request = ServiceSpecificRequest(datacenter=config.datacenter, service_address=address)
        reply = await self._call(CATALOG_SERVICE_NODES, request)
        for row in reply.service_nodes or ():
            if resolve.same_address(row.service_address, address):
                return resolve.pointer(query.name or ".", row.service_name, "service", config.datacenter, config)
        return None

    # --- host names -----------------------------------------------------------------------------------------------

    async def _chase(self, hosts: Sequence[str], depth: int) -> dict[str, Sequence[Record]]:
        """Where host names lead to, one after another."""
        return {host: await self._follow(host, depth) for host in hosts[:CHASED_HOSTS_MAX]}

    async def _follow(self, host: str, depth: int) -> Sequence[Record]:
        name = host.lower()
        if not plans.in_zone(name, self.config):
            return await self._recursor.addresses(host) if self.config.recursors else ()
        if depth < 1:
            return ()
        inner = Query(0, 0, host, ANY, IN)
        return (await self.answer(inner, plans.plan(name, inner.type, self.config), "", depth - 1)).answers


def _subnet_address(subnet: tuple[int, int, bytes]) -> str:
    family, _, octets = subnet
    if family == 2:
        raw = octets.ljust(16, b"\0")
        return ":".join(f"{raw[at] << 8 | raw[at + 1]:x}" for at in range(0, 16, 2))
    return ".".join(str(octet) for octet in octets.ljust(4, b"\0"))


def _query_ttl(text: str) -> int | None:
    """Whole seconds of a prepared query's own TTL; None when it has none or one that cannot be read."""
    return resolve.whole_seconds(text) if text else None
