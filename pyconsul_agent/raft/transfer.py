"""Handing leadership over. Implements docs/protocol/raft.md section 4.7.

Choose a target, take no proposals, catch it up, tell it to stand at once (TimeoutNow), wait to be deposed.
"""

from __future__ import annotations

from pyconsul_agent.errors import LeadershipTransferInProgress, NotLeader, RaftError
from pyconsul_agent.raft import messages
from pyconsul_agent.raft.quorum import is_voter, voters
from pyconsul_agent.raft.state import State, Transfer
from pyconsul_agent.raft.types import Role


def start(s: State, target: str, now: float) -> int:
    """Begin; the ticket is answered when we are no longer leader, or with the reason why we still are."""
    ticket = s.new_ticket()
    if s.role is not Role.LEADER:
        s.answer(ticket, 0, NotLeader())
        return ticket
    if s.transfer is not None:
        s.answer(ticket, 0, LeadershipTransferInProgress())
        return ticket
    target = target or _furthest(s)
    if target == s.me.id:
        s.answer(ticket, 0, RaftError("cannot transfer leadership to itself"))
    elif target not in s.peers or not is_voter(s.latest, target):
        s.answer(ticket, 0, RaftError("cannot find peer"))
    else:
        s.transfer = Transfer(ticket, target, now + s.config.election_timeout_s)
    return ticket


def _furthest(s: State) -> str:
    others = [s.peers[server.id] for server in voters(s.latest) if server.id != s.me.id]
    return max(others, key=lambda peer: peer.match).server.id if others else ""


def step(s: State, now: float) -> None:
    """Send the TimeoutNow as soon as the target has our whole log."""
    transfer = s.transfer
    if transfer is None:
        return
    peer = s.peers.get(transfer.target)
    if peer is None or peer.leaving_index:
        _fail(s, "cannot find peer")
    elif not transfer.sequence and peer.match == s.log.last:
        s.lease_void = True
        transfer.sequence = s.request(peer.server, messages.timeout_now(s))


def tick(s: State, now: float) -> None:
    """Give up after one election timeout and lead on."""
    if s.transfer is not None and now >= s.transfer.until:
        _fail(s, "leadership transfer timeout")


def replied(s: State, sequence: int, error: str | None) -> bool:
    """An answer to our TimeoutNow; a lost one may have been obeyed all the same, so it only waits."""
    if s.transfer is None or s.transfer.sequence != sequence:
        return False
    if error:
        _fail(s, f"failed to make TimeoutNow RPC to {s.transfer.target}: {error}")
    return True


def _fail(s: State, reason: str) -> None:
    assert s.transfer is not None
    s.answer(s.transfer.ticket, 0, RaftError(reason))
    s.transfer = None
