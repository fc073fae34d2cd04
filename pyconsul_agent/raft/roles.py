"""Becoming a follower: what every rule does when it meets a higher term, a leader, or loses its quorum."""

from __future__ import annotations

from pyconsul_agent.errors import LeadershipLost, NotLeader
from pyconsul_agent.raft.quorum import servers_of
from pyconsul_agent.raft.state import State
from pyconsul_agent.raft.types import Role


def set_term(s: State, term: int) -> None:
    """Take a higher term (durable before anything tells of it)."""
    assert term > s.term, (term, s.term)
    s.term = term
    s.hard_dirty = True


def clear_leader(s: State) -> None:
    """Forget the leader; every role assignment does."""
    s.leader_address = s.leader_id = ""
    s.forget_at = None


def set_leader(s: State, address: bytes, server_id: bytes) -> None:
    """A leader of the current term spoke."""
    text = address.decode("utf-8", "replace")
    if text != s.leader_address or not s.leader_id:
        s.leader_address = text
        known = next((server.id for server in servers_of(s.latest) if server.address == text), "")
        s.leader_id = server_id.decode("utf-8", "replace") if server_id else known


def heard_leader(s: State, now: float) -> None:
    """The leader's request was accepted: its reign goes on."""
    s.last_contact = s.trusted_contact = now
    s.bound_until = now + s.config.read_lease_s
    s.forget_at = None
    s.quick_tries = 0
    s.refusals.clear()


def become_follower(s: State, now: float, term: int | None = None) -> None:
    """Follow from now on, in `term` if it is given and higher. Ends what a candidate or leader had under way."""
    previous = s.role
    if term is not None and term > s.term:
        set_term(s, term)
    clear_leader(s)
    s.role = Role.FOLLOWER
    s.from_transfer = False
    s.votes.clear()
    s.vote_requests.clear()
    pipelines = [peer.server for peer in s.peers.values() if peer.pipelining]
    if previous is Role.LEADER:
        _end_reign(s)
        s.last_contact = s.trusted_contact = now
    if previous is not Role.FOLLOWER:
        s.timer_at = now + s.random_timeout(s.config.heartbeat_timeout_s)
        s.event("raft_follower", address=s.me.address, leader="")
    for server in pipelines:
        s.event("raft_pipeline_aborted", peer_id=server.id, address=server.address)


def _end_reign(s: State) -> None:
    s.peers.clear()
    kept = [waiting for waiting in s.tickets if waiting.index <= s.commit_index]
    for waiting in s.tickets:
        if waiting.index > s.commit_index:
            s.answer(waiting.ticket, waiting.index, LeadershipLost())
    s.tickets.clear()
    s.tickets.extend(kept)  # committed: they end well when their entries go out
    s.tickets_bytes = sum(waiting.size for waiting in kept)
    for ticket, _ in s.changes:
        s.answer(ticket, 0, NotLeader())
    s.changes.clear()
    for ticket, _ in s.verifies:
        s.answer(ticket, 0, NotLeader())
    s.verifies.clear()
    if s.transfer is not None:
        s.answer(s.transfer.ticket, 0, None if s.transfer.sequence else LeadershipLost())
        s.transfer = None
    s.restoring = s.lease_void = False
