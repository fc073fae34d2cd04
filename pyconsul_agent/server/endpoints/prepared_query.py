"""PreparedQuery.*: stored queries for healthy instances. Templates can be stored but not executed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from pyconsul_agent.errors import RPCError
from pyconsul_agent.fsm.apply import PREPARED_QUERY
from pyconsul_agent.server.blocking import Blocking
from pyconsul_agent.server.endpoints.shared import Near, propose
from pyconsul_agent.server.seams import Endpoint, Proposer, Where
from pyconsul_agent.state import health, prepared_query
from pyconsul_agent.state.store import Store, is_template
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs import methods
from pyconsul_agent.structs.health import CheckServiceNode
from pyconsul_agent.structs.prepared_query import PreparedQuery, ServiceQuery
from pyconsul_agent.structs.requests import (
    DCSpecificRequest,
    IndexedPreparedQueries,
    PreparedQueryExecuteRequest,
    PreparedQueryExecuteResponse,
    PreparedQueryRequest,
    PreparedQuerySpecificRequest,
    QuerySource,
)

AGENT = "_agent"


def check_query(query: PreparedQuery) -> None:
    """Raises RPCError for a query that must not reach the log."""
    if not query.name and not query.session and not is_template(query):
        raise RPCError("Invalid prepared query: Must be bound to a session")
    if not query.service.service:
        raise RPCError("Invalid prepared query: Must provide a Service name to query")


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
    """Execution stays in this datacenter: no failover to others yet."""

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
    ) -> None:
        self._store = store
        self._proposer = proposer
        self._blocking = blocking
        self._near = near
        self._datacenter = datacenter
        self._draw = draw
        self._uuid = uuid

    def endpoints(self) -> list[Endpoint]:
        """The methods of this service."""
        return [
            Endpoint(methods.PREPARED_QUERY_APPLY, Where.FORWARD, self.apply, write=True),
            Endpoint(methods.PREPARED_QUERY_GET, Where.FORWARD, self.get),
            Endpoint(methods.PREPARED_QUERY_LIST, Where.FORWARD, self.list),
            Endpoint(methods.PREPARED_QUERY_EXECUTE, Where.FORWARD, self.execute),
        ]

    async def apply(self, request: PreparedQueryRequest) -> str:
        """Create, update or delete; the reply is the ID."""
        query = request.query or PreparedQuery()
        if request.op == "create":
            if query.id:
                raise RPCError("ID must be empty when creating a new prepared query")
            query = replace(query, id=self._uuid())
        elif request.op in ("update", "delete"):
            if prepared_query.get(self._store, WatchSet(), query.id)[1] is None:
                raise RPCError(f"Cannot modify non-existent prepared query: '{query.id}'")
        else:
            raise RPCError(f"Unknown prepared query operation: {request.op}")
        if request.op != "delete":
            check_query(query)
        await propose(self._proposer, PREPARED_QUERY, replace(request, query=query), prefix="raft apply failed: ")
        return query.id

    async def get(self, request: PreparedQuerySpecificRequest) -> IndexedPreparedQueries:
        """One query. Raises `Query not found`."""

        def query(watch: WatchSet) -> IndexedPreparedQueries:
            index, row = prepared_query.get(self._store, watch, request.query_id)
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
        """Instances that the query wants, shuffled or by distance."""
        await self._blocking.check(request)
        if not request.query_id_or_name:
            raise RPCError("Missing Query ID")
        found = prepared_query.resolve(self._store, request.query_id_or_name)
        if found is None:
            raise RPCError("Query not found")
        if is_template(found):
            raise RPCError("prepared query templates are not supported")
        rows = self._instances(found, request)
        reply = PreparedQueryExecuteResponse(
            service=found.service.service, nodes=rows, dns=found.dns, datacenter=self._datacenter
        )
        return self._blocking.finish(reply)

    def _instances(self, found: PreparedQuery, request: PreparedQueryExecuteRequest) -> tuple[CheckServiceNode, ...]:
        connect = request.connect or found.service.connect
        _, rows = health.service_nodes(self._store, WatchSet(), found.service.service, connect=connect)
        rows = [row for row in rows if is_wanted(row, found.service)]
        self._draw.shuffle(rows)
        source = request.source
        if not source.node and found.service.near:
            source = QuerySource(datacenter=self._datacenter, node=found.service.near)
        if source.node == AGENT:
            source = request.agent
        rows = self._near.sort(source, rows, lambda row: row.node.node if row.node else "")
        return tuple(rows[: request.limit] if request.limit > 0 else rows)
