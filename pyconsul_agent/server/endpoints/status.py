"""Status.*: what peers and agents ask to learn who leads. Never forwarded to the leader."""

from __future__ import annotations

from collections.abc import Callable

from pyconsul_agent.server.seams import Endpoint, Leadership, Membership, Where
from pyconsul_agent.structs.methods import STATUS_LEADER, STATUS_PEERS, STATUS_PING, STATUS_RAFT_STATS, Empty
from pyconsul_agent.structs.operator import RaftStats
from pyconsul_agent.structs.requests import DCSpecificRequest

LastLog = Callable[[], tuple[int, int]]
"""(index, term) of the last entry of the local log."""


def contact_text(contact_s: float | None, is_leader: bool) -> str:
    """Time since the leader was heard, as Go prints a duration; `0` on the leader, `never` before any contact."""
    if is_leader:
        return "0"
    if contact_s is None:
        return "never"
    if contact_s < 1e-3:
        return f"{_trimmed(contact_s * 1e6, 3)}µs"
    if contact_s < 1.0:
        return f"{_trimmed(contact_s * 1e3, 6)}ms"
    hours, rest = divmod(contact_s, 3600)
    minutes, seconds = divmod(rest, 60)
    text = f"{int(hours)}h" if hours else ""
    text += f"{int(minutes)}m" if minutes or hours else ""
    return f"{text}{_trimmed(seconds, 9)}s"


def _trimmed(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")


class Status:
    """Who leads, who the peers are, how far the log is."""

    def __init__(self, leadership: Leadership, membership: Membership, last_log: LastLog) -> None:
        self._leadership = leadership
        self._membership = membership
        self._last_log = last_log

    def endpoints(self) -> list[Endpoint]:
        """The methods of this service."""
        return [
            Endpoint(STATUS_PING, Where.LOCAL, self.ping),
            Endpoint(STATUS_LEADER, Where.DATACENTER, self.leader),
            Endpoint(STATUS_PEERS, Where.DATACENTER, self.peers),
            Endpoint(STATUS_RAFT_STATS, Where.LOCAL, self.raft_stats),
        ]

    async def ping(self, request: Empty) -> Empty:
        """Liveness."""
        return Empty()

    async def leader(self, request: DCSpecificRequest) -> str:
        """`ip:port` of the raft leader, empty if none."""
        return self._leadership.leader_address

    async def peers(self, request: DCSpecificRequest) -> list[str]:
        """Addresses of all servers of the raft configuration."""
        configuration, _ = self._membership.configuration()
        return [server.address for server in configuration.servers or ()]

    async def raft_stats(self, request: Empty) -> RaftStats:
        """What a leader's autopilot wants to know."""
        index, term = self._last_log()
        contact = contact_text(self._leadership.last_contact_s, self._leadership.is_leader)
        return RaftStats(last_contact=contact, last_term=term, last_index=index)
