"""Passing calls on to the server that can answer them: the leader, or a server of another datacenter.

Bodies go through unchanged, so a newer caller's unknown fields reach a newer server. Who the servers are is asked of
`ServerLookup`, which gossip gives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pyconsul_agent.errors import NoLeader, NoPathToDatacenter, RPCError
from pyconsul_agent.runtime.rpc_pool import RPCPool, ServerAddress
from pyconsul_agent.server.seams import Leadership
from pyconsul_agent.wire import netrpc


class ServerLookup(Protocol):
    """The servers that gossip knows."""

    def server_at(self, raft_address: str) -> ServerAddress | None:
        """The server of this datacenter whose raft address is `ip:port`; None also for this very server.

        A server that forwarded to itself would never stop.
        """

    def has_datacenter(self, datacenter: str) -> bool:
        """Whether any server of it is known, reachable or not."""

    def route(self, datacenter: str) -> ServerAddress | None:
        """The server of it to ask now, None when none is alive."""

    def failed(self, server: ServerAddress) -> None:
        """A call to it failed: ask another one next time."""


class LeaderNotTracked(RPCError):
    """Raft names a leader that gossip does not know (yet)."""

    def __init__(self) -> None:
        super().__init__(netrpc.LEADER_NOT_TRACKED)


class Forwarder:
    """Forwards encoded calls."""

    def __init__(
        self,
        pool: RPCPool,
        leadership: Leadership,
        servers: ServerLookup,
        crossed: Callable[[str], None] = lambda datacenter: None,
    ) -> None:
        """`crossed` hears of each call to another datacenter."""
        self._pool = pool
        self._crossed = crossed
        self._leadership = leadership
        self._servers = servers

    async def to_leader(self, name: str, body: bytes) -> bytes:
        """Raises NoLeader or LeaderNotTracked when nothing was sent, else RPCError with the prefix of one hop."""
        address = self._leadership.leader_address
        if not address:
            raise NoLeader
        server = self._servers.server_at(address)
        if server is None:
            raise LeaderNotTracked
        return await self._pool.call_raw(server, name, body)

    async def to_datacenter(self, datacenter: str, name: str, body: bytes) -> bytes:
        """One attempt at one server there. Raises NoPathToDatacenter or RPCError."""
        server = self._servers.route(datacenter)
        if server is None:
            if self._servers.has_datacenter(datacenter):
                raise RPCError(netrpc.REMOTE_DATACENTER_UNREACHABLE)
            raise NoPathToDatacenter
        self._crossed(datacenter)
        try:
            return await self._pool.call_raw(server, name, body)
        except RPCError:
            self._servers.failed(server)
            raise
