"""Proof of leadership for reads: the lease (promise P3) and rounds asked for by `verify`.

A heartbeat sent at t and accepted by a follower binds it: it will not vote for another for a heartbeat timeout after
t, and forgets us on evidence only when `read_lease_s` after t is over. So with a quorum accepting, nobody else leads
before t + read_lease_s. A TimeoutNow breaks that promise for the rest of its term.
"""

from __future__ import annotations

from pyconsul_agent.raft.quorum import quorum_value
from pyconsul_agent.raft.state import Peer, State
from pyconsul_agent.raft.types import Role


def acknowledged(peer: Peer, sequence: int, sent_at: float) -> None:
    """The peer accepted us as leader when it got the request `sequence` that left at `sent_at`."""
    peer.leased_at = max(peer.leased_at, sent_at)
    peer.acknowledged = max(peer.acknowledged, sequence)


def own_entry_committed(s: State) -> bool:
    """Before that our commit index may be older than what an earlier leader acknowledged.

    While a restored snapshot is unproven, it is not known either: what is below it may be lost, or it.
    """
    return s.role is Role.LEADER and s.commit_index >= s.term_start and not s.unproven


def valid(s: State, now: float) -> bool:
    """Whether nobody else can have been elected yet."""
    if not own_entry_committed(s) or s.lease_void or s.transfer is not None or s.stopped:
        return False
    if _alone(s):
        return True
    since = quorum_value([now if server.id == s.me.id else s.peers[server.id].leased_at for server in s.voting()])
    return now < since + min(s.config.read_lease_s, s.config.heartbeat_timeout_s)


def step(s: State) -> None:
    """Answer the rounds that a quorum has proved."""
    if not s.verifies or not own_entry_committed(s):
        return
    top = s.sequence
    proved = quorum_value([top if server.id == s.me.id else s.peers[server.id].acknowledged for server in s.voting()])
    while s.verifies and (s.verifies[0][1] < proved or _alone(s)):
        ticket, _ = s.verifies.popleft()
        s.answer(ticket, s.commit_index)


def _alone(s: State) -> bool:
    voting = s.voting()
    return len(voting) == 1 and voting[0].id == s.me.id
