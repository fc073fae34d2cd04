"""Autopilot: judges health, promotes stable newcomers, removes dead servers (docs/protocol/raft.md#autopilot).

The judgment is pure (`assess`, `removable`); the driver asks every server for its raft statistics and acts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from pyconsul_agent.env.base import Clock
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import ConsulError
from pyconsul_agent.runtime.rpc_pool import RPCPool, ServerAddress
from pyconsul_agent.serf.consul import ServerInfo
from pyconsul_agent.server.directory import servers_by_id
from pyconsul_agent.server.seams import Membership
from pyconsul_agent.structs.base import duration, seconds
from pyconsul_agent.structs.member import Member, MemberStatus
from pyconsul_agent.structs.methods import STATUS_RAFT_STATS, Empty
from pyconsul_agent.structs.operator import AutopilotConfig, RaftStats
from pyconsul_agent.structs.raft import Configuration, Server, Suffrage
from pyconsul_agent.wire.gotypes import parse_duration

STATE_INTERVAL_S = 2.0
RECONCILE_INTERVAL_S = 10.0

DEFAULTS = AutopilotConfig(
    cleanup_dead_servers=True,
    last_contact_threshold=duration(0.2),
    max_trailing_logs=250,
    server_stabilization_time=duration(10.0),
)


@dataclass(frozen=True, slots=True)
class Health:
    """A server's standing. `last_contact_s` is negative for one that never heard a leader or did not answer."""

    id: str
    name: str
    address: str
    status: MemberStatus
    version: str
    is_leader: bool
    voter: bool
    last_contact_s: float
    last_term: int
    last_index: int
    healthy: bool
    stable_since: float


@dataclass(frozen=True, slots=True)
class LeaderPosition:
    """Where the leader's log ends."""

    term: int
    index: int


def contact_s(text: str) -> float:
    """A server's LastContact as seconds; -1 for "never" and for what cannot be read."""
    if text == "never":
        return -1.0
    if text == "0":
        return 0.0
    try:
        return seconds(parse_duration(text))
    except ValueError:
        return -1.0


def is_healthy(status: MemberStatus, stats: RaftStats | None, leader: LeaderPosition, config: AutopilotConfig) -> bool:
    """Whether a server keeps up."""
    if status not in (MemberStatus.ALIVE, MemberStatus.LEAVING) or stats is None:
        return False
    contact = contact_s(stats.last_contact)
    if not 0 <= contact <= seconds(config.last_contact_threshold):
        return False
    if stats.last_term != leader.term:
        return False
    return leader.index <= config.max_trailing_logs or stats.last_index >= leader.index - config.max_trailing_logs


def failure_tolerance(servers: Iterable[Health]) -> int:
    """How many healthy voters may fail before the quorum is lost."""
    voters = [server for server in servers if server.voter]
    return max(0, sum(server.healthy for server in voters) - (len(voters) // 2 + 1)) if voters else 0


def promotable(servers: Iterable[Health], config: AutopilotConfig, now: float, running_since: float) -> list[str]:
    """Ids of servers that have earned their vote."""
    needed = seconds(config.server_stabilization_time)
    if now - running_since < needed:
        needed = 0.0  # a fresh autopilot cannot know how long they have been stable
    return [
        server.id for server in servers if not server.voter and server.healthy and now - server.stable_since >= needed
    ]


@dataclass(frozen=True, slots=True)
class Removals:
    """Dead servers: raft ids to take out, and names of members to turn from failed to left."""

    stale_ids: tuple[str, ...] = ()
    failed_names: tuple[str, ...] = ()


def removable(configuration: Configuration, servers: Mapping[str, ServerInfo], config: AutopilotConfig) -> Removals:
    """The dead servers that may go without endangering the quorum. `servers`: every known one by id."""
    if not config.cleanup_dead_servers:
        return Removals()
    stale: list[str] = []
    failed: list[str] = []
    stale_voters: list[Server] = []
    failed_voters: list[Server] = []
    present = configuration.servers or ()
    for server in present:
        info = servers.get(server.id)
        voter = server.suffrage == Suffrage.VOTER
        if info is None:
            stale_voters.append(server) if voter else stale.append(server.id)
        elif info.status is MemberStatus.FAILED:
            failed_voters.append(server) if voter else failed.append(info.name)
    in_raft = {server.id for server in present}
    failed += [info.name for id_, info in servers.items() if info.status is MemberStatus.FAILED and id_ not in in_raft]
    voters = sum(server.suffrage == Suffrage.VOTER for server in present)
    allowed = (voters - 1) // 2
    for server in (*stale_voters, *failed_voters):
        if allowed <= 0 or voters - 1 < config.min_quorum:
            break
        allowed -= 1
        voters -= 1
        info = servers.get(server.id)
        if info is None:
            stale.append(server.id)
        else:
            failed.append(info.name)
    return Removals(tuple(stale), tuple(failed))


class LeaderLog(Protocol):
    """The leader's own raft."""

    @property
    def term(self) -> int: ...
    @property
    def last_index(self) -> int: ...
    @property
    def leader_id(self) -> str: ...
    @property
    def is_leader(self) -> bool: ...


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
        self._health: dict[str, Health] = {}
        self._running_since = 0.0
        self._wake = asyncio.Event()

    @property
    def health(self) -> list[Health]:
        """The last judgment, empty while not leading."""
        return list(self._health.values())

    def server_added(self) -> None:
        """A server joined: look for dead ones soon."""
        self._wake.set()

    async def run(self) -> None:
        """Judge every 2 s, act every 10 s, until cancelled."""
        self._health = {}
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
            self._health = {}

    async def _judge(self) -> None:
        configuration, _ = self._membership.configuration()
        known = servers_by_id(self._members(), self._datacenter)
        asked = [server for server in configuration.servers or () if server.id in known]
        stats = await asyncio.gather(*(self._stats(known[server.id]) for server in asked))
        leader = LeaderPosition(self._raft.term, self._raft.last_index)
        now, config = self._clock.monotonic(), self._config()
        fresh: dict[str, Health] = {}
        for server, theirs in zip(asked, stats, strict=True):
            info = known[server.id]
            healthy = is_healthy(info.status, theirs, leader, config)
            before = self._health.get(server.id)
            since = before.stable_since if before is not None and before.healthy == healthy else now
            fresh[server.id] = Health(
                id=server.id,
                name=info.name,
                address=server.address,
                status=info.status,
                version=".".join(str(part) for part in info.build),
                is_leader=server.id == self._own_id,
                voter=server.suffrage == Suffrage.VOTER,
                last_contact_s=-1.0 if theirs is None else contact_s(theirs.last_contact),
                last_term=0 if theirs is None else theirs.last_term,
                last_index=0 if theirs is None else theirs.last_index,
                healthy=healthy,
                stable_since=since,
            )
        self._health = fresh

    async def _stats(self, info: ServerInfo) -> RaftStats | None:
        if info.id == self._own_id:
            return self._own_stats()
        if info.status not in (MemberStatus.ALIVE, MemberStatus.LEAVING):
            return None
        try:
            async with asyncio.timeout(STATE_INTERVAL_S):
                server = ServerAddress(info.name, info.address, info.port, info.datacenter)
                return await self._pool.call(server, STATUS_RAFT_STATS, Empty())
        except (ConsulError, TimeoutError) as error:
            self._log.warn("Error getting server health from server", server=info.name, error=str(error))
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
        for server_id in promotable(self._health.values(), self._config(), now, self._running_since):
            health = self._health[server_id]
            self._log.info("Promoting server", id=server_id, address=health.address, name=health.name)
            await self._membership.add_voter(server_id, health.address)
            self._health[server_id] = replace(health, voter=True)

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
