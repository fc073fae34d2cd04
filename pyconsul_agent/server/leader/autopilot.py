"""Autopilot: judges health, promotes stable newcomers, removes dead servers (docs/protocol/raft.md#autopilot).

The driver; how it judges is in standing.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from pyconsul_agent.env.base import Clock
from pyconsul_agent.env.log import Log
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import ConsulError
from pyconsul_agent.runtime.rpc_pool import RPCPool, ServerAddress
from pyconsul_agent.serf.consul import ServerInfo
from pyconsul_agent.server.directory import servers_by_id
from pyconsul_agent.server.leader.standing import VOTER, LeaderPosition, Moment, Standing, judge, promotable, removable
from pyconsul_agent.server.seams import Membership
from pyconsul_agent.structs.member import Member, MemberStatus
from pyconsul_agent.structs.methods import STATUS_RAFT_STATS, Empty
from pyconsul_agent.structs.operator import AutopilotConfig, RaftStats

STATE_INTERVAL_S = 2.0
DEADLINE = "context deadline exceeded"
"""What Go says of a call that took too long."""
RECONCILE_INTERVAL_S = 10.0


class LeaderLog(Protocol):
    """The leader's own log."""

    @property
    def last_term(self) -> int: ...
    @property
    def last_index(self) -> int: ...


class Autopilot:
    """The driver; runs while this server leads."""

    def __init__(
        self,
        raft: LeaderLog,
        membership: Membership,
        pool: RPCPool,
        clock: Clock,
        log: Log,
        *,
        datacenter: str,
        own_stats: Callable[[], RaftStats],
        own_id: str,
        members: Callable[[], Sequence[Member]],
        force_leave: Callable[[str], Awaitable[None]],
        config: Callable[[], AutopilotConfig],
    ) -> None:
        self._raft = raft
        self._membership = membership
        self._pool = pool
        self._clock = clock
        self._log = log
        self._datacenter = datacenter
        self._own_stats = own_stats
        self._own_id = own_id
        self._members = members
        self._force_leave = force_leave
        self._config = config
        self._standings: dict[str, Standing] = {}
        self._running_since = 0.0
        self._wake = asyncio.Event()

    @property
    def standings(self) -> Mapping[str, Standing]:
        """The last judgment by server id; empty while not leading."""
        return self._standings

    def server_added(self) -> None:
        """A server joined: look for dead ones soon."""
        self._wake.set()

    async def run(self) -> None:
        """Judge every 2 s, act every 10 s, until cancelled."""
        self._standings = {}
        self._running_since = self._clock.monotonic()
        next_act = self._running_since + RECONCILE_INTERVAL_S
        try:
            while True:
                await self._judge()
                now = self._clock.monotonic()
                if now >= next_act:
                    next_act = now + RECONCILE_INTERVAL_S
                    await self._act(promote=True)
                elif self._wake.is_set():
                    self._wake.clear()
                    await self._act(promote=False)
                await asyncio.sleep(STATE_INTERVAL_S)
        finally:
            self._standings = {}

    async def _judge(self) -> None:
        configuration, _ = self._membership.configuration()
        known = servers_by_id(self._members(), self._datacenter)
        present = [server.id for server in configuration.servers or () if server.id in known]
        leader = LeaderPosition(self._own_id, self._raft.last_term, self._raft.last_index)
        answers = await asyncio.gather(*(self._stats(known[server_id]) for server_id in present))
        fetched = {id_: stats for id_, stats in zip(present, answers, strict=True) if stats is not None}
        self._standings = judge(configuration, known, fetched, leader, self._config(), self._now(), self._standings)

    def _now(self) -> Moment:
        return Moment(self._clock.monotonic(), self._clock.wall_ns())

    async def _stats(self, info: ServerInfo) -> RaftStats | None:
        if info.id == self._own_id:
            return self._own_stats()
        if info.status not in (MemberStatus.ALIVE, MemberStatus.LEAVING):
            return None
        try:
            async with timeout(STATE_INTERVAL_S):
                server = ServerAddress(info.name, info.address, info.port, info.datacenter)
                return await self._pool.call(server, STATUS_RAFT_STATS, Empty())
        except (ConsulError, TimeoutError) as error:
            words = str(error) or DEADLINE
            self._log.warn("Error getting server health from server", server=info.name, error=words)
            return None

    async def _act(self, *, promote: bool) -> None:
        try:
            if promote:
                await self._promote()
            await self._remove_dead()
        except ConsulError as error:
            self._log.warn("autopilot could not change the configuration", error=str(error))

    async def _promote(self) -> None:
        now = self._clock.monotonic()
        for server_id in promotable(self._standings.values(), self._config(), now, self._running_since):
            server = self._standings[server_id]
            self._log.info("Promoting server", id=server_id, address=server.address, name=server.name)
            await self._membership.add_voter(server_id, server.address)
            self._standings[server_id] = replace(server, role=VOTER)

    async def _remove_dead(self) -> None:
        configuration, _ = self._membership.configuration()
        known = servers_by_id(self._members(), self._datacenter)
        dead = removable(configuration, known, self._config())
        for name in dead.failed_names:
            self._log.info("Attempting removal of failed server node", name=name)
            await self._force_leave(name)
        for server_id in dead.stale_ids:
            if server_id != self._own_id:
                self._log.info("Attempting removal of stale raft server", id=server_id)
                await self._membership.remove_server(server_id)
