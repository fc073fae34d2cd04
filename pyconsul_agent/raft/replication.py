"""A leader's work towards its followers, and a follower's answer. Implements docs/protocol/raft.md 4.5 and 4.6.

Per peer two streams: heartbeats (own requests, never behind entries) and entries. Entries go one request at a time
until the first success, then many (pipeline) until an error or refusal. Heartbeats leave every 50 to 100 ms at any
raft_multiplier: autopilot calls a server healthy only if it heard its leader within 200 ms, and the read lease lives
from their answers. The reference gets the same from a constant trickle of empty appends, which we do not send.
"""

from __future__ import annotations

from pyconsul_agent.raft import lease, messages
from pyconsul_agent.raft.quorum import is_voter, quorum_value, servers_of
from pyconsul_agent.raft.roles import become_follower
from pyconsul_agent.raft.state import HEARTBEATS_IN_FLIGHT_MAX, Peer, Sent, State
from pyconsul_agent.raft.types import Role
from pyconsul_agent.structs.base import GoTime
from pyconsul_agent.structs.raft import (
    AppendEntriesResponse,
    EntryType,
    InstallSnapshotResponse,
    LogEntry,
    RaftRequest,
    RaftResponse,
)

HEARTBEAT_S = 0.05
BACKOFF_BASE_S = 0.01
BACKOFF_FAILURES_MAX = 12


# -- reign ------------------------------------------------------------------------------------------------------
def start(s: State, now: float) -> None:
    """Begin to lead: peers first, then the Noop that lets us commit."""
    assert s.role is Role.CANDIDATE and not s.hard_dirty, s.role
    s.role = Role.LEADER
    s.from_transfer = False
    s.quick_tries = 0
    s.leader_address, s.leader_id = s.me.address, s.me.id
    s.term_start = s.log.last + 1
    s.peers.clear()
    sync_peers(s, now)
    append(s, EntryType.NOOP, None)


def append(
    s: State, kind: int, data: bytes | None, extensions: bytes | None = None, appended_at: GoTime | None = None
) -> LogEntry:
    """Append an entry of our own term to our log; `flush` and the next Ready spread it."""
    assert s.role is Role.LEADER
    entry = LogEntry(
        index=s.log.last + 1,
        term=s.term,
        type=kind,
        data=data,
        extensions=extensions,
        appended_at=appended_at or GoTime(),
    )
    s.log.append(entry)
    return entry


def sync_peers(s: State, now: float, appended: int = 0) -> None:
    """Make `peers` those of the latest configuration (the entry `appended`); who left it gets its removal, once."""
    members = {server.id: server for server in servers_of(s.latest) if server.id != s.me.id}
    for server_id, server in members.items():
        peer = s.peers.get(server_id)
        if peer is None:
            s.peers[server_id] = Peer(server=server, next=appended or s.log.last + 1, contact=now, heartbeat_at=now)
        else:
            if peer.server.address != server.address:
                peer.failures, peer.retry_at = 0, now
            peer.server, peer.leaving_index = server, 0
    for server_id, peer in list(s.peers.items()):
        if server_id not in members and not peer.leaving_index:
            peer.leaving_index = appended or s.log.last
            peer.leaving_until = now + s.config.heartbeat_timeout_s


def advance_commit(s: State) -> bool:
    """Commit what a quorum of voters holds durably, if it reaches into our own term. Whether that was news."""
    voting = s.voting()
    if not voting:
        return False
    index = quorum_value([s.log.stable if server.id == s.me.id else s.peers[server.id].match for server in voting])
    if s.unproven and index >= max(s.unproven, s.term_start):
        s.unproven, s.settle = 0, True
        s.commit_index = max(s.commit_index, index)
        return True
    if index <= s.commit_index or index < s.term_start:
        return False
    assert s.log.term(index) == s.term, (index, s.term)
    s.commit_index = index
    return True


# -- sending ----------------------------------------------------------------------------------------------------
def flush(s: State, now: float) -> None:
    """Send every peer what is due."""
    wanted = s.verifies[-1][1] if s.verifies else -1
    for peer in list(s.peers.values()):
        if peer.leaving_index and (_knows_removal(peer) or now >= peer.leaving_until):
            _forget(s, peer)
            continue
        if not peer.leaving_index:
            _flush_heartbeat(s, peer, wanted, now)
        _flush_entries(s, peer, now)


def _knows_removal(peer: Peer) -> bool:
    """Whether a removed server has its removal and was told that it is committed, so that it stays silent."""
    return peer.match >= peer.leaving_index and peer.commit_sent >= peer.leaving_index


def _flush_heartbeat(s: State, peer: Peer, wanted: int, now: float) -> None:
    due = now >= peer.heartbeat_at and len(peer.heartbeats) < HEARTBEATS_IN_FLIGHT_MAX
    # Proof of leadership: one more at once, unless one that was sent after the question is already out.
    newest = max(peer.heartbeats, default=peer.acknowledged)
    proof = newest <= wanted and not peer.heartbeats and peer.heartbeat_failures == 0
    if not (due or proof):
        return
    sequence = s.request(peer.server, messages.heartbeat(s), heartbeat=True)
    peer.heartbeats[sequence] = now
    peer.heartbeat_at = now + s.random_timeout(min(HEARTBEAT_S, s.config.heartbeat_timeout_s / 10))


def _flush_entries(s: State, peer: Peer, now: float) -> None:
    while peer.snapshot_sequence == 0:
        if not peer.pipelining and (peer.appends or now < peer.retry_at):
            return
        full = len(peer.appends) >= s.config.inflight_requests_max or peer.appends_bytes >= s.config.inflight_bytes_max
        if full:
            return
        if peer.next > s.log.last and not _commit_is_due(s, peer, now):
            return
        if not _send_entries(s, peer, now):
            return


def _commit_is_due(s: State, peer: Peer, now: float) -> bool:
    if max(peer.commit_known, peer.commit_sent) >= min(s.committed, s.log.last):
        peer.commit_at = None
        return False
    if peer.commit_at is None:
        peer.commit_at = now + s.random_timeout(s.config.commit_timeout_s)
    return now >= peer.commit_at


def _send_entries(s: State, peer: Peer, now: float) -> bool:
    log, config = s.log, s.config
    previous = peer.next - 1
    previous_term = log.term(previous)
    if previous_term is None or (peer.next <= log.last and peer.next < log.first):
        _send_snapshot(s, peer, now)
        return False
    entries: list[LogEntry] = []
    if peer.next <= log.last:
        high = min(log.last, previous + config.append_entries_max)
        entries = log.entries(peer.next, high, config.append_bytes_max)
        assert entries, f"stored entry {peer.next} is missing"
    sequence = s.request(peer.server, messages.append(s, previous, previous_term, entries))
    sent = Sent(previous, previous + len(entries), s.committed, now, log.bytes_of(entries))
    peer.appends[sequence] = sent
    peer.appends_bytes += sent.size
    peer.commit_sent, peer.commit_at = max(peer.commit_sent, min(sent.commit, sent.last)), None
    if peer.pipelining:
        peer.next = sent.last + 1
    return peer.pipelining


def _send_snapshot(s: State, peer: Peer, now: float) -> None:
    meta = s.snapshot
    assert meta is not None, f"no entry before {peer.next} and no snapshot (first is {s.log.first})"
    peer.pipelining = False
    sequence = s.request(peer.server, messages.install_snapshot(s, meta), snapshot_id=meta.id)
    peer.appends.clear()
    peer.appends_bytes = 0
    peer.appends[sequence] = Sent(meta.index, meta.index, 0, now)
    peer.snapshot_sequence = sequence


def _forget(s: State, peer: Peer) -> None:
    s.event("raft_peer_removed", peer_id=peer.server.id, address=peer.server.address, last_index=peer.leaving_index)
    s.peers.pop(peer.server.id, None)


# -- answers ----------------------------------------------------------------------------------------------------
def replied(s: State, sequence: int, reply: RaftResponse | str | None, now: float) -> bool:
    """Take an answer to one of this reign's requests; False when `sequence` is none of them."""
    for peer in s.peers.values():
        if sequence in peer.heartbeats:
            _heartbeat_replied(s, peer, sequence, reply, now)
            return True
        if sequence in peer.appends:
            _append_replied(s, peer, sequence, reply, now)
            return True
    return False


def _heartbeat_replied(s: State, peer: Peer, sequence: int, reply: RaftResponse | str | None, now: float) -> None:
    at = peer.heartbeats.pop(sequence)
    if reply is None:
        peer.heartbeat_failures += 1
        peer.heartbeat_at = max(peer.heartbeat_at, now + backoff(s, peer.heartbeat_failures))
        return
    if isinstance(reply, AppendEntriesResponse) and reply.term > s.term:
        become_follower(s, now, reply.term)
        return
    contact(peer, now)
    if isinstance(reply, AppendEntriesResponse) and reply.success:
        lease.acknowledged(peer, sequence, at)


def _append_replied(s: State, peer: Peer, sequence: int, reply: RaftResponse | str | None, now: float) -> None:
    sent = peer.appends.pop(sequence)
    peer.appends_bytes -= sent.size
    was_snapshot = sequence == peer.snapshot_sequence
    if was_snapshot:
        peer.snapshot_sequence = 0
    if reply is None or isinstance(reply, str):
        if reply is not None:
            peer.contact = now
        _failed(s, peer, sent, now)
        return
    if isinstance(reply, AppendEntriesResponse | InstallSnapshotResponse) and reply.term > s.term:
        become_follower(s, now, reply.term)
        return
    peer.contact = now
    _heartbeats_resume(peer, now)
    if isinstance(reply, InstallSnapshotResponse) and was_snapshot and reply.success:
        _accepted(s, peer, sequence, sent, now)
    elif isinstance(reply, AppendEntriesResponse) and not was_snapshot and reply.success:
        _accepted(s, peer, sequence, sent, now)
        peer.commit_known = max(peer.commit_known, min(sent.commit, sent.last))
        if not peer.pipelining:
            peer.pipelining = True
            s.event("raft_pipelining", peer_id=peer.server.id, address=peer.server.address)
    elif isinstance(reply, AppendEntriesResponse) and not was_snapshot:
        _refused(s, peer, sent, reply, now)
    else:
        _failed(s, peer, sent, now)


def _accepted(s: State, peer: Peer, sequence: int, sent: Sent, now: float) -> None:
    peer.failures, peer.retry_at = 0, now
    peer.match = max(peer.match, sent.last)
    peer.next = max(peer.next, sent.last + 1)
    lease.acknowledged(peer, sequence, sent.at)


def _refused(s: State, peer: Peer, sent: Sent, reply: AppendEntriesResponse, now: float) -> None:
    _leave_pipeline(s, peer)
    peer.next = max(min(sent.previous, reply.last_log + 1), 1)
    if reply.no_retry_backoff and sent.previous > 0:
        return
    peer.failures += 1
    peer.retry_at = now + backoff(s, peer.failures)


def _failed(s: State, peer: Peer, sent: Sent, now: float) -> None:
    if peer.leaving_index:
        _forget(s, peer)
        return
    earliest = min([sent.previous, *(other.previous for other in peer.appends.values())])
    _leave_pipeline(s, peer)
    peer.next = max(min(peer.next, earliest + 1), 1)
    peer.failures += 1
    peer.retry_at = now + backoff(s, peer.failures)


def _leave_pipeline(s: State, peer: Peer) -> None:
    if peer.pipelining:
        s.event("raft_pipeline_aborted", peer_id=peer.server.id, address=peer.server.address)
    peer.pipelining = False
    peer.appends.clear()
    peer.appends_bytes = 0
    peer.snapshot_sequence = 0
    peer.commit_sent = peer.commit_known


def contact(peer: Peer, now: float) -> None:
    """The peer lives: try again at once whatever waited for it."""
    peer.contact = now
    reachable(peer, now)


def reachable(peer: Peer, now: float) -> None:
    """End its back-off. It counts as reachable, not as an answer (no quorum comes from this)."""
    peer.failures = 0
    peer.retry_at = min(peer.retry_at, now)
    _heartbeats_resume(peer, now)


def heard_from(s: State, request: RaftRequest, now: float) -> None:
    """A peer asks us something: it is back. Raft 1.3 tells no ID, only a candidate or leader its address."""
    address = request.addr or getattr(request, "candidate", None) or getattr(request, "leader", None) or b""
    for peer in s.peers.values():
        same = peer.server.address.encode() == address or peer.server.id.encode() == request.id
        if same and (peer.failures or peer.heartbeat_failures):
            reachable(peer, now)


def _heartbeats_resume(peer: Peer, now: float) -> None:
    if peer.heartbeat_failures:
        peer.heartbeat_failures = 0
        peer.heartbeat_at = min(peer.heartbeat_at, now)


def backoff(s: State, failures: int) -> float:
    """10 ms doubling, at most half a heartbeat timeout: a peer that returns hears us before it stands for election."""
    exponent = max(min(failures, BACKOFF_FAILURES_MAX) - 2, 0)
    return float(min(BACKOFF_BASE_S * 2**exponent, s.config.heartbeat_timeout_s / 2))


def deadline(s: State) -> float:
    """When `flush` has something to do again."""
    due = float("inf")
    for peer in s.peers.values():
        if peer.leaving_index:
            due = min(due, peer.leaving_until)
        elif len(peer.heartbeats) < HEARTBEATS_IN_FLIGHT_MAX:
            due = min(due, peer.heartbeat_at)
        if peer.snapshot_sequence:
            continue
        if not peer.pipelining and not peer.appends and peer.retry_at > 0 and peer.next <= s.log.last:
            due = min(due, peer.retry_at)
        elif peer.commit_at is not None:
            due = min(due, peer.commit_at if peer.pipelining else max(peer.commit_at, peer.retry_at))
    return due


def quorum_contact(s: State, now: float) -> float:
    """The time at which a quorum of voters (we count as now) was last heard."""
    voting = s.voting()
    if not voting:
        return now
    return quorum_value([now if server.id == s.me.id else s.peers[server.id].contact for server in voting])


def check_quorum(s: State, now: float) -> None:
    """Step down when no quorum answered within the leader lease timeout."""
    # Compared as `Raft.deadline` computes it: rounded otherwise, a tick at the deadline could find nothing to do.
    if now >= quorum_contact(s, now) + s.config.leader_lease_timeout_s:
        s.event("raft_lease_lost")
        become_follower(s, now)


def still_member(s: State) -> bool:
    """Whether we vote in the latest configuration."""
    return is_voter(s.latest, s.me.id)
