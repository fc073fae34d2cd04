"""Reads of the catalog: nodes, services, and instances of a service."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pyconsul_agent.state.config_entry import CONFIG_ENTRIES, protocol_of
from pyconsul_agent.state.gateway import GATEWAY_SERVICES, gateway_prefix
from pyconsul_agent.state.store import ServiceRow, Store, node_prefix
from pyconsul_agent.state.table import fold
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.catalog import GatewayService, Node, NodeService, ServiceName, ServiceNode, Weights
from pyconsul_agent.structs.config_kinds import INGRESS_GATEWAY, TERMINATING_GATEWAY, WILDCARD

NODES = "nodes"
SERVICES = "services"
CHECKS = "checks"
EXTINCTION = "service_last_extinction"
INDEX = "index"

ZERO_WEIGHTS = Weights()


def _key(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def matches_meta(node: Node | None, filters: Mapping[str, str] | None) -> bool:
    """Whether a node has all the metadata asked for."""
    if not filters:
        return True
    meta = (node.meta if node else None) or {}
    return all(meta.get(name) == value for name, value in filters.items())


def list_nodes(store: Store, watch: WatchSet, filters: Mapping[str, str] | None = None) -> tuple[int, list[Node]]:
    """Nodes by name, those with the metadata asked for."""
    watch.table(NODES)
    return store.index(NODES), [node for node in store.tables.nodes.scan() if matches_meta(node, filters)]


def list_services(
    store: Store, watch: WatchSet, filters: Mapping[str, str] | None = None
) -> tuple[int, dict[str, tuple[str, ...]]]:
    """Service names with the tags that any instance has."""
    watch.table(SERVICES)
    index = store.index(SERVICES)
    if filters:
        watch.table(NODES)
        index = store.index(SERVICES, NODES)
    found: dict[str, dict[str, None]] = {}
    for row in store.tables.services.scan():
        if matches_meta(store.tables.nodes.get(fold(row.node)), filters):
            found.setdefault(row.service.service, {}).update(dict.fromkeys(row.service.tags or ()))
    return index, {name: tuple(sorted(tags)) for name, tags in sorted(found.items())}


def service_names(store: Store, watch: WatchSet) -> tuple[int, list[ServiceName]]:
    """Names of all services, sorted."""
    watch.table(SERVICES)
    names = {row.service.service for row in store.tables.services.rows.values()}
    return store.index(SERVICES), [ServiceName(name=name) for name in sorted(names)]


def node_services(store: Store, watch: WatchSet, node: str) -> tuple[int, Node | None, list[NodeService]]:
    """A node (by name, or by ID of which at least 2 characters are given uniquely) with its services by ID."""
    watch.row(NODES, fold(node))
    watch.prefix(SERVICES, node_prefix(node))
    row = store.tables.nodes.get(fold(node)) or _node_by_id(store, watch, node)
    if row is None:
        return 0, None, []
    services = [found.service for found in store.tables.services.scan(node_prefix(row.node))]
    return store.index(NODES, SERVICES), row, services


ID_PREFIX_LENGTH_MIN = 2


def _node_by_id(store: Store, watch: WatchSet, prefix: str) -> Node | None:
    """The only node whose ID begins so, if that can be an ID at all."""
    digits = prefix.replace("-", "")
    if len(prefix) < ID_PREFIX_LENGTH_MIN or len(digits) % 2 or not all(c in "0123456789abcdefABCDEF" for c in digits):
        return None
    found = [node for node in store.tables.nodes.rows.values() if node.id.lower().startswith(prefix.lower())]
    if len(found) != 1:
        return None
    watch.row(NODES, fold(found[0].node))
    watch.prefix(SERVICES, node_prefix(found[0].node))
    return found[0]


def instances(
    store: Store, watch: WatchSet, name: str, *, connect: bool = False, missing: tuple[str, ...] = (NODES, SERVICES)
) -> tuple[int, list[ServiceRow]]:
    """Instances of a service (over Connect: the proxies in front of it) and their index.

    With instances that is `service.<name>` alone, the only thing watched; without, the index of the last extinction of
    any service, else `service.<name>` (over Connect, where instances without a proxy may be), else the highest of the
    tables `missing`. Letter case does not count.
    """
    rows = store.tables.services.lookup("connect" if connect else "name", fold(name))
    floor = 0
    if connect:
        floor, gateways = behind_gateways(store, watch, name, TERMINATING_GATEWAY)
        rows = rows + gateways
    if not rows:
        if connect:
            watch.table(SERVICES)
        watch.row(INDEX, _key(f"service.{name}"))
        own = _service_indexes(store.tables.services.lookup("name", fold(name)))
        return store.index(EXTINCTION) or store.index(*own) or store.index(*missing), []
    indexes = _service_indexes(rows)
    for entry in indexes:
        watch.row(INDEX, _key(entry))
    if connect:
        watch.table(SERVICES)
    return max(floor, store.index(*indexes)), rows


def _service_indexes(rows: Iterable[ServiceRow]) -> list[str]:
    """The index entries of services, as they spell their names."""
    return sorted({f"service.{row.service.service}" for row in rows})


def behind_gateways(store: Store, watch: WatchSet, name: str, kind: str) -> tuple[int, list[ServiceRow]]:
    """Instances of the gateways of a kind that lead to a service.

    The index is the highest of the mappings and of the gateways' own; it does not fall when a gateway goes.
    """
    watch.table(GATEWAY_SERVICES)
    index, found = 0, []
    for mapping in store.tables.gateway_services.lookup("service", fold(name)):
        if mapping.gateway_kind != kind:
            continue
        gateway = mapping.gateway.name
        rows = store.tables.services.lookup("name", fold(gateway))
        watch.row(INDEX, _key(f"service.{gateway}"))
        own = store.index(f"service.{gateway}") if rows else store.index(EXTINCTION)
        index = max(index, mapping.modify_index, own)
        found += rows
    return index, found


def gateway_services(store: Store, watch: WatchSet, gateway: str) -> tuple[int, list[GatewayService]]:
    """The services behind a gateway; of all gateways if none is named. Wildcards stand for what they cover."""
    watch.table(GATEWAY_SERVICES)
    watch.table(CONFIG_ENTRIES)
    prefix = gateway_prefix(gateway) if gateway else b""
    index, found = store.index(GATEWAY_SERVICES), []
    for row in store.tables.gateway_services.scan(prefix):
        index = max(index, row.modify_index)
        if row.service.name == WILDCARD:
            continue
        if row.gateway_kind == INGRESS_GATEWAY and row.from_wildcard:
            # A wildcard covers only the services that speak what its listener speaks.
            index = max(index, store.index(CONFIG_ENTRIES))
            if protocol_of(store.tables, row.service.name) != row.protocol:
                continue
        found.append(row)
    return index, found


def instances_at(store: Store, watch: WatchSet, address: str) -> tuple[int, list[ServiceRow]]:
    """Instances that listen on an address (their own, or the node's when they have none)."""
    watch.table(SERVICES)
    watch.table(NODES)
    rows = []
    for row in store.tables.services.scan():
        node = store.tables.nodes.get(fold(row.node))
        if (row.service.address or (node.address if node else "")) == address:
            rows.append(row)
    return store.index(NODES, SERVICES), rows


def has_tags(service: NodeService, wanted: Iterable[str]) -> bool:
    """Whether a service has every tag, in any letter case."""
    have = {tag.lower() for tag in service.tags or ()}
    return all(tag.lower() in have for tag in wanted)


def service_node(store: Store, row: ServiceRow) -> ServiceNode:
    """An instance joined with its node. Tags and metadata are never nil here, as in the original."""
    node = store.tables.nodes.get(fold(row.node)) or Node(node=row.node)
    service = row.service
    return ServiceNode(
        id=node.id,
        node=node.node,
        address=node.address,
        datacenter=node.datacenter,
        tagged_addresses=node.tagged_addresses,
        node_meta=node.meta,
        service_kind=service.kind,
        service_id=service.id,
        service_name=service.service,
        service_tags=service.tags or (),
        service_address=service.address,
        service_tagged_addresses=service.tagged_addresses or None,
        service_weights=service.weights or ZERO_WEIGHTS,
        service_meta=service.meta or {},
        service_port=service.port,
        service_socket_path=service.socket_path,
        service_enable_tag_override=service.enable_tag_override,
        service_proxy=service.proxy,
        service_connect=service.connect,
        create_index=service.create_index,
        modify_index=service.modify_index,
    )
