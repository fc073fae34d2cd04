"""One dataclass per RPC argument and reply that is not itself a row.

QueryOptions, QueryMeta and WriteRequest are embedded (flattened) on the wire; here a request that embeds one
inherits from it, so that code which only needs the options can take any request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyconsul_agent.structs.base import Duration, wire
from pyconsul_agent.structs.catalog import (
    GatewayService,
    Node,
    NodeService,
    NodeServiceList,
    NodeServices,
    ServiceName,
    ServiceNode,
)
from pyconsul_agent.structs.coordinate import Coordinate, VivaldiCoordinate
from pyconsul_agent.structs.health import CheckServiceNode, HealthCheck, NodeInfo, ServiceInfo
from pyconsul_agent.structs.kv import DirEntry
from pyconsul_agent.structs.operator import AutopilotConfig, KeyringResponse
from pyconsul_agent.structs.prepared_query import PreparedQuery, QueryDNSOptions
from pyconsul_agent.structs.session import Session
from pyconsul_agent.structs.txn import TxnError, TxnOp, TxnResult


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryOptions:
    """Consul's `QueryOptions`."""

    token: str = wire("Token", "")
    min_query_index: int = wire("MinQueryIndex", 0)
    max_query_time: Duration = wire("MaxQueryTime", Duration(0))
    allow_stale: bool = wire("AllowStale", False)
    require_consistent: bool = wire("RequireConsistent", False)
    use_cache: bool = wire("UseCache", False)
    max_stale_duration: Duration = wire("MaxStaleDuration", Duration(0))
    max_age: Duration = wire("MaxAge", Duration(0))
    must_revalidate: bool = wire("MustRevalidate", False)
    stale_if_error: Duration = wire("StaleIfError", Duration(0))
    filter: str = wire("Filter", "")
    allow_not_modified_response: bool = wire("AllowNotModifiedResponse", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryMeta:
    """Consul's `QueryMeta`."""

    index: int = wire("Index", 0)
    last_contact: Duration = wire("LastContact", Duration(0))
    known_leader: bool = wire("KnownLeader", False)
    consistency_level: str = wire("ConsistencyLevel", "")
    not_modified: bool = wire("NotModified", False)
    backend: int = wire("Backend", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRequest:
    """Consul's `WriteRequest`."""

    token: str = wire("Token", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuerySource:
    """Consul's `QuerySource`."""

    datacenter: str = wire("Datacenter", "")
    segment: str = wire("Segment", "")
    node: str = wire("Node", "")
    ip: str = wire("Ip", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class AutopilotSetConfigRequest(WriteRequest):
    """Consul's `AutopilotSetConfigRequest`."""

    datacenter: str = wire("Datacenter", "")
    config: AutopilotConfig = wire("Config", AutopilotConfig())
    cas: bool = wire("CAS", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChecksInStateRequest(QueryOptions):
    """Consul's `ChecksInStateRequest`."""

    datacenter: str = wire("Datacenter", "")
    node_meta_filters: Mapping[str, str] | None = wire("NodeMetaFilters", None)
    state: str = wire("State", "")
    source: QuerySource = wire("Source", QuerySource())


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinateUpdateRequest(WriteRequest):
    """Consul's `CoordinateUpdateRequest`."""

    datacenter: str = wire("Datacenter", "")
    node: str = wire("Node", "")
    segment: str = wire("Segment", "")
    coord: VivaldiCoordinate | None = wire("Coord", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class DCSpecificRequest(QueryOptions):
    """Consul's `DCSpecificRequest`."""

    datacenter: str = wire("Datacenter", "")
    node_meta_filters: Mapping[str, str] | None = wire("NodeMetaFilters", None)
    source: QuerySource = wire("Source", QuerySource())


@dataclass(frozen=True, slots=True, kw_only=True)
class DatacentersRequest(QueryOptions):
    """Consul's `DatacentersRequest`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeregisterRequest(WriteRequest):
    """Consul's `DeregisterRequest`."""

    datacenter: str = wire("Datacenter", "")
    node: str = wire("Node", "")
    service_id: str = wire("ServiceID", "")
    check_id: str = wire("CheckID", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFireRequest(QueryOptions):
    """Consul's `EventFireRequest`."""

    datacenter: str = wire("Datacenter", "")
    name: str = wire("Name", "")
    payload: bytes | None = wire("Payload", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFireResponse(QueryMeta):
    """Consul's `EventFireResponse`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedCheckServiceNodes(QueryMeta):
    """Consul's `IndexedCheckServiceNodes`."""

    nodes: tuple[CheckServiceNode, ...] | None = wire("Nodes", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedCoordinates(QueryMeta):
    """Consul's `IndexedCoordinates`."""

    coordinates: tuple[Coordinate, ...] | None = wire("Coordinates", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedDirEntries(QueryMeta):
    """Consul's `IndexedDirEntries`."""

    entries: tuple[DirEntry, ...] | None = wire("Entries", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedGatewayServices(QueryMeta):
    """Consul's `IndexedGatewayServices`."""

    services: tuple[GatewayService, ...] | None = wire("Services", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedHealthChecks(QueryMeta):
    """Consul's `IndexedHealthChecks`."""

    health_checks: tuple[HealthCheck, ...] | None = wire("HealthChecks", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedKeyList(QueryMeta):
    """Consul's `IndexedKeyList`."""

    keys: tuple[str, ...] | None = wire("Keys", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedNodeDump(QueryMeta):
    """Consul's `IndexedNodeDump`."""

    dump: tuple[NodeInfo, ...] | None = wire("Dump", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedNodeServiceList(QueryMeta):
    """Consul's `IndexedNodeServiceList`."""

    node_services: NodeServiceList = wire("NodeServices", NodeServiceList())


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedNodeServices(QueryMeta):
    """Consul's `IndexedNodeServices`."""

    node_services: NodeServices | None = wire("NodeServices", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedNodes(QueryMeta):
    """Consul's `IndexedNodes`."""

    nodes: tuple[Node, ...] | None = wire("Nodes", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedNodesWithGateways(QueryMeta):
    """Consul's `IndexedNodesWithGateways`."""

    nodes: tuple[CheckServiceNode, ...] | None = wire("Nodes", None)
    gateways: tuple[GatewayService, ...] | None = wire("Gateways", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedPreparedQueries(QueryMeta):
    """Consul's `IndexedPreparedQueries`."""

    queries: tuple[PreparedQuery, ...] | None = wire("Queries", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedServiceDump(QueryMeta):
    """Consul's `IndexedServiceDump`."""

    dump: tuple[ServiceInfo, ...] | None = wire("Dump", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedServiceList(QueryMeta):
    """Consul's `IndexedServiceList`."""

    services: tuple[ServiceName, ...] | None = wire("Services", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedServiceNodes(QueryMeta):
    """Consul's `IndexedServiceNodes`."""

    service_nodes: tuple[ServiceNode, ...] | None = wire("ServiceNodes", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedServices(QueryMeta):
    """Consul's `IndexedServices`."""

    services: Mapping[str, tuple[str, ...] | None] | None = wire("Services", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedSessions(QueryMeta):
    """Consul's `IndexedSessions`."""

    sessions: tuple[Session, ...] | None = wire("Sessions", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class KVSRequest(WriteRequest):
    """Consul's `KVSRequest`."""

    datacenter: str = wire("Datacenter", "")
    op: str = wire("Op", "")
    dir_ent: DirEntry = wire("DirEnt", DirEntry())


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyListRequest(QueryOptions):
    """Consul's `KeyListRequest`."""

    datacenter: str = wire("Datacenter", "")
    prefix: bytes = wire("Prefix", b"")
    seperator: bytes = wire("Seperator", b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRequest(QueryOptions):
    """Consul's `KeyRequest`."""

    datacenter: str = wire("Datacenter", "")
    key: bytes = wire("Key", b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyringRequest(QueryOptions):
    """Consul's `KeyringRequest`."""

    operation: str = wire("Operation", "")
    key: str = wire("Key", "")
    datacenter: str = wire("Datacenter", "")
    forwarded: bool = wire("Forwarded", False)
    relay_factor: int = wire("RelayFactor", 0)
    local_only: bool = wire("LocalOnly", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyringResponses(QueryMeta):
    """Consul's `KeyringResponses`."""

    responses: tuple[KeyringResponse, ...] | None = wire("Responses", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpecificRequest(QueryOptions):
    """Consul's `NodeSpecificRequest`."""

    datacenter: str = wire("Datacenter", "")
    node: str = wire("Node", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedQueryExecuteRemoteRequest(QueryOptions):
    """Consul's `PreparedQueryExecuteRemoteRequest`."""

    datacenter: str = wire("Datacenter", "")
    query: PreparedQuery = wire("Query", PreparedQuery())
    limit: int = wire("Limit", 0)
    connect: bool = wire("Connect", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedQueryExecuteRequest(QueryOptions):
    """Consul's `PreparedQueryExecuteRequest`."""

    datacenter: str = wire("Datacenter", "")
    query_id_or_name: str = wire("QueryIDOrName", "")
    limit: int = wire("Limit", 0)
    connect: bool = wire("Connect", False)
    source: QuerySource = wire("Source", QuerySource())
    agent: QuerySource = wire("Agent", QuerySource())


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedQueryExecuteResponse(QueryMeta):
    """Consul's `PreparedQueryExecuteResponse`."""

    service: str = wire("Service", "")
    nodes: tuple[CheckServiceNode, ...] | None = wire("Nodes", None)
    dns: QueryDNSOptions = wire("DNS", QueryDNSOptions())
    datacenter: str = wire("Datacenter", "")
    failovers: int = wire("Failovers", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedQueryExplainResponse(QueryMeta):
    """Consul's `PreparedQueryExplainResponse`."""

    query: PreparedQuery = wire("Query", PreparedQuery())


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedQueryRequest(WriteRequest):
    """Consul's `PreparedQueryRequest`."""

    datacenter: str = wire("Datacenter", "")
    op: str = wire("Op", "")
    query: PreparedQuery | None = wire("Query", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedQuerySpecificRequest(QueryOptions):
    """Consul's `PreparedQuerySpecificRequest`."""

    datacenter: str = wire("Datacenter", "")
    query_id: str = wire("QueryID", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftRemovePeerRequest(WriteRequest):
    """Consul's `RaftRemovePeerRequest`."""

    datacenter: str = wire("Datacenter", "")
    address: str = wire("Address", "")
    id: str = wire("ID", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterRequest(WriteRequest):
    """Consul's `RegisterRequest`."""

    datacenter: str = wire("Datacenter", "")
    id: str = wire("ID", "")
    node: str = wire("Node", "")
    address: str = wire("Address", "")
    tagged_addresses: Mapping[str, str] | None = wire("TaggedAddresses", None)
    node_meta: Mapping[str, str] | None = wire("NodeMeta", None)
    service: NodeService | None = wire("Service", None)
    check: HealthCheck | None = wire("Check", None)
    checks: tuple[HealthCheck, ...] | None = wire("Checks", None)
    skip_node_update: bool = wire("SkipNodeUpdate", False)
    create_index: int = wire("CreateIndex", 0)
    modify_index: int = wire("ModifyIndex", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceDumpRequest(QueryOptions):
    """Consul's `ServiceDumpRequest`."""

    datacenter: str = wire("Datacenter", "")
    service_kind: str = wire("ServiceKind", "")
    use_service_kind: bool = wire("UseServiceKind", False)
    source: QuerySource = wire("Source", QuerySource())


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpecificRequest(QueryOptions):
    """Consul's `ServiceSpecificRequest`."""

    datacenter: str = wire("Datacenter", "")
    node_meta_filters: Mapping[str, str] | None = wire("NodeMetaFilters", None)
    service_name: str = wire("ServiceName", "")
    service_kind: str = wire("ServiceKind", "")
    service_tag: str = wire("ServiceTag", "")
    service_tags: tuple[str, ...] | None = wire("ServiceTags", None)
    service_address: str = wire("ServiceAddress", "")
    tag_filter: bool = wire("TagFilter", False)
    source: QuerySource = wire("Source", QuerySource())
    connect: bool = wire("Connect", False)
    ingress: bool = wire("Ingress", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRequest(WriteRequest):
    """Consul's `SessionRequest`."""

    datacenter: str = wire("Datacenter", "")
    op: str = wire("Op", "")
    session: Session = wire("Session", Session())


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSpecificRequest(QueryOptions):
    """Consul's `SessionSpecificRequest`."""

    datacenter: str = wire("Datacenter", "")
    session_id: str = wire("SessionID", "")
    session: str = wire("Session", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRequest:
    """Consul's `SnapshotRequest`."""

    datacenter: str = wire("Datacenter", "")
    token: str = wire("Token", "")
    allow_stale: bool = wire("AllowStale", False)
    op: int = wire("Op", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotResponse(QueryMeta):
    """Consul's `SnapshotResponse`."""

    error: str = wire("Error", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class TxnReadRequest(QueryOptions):
    """Consul's `TxnReadRequest`."""

    datacenter: str = wire("Datacenter", "")
    ops: tuple[TxnOp, ...] | None = wire("Ops", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TxnReadResponse(QueryMeta):
    """Consul's `TxnReadResponse`."""

    results: tuple[TxnResult, ...] | None = wire("Results", None)
    errors: tuple[TxnError, ...] | None = wire("Errors", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TxnRequest(WriteRequest):
    """Consul's `TxnRequest`."""

    datacenter: str = wire("Datacenter", "")
    ops: tuple[TxnOp, ...] | None = wire("Ops", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TxnResponse:
    """Consul's `TxnResponse`."""

    results: tuple[TxnResult, ...] | None = wire("Results", None)
    errors: tuple[TxnError, ...] | None = wire("Errors", None)
