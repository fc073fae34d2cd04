"""Federation states: the mesh gateways of each datacenter, kept in every datacenter."""

from __future__ import annotations

from collections.abc import Mapping

from pyconsul_agent.structs.base import GoTime, struct, wire
from pyconsul_agent.structs.health import CheckServiceNode
from pyconsul_agent.structs.requests import QueryMeta, QueryOptions, WriteRequest


@struct
class FederationState:
    """Consul's `FederationState`."""

    datacenter: str = wire("Datacenter", default="")
    mesh_gateways: tuple[CheckServiceNode, ...] | None = wire("MeshGateways", default=None, json_omit=True)
    updated_at: GoTime = wire("UpdatedAt", default=GoTime())
    primary_modify_index: int = wire("PrimaryModifyIndex", default=0)
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@struct
class FederationStateRequest(WriteRequest):
    """Consul's `FederationStateRequest`."""

    datacenter: str = wire("Datacenter", default="")
    op: str = wire("Op", default="")
    state: FederationState | None = wire("State", default=None)


@struct
class FederationStateQuery(QueryOptions):
    """Consul's `FederationStateQuery`.

    compat: its names are the wrong way round (measured with 1.8.7): `Datacenter` is whose state is asked for, and
    `TargetDatacenter` where the call goes, which every other request calls `Datacenter`.
    """

    datacenter: str = wire("TargetDatacenter", default="")
    target_datacenter: str = wire("Datacenter", default="")


@struct
class FederationStateResponse(QueryMeta):
    """Consul's `FederationStateResponse`."""

    state: FederationState | None = wire("State", default=None)


@struct
class IndexedFederationStates(QueryMeta):
    """Consul's `IndexedFederationStates`."""

    states: tuple[FederationState, ...] | None = wire("States", default=None)


@struct
class DatacenterIndexedCheckServiceNodes(QueryMeta):
    """Consul's `DatacenterIndexedCheckServiceNodes`."""

    datacenter_nodes: Mapping[str, tuple[CheckServiceNode, ...] | None] | None = wire("DatacenterNodes", default=None)
