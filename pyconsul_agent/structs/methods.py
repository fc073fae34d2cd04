"""Every RPC method that an agent of this project calls or serves: its name, request and reply type.

The reply of a method without one is `Empty` (an empty map on the wire). Source: Consul 1.10.11, measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pyconsul_agent.structs.coordinate import DatacenterMap
from pyconsul_agent.structs.operator import (
    AutopilotConfig,
    AutopilotHealthReply,
    AutopilotState,
    RaftConfigurationResponse,
    RaftStats,
)
from pyconsul_agent.structs.requests import (
    AutopilotSetConfigRequest,
    ChecksInStateRequest,
    CoordinateUpdateRequest,
    DatacentersRequest,
    DCSpecificRequest,
    DeregisterRequest,
    EventFireRequest,
    EventFireResponse,
    IndexedCheckServiceNodes,
    IndexedCoordinates,
    IndexedDirEntries,
    IndexedGatewayServices,
    IndexedHealthChecks,
    IndexedKeyList,
    IndexedNodeDump,
    IndexedNodes,
    IndexedNodeServiceList,
    IndexedNodeServices,
    IndexedNodesWithGateways,
    IndexedPreparedQueries,
    IndexedServiceDump,
    IndexedServiceList,
    IndexedServiceNodes,
    IndexedServices,
    IndexedSessions,
    KeyListRequest,
    KeyRequest,
    KeyringRequest,
    KeyringResponses,
    KVSRequest,
    NodeSpecificRequest,
    PreparedQueryExecuteRemoteRequest,
    PreparedQueryExecuteRequest,
    PreparedQueryExecuteResponse,
    PreparedQueryExplainResponse,
    PreparedQueryRequest,
    PreparedQuerySpecificRequest,
    RaftRemovePeerRequest,
    RegisterRequest,
    ServiceDumpRequest,
    ServiceSpecificRequest,
    SessionRequest,
    SessionSpecificRequest,
    TxnReadRequest,
    TxnReadResponse,
    TxnRequest,
    TxnResponse,
)

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Empty:
    """Go's `struct{}`: no fields, an empty map on the wire."""


@dataclass(frozen=True, slots=True)
class Method(Generic[RequestT, ReplyT]):
    """A name on the wire with the types that travel under it."""

    name: str
    request: type[RequestT]
    reply: type[ReplyT]


CATALOG_DEREGISTER = Method("Catalog.Deregister", DeregisterRequest, Empty)
CATALOG_GATEWAY_SERVICES = Method("Catalog.GatewayServices", ServiceSpecificRequest, IndexedGatewayServices)
CATALOG_LIST_DATACENTERS = Method("Catalog.ListDatacenters", DatacentersRequest, list[str])
CATALOG_LIST_NODES = Method("Catalog.ListNodes", DCSpecificRequest, IndexedNodes)
CATALOG_LIST_SERVICES = Method("Catalog.ListServices", DCSpecificRequest, IndexedServices)
CATALOG_NODE_SERVICE_LIST = Method("Catalog.NodeServiceList", NodeSpecificRequest, IndexedNodeServiceList)
CATALOG_NODE_SERVICES = Method("Catalog.NodeServices", NodeSpecificRequest, IndexedNodeServices)
CATALOG_REGISTER = Method("Catalog.Register", RegisterRequest, Empty)
CATALOG_SERVICE_LIST = Method("Catalog.ServiceList", DCSpecificRequest, IndexedServiceList)
CATALOG_SERVICE_NODES = Method("Catalog.ServiceNodes", ServiceSpecificRequest, IndexedServiceNodes)
COORDINATE_LIST_DATACENTERS = Method("Coordinate.ListDatacenters", Empty, list[DatacenterMap])
COORDINATE_LIST_NODES = Method("Coordinate.ListNodes", DCSpecificRequest, IndexedCoordinates)
COORDINATE_NODE = Method("Coordinate.Node", NodeSpecificRequest, IndexedCoordinates)
COORDINATE_UPDATE = Method("Coordinate.Update", CoordinateUpdateRequest, Empty)
HEALTH_CHECKS_IN_STATE = Method("Health.ChecksInState", ChecksInStateRequest, IndexedHealthChecks)
HEALTH_NODE_CHECKS = Method("Health.NodeChecks", NodeSpecificRequest, IndexedHealthChecks)
HEALTH_SERVICE_CHECKS = Method("Health.ServiceChecks", ServiceSpecificRequest, IndexedHealthChecks)
HEALTH_SERVICE_NODES = Method("Health.ServiceNodes", ServiceSpecificRequest, IndexedCheckServiceNodes)
INTERNAL_EVENT_FIRE = Method("Internal.EventFire", EventFireRequest, EventFireResponse)
INTERNAL_GATEWAY_SERVICE_DUMP = Method("Internal.GatewayServiceDump", ServiceSpecificRequest, IndexedServiceDump)
INTERNAL_INTENTION_UPSTREAMS = Method("Internal.IntentionUpstreams", ServiceSpecificRequest, IndexedServiceList)
INTERNAL_KEYRING_OPERATION = Method("Internal.KeyringOperation", KeyringRequest, KeyringResponses)
INTERNAL_NODE_DUMP = Method("Internal.NodeDump", DCSpecificRequest, IndexedNodeDump)
INTERNAL_NODE_INFO = Method("Internal.NodeInfo", NodeSpecificRequest, IndexedNodeDump)
INTERNAL_SERVICE_DUMP = Method("Internal.ServiceDump", ServiceDumpRequest, IndexedNodesWithGateways)
KVS_APPLY = Method("KVS.Apply", KVSRequest, bool)
KVS_GET = Method("KVS.Get", KeyRequest, IndexedDirEntries)
KVS_LIST = Method("KVS.List", KeyRequest, IndexedDirEntries)
KVS_LIST_KEYS = Method("KVS.ListKeys", KeyListRequest, IndexedKeyList)
OPERATOR_AUTOPILOT_GET_CONFIGURATION = Method("Operator.AutopilotGetConfiguration", DCSpecificRequest, AutopilotConfig)
OPERATOR_AUTOPILOT_SET_CONFIGURATION = Method("Operator.AutopilotSetConfiguration", AutopilotSetConfigRequest, bool)
OPERATOR_AUTOPILOT_STATE = Method("Operator.AutopilotState", DCSpecificRequest, AutopilotState)
OPERATOR_RAFT_GET_CONFIGURATION = Method("Operator.RaftGetConfiguration", DCSpecificRequest, RaftConfigurationResponse)
OPERATOR_RAFT_REMOVE_PEER_BY_ADDRESS = Method("Operator.RaftRemovePeerByAddress", RaftRemovePeerRequest, Empty)
OPERATOR_RAFT_REMOVE_PEER_BY_ID = Method("Operator.RaftRemovePeerByID", RaftRemovePeerRequest, Empty)
OPERATOR_SERVER_HEALTH = Method("Operator.ServerHealth", DCSpecificRequest, AutopilotHealthReply)
PREPARED_QUERY_APPLY = Method("PreparedQuery.Apply", PreparedQueryRequest, str)
PREPARED_QUERY_EXECUTE = Method("PreparedQuery.Execute", PreparedQueryExecuteRequest, PreparedQueryExecuteResponse)
PREPARED_QUERY_EXECUTE_REMOTE = Method(
    "PreparedQuery.ExecuteRemote", PreparedQueryExecuteRemoteRequest, PreparedQueryExecuteResponse
)
PREPARED_QUERY_EXPLAIN = Method("PreparedQuery.Explain", PreparedQueryExecuteRequest, PreparedQueryExplainResponse)
PREPARED_QUERY_GET = Method("PreparedQuery.Get", PreparedQuerySpecificRequest, IndexedPreparedQueries)
PREPARED_QUERY_LIST = Method("PreparedQuery.List", DCSpecificRequest, IndexedPreparedQueries)
SESSION_APPLY = Method("Session.Apply", SessionRequest, str)
SESSION_GET = Method("Session.Get", SessionSpecificRequest, IndexedSessions)
SESSION_LIST = Method("Session.List", SessionSpecificRequest, IndexedSessions)
SESSION_NODE_SESSIONS = Method("Session.NodeSessions", NodeSpecificRequest, IndexedSessions)
SESSION_RENEW = Method("Session.Renew", SessionSpecificRequest, IndexedSessions)
STATUS_LEADER = Method("Status.Leader", DCSpecificRequest, str)
STATUS_PEERS = Method("Status.Peers", DCSpecificRequest, list[str])
STATUS_PING = Method("Status.Ping", Empty, Empty)
STATUS_RAFT_STATS = Method("Status.RaftStats", Empty, RaftStats)
TXN_APPLY = Method("Txn.Apply", TxnRequest, TxnResponse)
TXN_READ = Method("Txn.Read", TxnReadRequest, TxnReadResponse)


METHODS: dict[str, Method[Any, Any]] = {
    value.name: value for value in list(globals().values()) if isinstance(value, Method)
}
