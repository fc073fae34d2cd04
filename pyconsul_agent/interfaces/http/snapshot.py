"""`/v1/snapshot`: the state of the cluster as an archive, and back."""

from __future__ import annotations

from pyconsul_agent.agent.delegate import Snapshotter
from pyconsul_agent.interfaces.http.message import Request, Response
from pyconsul_agent.interfaces.http.params import Defaults, datacenter_of, meta_headers, token_of
from pyconsul_agent.interfaces.http.routes import Route
from pyconsul_agent.structs.requests import SnapshotRequest
from pyconsul_agent.structs.snapshot import RESTORE, SAVE, nothing


class Snapshot:
    """The handlers."""

    def __init__(self, snapshotter: Snapshotter, defaults: Defaults) -> None:
        self._snapshotter = snapshotter
        self._defaults = defaults

    def routes(self) -> list[Route]:
        methods = (("GET", self.save), ("PUT", self.restore))
        return [Route("/v1/snapshot", methods, "acl:write", body_bytes_max=None)]

    def _asked(self, request: Request, op: int) -> SnapshotRequest:
        return SnapshotRequest(
            datacenter=datacenter_of(request, self._defaults),
            token=token_of(request, self._defaults),
            allow_stale="stale" in request.query,
            op=op,
        )

    async def save(self, request: Request) -> Response:
        """An archive of the whole state, with `stale` that of any server."""
        answer = await self._snapshotter.snapshot(self._asked(request, SAVE), nothing())
        headers = meta_headers(answer.response)
        return Response(200, content_type="application/x-gzip", headers=headers, stream=answer.archive)

    async def restore(self, request: Request) -> Response:
        """Replace the whole state by that of an archive."""
        assert request.body_stream is not None, "the route asks for it"
        answer = await self._snapshotter.snapshot(self._asked(request, RESTORE), request.body_stream)
        await answer.archive.aclose()
        return Response()
