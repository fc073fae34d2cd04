"""Catalog.*: registrations, and what is registered."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import replace

from pyconsul_agent.errors import RPCError
from pyconsul_agent.fsm.apply import DEREGISTER, REGISTER
from pyconsul_agent.server.blocking import Blocking
from pyconsul_agent.server.endpoints.shared import Near, check_filter, filtered, node_id_problem, propose
from pyconsul_agent.server.seams import Endpoint, Proposer, Read, Where
from pyconsul_agent.state import catalog
from pyconsul_agent.state.store import ServiceRow, Store
from pyconsul_agent.state.table import fold
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs import methods
from pyconsul_agent.structs.catalog import Node, NodeService, NodeServiceList, NodeServices, ServiceNode
from pyconsul_agent.structs.health import HealthCheck
from pyconsul_agent.structs.methods import Empty
from pyconsul_agent.structs.proxy_rules import service_problems
from pyconsul_agent.structs.requests import (
    DatacentersRequest,
    DCSpecificRequest,
    DeregisterRequest,
    IndexedGatewayServices,
    IndexedNodes,
    IndexedNodeServiceList,
    IndexedNodeServices,
    IndexedServiceList,
    IndexedServiceNodes,
    IndexedServices,
    NodeSpecificRequest,
    RegisterRequest,
    ServiceSpecificRequest,
)

# --- what a registration must be, before it may reach the log ---------------------------------------------------


def check_node(name: str, node_id: str) -> None:
    """Raises RPCError unless this can be a node."""
    if not name:
        raise RPCError("Must provide node")
    if node_id:
        problem = node_id_problem(node_id)
        if problem is not None:
            raise RPCError(f"Bad node ID: {problem}")


def checked_service(service: NodeService) -> NodeService:
    """The service with its ID filled in. Raises RPCError."""
    if problem := service_problems(service):
        raise RPCError(problem)
    if service.id and not service.service:
        raise RPCError("Must provide service name with ID")
    if _is_any_address(service.address):
        raise RPCError("Invalid service address")
    return service if service.id else replace(service, id=service.service)


def _is_any_address(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_unspecified
    except ValueError:
        return False


def checked_check(check: HealthCheck) -> HealthCheck:
    """The check with its ID and type filled in."""
    return replace(check, check_id=check.check_id or check.name, type=check.type or check_type(check))


def check_type(check: HealthCheck) -> str:
    """The kind of check that its definition describes."""
    definition = check.definition
    if definition.interval > 0:
        for kind in ("grpc", "http"):
            if getattr(definition, kind):
                return kind
    if definition.ttl > 0:
        return "ttl"
    if definition.tcp and definition.interval > 0:
        return "tcp"
    if definition.alias_node or definition.alias_service:
        return "alias"
    if definition.script_args and definition.interval > 0:
        return "docker" if definition.docker_container_id else "script"
    return "h2ping" if definition.h2ping and definition.interval > 0 else ""


def checked_registration(request: RegisterRequest) -> RegisterRequest:
    """The request as it may go into the log. Raises RPCError."""
    check_node(request.node, request.id)
    if not request.address and not request.skip_node_update:
        raise RPCError("Must provide address if SkipNodeUpdate is not set")
    service = None if request.service is None else checked_service(request.service)
    checks = (request.checks or ()) + ((request.check,) if request.check else ())
    done = tuple(checked_check(check if check.node else replace(check, node=request.node)) for check in checks)
    return replace(request, service=service, check=None, checks=done or request.checks)


class Catalog:
    """Reads from the local store, writes through the log."""

    def __init__(
        self, store: Store, proposer: Proposer, blocking: Blocking, near: Near, datacenters: Callable[[], list[str]]
    ) -> None:
        self._store = store
        self._proposer = proposer
        self._blocking = blocking
        self._near = near
        self._datacenters = datacenters

    def endpoints(self) -> list[Endpoint]:
        """The methods of this service."""
        forward = Where.FORWARD
        return [
            Endpoint(methods.CATALOG_REGISTER, forward, self.register, write=True),
            Endpoint(methods.CATALOG_DEREGISTER, forward, self.deregister, write=True),
            Endpoint(methods.CATALOG_LIST_DATACENTERS, Where.LOCAL, self.list_datacenters),
            Endpoint(methods.CATALOG_LIST_NODES, forward, self.list_nodes),
            Endpoint(methods.CATALOG_LIST_SERVICES, forward, self.list_services),
            Endpoint(methods.CATALOG_SERVICE_LIST, forward, self.service_list),
            Endpoint(methods.CATALOG_SERVICE_NODES, forward, self.service_nodes),
            Endpoint(methods.CATALOG_NODE_SERVICES, forward, self.node_services),
            Endpoint(methods.CATALOG_NODE_SERVICE_LIST, forward, self.node_service_list),
            Endpoint(methods.CATALOG_GATEWAY_SERVICES, forward, self.gateway_services),
        ]

    async def register(self, request: RegisterRequest) -> Empty:
        """Write a node with what comes with it."""
        await propose(self._proposer, REGISTER, checked_registration(request))
        return Empty()

    async def deregister(self, request: DeregisterRequest) -> Empty:
        """Delete a service, a check or a node; what is not there is fine."""
        if not request.node:
            raise RPCError("Must provide node")
        await propose(self._proposer, DEREGISTER, request)
        return Empty()

    async def list_datacenters(self, request: DatacentersRequest) -> list[str]:
        """Known datacenters, the nearest first."""
        return self._datacenters()

    def list_nodes(self, request: DCSpecificRequest) -> Read[IndexedNodes]:
        """Nodes, by name or by distance."""

        def query(watch: WatchSet) -> IndexedNodes:
            index, rows = catalog.list_nodes(self._store, watch, request.node_meta_filters)
            rows = self._near.sort(request.source, rows, lambda node: node.node)
            return IndexedNodes(index=index, nodes=filtered(request.filter, Node, rows))

        return self._blocking.run(request, query)

    def list_services(self, request: DCSpecificRequest) -> Read[IndexedServices]:
        """Service names with all their tags."""

        def query(watch: WatchSet) -> IndexedServices:
            index, services = catalog.list_services(self._store, watch, request.node_meta_filters)
            return IndexedServices(index=index, services=services)

        return self._blocking.run(request, query)

    def service_list(self, request: DCSpecificRequest) -> Read[IndexedServiceList]:
        """Service names."""

        def query(watch: WatchSet) -> IndexedServiceList:
            index, names = catalog.service_names(self._store, watch)
            return IndexedServiceList(index=index, services=tuple(names) or None)

        return self._blocking.run(request, query)

    def service_nodes(self, request: ServiceSpecificRequest) -> Read[IndexedServiceNodes]:
        """Instances of a service, each joined with its node."""
        if not request.service_name and not request.service_address:
            raise RPCError("Must provide service name")

        def query(watch: WatchSet) -> IndexedServiceNodes:
            index, rows = self._instances(request, watch)
            joined = [catalog.service_node(self._store, row) for row in rows]
            joined = self._near.sort(request.source, joined, lambda row: row.node)
            return IndexedServiceNodes(index=index, service_nodes=filtered(request.filter, ServiceNode, joined))

        return self._blocking.run(request, query)

    def _instances(self, request: ServiceSpecificRequest, watch: WatchSet) -> tuple[int, list[ServiceRow]]:
        if request.service_address:
            index, rows = catalog.instances_at(self._store, watch, request.service_address)
        else:
            index, rows = catalog.instances(self._store, watch, request.service_name, connect=request.connect)
        if not request.connect and not request.service_address:
            rows = [row for row in rows if catalog.has_tags(row.service, wanted_tags(request))]
        if request.node_meta_filters:
            nodes = self._store.tables.nodes
            rows = [row for row in rows if catalog.matches_meta(nodes.get(fold(row.node)), request.node_meta_filters)]
        return index, rows

    def node_services(self, request: NodeSpecificRequest) -> Read[IndexedNodeServices]:
        """A node with its services by ID."""
        if not request.node:
            raise RPCError("Must provide node")
        check_filter(request.filter, NodeService)

        def query(watch: WatchSet) -> IndexedNodeServices:
            index, node, services = catalog.node_services(self._store, watch, request.node)
            if node is None:
                return IndexedNodeServices(index=index, node_services=None)
            kept = filtered(request.filter, NodeService, services) or ()
            return IndexedNodeServices(
                index=index, node_services=NodeServices(node=node, services={row.id: row for row in kept})
            )

        return self._blocking.run(request, query)

    def node_service_list(self, request: NodeSpecificRequest) -> Read[IndexedNodeServiceList]:
        """A node with the list of its services."""
        if not request.node:
            raise RPCError("Must provide node")
        check_filter(request.filter, NodeService)

        def query(watch: WatchSet) -> IndexedNodeServiceList:
            index, node, services = catalog.node_services(self._store, watch, request.node)
            if node is None:
                return IndexedNodeServiceList(index=index)
            kept = filtered(request.filter, NodeService, services)
            return IndexedNodeServiceList(index=index, node_services=NodeServiceList(node=node, services=kept))

        return self._blocking.run(request, query)

    def gateway_services(self, request: ServiceSpecificRequest) -> Read[IndexedGatewayServices]:
        """Services behind a gateway."""
        if not request.service_name:
            raise RPCError("Must provide service name")

        def query(watch: WatchSet) -> IndexedGatewayServices:
            index, rows = catalog.gateway_services(self._store, watch, request.service_name)
            return IndexedGatewayServices(index=index, services=tuple(rows) or None)

        return self._blocking.run(request, query)


def wanted_tags(request: ServiceSpecificRequest) -> tuple[str, ...]:
    """Tags that instances must have; clients before 1.3 send a single one."""
    if not request.tag_filter:
        return ()
    return (request.service_tag,) if request.service_tag else request.service_tags or ()
