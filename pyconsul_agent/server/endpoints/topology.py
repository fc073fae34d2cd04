"""Internal.ServiceTopology and Internal.GatewayIntentions: what web interfaces draw of the mesh."""

from __future__ import annotations

from pyconsul_agent.errors import RPCError
from pyconsul_agent.server.blocking import Blocking
from pyconsul_agent.server.endpoints.connect import NO_CA_CONFIG
from pyconsul_agent.server.seams import Endpoint, Where
from pyconsul_agent.state import catalog, connect_ca, intention
from pyconsul_agent.state.store import Store
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs import methods_mesh as methods
from pyconsul_agent.structs.intention import Intention
from pyconsul_agent.structs.intention_requests import IndexedIntentions, IntentionQueryRequest
from pyconsul_agent.structs.requests import ServiceSpecificRequest
from pyconsul_agent.structs.topology import IndexedServiceTopology

NOT_DRAWN = "service topology is not supported by this version"


class Topology:
    """Reads only."""

    def __init__(self, store: Store, blocking: Blocking) -> None:
        self._store = store
        self._blocking = blocking

    def endpoints(self) -> list[Endpoint]:
        """The methods of this service."""
        return [
            Endpoint(methods.INTERNAL_SERVICE_TOPOLOGY, Where.FORWARD, self.service_topology),
            Endpoint(methods.INTERNAL_GATEWAY_INTENTIONS, Where.FORWARD, self.gateway_intentions),
        ]

    async def service_topology(self, request: ServiceSpecificRequest) -> IndexedServiceTopology:
        """What a service talks to. Without a CA there is no mesh to draw; with one, this version cannot."""
        name = request.service_name
        if not name:
            raise RPCError("Must provide a service name")

        def query(watch: WatchSet) -> IndexedServiceTopology:
            _, config = connect_ca.config(self._store, watch)
            if config is None:
                chain = f'failed to fetch discovery chain for "{name}": {NO_CA_CONFIG}'
                raise RPCError(f'failed to get sources for discovery chain target "{name}": {chain}')
            raise RPCError(NOT_DRAWN)

        return await self._blocking.run(request, query)

    async def gateway_intentions(self, request: IntentionQueryRequest) -> IndexedIntentions:
        """The intentions whose destination is a service behind a gateway."""
        asked = request.match.entries if request.match is not None else None
        if not asked:
            raise RPCError("expected a gateway name")

        def query(watch: WatchSet) -> IndexedIntentions:
            index, mappings = catalog.gateway_services(self._store, watch, asked[0].name)
            found: dict[tuple[str, str], Intention] = {}
            for mapping in mappings:
                own, rows = intention.match(self._store, watch, mapping.service.name, by_source=False)
                index = max(index, own)
                found.update({(row.source_name, row.destination_name): row for row in rows})
            return IndexedIntentions(index=index, intentions=tuple(found.values()) or None)

        return await self._blocking.run(request, query)
