"""Which services stand behind which gateway, and which services reach which.

Both tables follow from config entries and registrations; no command writes them, and snapshots do not carry them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pyconsul_agent.state.store import MeshLink, ServiceRow, Txn, service_key
from pyconsul_agent.state.table import fold, join
from pyconsul_agent.structs.catalog import GatewayService, NodeService, ServiceName
from pyconsul_agent.structs.config_entry import IngressGatewayConfigEntry, TerminatingGatewayConfigEntry
from pyconsul_agent.structs.config_kinds import INGRESS_GATEWAY, TERMINATING_GATEWAY, WILDCARD

GATEWAY_SERVICES = "gateway-services"
MESH_TOPOLOGY = "mesh-topology"
CONNECT_PROXY = "connect-proxy"
CONSUL = "consul"
PREPARED_QUERY = "prepared_query"


def gateway_prefix(gateway: str) -> bytes:
    """Prefix of the keys of a gateway's services."""
    return join(fold(gateway), b"")


def _key(row: GatewayService) -> bytes:
    port = (row.port + (1 << 63)) % (1 << 64)
    return join(fold(row.gateway.name), fold(row.service.name), port.to_bytes(8, "big"))


def link_key(upstream: str, downstream: str) -> bytes:
    """Key in the table of links."""
    return join(fold(upstream), fold(downstream))


# --- from config entries ----------------------------------------------------------------------------------------


def ingress_links(entry: IngressGatewayConfigEntry) -> list[GatewayService]:
    """The services that an ingress gateway offers."""
    return [
        GatewayService(
            gateway=ServiceName(name=entry.name),
            service=ServiceName(name=service.name),
            gateway_kind=INGRESS_GATEWAY,
            hosts=service.hosts,
            port=listener.port,
            protocol=listener.protocol,
        )
        for listener in entry.listeners or ()
        for service in listener.services or ()
    ]


def terminating_links(entry: TerminatingGatewayConfigEntry) -> list[GatewayService]:
    """The services that a terminating gateway leads to."""
    return [
        GatewayService(
            gateway=ServiceName(name=entry.name),
            service=ServiceName(name=service.name),
            gateway_kind=TERMINATING_GATEWAY,
            key_file=service.key_file,
            cert_file=service.cert_file,
            ca_file=service.ca_file,
            sni=service.sni,
        )
        for service in entry.services or ()
    ]


def link_gateway(txn: Txn, gateway: str, kind: str, rows: Iterable[GatewayService]) -> None:
    """Replace all services of a gateway."""
    _forget(txn, gateway, kind)
    for row in rows:
        if row.service.name == WILDCARD:
            _link_all(txn, row)
        else:
            _put(txn, row)
    txn.raise_index(GATEWAY_SERVICES)


def unlink_gateway(txn: Txn, gateway: str, kind: str) -> None:
    """A gateway's entry goes."""
    _forget(txn, gateway, kind)
    txn.raise_index(GATEWAY_SERVICES)


def _forget(txn: Txn, gateway: str, kind: str) -> None:
    for row_key in txn.tables.gateway_services.keys(gateway_prefix(gateway)):
        txn.delete(txn.tables.gateway_services, row_key)
    if kind == INGRESS_GATEWAY:
        for link in txn.tables.mesh_topology.lookup("downstream", fold(gateway)):
            txn.delete(txn.tables.mesh_topology, link_key(link.upstream, link.downstream))
        txn.raise_index(MESH_TOPOLOGY)


def _link_all(txn: Txn, wildcard: GatewayService) -> None:
    """Link every service but Consul itself, unless it is named on its own; keep the wildcard for those to come."""
    names = {row.service.service for row in txn.tables.services.lookup("kind", b"")}
    for name in sorted(names - {CONSUL}):
        row = replace(wildcard, service=ServiceName(name=name), from_wildcard=True)
        if txn.tables.gateway_services.get(_key(row)) is None:
            _put(txn, row)
    _put(txn, wildcard)


def _put(txn: Txn, row: GatewayService) -> None:
    existing = txn.tables.gateway_services.get(_key(row))
    created = existing.create_index if existing is not None else txn.index
    if existing is not None and _same(existing, row):
        return
    row = replace(row, create_index=created, modify_index=txn.index)
    txn.put(txn.tables.gateway_services, _key(row), row)
    txn.raise_index(GATEWAY_SERVICES)
    if row.gateway_kind == INGRESS_GATEWAY and row.service.name != WILDCARD:
        link = MeshLink(row.service.name, row.gateway.name, frozenset(), row.create_index, row.modify_index)
        txn.put(txn.tables.mesh_topology, link_key(link.upstream, link.downstream), link)
        txn.raise_index(MESH_TOPOLOGY)


def _same(one: GatewayService, other: GatewayService) -> bool:
    def bare(row: GatewayService) -> GatewayService:
        return replace(row, create_index=0, modify_index=0, hosts=row.hosts or None)

    return bare(one) == bare(other)


# --- from registrations -----------------------------------------------------------------------------------------


def service_registered(txn: Txn, node: str, service: NodeService, existing: NodeService | None) -> None:
    """A service is about to be written: wildcards of gateways may cover it, and a proxy names its upstreams."""
    if service.kind == "" and service.service != CONSUL:
        for wildcard in txn.tables.gateway_services.lookup("service", fold(WILDCARD)):
            _put(txn, replace(wildcard, service=ServiceName(name=service.service), from_wildcard=True))
    if service.kind == CONNECT_PROXY:
        _link_proxy(txn, service_key(node, service.id), service, existing)


def _link_proxy(txn: Txn, instance: bytes, service: NodeService, existing: NodeService | None) -> None:
    downstream = service.proxy.destination_service_name
    named = set()
    for upstream in service.proxy.upstreams or ():
        if upstream.destination_type == PREPARED_QUERY:
            continue
        row_key = link_key(upstream.destination_name, downstream)
        link = txn.tables.mesh_topology.get(row_key)
        if link is None:
            link = MeshLink(upstream.destination_name, downstream, frozenset(), txn.index, txn.index)
        link = replace(link, instances=link.instances | {instance}, modify_index=txn.index)
        txn.put(txn.tables.mesh_topology, row_key, link)
        txn.raise_index(MESH_TOPOLOGY)
        named.add(fold(upstream.destination_name))
    for upstream in (existing.proxy.upstreams if existing is not None else None) or ():
        if fold(upstream.destination_name) not in named:
            txn.delete(txn.tables.mesh_topology, link_key(upstream.destination_name, downstream))
            txn.raise_index(MESH_TOPOLOGY)


def service_removed(txn: Txn, row: ServiceRow, *, last_of_name: bool) -> None:
    """An instance has gone."""
    if row.service.kind == CONNECT_PROXY:
        instance = service_key(row.node, row.service.id)
        for link in txn.tables.mesh_topology.lookup("downstream", fold(row.service.proxy.destination_service_name)):
            if instance in link.instances:
                _drop_instance(txn, link, instance)
    if last_of_name:
        for mapping in txn.tables.gateway_services.lookup("service", fold(row.service.service)):
            if mapping.from_wildcard:
                _drop_mapping(txn, mapping)


def _drop_instance(txn: Txn, link: MeshLink, instance: bytes) -> None:
    row_key = link_key(link.upstream, link.downstream)
    rest = link.instances - {instance}
    if rest:
        txn.put(txn.tables.mesh_topology, row_key, replace(link, instances=rest))
    else:
        txn.delete(txn.tables.mesh_topology, row_key)
        txn.raise_index(MESH_TOPOLOGY)


def _drop_mapping(txn: Txn, mapping: GatewayService) -> None:
    txn.delete(txn.tables.gateway_services, _key(mapping))
    txn.raise_index(GATEWAY_SERVICES)
    if mapping.gateway_kind == INGRESS_GATEWAY:
        txn.delete(txn.tables.mesh_topology, link_key(mapping.service.name, mapping.gateway.name))
        txn.raise_index(MESH_TOPOLOGY)
