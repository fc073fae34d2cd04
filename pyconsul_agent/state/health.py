"""Reads of health: checks, and instances with the checks that concern them."""

from __future__ import annotations

from collections.abc import Mapping

from pyconsul_agent.state.catalog import CHECKS, NODES, SERVICES, behind_gateways, instances, matches_meta
from pyconsul_agent.state.store import ServiceRow, Store, node_prefix, service_key
from pyconsul_agent.state.table import fold
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.catalog import Node
from pyconsul_agent.structs.config_kinds import INGRESS_GATEWAY
from pyconsul_agent.structs.health import CheckServiceNode, HealthCheck, NodeInfo

ANY = "any"
Filters = Mapping[str, str] | None


def of_node(store: Store, watch: WatchSet, node: str) -> tuple[int, list[HealthCheck]]:
    """Checks of a node, its services' included."""
    watch.prefix(CHECKS, node_prefix(node))
    return store.index(CHECKS), store.tables.checks.scan(node_prefix(node))


def of_service(store: Store, watch: WatchSet, name: str, filters: Filters = None) -> tuple[int, list[HealthCheck]]:
    """Checks of all instances of a service (not those of their nodes)."""
    watch.table(CHECKS)
    return store.index(CHECKS), _on_nodes(store, watch, store.tables.checks.lookup("service", fold(name)), filters)


def in_state(store: Store, watch: WatchSet, state: str, filters: Filters = None) -> tuple[int, list[HealthCheck]]:
    """Checks with a status, or `any`."""
    watch.table(CHECKS)
    table = store.tables.checks
    rows = table.scan() if state == ANY else table.lookup("status", state.encode("utf-8", "surrogateescape"))
    return store.index(CHECKS), _on_nodes(store, watch, rows, filters)


def _on_nodes(store: Store, watch: WatchSet, rows: list[HealthCheck], filters: Filters) -> list[HealthCheck]:
    if not filters:
        return rows
    watch.table(NODES)
    return [row for row in rows if matches_meta(store.tables.nodes.get(fold(row.node)), filters)]


def service_nodes(
    store: Store, watch: WatchSet, name: str, *, connect: bool = False
) -> tuple[int, list[CheckServiceNode]]:
    """Instances of a service, each with its node, the node's checks and its own."""
    index, rows = instances(store, watch, name, connect=connect, missing=(NODES, SERVICES, CHECKS))
    return index, [with_checks(store, row) for row in rows]


def ingress_nodes(store: Store, watch: WatchSet, name: str) -> tuple[int, list[CheckServiceNode]]:
    """Instances of the ingress gateways that offer a service, each gateway's once."""
    index, gateways = behind_gateways(store, watch, name, INGRESS_GATEWAY)
    found: list[CheckServiceNode] = []
    for gateway in sorted({row.service.service for row in gateways}):
        own, rows = service_nodes(store, watch, gateway)
        index = max(index, own)
        found += rows
    return index, found


def with_checks(store: Store, row: ServiceRow) -> CheckServiceNode:
    """An instance with its node, the node's checks first and then its own."""
    table = store.tables.checks
    checks = table.lookup("node_service", service_key(row.node, ""))
    if row.service.id:
        checks = checks + table.lookup("node_service", service_key(row.node, row.service.id))
    node = store.tables.nodes.get(fold(row.node))
    return CheckServiceNode(node=node, service=row.service, checks=tuple(checks) or None)


def node_info(store: Store, watch: WatchSet, name: str) -> tuple[int, list[NodeInfo]]:
    """One node with services and checks; an empty list when it is unknown."""
    for table in (SERVICES, CHECKS):
        watch.prefix(table, node_prefix(name))
    watch.row(NODES, fold(name))
    node = store.tables.nodes.get(fold(name))
    return store.index(NODES, SERVICES, CHECKS), [] if node is None else [_dump(store, node)]


def node_dump(store: Store, watch: WatchSet) -> tuple[int, list[NodeInfo]]:
    """Every node with services and checks."""
    for table in (NODES, SERVICES, CHECKS):
        watch.table(table)
    return store.index(NODES, SERVICES, CHECKS), [_dump(store, node) for node in store.tables.nodes.scan()]


def _dump(store: Store, node: Node) -> NodeInfo:
    prefix = node_prefix(node.node)
    return NodeInfo(
        id=node.id,
        node=node.node,
        address=node.address,
        tagged_addresses=node.tagged_addresses,
        meta=node.meta,
        services=tuple(row.service for row in store.tables.services.scan(prefix)) or None,
        checks=tuple(store.tables.checks.scan(prefix)) or None,
    )


def service_dump(store: Store, watch: WatchSet, kind: str | None = None) -> tuple[int, list[CheckServiceNode]]:
    """Every instance with its checks, or those of one kind."""
    for table in (NODES, SERVICES, CHECKS):
        watch.table(table)
    if kind is None:
        rows = store.tables.services.scan()
        return store.index(NODES, SERVICES, CHECKS), [with_checks(store, row) for row in rows]
    rows = store.tables.services.lookup("kind", kind.encode("utf-8", "surrogateescape"))
    return store.index(f"service_kind.{kind or 'typical'}"), [with_checks(store, row) for row in rows]
