"""How autopilot judges servers: who is healthy since when, who has earned a vote, who is dead (protocol/raft.md 9).

Pure: the driver (autopilot.py) brings what raft, gossip and the servers themselves say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cmp_to_key

from pyconsul_agent.serf.consul import ServerInfo
from pyconsul_agent.structs.base import NANOSECONDS_PER_SECOND, Duration, GoTime, duration, seconds
from pyconsul_agent.structs.member import MemberStatus
from pyconsul_agent.structs.operator import (
    AutopilotConfig,
    AutopilotHealthReply,
    AutopilotServer,
    AutopilotServerHealth,
    AutopilotServerState,
    AutopilotServerStats,
    AutopilotStability,
    AutopilotState,
    RaftStats,
)
from pyconsul_agent.structs.raft import Configuration, Server, Suffrage
from pyconsul_agent.wire.gotypes import parse_duration

LEADER, VOTER, NON_VOTER, STAGING = "leader", "voter", "non-voter", "staging"
ALIVE, FAILED, LEFT = "alive", "failed", "left"

NEVER = Duration(-1)
"""The last contact of a server that never heard a leader."""

SERF_STATUS = {ALIVE: MemberStatus.ALIVE, FAILED: MemberStatus.FAILED, LEFT: MemberStatus.LEFT}


@dataclass(frozen=True, slots=True)
class Moment:
    """One instant on both clocks: monotonic seconds to reckon with, wall nanoseconds to show."""

    monotonic: float
    wall_ns: int

    @property
    def go_time(self) -> GoTime:
        """As structs carry it."""
        whole, rest = divmod(self.wall_ns, NANOSECONDS_PER_SECOND)
        return GoTime(whole, rest, 0)  # compat: of a server whose zone is UTC, not the -1 of Go's time.UTC


@dataclass(frozen=True, slots=True)
class Standing:
    """A server of the raft configuration as last judged. `role` and `node_status` are raft-autopilot's words."""

    id: str
    address: str
    role: str
    healthy: bool
    stable_since: Moment
    name: str = ""
    node_status: str = LEFT
    version: str = ""
    raft_version: int = 0
    last_contact: Duration = Duration(0)
    last_term: int = 0
    last_index: int = 0

    @property
    def has_vote(self) -> bool:
        """Whether it counts for the quorum."""
        return self.role in (LEADER, VOTER)


@dataclass(frozen=True, slots=True)
class LeaderPosition:
    """The leader, and where its log ends."""

    id: str
    term: int
    index: int


def contact(text: str) -> Duration:
    """A server's LastContact; NEVER for "never" and for what cannot be read."""
    if text == "0":
        return Duration(0)
    try:
        return NEVER if text == "never" else Duration(parse_duration(text))
    except ValueError:
        return NEVER


def judge(
    configuration: Configuration,
    known: Mapping[str, ServerInfo],
    fetched: Mapping[str, RaftStats],
    leader: LeaderPosition,
    config: AutopilotConfig,
    now: Moment,
    before: Mapping[str, Standing],
) -> dict[str, Standing]:
    """The standing of every server of the configuration, by id.

    A server that did not answer this time is judged by what it answered last; one that gossip does not know is `left`.
    """
    return {
        server.id: _judge_one(
            server, known.get(server.id), fetched.get(server.id), leader, config, now, before.get(server.id)
        )
        for server in configuration.servers or ()
    }


def _judge_one(
    server: Server,
    info: ServerInfo | None,
    stats: RaftStats | None,
    leader: LeaderPosition,
    config: AutopilotConfig,
    now: Moment,
    before: Standing | None,
) -> Standing:
    last_contact, last_term, last_index = Duration(0), 0, 0
    if stats is not None:
        last_contact, last_term, last_index = contact(stats.last_contact), stats.last_term, stats.last_index
    elif before is not None:
        last_contact, last_term, last_index = before.last_contact, before.last_term, before.last_index
    node_status = _node_status(info)
    healthy = (
        node_status == ALIVE
        and 0 <= last_contact <= config.last_contact_threshold
        and last_term == leader.term
        and last_index + config.max_trailing_logs >= leader.index > 0
    )
    unchanged = before is not None and before.healthy == healthy
    return Standing(
        id=server.id,
        address=server.address,
        role=LEADER if server.id == leader.id else _role(server.suffrage),
        healthy=healthy,
        stable_since=before.stable_since if before is not None and unchanged else now,
        name=info.name if info is not None else before.name if before is not None else "",
        node_status=node_status,
        version=_version(info) if info is not None else before.version if before is not None else "",
        raft_version=info.raft_version if info is not None else 0,
        last_contact=last_contact,
        last_term=last_term,
        last_index=last_index,
    )


def _role(suffrage: int) -> str:
    roles: dict[int, str] = {Suffrage.VOTER: VOTER, Suffrage.NONVOTER: NON_VOTER}
    return roles.get(suffrage, STAGING)


def _node_status(info: ServerInfo | None) -> str:
    if info is None or info.status in (MemberStatus.LEFT, MemberStatus.NONE):
        return LEFT
    return FAILED if info.status is MemberStatus.FAILED else ALIVE


def _version(info: ServerInfo) -> str:
    return ".".join(str(part) for part in info.build)


def failure_tolerance(servers: Iterable[Standing]) -> int:
    """How many healthy voters may fail before the quorum is lost."""
    voters = [server for server in servers if server.has_vote]
    return max(0, sum(server.healthy for server in voters) - (len(voters) // 2 + 1))


def promotable(servers: Iterable[Standing], config: AutopilotConfig, now: float, running_since: float) -> list[str]:
    """Ids of servers that have earned their vote."""
    needed = seconds(config.server_stabilization_time)
    if now - running_since < needed:
        needed = 0.0  # a fresh autopilot cannot know how long they have been stable
    return [
        server.id
        for server in servers
        if not server.has_vote and server.healthy and now - server.stable_since.monotonic >= needed
    ]


@dataclass(frozen=True, slots=True)
class Removals:
    """Dead servers: raft ids to take out, and names of members to turn from failed to left."""

    stale_ids: tuple[str, ...] = ()
    failed_names: tuple[str, ...] = ()


def removable(configuration: Configuration, servers: Mapping[str, ServerInfo], config: AutopilotConfig) -> Removals:
    """The dead servers that may go without endangering the quorum. `servers`: every known one by id.

    Those without a vote go first; of voters, those that gossip does not know before failed ones, less than half of
    them in all and never below `MinQuorum`.
    """
    if not config.cleanup_dead_servers:
        return Removals()
    stale: list[str] = []
    failed: list[str] = []
    stale_voters: list[Server] = []
    failed_voters: list[Server] = []
    present = sorted(configuration.servers or (), key=lambda server: server.id)
    for server in present:
        info = servers.get(server.id)
        voter = server.suffrage == Suffrage.VOTER
        if info is None:
            stale_voters.append(server) if voter else stale.append(server.id)
        elif _node_status(info) != ALIVE:
            failed_voters.append(server) if voter else failed.append(info.name)
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


# --- what operators are shown ---------------------------------------------------------------------------------------


def health_reply(standings: Mapping[str, Standing]) -> AutopilotHealthReply:
    """`Operator.ServerHealth`; unhealthy and without servers before the first judgment."""
    servers = tuple(
        AutopilotServerHealth(
            id=server.id,
            name=server.name,
            address=server.address,
            serf_status=SERF_STATUS[server.node_status].value,
            version=server.version,
            leader=server.role == LEADER,
            last_contact=server.last_contact,
            last_term=server.last_term,
            last_index=server.last_index,
            healthy=server.healthy,
            voter=server.has_vote,
            stable_since=server.stable_since.go_time,
        )
        for server in standings.values()
    )
    return AutopilotHealthReply(
        healthy=_all_healthy(standings),
        failure_tolerance=failure_tolerance(standings.values()),
        servers=servers or None,
    )


def state_reply(standings: Mapping[str, Standing]) -> AutopilotState:
    """`Operator.AutopilotState`."""
    voters = sorted((server for server in standings.values() if server.has_vote), key=cmp_to_key(_compare))
    return AutopilotState(
        healthy=_all_healthy(standings),
        failure_tolerance=failure_tolerance(standings.values()),
        servers={server.id: _server_state(server) for server in standings.values()} or None,
        leader=next((server.id for server in standings.values() if server.role == LEADER), ""),
        voters=tuple(server.id for server in voters) or None,
    )


def _all_healthy(standings: Mapping[str, Standing]) -> bool:
    return bool(standings) and all(server.healthy for server in standings.values())


def _server_state(server: Standing) -> AutopilotServerState:
    return AutopilotServerState(
        server=AutopilotServer(
            id=server.id,
            name=server.name,
            address=server.address,
            node_status=server.node_status,
            version=server.version,
            raft_version=server.raft_version,
            is_leader=False,  # compat: 1.10.11 never says so here (recorded), `state` does
            node_type=VOTER,  # what it shall become; the open-source edition wants a vote of every server
        ),
        state=server.role,
        stats=AutopilotServerStats(
            last_contact=server.last_contact, last_term=server.last_term, last_index=server.last_index
        ),
        health=AutopilotStability(healthy=server.healthy, stable_since=server.stable_since.go_time),
    )


def _compare(one: Standing, other: Standing) -> int:
    """The leader first, then healthy ones, of those the longest stable ones; of unhealthy ones the freshest."""
    if LEADER in (one.role, other.role):
        return -1 if one.role == LEADER else 1
    if one.healthy != other.healthy:
        return -1 if one.healthy else 1
    age = one.stable_since.monotonic - other.stable_since.monotonic
    if age:
        return (-1 if age < 0 else 1) * (1 if one.healthy else -1)
    return -1 if one.id < other.id else 1


DEFAULTS = AutopilotConfig(
    cleanup_dead_servers=True,
    last_contact_threshold=duration(0.2),
    max_trailing_logs=250,
    server_stabilization_time=duration(10.0),
)
