"""One dataclass per RPC argument and reply that is not itself a row.

QueryOptions, QueryMeta and WriteRequest are embedded (flattened) on the wire; here a request that embeds one
inherits from it, so that code which only needs the options can take any request.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyconsul_agent.structs.base import Duration, struct, wire
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


@struct
class QueryOptions:
    """Consul's `QueryOptions`."""

    token: str = wire("Token", default="")
    min_query_index: int = wire("MinQueryIndex", default=0)
    max_query_time: Duration = wire("MaxQueryTime", default=Duration(0))
    allow_stale: bool = wire("AllowStale", default=False)
    require_consistent: bool = wire("RequireConsistent", default=False)
    use_cache: bool = wire("UseCache", default=False)
    max_stale_duration: Duration = wire("MaxStaleDuration", default=Duration(0))
    max_age: Duration = wire("MaxAge", default=Duration(0))
    must_revalidate: bool = wire("MustRevalidate", default=False)
    stale_if_error: Duration = wire("StaleIfError", default=Duration(0))
    filter: str = wire("Filter", default="")
    allow_not_modified_response: bool = wire("AllowNotModifiedResponse", default=False)


@struct
class QueryMeta:
    """Consul's `QueryMeta`."""

    index: int = wire("Index", default=0)
    last_contact: Duration = wire("LastContact", default=Duration(0))
    known_leader: bool = wire("KnownLeader", default=False)
    consistency_level: str = wire("ConsistencyLevel", default="")
    not_modified: bool = wire("NotModified", default=False)
    backend: int = wire("Backend", default=0)


@struct
class WriteRequest:
    """Consul's `WriteRequest`."""

    token: str = wire("Token", default="")


@struct
class QuerySource:
    """Consul's `QuerySource`."""

    datacenter: str = wire("Datacenter", default="")
    segment: str = wire("Segment", default="")
    node: str = wire("Node", default="")
    ip: str = wire("Ip", default="")


@struct
class AutopilotSetConfigRequest(WriteRequest):
    """Consul's `AutopilotSetConfigRequest`."""

    datacenter: str = wire("Datacenter", default="")
    config: AutopilotConfig = wire("Config", default=AutopilotConfig())
    cas: bool = wire("CAS", default=False)


@struct
class ChecksInStateRequest(QueryOptions):
    """Consul's `ChecksInStateRequest`."""

    datacenter: str = wire("Datacenter", default="")
    node_meta_filters: Mapping[str, str] | None = wire("NodeMetaFilters", default=None)
    state: str = wire("State", default="")
    source: QuerySource = wire("Source", default=QuerySource())


@struct
class CoordinateUpdateRequest(WriteRequest):
    """Consul's `CoordinateUpdateRequest`."""

    datacenter: str = wire("Datacenter", default="")
    node: str = wire("Node", default="")
    segment: str = wire("Segment", default="")
    coord: VivaldiCoordinate | None = wire("Coord", default=None)


@struct
class DCSpecificRequest(QueryOptions):
    """Consul's `DCSpecificRequest`."""

    datacenter: str = wire("Datacenter", default="")
    node_meta_filters: Mapping[str, str] | None = wire("NodeMetaFilters", default=None)
    source: QuerySource = wire("Source", default=QuerySource())


@struct
class DatacentersRequest(QueryOptions):
    """Consul's `DatacentersRequest`."""


@struct
class DeregisterRequest(WriteRequest):
    """Consul's `DeregisterRequest`."""

    datacenter: str = wire("Datacenter", default="")
    node: str = wire("Node", default="")
    service_id: str = wire("ServiceID", default="")
    check_id: str = wire("CheckID", default="")


@struct
class EventFireRequest(QueryOptions):
    """Consul's `EventFireRequest`."""

    datacenter: str = wire("Datacenter", default="")
    name: str = wire("Name", default="")
    payload: bytes | None = wire("Payload", default=None)


@struct
class EventFireResponse(QueryMeta):
    """Consul's `EventFireResponse`."""


@struct
class IndexedCheckServiceNodes(QueryMeta):
    """Consul's `IndexedCheckServiceNodes`."""

    nodes: tuple[CheckServiceNode, ...] | None = wire("Nodes", default=None)


@struct
class IndexedCoordinates(QueryMeta):
    """Consul's `IndexedCoordinates`."""

    coordinates: tuple[Coordinate, ...] | None = wire("Coordinates", default=None)


@struct
class IndexedDirEntries(QueryMeta):
    """Consul's `IndexedDirEntries`."""

    entries: tuple[DirEntry, ...] | None = wire("Entries", default=None)


@struct
class IndexedGatewayServices(QueryMeta):
    """Consul's `IndexedGatewayServices`."""

    services: tuple[GatewayService, ...] | None = wire("Services", default=None)


@struct
class IndexedHealthChecks(QueryMeta):
    """Consul's `IndexedHealthChecks`."""

    health_checks: tuple[HealthCheck, ...] | None = wire("HealthChecks", default=None)


@struct
class IndexedKeyList(QueryMeta):
    """Consul's `IndexedKeyList`."""

    keys: tuple[str, ...] | None = wire("Keys", default=None)


@struct
class IndexedNodeDump(QueryMeta):
    """Consul's `IndexedNodeDump`."""

    dump: tuple[NodeInfo, ...] | None = wire("Dump", default=None)


@struct
class IndexedNodeServiceList(QueryMeta):
    """Consul's `IndexedNodeServiceList`."""

    node_services: NodeServiceList = wire("NodeServices", default=NodeServiceList())


@struct
class IndexedNodeServices(QueryMeta):
    """Consul's `IndexedNodeServices`."""

    node_services: NodeServices | None = wire("NodeServices", default=None)


@struct
class IndexedNodes(QueryMeta):
    """Consul's `IndexedNodes`."""

    nodes: tuple[Node, ...] | None = wire("Nodes", default=None)


@struct
class IndexedNodesWithGateways(QueryMeta):
    """Consul's `IndexedNodesWithGateways`."""

    nodes: tuple[CheckServiceNode, ...] | None = wire("Nodes", default=None)
    gateways: tuple[GatewayService, ...] | None = wire("Gateways", default=None)


@struct
class IndexedPreparedQueries(QueryMeta):
    """Consul's `IndexedPreparedQueries`."""

    queries: tuple[PreparedQuery, ...] | None = wire("Queries", default=None)


@struct
class IndexedServiceDump(QueryMeta):
    """Consul's `IndexedServiceDump`."""

    dump: tuple[ServiceInfo, ...] | None = wire("Dump", default=None)


@struct
class IndexedServiceList(QueryMeta):
    """Consul's `IndexedServiceList`."""

    services: tuple[ServiceName, ...] | None = wire("Services", default=None)


@struct
class IndexedServiceNodes(QueryMeta):
    """Consul's `IndexedServiceNodes`."""

    service_nodes: tuple[ServiceNode, ...] | None = wire("ServiceNodes", default=None)


@struct
class IndexedServices(QueryMeta):
    """Consul's `IndexedServices`."""

    services: Mapping[str, tuple[str, ...] | None] | None = wire("Services", default=None)


@struct
class IndexedSessions(QueryMeta):
    """Consul's `IndexedSessions`."""

    sessions: tuple[Session, ...] | None = wire("Sessions", default=None)


@struct
class KVSRequest(WriteRequest):
    """Consul's `KVSRequest`."""

    datacenter: str = wire("Datacenter", default="")
    op: str = wire("Op", default="")
    dir_ent: DirEntry = wire("DirEnt", default=DirEntry())


@struct
class KeyListRequest(QueryOptions):
    """Consul's `KeyListRequest`."""

    datacenter: str = wire("Datacenter", default="")
    prefix: bytes = wire("Prefix", default=b"")
    seperator: bytes = wire("Seperator", default=b"")


@struct
class KeyRequest(QueryOptions):
    """Consul's `KeyRequest`."""

    datacenter: str = wire("Datacenter", default="")
    key: bytes = wire("Key", default=b"")


@struct
class KeyringRequest(QueryOptions):
    """Consul's `KeyringRequest`."""

    operation: str = wire("Operation", default="")
    key: str = wire("Key", default="")
    datacenter: str = wire("Datacenter", default="")
    forwarded: bool = wire("Forwarded", default=False)
    relay_factor: int = wire("RelayFactor", default=0)
    local_only: bool = wire("LocalOnly", default=False)


@struct
class KeyringResponses(QueryMeta):
    """Consul's `KeyringResponses`."""

    responses: tuple[KeyringResponse, ...] | None = wire("Responses", default=None)


@struct
class NodeSpecificRequest(QueryOptions):
    """Consul's `NodeSpecificRequest`."""

    datacenter: str = wire("Datacenter", default="")
    node: str = wire("Node", default="")


@struct
class PreparedQueryExecuteRemoteRequest(QueryOptions):
    """Consul's `PreparedQueryExecuteRemoteRequest`."""

    datacenter: str = wire("Datacenter", default="")
    query: PreparedQuery = wire("Query", default=PreparedQuery())
    limit: int = wire("Limit", default=0)
    connect: bool = wire("Connect", default=False)


@struct
class PreparedQueryExecuteRequest(QueryOptions):
    """Consul's `PreparedQueryExecuteRequest`."""

    datacenter: str = wire("Datacenter", default="")
    query_id_or_name: str = wire("QueryIDOrName", default="")
    limit: int = wire("Limit", default=0)
    connect: bool = wire("Connect", default=False)
    source: QuerySource = wire("Source", default=QuerySource())
    agent: QuerySource = wire("Agent", default=QuerySource())


@struct
class PreparedQueryExecuteResponse(QueryMeta):
    """Consul's `PreparedQueryExecuteResponse`."""

    service: str = wire("Service", default="")
    nodes: tuple[CheckServiceNode, ...] | None = wire("Nodes", default=None)
    dns: QueryDNSOptions = wire("DNS", default=QueryDNSOptions())
    datacenter: str = wire("Datacenter", default="")
    failovers: int = wire("Failovers", default=0)


@struct
class PreparedQueryExplainResponse(QueryMeta):
    """Consul's `PreparedQueryExplainResponse`."""

    query: PreparedQuery = wire("Query", default=PreparedQuery())


@struct
class PreparedQueryRequest(WriteRequest):
    """Consul's `PreparedQueryRequest`."""

    datacenter: str = wire("Datacenter", default="")
    op: str = wire("Op", default="")
    query: PreparedQuery | None = wire("Query", default=None)


@struct
class PreparedQuerySpecificRequest(QueryOptions):
    """Consul's `PreparedQuerySpecificRequest`."""

    datacenter: str = wire("Datacenter", default="")
    query_id: str = wire("QueryID", default="")


@struct
class RaftRemovePeerRequest(WriteRequest):
    """Consul's `RaftRemovePeerRequest`."""

    datacenter: str = wire("Datacenter", default="")
    address: str = wire("Address", default="")
    id: str = wire("ID", default="")


@struct
class RegisterRequest(WriteRequest):
    """Consul's `RegisterRequest`."""

    datacenter: str = wire("Datacenter", default="")
    id: str = wire("ID", default="")
    node: str = wire("Node", default="")
    address: str = wire("Address", default="")
    tagged_addresses: Mapping[str, str] | None = wire("TaggedAddresses", default=None)
    node_meta: Mapping[str, str] | None = wire("NodeMeta", default=None)
    service: NodeService | None = wire("Service", default=None)
    check: HealthCheck | None = wire("Check", default=None)
    checks: tuple[HealthCheck, ...] | None = wire("Checks", default=None)
    skip_node_update: bool = wire("SkipNodeUpdate", default=False)
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@struct
class ServiceDumpRequest(QueryOptions):
    """Consul's `ServiceDumpRequest`."""

    datacenter: str = wire("Datacenter", default="")
    service_kind: str = wire("ServiceKind", default="")
    use_service_kind: bool = wire("UseServiceKind", default=False)
    source: QuerySource = wire("Source", default=QuerySource())


@struct
class ServiceSpecificRequest(QueryOptions):
    """Consul's `ServiceSpecificRequest`."""

    datacenter: str = wire("Datacenter", default="")
    node_meta_filters: Mapping[str, str] | None = wire("NodeMetaFilters", default=None)
    service_name: str = wire("ServiceName", default="")
    service_kind: str = wire("ServiceKind", default="")
    service_tag: str = wire("ServiceTag", default="")
    service_tags: tuple[str, ...] | None = wire("ServiceTags", default=None)
    service_address: str = wire("ServiceAddress", default="")
    tag_filter: bool = wire("TagFilter", default=False)
    source: QuerySource = wire("Source", default=QuerySource())
    connect: bool = wire("Connect", default=False)
    ingress: bool = wire("Ingress", default=False)


@struct
class SessionRequest(WriteRequest):
    """Consul's `SessionRequest`."""

    datacenter: str = wire("Datacenter", default="")
    op: str = wire("Op", default="")
    session: Session = wire("Session", default=Session())


@struct
class SessionSpecificRequest(QueryOptions):
    """Consul's `SessionSpecificRequest`."""

    datacenter: str = wire("Datacenter", default="")
    session_id: str = wire("SessionID", default="")
    session: str = wire("Session", default="")


@struct
class SnapshotRequest:
    """Consul's `SnapshotRequest`."""

    datacenter: str = wire("Datacenter", default="")
    token: str = wire("Token", default="")
    allow_stale: bool = wire("AllowStale", default=False)
    op: int = wire("Op", default=0)


@struct
class SnapshotResponse(QueryMeta):
    """Consul's `SnapshotResponse`."""

    error: str = wire("Error", default="")


@struct
class TxnReadRequest(QueryOptions):
    """Consul's `TxnReadRequest`."""

    datacenter: str = wire("Datacenter", default="")
    ops: tuple[TxnOp, ...] | None = wire("Ops", default=None)


@struct
class TxnReadResponse(QueryMeta):
    """Consul's `TxnReadResponse`."""

    results: tuple[TxnResult, ...] | None = wire("Results", default=None)
    errors: tuple[TxnError, ...] | None = wire("Errors", default=None)


@struct
class TxnRequest(WriteRequest):
    """Consul's `TxnRequest`."""

    datacenter: str = wire("Datacenter", default="")
    ops: tuple[TxnOp, ...] | None = wire("Ops", default=None)


@struct
class TxnResponse:
    """Consul's `TxnResponse`."""

    results: tuple[TxnResult, ...] | None = wire("Results", default=None)
    errors: tuple[TxnError, ...] | None = wire("Errors", default=None)
