"""Making the first configuration when enough servers are there (`-bootstrap-expect`).

Runs at each join or update of a server in the LAN pool until it has succeeded or found that there is nothing to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import ConsulError
from pyconsul_agent.runtime.rpc_pool import RPCPool, ServerAddress
from pyconsul_agent.serf.consul import ServerInfo
from pyconsul_agent.server.directory import address_of, servers_of
from pyconsul_agent.structs.member import Member
from pyconsul_agent.structs.methods import STATUS_PEERS
from pyconsul_agent.structs.raft import Configuration, Server, Suffrage
from pyconsul_agent.structs.requests import DCSpecificRequest

ATTEMPTS_MAX = 6


class Raft(Protocol):
    """What bootstrapping needs of raft."""

    @property
    def last_index(self) -> int: ...

    async def bootstrap(self, configuration: Configuration) -> None:
        """Raises ValueError when there is any state."""


class Bootstrapper:
    """Counts servers and bootstraps once. `expect` 0 means that there is nothing (more) to do."""

    def __init__(
        self,
        raft: Raft,
        pool: RPCPool,
        log: Log,
        *,
        expect: int,
        datacenter: str,
        own_name: str,
        members: Callable[[], Sequence[Member]],
    ) -> None:
        self.expect = expect
        self._raft = raft
        self._pool = pool
        self._log = log
        self._datacenter = datacenter
        self._own_name = own_name
        self._members = members
        self._lock = asyncio.Lock()

    async def consider(self) -> None:
        """Bootstrap if the time has come."""
        async with self._lock:
            if self.expect:
                await self._consider()

    async def _consider(self) -> None:
        if self._raft.last_index != 0:
            self._log.info("Raft data found, disabling bootstrap mode")
            self.expect = 0
            return
        servers = self._electors()
        if servers is None or len(servers) < self.expect:
            return
        for info in servers:
            if info.name != self._own_name and await self._has_peers(info):
                self._log.info("Existing Raft peers reported by server, disabling bootstrap mode", server=info.name)
                self.expect = 0
                return
        configuration = Configuration(
            servers=tuple(
                Server(suffrage=int(Suffrage.VOTER), id=info.id, address=address_of(info)) for info in servers
            )
        )
        try:
            await self._raft.bootstrap(configuration)
        except ValueError as error:
            self._log.error("Failed to bootstrap cluster", error=str(error))
        self.expect = 0

    def _electors(self) -> list[ServerInfo] | None:
        """The servers that would be voters, or None when a member speaks against bootstrapping now."""
        found = []
        for member, info in servers_of(self._members(), self._datacenter):
            if info.expect and info.expect != self.expect:
                self._log.error(
                    "Member has a conflicting expect value. All nodes should expect the same number", member=member.name
                )
                return None
            if info.bootstrap:
                self._log.error("Member has bootstrap mode. Expect disabled", member=member.name)
                return None
            if not info.is_read_replica:
                found.append(info)
        return found

    async def _has_peers(self, info: ServerInfo) -> bool:
        """Whether a server is in a cluster already; one that cannot be asked is taken to be in none."""
        server = ServerAddress(info.name, info.address, info.port, info.datacenter)
        asked = DCSpecificRequest(datacenter=self._datacenter)
        for attempt in range(ATTEMPTS_MAX):
            try:
                peers: list[str] = await self._pool.call(server, STATUS_PEERS, asked)
                return bool(peers)
            except ConsulError as error:
                self._log.error("Failed to confirm peer status for server", server=info.name, error=str(error))
                await asyncio.sleep(1 << attempt)
        return False
