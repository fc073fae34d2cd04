"""FederationState.*: the mesh gateways of every datacenter."""

from __future__ import annotations

from pyconsul_agent.errors import RPCError
from pyconsul_agent.fsm.apply import FEDERATION_STATE
from pyconsul_agent.server.blocking import Blocking
from pyconsul_agent.server.endpoints.shared import propose
from pyconsul_agent.server.seams import Endpoint, Proposer, Where
from pyconsul_agent.state import system
from pyconsul_agent.state.store import Store
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs import methods_mesh as methods
from pyconsul_agent.structs.federation import (
    DatacenterIndexedCheckServiceNodes,
    FederationStateQuery,
    FederationStateRequest,
    FederationStateResponse,
    IndexedFederationStates,
)
from pyconsul_agent.structs.requests import DCSpecificRequest

UPSERT, DELETE = "upsert", "delete"


class FederationStates:
    """Reads from the local store, writes through the log."""

    def __init__(self, store: Store, proposer: Proposer, blocking: Blocking) -> None:
        self._store = store
        self._proposer = proposer
        self._blocking = blocking

    def endpoints(self) -> list[Endpoint]:
        """The methods of this service."""
        return [
            Endpoint(methods.FEDERATION_STATE_APPLY, Where.PRIMARY, self.apply, write=True),
            Endpoint(methods.FEDERATION_STATE_GET, Where.FORWARD, self.get),
            Endpoint(methods.FEDERATION_STATE_LIST, Where.FORWARD, self.list),
            Endpoint(methods.FEDERATION_STATE_LIST_MESH_GATEWAYS, Where.FORWARD, self.list_mesh_gateways),
        ]

    async def apply(self, request: FederationStateRequest) -> bool:
        """Store or delete a datacenter's state."""
        if request.state is None or not request.state.datacenter:
            raise RPCError("invalid request: missing federation state datacenter")
        if request.op not in (UPSERT, DELETE):
            raise RPCError(f"Invalid federation state operation: {request.op}")
        if request.op == UPSERT and request.state.updated_at.is_zero:
            raise RPCError("invalid request: missing federation state UpdatedAt")
        return bool(await propose(self._proposer, FEDERATION_STATE, request))

    async def get(self, request: FederationStateQuery) -> FederationStateResponse:
        """One datacenter's state, or none."""

        def query(watch: WatchSet) -> FederationStateResponse:
            index, row = system.federation_state(self._store, watch, request.target_datacenter)
            return FederationStateResponse(index=index, state=row)

        return await self._blocking.run(request, query, found=lambda reply: reply.state is not None)

    async def list(self, request: DCSpecificRequest) -> IndexedFederationStates:
        """The state of every datacenter."""

        def query(watch: WatchSet) -> IndexedFederationStates:
            index, rows = system.federation_states(self._store, watch)
            return IndexedFederationStates(index=index, states=tuple(rows))

        return await self._blocking.run(request, query)

    async def list_mesh_gateways(self, request: DCSpecificRequest) -> DatacenterIndexedCheckServiceNodes:
        """Mesh gateways by datacenter, of those that have any."""

        def query(watch: WatchSet) -> DatacenterIndexedCheckServiceNodes:
            index, rows = system.federation_states(self._store, watch)
            nodes = {row.datacenter: row.mesh_gateways for row in rows if row.mesh_gateways}
            return DatacenterIndexedCheckServiceNodes(index=index, datacenter_nodes=nodes)

        return await self._blocking.run(request, query)
