"""Operator.*: the raft configuration and autopilot's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from pyconsul_agent.errors import RaftError, RPCError
from pyconsul_agent.fsm.apply import AUTOPILOT
from pyconsul_agent.server.blocking import Blocking
from pyconsul_agent.server.endpoints.shared import propose
from pyconsul_agent.server.leader.standing import Standing, health_reply, state_reply
from pyconsul_agent.server.seams import Endpoint, Leadership, Membership, MemberView, Proposer, Where
from pyconsul_agent.state import system
from pyconsul_agent.state.catalog import list_nodes
from pyconsul_agent.state.store import Store
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs import methods
from pyconsul_agent.structs.methods import Empty
from pyconsul_agent.structs.operator import (
    AutopilotConfig,
    AutopilotHealthReply,
    AutopilotState,
    RaftConfigurationResponse,
    RaftServer,
)
from pyconsul_agent.structs.raft import Server, Suffrage
from pyconsul_agent.structs.requests import AutopilotSetConfigRequest, DCSpecificRequest, RaftRemovePeerRequest

UNKNOWN_NODE = "(unknown)"


class Autopilot:
    """Autopilot's configuration, a single replicated row, and its judgment of the servers."""

    def __init__(
        self, store: Store, proposer: Proposer, blocking: Blocking, standings: Callable[[], Mapping[str, Standing]]
    ) -> None:
        self._store = store
        self._proposer = proposer
        self._blocking = blocking
        self._standings = standings

    def endpoints(self) -> list[Endpoint]:
        """The methods of this service."""
        return [
            Endpoint(methods.OPERATOR_AUTOPILOT_GET_CONFIGURATION, Where.FORWARD, self.get_configuration),
            Endpoint(methods.OPERATOR_AUTOPILOT_SET_CONFIGURATION, Where.FORWARD, self.set_configuration, write=True),
            Endpoint(methods.OPERATOR_SERVER_HEALTH, Where.FORWARD, self.server_health),
            Endpoint(methods.OPERATOR_AUTOPILOT_STATE, Where.FORWARD, self.state),
        ]

    async def get_configuration(self, request: DCSpecificRequest) -> AutopilotConfig:
        """The stored configuration."""
        await self._blocking.check(request)
        _, config = system.autopilot_config(self._store, WatchSet())
        if config is None:
            raise RPCError("autopilot config not initialized yet")
        return config

    async def set_configuration(self, request: AutopilotSetConfigRequest) -> bool:
        """Store a configuration; the reply tells whether a conditional one was stored, False for the others."""
        return await propose(self._proposer, AUTOPILOT, request, prefix="raft apply failed: ") is True

    async def server_health(self, request: DCSpecificRequest) -> AutopilotHealthReply:
        """Each server's health. The dispatcher sees to it that a proven leader is asked, as only leaders judge."""
        await self._blocking.check(request)
        return health_reply(self._standings())

    async def state(self, request: DCSpecificRequest) -> AutopilotState:
        """All that autopilot knows; as `server_health`."""
        await self._blocking.check(request)
        return self._with_meta(state_reply(self._standings()))

    def _with_meta(self, state: AutopilotState) -> AutopilotState:
        """The servers' metadata stands in the catalog."""
        meta = {str(node.id): node.meta for node in list_nodes(self._store, WatchSet())[1]}
        servers = {
            key: replace(one, server=replace(one.server, meta=meta.get(key)))
            for key, one in (state.servers or {}).items()
        }
        return replace(state, servers=servers or None)


class RaftOperator:
    """The servers of the cluster, to look at and to remove."""

    def __init__(self, leadership: Leadership, membership: Membership, members: MemberView) -> None:
        self._leadership = leadership
        self._membership = membership
        self._members = members

    def endpoints(self) -> list[Endpoint]:
        """The methods of this service."""
        forward = Where.FORWARD
        return [
            Endpoint(methods.OPERATOR_RAFT_GET_CONFIGURATION, forward, self.get_configuration),
            Endpoint(methods.OPERATOR_RAFT_REMOVE_PEER_BY_ADDRESS, forward, self.remove_by_address, write=True),
            Endpoint(methods.OPERATOR_RAFT_REMOVE_PEER_BY_ID, forward, self.remove_by_id, write=True),
        ]

    async def get_configuration(self, request: DCSpecificRequest) -> RaftConfigurationResponse:
        """The servers with their names; the index is 0, as raft 1.3 does not tell it."""
        tags = {member.tags.get("id", ""): member for member in self._members.members()}
        servers = []
        for server in self._servers():
            member = tags.get(server.id)
            servers.append(
                RaftServer(
                    id=server.id,
                    node=member.name if member else UNKNOWN_NODE,
                    address=server.address,
                    leader=server.address == self._leadership.leader_address,
                    protocol_version=member.tags.get("raft_vsn", "unknown") if member else "unknown",
                    voter=server.suffrage == Suffrage.VOTER,
                )
            )
        return RaftConfigurationResponse(servers=tuple(servers), index=0)

    def _servers(self) -> tuple[Server, ...]:
        configuration, _ = self._membership.configuration()
        return tuple(configuration.servers or ())

    async def remove_by_address(self, request: RaftRemovePeerRequest) -> Empty:
        """Remove the server with that address."""
        for server in self._servers():
            if server.address == request.address:
                return await self._remove(server)
        raise RPCError(f'address "{request.address}" was not found in the Raft configuration')

    async def remove_by_id(self, request: RaftRemovePeerRequest) -> Empty:
        """Remove the server with that ID."""
        for server in self._servers():
            if server.id == request.id:
                return await self._remove(server)
        raise RPCError(f'id "{request.id}" was not found in the Raft configuration')

    async def _remove(self, server: Server) -> Empty:
        try:
            await self._membership.remove_server(server.id)
        except RaftError as error:
            raise RPCError(str(error)) from error
        return Empty()
