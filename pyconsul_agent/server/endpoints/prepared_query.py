"""PreparedQuery.*: stored queries for healthy instances, here and where they fail over to."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import fields, replace

from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import RPCError
from pyconsul_agent.fsm.apply import PREPARED_QUERY
from pyconsul_agent.query import template
from pyconsul_agent.server.blocking import Blocking
from pyconsul_agent.server.endpoints.shared import Near, parse_duration_ns, propose
from pyconsul_agent.server.seams import Endpoint, Proposer, Remote, Where
from pyconsul_agent.state import health, prepared_query
from pyconsul_agent.state.registration import meta_problem
from pyconsul_agent.state.store import Store, is_template, row_id, uuid_key
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs import methods
from pyconsul_agent.structs.health import CheckServiceNode
from pyconsul_agent.structs.prepared_query import PreparedQuery, QueryDatacenterOptions, ServiceQuery
from pyconsul_agent.structs.requests import (
    DCSpecificRequest,
    IndexedPreparedQueries,
    PreparedQueryExecuteRemoteRequest,
    PreparedQueryExecuteRequest,
    PreparedQueryExecuteResponse,
    PreparedQueryExplainResponse,
    PreparedQueryRequest,
    PreparedQuerySpecificRequest,
    QueryOptions,
)

AGENT = "_agent"
CLIENT = "_ip"
HIDDEN = "<hidden>"
"""What stands for a token that the reader may not see."""
PREFIX = "raft apply failed: "
NEAREST_SOUGHT_MAX = 10
"""So far down a sorted answer the node that asks is looked for, to come first."""

Rows = list[CheckServiceNode]


def check_query(query: PreparedQuery) -> None:
    """Raises RPCError for a query that must not reach the log."""
    if problem := _query_problem(query):
        raise RPCError(f"Invalid prepared query: {problem}")
    if is_template(query):
        try:
            template.check(query)
        except template.BadTemplate as error:
            raise RPCError(f"{PREFIX}failed compiling template: {error}") from error


def _query_problem(query: PreparedQuery) -> str | None:
    if not query.name and not query.session and not is_template(query):
        return "Must be bound to a session"
    if query.token == HIDDEN:
        return f"Bad Token '{query.token}', it looks like a query definition with a redacted token was submitted"
    if not query.service.service:
        return "Must provide a Service name to query"
    if query.service.failover.nearest_n < 0:
        return f"Bad NearestN '{query.service.failover.nearest_n}', must be >= 0"
    if problem := meta_problem(query.service.node_meta, allow_reserved=True):
        return problem
    return _ttl_problem(query.dns.ttl)


def _ttl_problem(text: str) -> str | None:
    if not text:
        return None
    try:
        ttl = parse_duration_ns(text)
    except ValueError as error:
        return f"Bad DNS TTL '{text}': {error}"
    return f"DNS TTL '{ttl}', must be >=0" if ttl < 0 else None


def is_wanted(row: CheckServiceNode, query: ServiceQuery) -> bool:
    """Whether an instance passes the query's filters on health, metadata and tags."""
    if row.node is None or row.service is None:
        return False
    for check in row.checks or ():
        if check.check_id in (query.ignore_check_ids or ()):
            continue
        if check.status == "critical" or (query.only_passing and check.status != "passing"):
            return False
    node_meta, service_meta = row.node.meta or {}, row.service.meta or {}
    if any(node_meta.get(name) != value for name, value in (query.node_meta or {}).items()):
        return False
    if any(service_meta.get(name) != value for name, value in (query.service_meta or {}).items()):
        return False
    have = {tag.lower() for tag in row.service.tags or ()}
    return all(
        (tag[1:].lower() not in have) if tag.startswith("!") else tag.lower() in have for tag in query.tags or ()
    )


class PreparedQueries:
    """`others` are the datacenters besides this one, the nearest first."""

    def __init__(
        self,
        store: Store,
        proposer: Proposer,
        blocking: Blocking,
        near: Near,
        *,
        datacenter: str,
        draw: random.Random,
        uuid: Callable[[], str],
        others: Callable[[], Sequence[str]],
        remote: Remote,
        log: Log,
    ) -> None:
        self._store = store
        self._proposer = proposer
        self._blocking = blocking
        self._near = near
        self._datacenter = datacenter
        self._draw = draw
        self._uuid = uuid
        self._others = others
        self._remote = remote
        self._log = log

    def endpoints(self) -> list[Endpoint]:
        """The methods of this service."""
        return [
            Endpoint(methods.PREPARED_QUERY_APPLY, Where.FORWARD, self.apply, write=True),
            Endpoint(methods.PREPARED_QUERY_GET, Where.FORWARD, self.get),
            Endpoint(methods.PREPARED_QUERY_LIST, Where.FORWARD, self.list),
            Endpoint(methods.PREPARED_QUERY_EXECUTE, Where.FORWARD, self.execute),
            Endpoint(methods.PREPARED_QUERY_EXECUTE_REMOTE, Where.FORWARD, self.execute_remote),
            Endpoint(methods.PREPARED_QUERY_EXPLAIN, Where.FORWARD, self.explain),
        ]

    async def apply(self, request: PreparedQueryRequest) -> str:
        """Create, update or delete; the reply is the ID."""
        query = request.query or PreparedQuery()
        if request.op == "create":
            if query.id:
                raise RPCError("ID must be empty when creating a new prepared query")
            query = replace(query, id=self._uuid())
        elif request.op in ("update", "delete"):
            try:
                existing = self._lookup(WatchSet(), query.id)[1]
            except RPCError as error:
                raise RPCError(f"Prepared Query lookup failed: {error}") from error
            if existing is None:
                raise RPCError(f"Cannot modify non-existent prepared query: '{query.id}'")
        else:
            raise RPCError(f"Unknown prepared query operation: {request.op}")
        if request.op != "delete":
            check_query(query)
        await propose(self._proposer, PREPARED_QUERY, replace(request, query=query), prefix=PREFIX)
        return query.id

    async def get(self, request: PreparedQuerySpecificRequest) -> IndexedPreparedQueries:
        """One query. Raises `Query not found`."""

        def query(watch: WatchSet) -> IndexedPreparedQueries:
            index, row = self._lookup(watch, request.query_id)
            if row is None:
                raise RPCError("Query not found")
            return IndexedPreparedQueries(index=index, queries=(row,))

        return await self._blocking.run(request, query)

    async def list(self, request: DCSpecificRequest) -> IndexedPreparedQueries:
        """All queries."""

        def query(watch: WatchSet) -> IndexedPreparedQueries:
            index, rows = prepared_query.list_all(self._store, watch)
            return IndexedPreparedQueries(index=index, queries=tuple(rows) or None)

        return await self._blocking.run(request, query)

    async def execute(self, request: PreparedQueryExecuteRequest) -> PreparedQueryExecuteResponse:
        """Instances that the query wants, shuffled or by distance; those of another datacenter if here are none."""
        await self._blocking.check(request)
        found = self._resolve(request)
        rows = self._sorted(self._instances(found, connect=request.connect), found, request)
        rows = rows[: request.limit] if request.limit > 0 else rows
        reply = self._blocking.finish(self._reply(found, rows))
        return reply if rows else await self._failover(found, request, reply)

    async def execute_remote(self, request: PreparedQueryExecuteRemoteRequest) -> PreparedQueryExecuteResponse:
        """The same for a query that another datacenter has sent along: shuffled, and never passed on."""
        await self._blocking.check(request)
        rows = self._instances(request.query, connect=request.connect)
        rows = rows[: request.limit] if request.limit > 0 else rows
        return self._blocking.finish(self._reply(request.query, rows))

    async def explain(self, request: PreparedQueryExecuteRequest) -> PreparedQueryExplainResponse:
        """The query that would be executed: of a template, what it gives for the name."""
        await self._blocking.check(request)
        return self._blocking.finish(PreparedQueryExplainResponse(query=self._resolve(request)))

    def _lookup(self, watch: WatchSet, query_id: str) -> tuple[int, PreparedQuery | None]:
        try:
            uuid_key(query_id)
        except ValueError as error:
            raise RPCError(f"failed prepared query lookup: index error: {error}") from error
        return prepared_query.get(self._store, watch, query_id)

    def _resolve(self, request: PreparedQueryExecuteRequest) -> PreparedQuery:
        name = request.query_id_or_name
        if not name:
            raise RPCError("Missing Query ID")
        found = prepared_query.resolve(self._store, name)
        if found is None:
            raise RPCError("Query not found")
        if not is_template(found):
            return found
        if row_id(name) == row_id(found.id):
            raise RPCError("prepared query templates can only be resolved up by name, not by ID")
        try:
            return template.render(found, name, segment=request.agent.segment)
        except template.BadTemplate as error:
            raise RPCError(str(error)) from error

    def _instances(self, found: PreparedQuery, *, connect: bool) -> Rows:
        connect = connect or found.service.connect
        _, rows = health.service_nodes(self._store, WatchSet(), found.service.service, connect=connect)
        rows = [row for row in rows if is_wanted(row, found.service)]
        self._draw.shuffle(rows)
        return rows

    def _sorted(self, rows: Rows, found: PreparedQuery, request: PreparedQueryExecuteRequest) -> Rows:
        source = request.source
        node = source.node or found.service.near
        datacenter = source.datacenter or request.agent.datacenter
        if node == AGENT:
            node = request.agent.node
        elif node == CLIENT:
            node = self._node_at(source.ip)
        rows = self._near.sort(replace(source, node=node, datacenter=datacenter), rows, _node_name)
        if node and datacenter == self._datacenter:
            for position, row in enumerate(rows[:NEAREST_SOUGHT_MAX]):
                if _node_name(row) == node:
                    rows[0], rows[position] = row, rows[0]
                    break
        return rows

    def _node_at(self, address: str) -> str:
        """The node with that address; the client's may be none's."""
        rows = self._store.tables.nodes.scan() if address else ()
        return next((row.node for row in rows if row.address == address), "")

    def _reply(self, found: PreparedQuery, rows: Sequence[CheckServiceNode]) -> PreparedQueryExecuteResponse:
        return PreparedQueryExecuteResponse(
            service=found.service.service, nodes=tuple(rows) or None, dns=found.dns, datacenter=self._datacenter
        )

    async def _failover(
        self, found: PreparedQuery, request: PreparedQueryExecuteRequest, reply: PreparedQueryExecuteResponse
    ) -> PreparedQueryExecuteResponse:
        """The first answer with instances among the other datacenters that the query names."""
        tried = 0
        for datacenter in candidates(found.service.failover, self._others()):
            tried += 1
            options = {name: getattr(request, name) for name in _OPTIONS}
            asked = PreparedQueryExecuteRemoteRequest(
                datacenter=datacenter, query=found, limit=request.limit, connect=request.connect, **options
            )
            try:
                reply = await self._remote(methods.PREPARED_QUERY_EXECUTE_REMOTE, asked)
            except RPCError as error:
                self._log.warn(
                    "Failed querying for service in datacenter",
                    service=found.service.service, datacenter=datacenter, error=str(error),
                )  # fmt: skip
                continue
            if reply.nodes:
                break
        return replace(reply, failovers=tried)


_OPTIONS = tuple(field.name for field in fields(QueryOptions))


def candidates(failover: QueryDatacenterOptions, others: Sequence[str]) -> list[str]:
    """The datacenters to try in order: the nearest few, then those named that exist."""
    chosen = list(others[: failover.nearest_n]) if failover.nearest_n > 0 else []
    named = [name for name in failover.datacenters or () if name in others]
    return list(dict.fromkeys(chosen + named))


def _node_name(row: CheckServiceNode) -> str:
    return row.node.node if row.node else ""
