"""Health.*: checks, and instances with their checks."""

from __future__ import annotations

from pyconsul_agent.errors import RPCError
from pyconsul_agent.server.blocking import Blocking
from pyconsul_agent.server.endpoints.catalog import wanted_tags
from pyconsul_agent.server.endpoints.shared import Near, filtered
from pyconsul_agent.server.seams import Endpoint, Read, Where
from pyconsul_agent.state import health
from pyconsul_agent.state.catalog import has_tags, matches_meta
from pyconsul_agent.state.store import Store
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs import methods
from pyconsul_agent.structs.health import CheckServiceNode, HealthCheck
from pyconsul_agent.structs.requests import (
    ChecksInStateRequest,
    IndexedCheckServiceNodes,
    IndexedHealthChecks,
    NodeSpecificRequest,
    QuerySource,
    ServiceSpecificRequest,
)


class Health:
    """Reads only."""

    def __init__(self, store: Store, blocking: Blocking, near: Near) -> None:
        self._store = store
        self._blocking = blocking
        self._near = near

    def endpoints(self) -> list[Endpoint]:
        """The methods of this service."""
        return [
            Endpoint(methods.HEALTH_CHECKS_IN_STATE, Where.FORWARD, self.checks_in_state),
            Endpoint(methods.HEALTH_NODE_CHECKS, Where.FORWARD, self.node_checks),
            Endpoint(methods.HEALTH_SERVICE_CHECKS, Where.FORWARD, self.service_checks),
            Endpoint(methods.HEALTH_SERVICE_NODES, Where.FORWARD, self.service_nodes),
        ]

    def _checks(self, index: int, rows: list[HealthCheck], source: QuerySource, text: str) -> IndexedHealthChecks:
        rows = self._near.sort(source, rows, lambda check: check.node)
        return IndexedHealthChecks(index=index, health_checks=filtered(text, HealthCheck, rows))

    def checks_in_state(self, request: ChecksInStateRequest) -> Read[IndexedHealthChecks]:
        """Checks with a status, or `any`."""

        def query(watch: WatchSet) -> IndexedHealthChecks:
            index, rows = health.in_state(self._store, watch, request.state, request.node_meta_filters)
            return self._checks(index, rows, request.source, request.filter)

        return self._blocking.run(request, query)

    def node_checks(self, request: NodeSpecificRequest) -> Read[IndexedHealthChecks]:
        """Checks of a node, unknown ones included."""

        def query(watch: WatchSet) -> IndexedHealthChecks:
            index, rows = health.of_node(self._store, watch, request.node)
            return self._checks(index, rows, QuerySource(), request.filter)

        return self._blocking.run(request, query)

    def service_checks(self, request: ServiceSpecificRequest) -> Read[IndexedHealthChecks]:
        """Checks of the instances of a service."""
        if request.tag_filter:
            raise RPCError("Tag filtering is not supported")

        def query(watch: WatchSet) -> IndexedHealthChecks:
            index, rows = health.of_service(self._store, watch, request.service_name, request.node_meta_filters)
            return self._checks(index, rows, request.source, request.filter)

        return self._blocking.run(request, query)

    def service_nodes(self, request: ServiceSpecificRequest) -> Read[IndexedCheckServiceNodes]:
        """Instances with node and checks; whether they pass is for the caller to judge."""
        if not request.service_name:
            raise RPCError("Must provide service name")

        def query(watch: WatchSet) -> IndexedCheckServiceNodes:
            index, rows = self._instances(request, watch)
            rows = self._near.sort(request.source, rows, lambda row: row.node.node if row.node else "")
            return IndexedCheckServiceNodes(index=index, nodes=filtered(request.filter, CheckServiceNode, rows))

        return self._blocking.run(request, query)

    def _instances(self, request: ServiceSpecificRequest, watch: WatchSet) -> tuple[int, list[CheckServiceNode]]:
        if request.ingress and not request.connect:
            index, rows = health.ingress_nodes(self._store, watch, request.service_name)
            return index, [row for row in rows if matches_meta(row.node, request.node_meta_filters)]
        index, rows = health.service_nodes(self._store, watch, request.service_name, connect=request.connect)
        if not request.connect:
            tags = wanted_tags(request)
            rows = [row for row in rows if row.service is not None and has_tags(row.service, tags)]
        return index, [row for row in rows if matches_meta(row.node, request.node_meta_filters)]
