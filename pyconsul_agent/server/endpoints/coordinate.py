"""Coordinate.*: where nodes are in the network. Updates are gathered and written in batches by the leader."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import RPCError
from pyconsul_agent.fsm.apply import COORDINATES, IGNORE_UNKNOWN
from pyconsul_agent.server.blocking import Blocking
from pyconsul_agent.server.endpoints.shared import propose
from pyconsul_agent.server.seams import Endpoint, Proposer, Where
from pyconsul_agent.state import coordinate
from pyconsul_agent.state.store import Store
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs import methods
from pyconsul_agent.structs.coordinate import Coordinate, DatacenterMap
from pyconsul_agent.structs.methods import Empty
from pyconsul_agent.structs.requests import (
    CoordinateUpdateRequest,
    DCSpecificRequest,
    IndexedCoordinates,
    NodeSpecificRequest,
)

DIMENSIONS = 8
BATCH_ROWS = 128
BATCHES_MAX = 5
PERIOD_S = 5.0


class Coordinates:
    """The last update of each node and segment waits for the next batch; what exceeds the batches is dropped."""

    def __init__(
        self,
        store: Store,
        proposer: Proposer,
        blocking: Blocking,
        datacenters: Callable[[], list[DatacenterMap]],
        log: Log,
    ) -> None:
        self._store = store
        self._proposer = proposer
        self._blocking = blocking
        self._datacenters = datacenters
        self._log = log
        self._pending: dict[tuple[str, str], Coordinate] = {}

    def endpoints(self) -> list[Endpoint]:
        """The methods of this service."""
        return [
            Endpoint(methods.COORDINATE_UPDATE, Where.FORWARD, self.update, write=True),
            Endpoint(methods.COORDINATE_LIST_DATACENTERS, Where.LOCAL, self.list_datacenters),
            Endpoint(methods.COORDINATE_LIST_NODES, Where.FORWARD, self.list_nodes),
            Endpoint(methods.COORDINATE_NODE, Where.FORWARD, self.node),
        ]

    async def update(self, request: CoordinateUpdateRequest) -> Empty:
        """Take a node's coordinate; answered before it is written."""
        if not coordinate.is_valid(request.coord):
            raise RPCError("invalid coordinate")
        assert request.coord is not None
        if len(request.coord.vec or ()) != DIMENSIONS:
            raise RPCError("incompatible coordinate")
        key = (request.node, request.segment)
        if key in self._pending or len(self._pending) < BATCH_ROWS * BATCHES_MAX:
            self._pending[key] = Coordinate(node=request.node, segment=request.segment, coord=request.coord)
        return Empty()

    async def flush(self) -> None:
        """Write what has been gathered. Failures are logged; the nodes will send newer coordinates."""
        rows, self._pending = list(self._pending.values()), {}
        for at in range(0, len(rows), BATCH_ROWS):
            try:
                await propose(self._proposer, COORDINATES | IGNORE_UNKNOWN, rows[at : at + BATCH_ROWS])
            except RPCError as error:
                self._log.warn("Batch update failed", error=str(error))
                return

    async def run(self) -> None:
        """Flush periodically until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            if self._pending:
                await self.flush()

    async def list_datacenters(self, request: Empty) -> list[DatacenterMap]:
        """WAN coordinates of the servers of each datacenter."""
        return self._datacenters()

    async def list_nodes(self, request: DCSpecificRequest) -> IndexedCoordinates:
        """Coordinates of all nodes."""

        def query(watch: WatchSet) -> IndexedCoordinates:
            index, rows = coordinate.list_all(self._store, watch)
            return IndexedCoordinates(index=index, coordinates=tuple(rows) or None)

        return await self._blocking.run(request, query)

    async def node(self, request: NodeSpecificRequest) -> IndexedCoordinates:
        """Coordinates of a node, one per segment."""

        def query(watch: WatchSet) -> IndexedCoordinates:
            index, rows = coordinate.of_node(self._store, watch, request.node)
            return IndexedCoordinates(index=index, coordinates=tuple(rows) or None)

        return await self._blocking.run(request, query)
