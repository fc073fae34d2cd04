"""`/v1/status/`: who leads, who are the peers, and (ours) why nobody leads."""

from __future__ import annotations

from typing import Protocol

from pyconsul_agent.agent.delegate import Caller
from pyconsul_agent.interfaces.http.message import Request, Response, json_response
from pyconsul_agent.interfaces.http.params import Defaults, datacenter_of, read_fields
from pyconsul_agent.interfaces.http.routes import Route
from pyconsul_agent.structs.diagnosis import Diagnosis
from pyconsul_agent.structs.methods import STATUS_LEADER, STATUS_PEERS
from pyconsul_agent.structs.requests import DCSpecificRequest


class Diagnosed(Caller, Protocol):
    """An agent's cluster side."""

    def diagnosis(self) -> Diagnosis: ...


class Status:
    """The handlers. Neither needs a token."""

    def __init__(self, caller: Diagnosed, defaults: Defaults) -> None:
        self._caller = caller
        self._defaults = defaults

    def routes(self) -> list[Route]:
        return [
            Route("/v1/status/leader", (("GET", self.leader),), "none", state="leader"),
            Route("/v1/status/peers", (("GET", self.peers),), "none"),
            Route("/v1/status/diagnosis", (("GET", self.diagnosis),), "none"),
        ]

    async def leader(self, request: Request) -> Response:
        """The raft leader's `ip:port`, empty if there is none."""
        reply = await self._caller.call(STATUS_LEADER, self._asked(request))
        return json_response(reply, request, pretty=self._defaults.pretty)

    async def peers(self, request: Request) -> Response:
        """The addresses of the raft configuration."""
        reply = await self._caller.call(STATUS_PEERS, self._asked(request))
        return json_response(reply or [], request, pretty=self._defaults.pretty)

    async def diagnosis(self, request: Request) -> Response:
        """What this very agent knows of why there is no leader. Ours, beside Consul's."""
        return json_response(self._caller.diagnosis(), request, pretty=self._defaults.pretty)

    def _asked(self, request: Request) -> DCSpecificRequest:
        fields = read_fields(request, self._defaults)
        return DCSpecificRequest(datacenter=datacenter_of(request, self._defaults), **fields)
