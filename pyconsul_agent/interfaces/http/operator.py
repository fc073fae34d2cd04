"""`/v1/operator/`: the raft configuration and autopilot's."""

from __future__ import annotations

from dataclasses import replace

from pyconsul_agent.agent.delegate import Caller
from pyconsul_agent.interfaces.http.message import Request, Response, bad_request, json_response
from pyconsul_agent.interfaces.http.params import Defaults, datacenter_of, read_fields, token_of
from pyconsul_agent.interfaces.http.routes import Route
from pyconsul_agent.structs.member import MemberStatus
from pyconsul_agent.structs.methods import (
    OPERATOR_AUTOPILOT_GET_CONFIGURATION,
    OPERATOR_AUTOPILOT_SET_CONFIGURATION,
    OPERATOR_AUTOPILOT_STATE,
    OPERATOR_RAFT_GET_CONFIGURATION,
    OPERATOR_RAFT_REMOVE_PEER_BY_ADDRESS,
    OPERATOR_RAFT_REMOVE_PEER_BY_ID,
    OPERATOR_SERVER_HEALTH,
)
from pyconsul_agent.structs.operator import AutopilotConfig, AutopilotHealthReply, AutopilotState
from pyconsul_agent.structs.requests import AutopilotSetConfigRequest, DCSpecificRequest, RaftRemovePeerRequest
from pyconsul_agent.wire.gojson import Ordered
from pyconsul_agent.wire.gojson_reader import decode, parse
from pyconsul_agent.wire.gotypes import format_duration, parse_uint

TOO_MANY_REQUESTS = 429

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
            Route("/v1/operator/autopilot/health", (("GET", self.health),), "operator:read"),
            Route("/v1/operator/autopilot/state", (("GET", self.state),), "operator:read"),
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

    async def health(self, request: Request) -> Response:
        """The servers' health; 429 unless all are healthy."""
        reply = await self._caller.call(OPERATOR_SERVER_HEALTH, self._asked(request))
        answer = json_response(health_json(reply), request, pretty=self._defaults.pretty)
        return answer if reply.healthy else replace(answer, status=TOO_MANY_REQUESTS)

    async def state(self, request: Request) -> Response:
        """All that autopilot knows of the servers."""
        reply = await self._caller.call(OPERATOR_AUTOPILOT_STATE, self._asked(request))
        return json_response(state_json(reply), request, pretty=self._defaults.pretty)


def health_json(reply: AutopilotHealthReply) -> Ordered:
    """The reply with the words and times that this endpoint shows: whole seconds."""
    servers = [
        Ordered(
            ID=server.id,
            Name=server.name,
            Address=server.address,
            SerfStatus=MemberStatus(server.serf_status).name.lower(),
            Version=server.version,
            Leader=server.leader,
            LastContact=format_duration(server.last_contact),
            LastTerm=server.last_term,
            LastIndex=server.last_index,
            Healthy=server.healthy,
            Voter=server.voter,
            StableSince=replace(server.stable_since, nanoseconds=0),
        )
        for server in reply.servers or ()
    ]
    return Ordered(Healthy=reply.healthy, FailureTolerance=reply.failure_tolerance, Servers=servers)


def state_json(reply: AutopilotState) -> Ordered:
    """The reply as this endpoint shows it."""
    servers = {
        server_id: Ordered(
            ID=one.server.id,
            Name=one.server.name,
            Address=one.server.address,
            NodeStatus=one.server.node_status,
            Version=one.server.version,
            LastContact=format_duration(one.stats.last_contact),
            LastTerm=one.stats.last_term,
            LastIndex=one.stats.last_index,
            Healthy=one.health.healthy,
            StableSince=one.health.stable_since,
            ReadReplica=False,
            Status=one.state,
            Meta=one.server.meta,
            NodeType=one.server.node_type,
        )
        for server_id, one in sorted((reply.servers or {}).items())
    }
    return Ordered(
        Healthy=reply.healthy,
        FailureTolerance=reply.failure_tolerance,
        OptimisticFailureTolerance=reply.failure_tolerance,
        Servers=servers,
        Leader=reply.leader,
        Voters=reply.voters,
    )


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
