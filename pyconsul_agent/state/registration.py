"""Writes of the catalog: registering and deregistering nodes, services and checks, with all that follows from it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from pyconsul_agent.errors import RPCError
from pyconsul_agent.state import gateway
from pyconsul_agent.state import session as sessions
from pyconsul_agent.state.store import ServiceRow, Txn, check_key, node_prefix, service_key
from pyconsul_agent.state.table import fold
from pyconsul_agent.structs.catalog import Node, NodeService, Weights
from pyconsul_agent.structs.health import HealthCheck
from pyconsul_agent.structs.requests import RegisterRequest

NODES = "nodes"
SERVICES = "services"
CHECKS = "checks"
EXTINCTION = "service_last_extinction"
SERF_HEALTH = "serfHealth"
CRITICAL = "critical"

META_PAIRS_MAX = 64
META_KEY_MAX = 128
META_VALUE_MAX = 512
META_RESERVED_PREFIX = "consul-"
WEIGHT_MAX = 65_535
_META_KEY = re.compile(r"\A[a-zA-Z0-9_-]+\Z")


def service_index(name: str) -> str:
    """Name of a service's entry in the index table."""
    return f"service.{name}"


def kind_index(kind: str) -> str:
    """Name of the index entry of a kind of services."""
    return f"service_kind.{kind or 'typical'}"


def meta_problem(meta: Mapping[str, str] | None, *, allow_reserved: bool) -> str | None:
    """What is wrong with a node's or service's metadata, in the original's words; None if nothing."""
    pairs = meta or {}
    if len(pairs) > META_PAIRS_MAX:
        return f"Node metadata cannot contain more than {META_PAIRS_MAX} key/value pairs"
    for key, value in sorted(pairs.items()):
        problem = _pair_problem(key, value, allow_reserved)
        if problem is not None:
            return f"Couldn't load metadata pair ('{key}', '{value}'): {problem}"
    return None


def _pair_problem(key: str, value: str, allow_reserved: bool) -> str | None:
    if not key:
        return "Key cannot be blank"
    if not _META_KEY.match(key):
        return "Key contains invalid characters"
    if len(key) > META_KEY_MAX:
        return f"Key is too long (limit: {META_KEY_MAX} characters)"
    if key.startswith(META_RESERVED_PREFIX) and not allow_reserved:
        return f"Key prefix '{META_RESERVED_PREFIX}' is reserved for internal use"
    if len(value.encode("utf-8", "surrogateescape")) > META_VALUE_MAX:
        return f"Value is too long (limit: {META_VALUE_MAX} characters)"
    return None


# --- registration ---------------------------------------------------------------------------------------------


def register(txn: Txn, request: RegisterRequest) -> None:
    """Apply a registration. Raises RPCError; the caller then aborts the transaction."""
    node = node_of(request)
    existing = txn.tables.nodes.get(fold(node.node))
    if existing is None or (not request.skip_node_update and not same_node(existing, node)):
        try:
            put_node(txn, node)
        except RPCError as error:
            raise RPCError(f"failed inserting node: {error}") from error
    if request.service is not None and not _is_registered(txn, request.node, request.service):
        try:
            put_service(txn, request.node, request.service)
        except RPCError as error:
            raise RPCError(f"failed inserting service: {error}") from error
    for check in ((request.check,) if request.check else ()) + (request.checks or ()):
        _put_matching_check(txn, request.node, check)


def node_of(request: RegisterRequest) -> Node:
    """The node that a registration describes."""
    return Node(
        id=request.id,
        node=request.node,
        address=request.address,
        datacenter=request.datacenter,
        tagged_addresses=request.tagged_addresses,
        meta=request.node_meta,
        create_index=request.create_index,
        modify_index=request.modify_index,
    )


def _put_matching_check(txn: Txn, node: str, check: HealthCheck) -> None:
    if check.node != node:
        raise RPCError(f'check node "{check.node}" does not match node "{node}"')
    try:
        put_check(txn, check)
    except RPCError as error:
        raise RPCError(f'failed inserting check: {error} on node "{check.node}"') from error


def same_node(one: Node, other: Node) -> bool:
    """Whether two rows differ in nothing but their indexes (nil and empty maps are different)."""
    return replace(one, create_index=0, modify_index=0) == replace(other, create_index=0, modify_index=0)


def find_node(txn: Txn, node: Node) -> Node | None:
    """The stored node by ID if one is given, else by name."""
    if node.id:
        return txn.tables.nodes.first("id", fold(node.id))
    return txn.tables.nodes.get(fold(node.node))


def put_node(txn: Txn, node: Node) -> None:
    """Insert, update or rename a node; an unchanged one is not written. Raises RPCError when the name is taken."""
    existing = None
    if node.id:
        existing = txn.tables.nodes.first("id", fold(node.id))
        if existing is None:
            _refuse_taken_name(txn, node, f'Error while renaming Node ID: "{node.id}"', anonymous_too=False)
        elif fold(existing.node) != fold(node.node):
            words = f'Error while renaming Node ID: "{node.id}" ({node.address})'
            _refuse_taken_name(txn, node, words, anonymous_too=True)
            delete_node(txn, existing.node)
    if existing is None:
        existing = txn.tables.nodes.get(fold(node.node))
    if existing is not None and same_node(existing, node):
        return
    row = replace(node, create_index=existing.create_index if existing else txn.index, modify_index=txn.index)
    _respell(txn, row.node)
    txn.put(txn.tables.nodes, fold(row.node), row)
    txn.set_index(NODES)
    _touch_services_of(txn, row.node)


def _refuse_taken_name(txn: Txn, node: Node, words: str, *, anonymous_too: bool) -> None:
    other = txn.tables.nodes.get(fold(node.node))
    if other is None or other.id == node.id or (not other.id and not anonymous_too):
        return
    health = txn.tables.checks.get(check_key(other.node, SERF_HEALTH))
    if health is not None and health.status != CRITICAL:
        raise RPCError(
            f"{words}: Node name {node.node} is reserved by node {other.id} with name {other.node} ({other.address})"
        )


def _respell(txn: Txn, node: str) -> None:
    """Give the services and checks of a node the letter case of its newest registration.

    compat: 1.10 keeps the old spelling and then can neither deregister the node nor restore its own snapshots.
    """
    for service in txn.tables.services.scan(node_prefix(node)):
        if service.node != node:
            txn.put(txn.tables.services, service_key(node, service.service.id), replace(service, node=node))
    for check in txn.tables.checks.scan(node_prefix(node)):
        if check.node != node:
            txn.put(txn.tables.checks, check_key(node, check.check_id), replace(check, node=node))
    for held in txn.tables.coordinates.keys(node_prefix(node)):
        coordinate = txn.tables.coordinates.rows[held]
        if coordinate.node != node:
            txn.put(txn.tables.coordinates, held, replace(coordinate, node=node))


def _touch_services_of(txn: Txn, node: str) -> None:
    for row in txn.tables.services.scan(node_prefix(node)):
        txn.raise_index(service_index(row.service.service), kind_index(row.service.kind))


def _stored_form(service: NodeService) -> NodeService:
    weights = service.weights
    if weights is None or not 1 <= weights.passing <= WEIGHT_MAX or not 0 <= weights.warning <= WEIGHT_MAX:
        weights = Weights(passing=1, warning=1)
    return replace(service, weights=weights, locally_registered_as_sidecar=False)


def same_service(one: NodeService, other: NodeService) -> bool:
    """Whether two services differ in nothing but their indexes."""
    return replace(one, create_index=0, modify_index=0) == replace(other, create_index=0, modify_index=0)


def _is_registered(txn: Txn, node: str, service: NodeService) -> bool:
    """Whether exactly this is stored already. One that leaves out its weights never is."""
    existing = txn.tables.services.get(service_key(node, service.id))
    return existing is not None and same_service(existing.service, service)


def put_service(txn: Txn, node: str, service: NodeService) -> None:
    """Insert or overwrite a service; an unchanged one is not written. Raises RPCError."""
    problem = meta_problem(service.meta, allow_reserved=True)
    if problem is not None:
        raise RPCError(f"Invalid Service Meta for node {node} and serviceID {service.id}: {problem}")
    row = _stored_form(service)
    key = service_key(node, service.id)
    existing = txn.tables.services.get(key)
    gateway.service_registered(txn, node, service, existing.service if existing is not None else None)
    if existing is not None and same_service(existing.service, row):
        return
    owner = txn.tables.nodes.get(fold(node))
    if owner is None:
        raise RPCError("Missing node registration")
    created = existing.service.create_index if existing else txn.index
    row = replace(row, create_index=created, modify_index=txn.index)
    txn.put(txn.tables.services, key, ServiceRow(owner.node, row))
    txn.raise_index(SERVICES, service_index(row.service), kind_index(row.kind))


def same_check(one: HealthCheck, other: HealthCheck) -> bool:
    """Whether two checks agree in what a caller would notice."""
    return all(getattr(one, name) == getattr(other, name) for name in _CHECK_FIELDS)


_CHECK_FIELDS = (
    "node", "check_id", "name", "status", "notes", "output", "service_id", "service_name", "service_tags", "definition"
)  # fmt: skip


def put_check(txn: Txn, check: HealthCheck) -> None:
    """Insert or update a check; a critical one ends its sessions even when nothing else changed. Raises RPCError."""
    owner = txn.tables.nodes.get(fold(check.node))
    if owner is None:
        raise RPCError("Missing node registration")
    service = None
    row = replace(check, node=owner.node, status=check.status or CRITICAL)
    if check.service_id:
        service = txn.tables.services.get(service_key(check.node, check.service_id))
        if service is None:
            raise RPCError("Missing service registration")
        row = replace(row, service_name=service.service.service, service_tags=service.service.tags)
    key = check_key(check.node, check.check_id)
    existing = txn.tables.checks.get(key)
    changed = existing is None or not same_check(existing, row)
    if changed:
        _touch_check_services(txn, row, service)
    if row.status == CRITICAL:
        _end_sessions(txn, key)
    if changed:
        created = existing.create_index if existing else txn.index
        txn.put(txn.tables.checks, key, replace(row, create_index=created, modify_index=txn.index))
        txn.set_index(CHECKS)


def _touch_check_services(txn: Txn, check: HealthCheck, service: ServiceRow | None) -> None:
    if service is not None:
        txn.raise_index(service_index(service.service.service), kind_index(service.service.kind))
    elif not check.service_id:
        _touch_services_of(txn, check.node)


def _end_sessions(txn: Txn, key: bytes) -> None:
    for session in txn.tables.sessions.lookup("check", key):
        sessions.invalidate(txn, session)


# --- deregistration -------------------------------------------------------------------------------------------


def deregister(txn: Txn, node: str, service_id: str, check_id: str) -> None:
    """Delete a service, else a check, else the whole node. What is not there is fine."""
    if service_id:
        delete_service(txn, node, service_id)
    elif check_id:
        delete_check(txn, node, check_id)
    else:
        delete_node(txn, node)


def delete_node(txn: Txn, node: str) -> None:
    """Delete a node with all that belongs to it."""
    row = txn.tables.nodes.get(fold(node))
    if row is None:
        return
    for service in txn.tables.services.scan(node_prefix(node)):
        delete_service(txn, node, service.service.id)
    for check in txn.tables.checks.scan(node_prefix(node)):
        delete_check(txn, node, check.check_id)
    for key in txn.tables.coordinates.keys(node_prefix(node)):
        txn.delete(txn.tables.coordinates, key)
        txn.set_index("coordinates")
    txn.delete(txn.tables.nodes, fold(node))
    txn.set_index(NODES)
    for session in txn.tables.sessions.lookup("node", fold(node)):
        sessions.invalidate(txn, session)


def delete_service(txn: Txn, node: str, service_id: str) -> None:
    """Delete an instance with its checks; the last of its name leaves the extinction index behind."""
    key = service_key(node, service_id)
    row = txn.tables.services.get(key)
    if row is None:
        return
    for check in txn.tables.checks.lookup("node_service", key):
        delete_check(txn, node, check.check_id)
    txn.delete(txn.tables.services, key)
    txn.set_index(CHECKS)
    txn.raise_index(SERVICES, kind_index(row.service.kind))
    others = txn.tables.services.first("name", fold(row.service.service)) is not None
    gateway.service_removed(txn, row, last_of_name=not others)
    if others:
        txn.raise_index(service_index(row.service.service))
    else:
        txn.delete_index(service_index(row.service.service))
        txn.set_index(EXTINCTION)


def delete_check(txn: Txn, node: str, check_id: str) -> None:
    """Delete a check and end its sessions."""
    key = check_key(node, check_id)
    row = txn.tables.checks.get(key)
    if row is None:
        return
    if row.service_id:
        service = txn.tables.services.get(service_key(node, row.service_id))
        _touch_check_services(txn, row, service)
    else:
        _touch_services_of(txn, row.node)
        txn.raise_index(SERVICES)
    txn.delete(txn.tables.checks, key)
    txn.set_index(CHECKS)
    _end_sessions(txn, key)
