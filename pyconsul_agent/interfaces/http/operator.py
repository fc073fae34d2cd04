"""`/v1/operator/`: the raft configuration and autopilot's."""

from __future__ import annotations

from dataclasses import replace

from pyconsul_agent.agent.delegate import Caller
from pyconsul_agent.interfaces.http.message import Request, Response, bad_request, json_response
from pyconsul_agent.interfaces.http.params import Defaults, datacenter_of, read_fields, token_of
from pyconsul_agent.interfaces.http.routes import Route
from pyconsul_agent.structs.methods import (
    OPERATOR_AUTOPILOT_GET_CONFIGURATION,
    OPERATOR_AUTOPILOT_SET_CONFIGURATION,
    OPERATOR_RAFT_GET_CONFIGURATION,
    OPERATOR_RAFT_REMOVE_PEER_BY_ADDRESS,
    OPERATOR_RAFT_REMOVE_PEER_BY_ID,
)
from pyconsul_agent.structs.operator import AutopilotConfig
from pyconsul_agent.structs.requests import AutopilotSetConfigRequest, DCSpecificRequest, RaftRemovePeerRequest
from pyconsul_agent.wire.gojson import Ordered
from pyconsul_agent.wire.gojson_reader import decode, parse
from pyconsul_agent.wire.gotypes import format_duration, parse_uint

AUTOPILOT_ALIASES = {
    "cleanup_dead_servers": "CleanupDeadServers",
    "last_contact_threshold": "LastContactThreshold",
    "max_trailing_logs": "MaxTrailingLogs",
    "min_quorum": "MinQuorum",
    "server_stabilization_time": "ServerStabilizationTime",
}


class Operator:
    """The handlers."""

    def __init__(self, caller: Caller, defaults: Defaults) -> None:
        self._caller = caller
        self._defaults = defaults

    def routes(self) -> list[Route]:
        autopilot = (("GET", self.autopilot), ("PUT", self.set_autopilot))
        return [
            Route("/v1/operator/raft/configuration", (("GET", self.raft),), "operator:read"),
            Route("/v1/operator/raft/peer", (("DELETE", self.remove_peer),), "operator:write"),
            Route("/v1/operator/autopilot/configuration", autopilot, "operator:read,operator:write"),
        ]

    def _asked(self, request: Request) -> DCSpecificRequest:
        fields = read_fields(request, self._defaults)
        return DCSpecificRequest(datacenter=datacenter_of(request, self._defaults), **fields)

    async def raft(self, request: Request) -> Response:
        """The servers of the raft configuration."""
        reply = await self._caller.call(OPERATOR_RAFT_GET_CONFIGURATION, self._asked(request))
        return json_response(reply, request, pretty=self._defaults.pretty)

    async def remove_peer(self, request: Request) -> Response:
        """Remove a dead server from the raft configuration, by id or address."""
        by_id, by_address = "id" in request.query, "address" in request.query
        if not by_id and not by_address:
            raise bad_request("Must specify either ?id with the server's ID or ?address with IP:port of peer to remove")
        if by_id and by_address:
            raise bad_request("Must specify only one of ?id or ?address")
        asked = RaftRemovePeerRequest(
            datacenter=datacenter_of(request, self._defaults),
            id=request.query.get("id"),
            address=request.query.get("address"),
            token=token_of(request, self._defaults),
        )
        method = OPERATOR_RAFT_REMOVE_PEER_BY_ID if by_id else OPERATOR_RAFT_REMOVE_PEER_BY_ADDRESS
        await self._caller.call(method, asked)
        return Response()

    async def autopilot(self, request: Request) -> Response:
        """Autopilot's configuration."""
        reply = await self._caller.call(OPERATOR_AUTOPILOT_GET_CONFIGURATION, self._asked(request))
        return json_response(autopilot_json(reply), request, pretty=self._defaults.pretty)

    async def set_autopilot(self, request: Request) -> Response:
        """Replace autopilot's configuration, with `cas` only if it is unchanged."""
        index = 0
        if "cas" in request.query:
            try:
                index = parse_uint(request.query.get("cas"))
            except ValueError as error:
                raise bad_request(f"Error parsing cas value: {error}") from None
        try:
            config = decode(AutopilotConfig, parse(request.body), aliases=AUTOPILOT_ALIASES)
            for name, value in (("MaxTrailingLogs", config.max_trailing_logs), ("MinQuorum", config.min_quorum)):
                if value < 0:
                    raise ValueError(
                        f"json: cannot unmarshal number {value} into Go struct field .{name} of type uint64"
                    )
        except ValueError as error:
            raise bad_request(f"Error parsing autopilot config: {error}") from None
        conditional = "cas" in request.query
        asked = AutopilotSetConfigRequest(
            datacenter=datacenter_of(request, self._defaults),
            config=replace(config, create_index=0, modify_index=index),
            cas=conditional,
            token=token_of(request, self._defaults),
        )
        stored = await self._caller.call(OPERATOR_AUTOPILOT_SET_CONFIGURATION, asked)
        return json_response(stored if conditional else True, request, pretty=self._defaults.pretty)


def autopilot_json(config: AutopilotConfig) -> Ordered:
    """The configuration with its durations as text."""
    return Ordered(
        CleanupDeadServers=config.cleanup_dead_servers,
        LastContactThreshold=format_duration(config.last_contact_threshold),
        MaxTrailingLogs=config.max_trailing_logs,
        MinQuorum=config.min_quorum,
        ServerStabilizationTime=format_duration(config.server_stabilization_time),
        RedundancyZoneTag=config.redundancy_zone_tag,
        DisableUpgradeMigration=config.disable_upgrade_migration,
        UpgradeVersionTag=config.upgrade_version_tag,
        CreateIndex=config.create_index,
        ModifyIndex=config.modify_index,
    )
