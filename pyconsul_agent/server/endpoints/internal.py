"""Internal.*: what the web interface shows, and the firing of user events."""

from __future__ import annotations

from collections.abc import Callable

from pyconsul_agent.errors import RPCError
from pyconsul_agent.server.blocking import Blocking
from pyconsul_agent.server.endpoints.shared import filtered
from pyconsul_agent.server.seams import Endpoint, Where
from pyconsul_agent.state import catalog, health
from pyconsul_agent.state.store import Store
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs import methods
from pyconsul_agent.structs.health import CheckServiceNode, NodeInfo, ServiceInfo
from pyconsul_agent.structs.requests import (
    DCSpecificRequest,
    EventFireRequest,
    EventFireResponse,
    IndexedNodeDump,
    IndexedNodesWithGateways,
    IndexedServiceDump,
    NodeSpecificRequest,
    ServiceDumpRequest,
    ServiceSpecificRequest,
)

EVENT_PREFIX = "consul:event:"


class Internal:
    """`user_event(name, payload)` gossips a serf event; it raises ValueError when that is too large."""

    def __init__(self, store: Store, blocking: Blocking, user_event: Callable[[str, bytes], None]) -> None:
        self._store = store
        self._blocking = blocking
        self._user_event = user_event

    def endpoints(self) -> list[Endpoint]:
        """The methods of this service."""
        return [
            Endpoint(methods.INTERNAL_EVENT_FIRE, Where.FORWARD, self.event_fire),
            Endpoint(methods.INTERNAL_NODE_INFO, Where.FORWARD, self.node_info),
            Endpoint(methods.INTERNAL_NODE_DUMP, Where.FORWARD, self.node_dump),
            Endpoint(methods.INTERNAL_SERVICE_DUMP, Where.FORWARD, self.service_dump),
            Endpoint(methods.INTERNAL_GATEWAY_SERVICE_DUMP, Where.FORWARD, self.gateway_service_dump),
        ]

    async def event_fire(self, request: EventFireRequest) -> EventFireResponse:
        """Gossip a user event as the agent has put it together."""
        try:
            self._user_event(EVENT_PREFIX + request.name, request.payload or b"")
        except ValueError as error:
            words = f'error broadcasting event to segment "": {error}'
            raise RPCError(f"1 error occurred:\n\t* {words}\n\n") from error
        return self._blocking.finish(EventFireResponse())

    async def node_info(self, request: NodeSpecificRequest) -> IndexedNodeDump:
        """One node with services and checks."""

        def query(watch: WatchSet) -> IndexedNodeDump:
            index, rows = health.node_info(self._store, watch, request.node)
            return IndexedNodeDump(index=index, dump=tuple(rows) or None)

        return await self._blocking.run(request, query)

    async def node_dump(self, request: DCSpecificRequest) -> IndexedNodeDump:
        """Every node with services and checks."""

        def query(watch: WatchSet) -> IndexedNodeDump:
            index, rows = health.node_dump(self._store, watch)
            return IndexedNodeDump(index=index, dump=filtered(request.filter, NodeInfo, rows))

        return await self._blocking.run(request, query)

    async def service_dump(self, request: ServiceDumpRequest) -> IndexedNodesWithGateways:
        """Every instance with node and checks, or those of a kind."""
        kind = request.service_kind if request.use_service_kind else None

        def query(watch: WatchSet) -> IndexedNodesWithGateways:
            index, rows = health.service_dump(self._store, watch, kind)
            mapped, gateways = catalog.gateway_services(self._store, watch, "")
            return IndexedNodesWithGateways(
                index=max(index, mapped),
                nodes=filtered(request.filter, CheckServiceNode, rows),
                gateways=tuple(gateways) or None,
            )

        return await self._blocking.run(request, query)

    async def gateway_service_dump(self, request: ServiceSpecificRequest) -> IndexedServiceDump:
        """Services behind a gateway, with their instances as far as there are any."""
        if not request.service_name:
            raise RPCError("Must provide gateway name")

        def query(watch: WatchSet) -> IndexedServiceDump:
            index, mappings = catalog.gateway_services(self._store, watch, request.service_name)
            dump: list[ServiceInfo] = []
            for mapping in mappings:
                own, rows = health.service_nodes(self._store, watch, mapping.service.name)
                index = max(index, own)
                dump += [
                    ServiceInfo(node=row.node, service=row.service, checks=row.checks, gateway_service=mapping)
                    for row in rows
                ] or [ServiceInfo(gateway_service=mapping)]
            return IndexedServiceDump(index=index, dump=tuple(dump) or None)

        return await self._blocking.run(request, query)
