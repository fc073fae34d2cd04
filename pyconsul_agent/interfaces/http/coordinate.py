"""`/v1/coordinate/`: where nodes are in the network."""

from __future__ import annotations

from dataclasses import replace

from pyconsul_agent.agent.delegate import Caller
from pyconsul_agent.interfaces.http.catalog import read
from pyconsul_agent.interfaces.http.message import HTTPError, Request, Response, json_response
from pyconsul_agent.interfaces.http.params import Defaults, datacenter_of, meta_headers, read_fields, token_of
from pyconsul_agent.interfaces.http.routes import Route
from pyconsul_agent.structs.coordinate import Coordinate
from pyconsul_agent.structs.methods import (
    COORDINATE_LIST_DATACENTERS,
    COORDINATE_LIST_NODES,
    COORDINATE_NODE,
    COORDINATE_UPDATE,
    Empty,
)
from pyconsul_agent.structs.requests import CoordinateUpdateRequest, DCSpecificRequest, NodeSpecificRequest
from pyconsul_agent.wire.gojson_reader import decode, parse


class Coordinates:
    """The handlers. While coordinates are disabled each of them says so."""

    def __init__(self, caller: Caller, defaults: Defaults, *, enabled: bool = True) -> None:
        self._caller = caller
        self._defaults = defaults
        self._enabled = enabled

    def routes(self) -> list[Route]:
        return [
            Route("/v1/coordinate/datacenters", (("GET", self.datacenters),), "none"),
            Route("/v1/coordinate/nodes", (("GET", self.nodes),), "node:read", blocking=True),
            Route("/v1/coordinate/node/", (("GET", self.node),), "node:read", blocking=True),
            Route("/v1/coordinate/update", (("PUT", self.update),), "node:write"),
        ]

    def _refuse_if_disabled(self) -> None:
        if not self._enabled:
            raise HTTPError(401, "Coordinate support disabled")

    async def datacenters(self, request: Request) -> Response:
        """The WAN coordinates of the servers of each datacenter."""
        self._refuse_if_disabled()
        reply = await self._caller.call(COORDINATE_LIST_DATACENTERS, Empty())
        shown = [replace(area, coordinates=area.coordinates or ()) for area in reply or ()]
        return json_response(shown, request, pretty=self._defaults.pretty)

    async def nodes(self, request: Request) -> Response:
        """The coordinates of every node, or of those in a segment."""
        self._refuse_if_disabled()
        fields = read_fields(request, self._defaults)
        asked = DCSpecificRequest(datacenter=datacenter_of(request, self._defaults), **fields)
        reply = await read(self._caller, COORDINATE_LIST_NODES, asked)
        rows = self._of_segment(request, reply.coordinates or ())
        return json_response(rows, request, headers=meta_headers(reply), pretty=self._defaults.pretty)

    async def node(self, request: Request) -> Response:
        """The coordinates of a node; 404 when it has none."""
        self._refuse_if_disabled()
        fields = read_fields(request, self._defaults)
        node = request.path.removeprefix("/v1/coordinate/node/")
        asked = NodeSpecificRequest(datacenter=datacenter_of(request, self._defaults), node=node, **fields)
        reply = await read(self._caller, COORDINATE_NODE, asked)
        rows = self._of_segment(request, reply.coordinates or ())
        if not rows:
            return Response(404)
        return json_response(rows, request, headers=meta_headers(reply), pretty=self._defaults.pretty)

    @staticmethod
    def _of_segment(request: Request, rows: tuple[Coordinate, ...]) -> list[Coordinate]:
        if "segment" not in request.query:
            return list(rows)
        wanted = request.query.get("segment")
        return [row for row in rows if row.segment == wanted]

    async def update(self, request: Request) -> Response:
        """Take a node's coordinate; it shows after the leader's next batch."""
        self._refuse_if_disabled()
        try:
            body = decode(CoordinateUpdateRequest, parse(request.body))
        except ValueError as error:
            raise HTTPError(400, f"Request decode failed: {error}") from None
        if body.coord is None:
            raise HTTPError(400, "Request decode failed: Coord is missing")
        asked = replace(
            body, datacenter=datacenter_of(request, self._defaults), token=token_of(request, self._defaults)
        )
        await self._caller.call(COORDINATE_UPDATE, asked)
        return Response()
