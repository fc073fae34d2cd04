"""Who leads: timers, candidacy, votes. Implements docs/protocol/raft.md 4.2 to 4.4 and the pre-vote answer of 16.

Ours, beside the reference: votes are refused in a leader's name for one heartbeat timeout only (not until the random
timer fires), a follower's timer counts from the last contact, a dead leader is forgotten on evidence, a fresh
bootstrap campaigns at once, the first elections without a winner are repeated soon, and a candidate waits for its own
disk before it stands again.
"""

from __future__ import annotations

from pyconsul_agent.raft import messages, replication
from pyconsul_agent.raft.quorum import find, is_voter, quorum_size, servers_of, voters
from pyconsul_agent.raft.roles import become_follower, clear_leader, set_term
from pyconsul_agent.raft.state import State
from pyconsul_agent.raft.types import Refusal, Role
from pyconsul_agent.structs.raft import (
    RequestPreVoteRequest,
    RequestPreVoteResponse,
    RequestVoteRequest,
    RequestVoteResponse,
    Suffrage,
    TimeoutNowRequest,
    TimeoutNowResponse,
)

EVIDENCE_DELAY_S = (0.05, 0.15)
QUICK_DELAY_S = 0.2
BOOTSTRAP_DELAY_S = 0.3
QUICK_TRIES = 10


def tick(s: State, now: float) -> None:
    """Fire the follower's and the candidate's timer."""
    if s.forget_at is not None and now >= s.forget_at:
        s.trusted_contact = None
        clear_leader(s)
    if s.role is Role.LEADER or now < s.timer_at:
        return
    if s.role is Role.CANDIDATE:
        if s.hard_dirty or s.hard_storing:
            # The disk has not taken our vote yet, so nobody was asked. Another term would only give it more to write:
            # on a disk that is slower than this timer no election would ever end.
            s.timer_at = now + s.random_timeout(min(QUICK_DELAY_S, s.config.election_timeout_s))
            return
        s.event("raft_election_again")
        _stand(s, now)
        return
    contact, timeout = s.trusted_contact, s.config.heartbeat_timeout_s
    if contact is not None and now - contact < timeout:
        s.timer_at = max(contact + s.random_timeout(timeout), now)
        return
    last_leader = s.leader_address
    clear_leader(s)
    s.timer_at = now + s.random_timeout(timeout)
    if not servers_of(s.latest):
        if not s.no_peers_told:
            s.no_peers_told = True
            s.event("raft_no_peers")
        return
    # Others who noticed may split the votes with us: that must not cost an election timeout, up to 10 s by default.
    s.quick_tries = QUICK_TRIES
    _stand(s, now, last_leader=last_leader)


def expire(s: State, due: float) -> None:
    """As if the leader had been silent for long."""
    s.trusted_contact = s.forget_at = None
    s.bound_until = float("-inf")
    s.timer_at = due


def may_stand(s: State) -> bool:
    """A voter whose log is not being replaced right now."""
    return (is_voter(s.latest, s.me.id) or _leaves_undecided(s)) and not (s.installing or s.reverting or s.stopped)


def _leaves_undecided(s: State) -> bool:
    """A voter of the committed configuration whose own removal or demotion is appended but not committed.

    Its log may be longer than that of those who remain, so nobody could win without it (Ongaro's thesis, 4.2.2). The
    reference stays silent and with two voters waits for ever. Its own vote does not count for the quorum.
    """
    if len(s.configurations) < 2 or s.latest_index <= s.commit_index:
        return False
    index, configuration = s.configurations[-2]
    return 0 < index <= s.commit_index and is_voter(configuration, s.me.id)


def _stand(s: State, now: float, *, last_leader: str = "", from_transfer: bool = False) -> None:
    if not may_stand(s):
        if s.role is Role.CANDIDATE:
            become_follower(s, now)
        s.timer_at = now + s.random_timeout(s.config.heartbeat_timeout_s)
        return
    clear_leader(s)
    s.role = Role.CANDIDATE
    s.from_transfer = from_transfer
    set_term(s, s.term + 1)
    s.vote_term, s.voted_for = s.term, s.address_bytes
    s.votes.clear()
    s.vote_requests.clear()
    if not is_voter(s.latest, s.me.id):
        s.timer_at = now + 2 * s.random_timeout(s.config.election_timeout_s)  # those who stay go first
    elif s.quick_tries > 0:
        # Nobody leads for certain, and some may not be up yet or the votes were split: knock often, for a while.
        s.quick_tries -= 1
        s.timer_at = now + s.random_timeout(min(QUICK_DELAY_S, s.config.election_timeout_s))
    else:
        s.timer_at = now + s.random_timeout(s.config.election_timeout_s)
    s.event("raft_election_start", last_leader=last_leader)
    s.event("raft_candidate", address=s.me.address, term=s.term)
    message = RequestVoteRequest(
        **messages.header(s),
        term=s.term,
        candidate=s.address_bytes,
        last_log_index=s.log.last,
        last_log_term=s.log.last_term,
        leadership_transfer=from_transfer,
    )
    for server in voters(s.latest):
        if server.id != s.me.id:
            s.vote_requests[s.request(server, message)] = server.id


def count_own_vote(s: State, now: float) -> None:
    """Our vote for ourselves counts once it is durable."""
    if s.role is Role.CANDIDATE and not s.hard_dirty and s.vote_term == s.term and s.voted_for == s.address_bytes:
        s.votes.add(s.me.id)
        _count(s, now)


def vote_reply(s: State, sequence: int, reply: RequestVoteResponse, now: float) -> None:
    """Count an answer to a RequestVote of this very election; others are not known by their sequence any more."""
    voter = s.vote_requests.pop(sequence, None)
    if voter is not None and not reply.granted:
        s.refusals[voter] = Refusal(s.term, reply.term)
    if reply.term > s.term:
        become_follower(s, now, reply.term)
        return
    if voter is None or s.role is not Role.CANDIDATE or not reply.granted or reply.term != s.term:
        return
    s.refusals.pop(voter, None)
    s.votes.add(voter)
    _count(s, now)


def _count(s: State, now: float) -> None:
    allowed = {server.id for server in voters(s.latest)}
    if s.me.id in s.votes and len(s.votes & allowed) >= quorum_size(len(allowed)):
        tally = len(s.votes & allowed)
        s.votes.clear()
        s.vote_requests.clear()
        s.event("raft_election_won", tally=tally)
        s.event("raft_leader", address=s.me.address)
        replication.start(s, now)


def vote_request(s: State, token: int, request: RequestVoteRequest, now: float) -> None:
    """Section 4.4, in its order."""
    candidate = request.addr or request.candidate or b""
    candidate_id = (request.id or b"").decode("utf-8", "replace")
    granted, durable = _decide(s, request, candidate, candidate_id, now)
    if granted:
        s.trusted_contact = s.last_contact = now
    response = RequestVoteResponse(**messages.header(s), term=s.term, granted=granted)
    s.reply(token, response, wait=not durable)


def _decide(
    s: State, request: RequestVoteRequest, candidate: bytes, candidate_id: str, now: float
) -> tuple[bool, bool]:
    """(granted, whether the answer may leave without a write)."""
    address = candidate.decode("utf-8", "replace")
    known = find(s.latest, candidate_id) if candidate_id else None
    if not candidate or (candidate_id and servers_of(s.latest) and known is None):
        return _refuse(s, address)  # a vote for nobody would look like none on disk, and could be given twice
    if not request.leadership_transfer and (protected(s, address, now) or bound(s, address, now)):
        return _refuse(s, address)
    if request.term < s.term:
        return False, True
    if request.term > s.term:
        become_follower(s, now, request.term)
    if known is not None and known.suffrage != Suffrage.VOTER:
        return _refuse(s, address)
    if s.vote_term == s.term and s.voted_for:
        if s.voted_for == candidate:
            s.event("raft_duplicate_vote", term=s.term)
            return _log_is_up_to_date(s, request.last_log_term, request.last_log_index), True
        return False, True
    if not _log_is_up_to_date(s, request.last_log_term, request.last_log_index):
        return _refuse(s, address)
    s.vote_term, s.voted_for = s.term, candidate
    s.hard_dirty = True
    return True, False


def _refuse(s: State, address: str) -> tuple[bool, bool]:
    s.event("raft_vote_refused", candidate=address, leader=s.leader_address)
    return False, True


def protected(s: State, candidate: str, now: float) -> bool:
    """Whether a leader other than `candidate` is known and was heard within one heartbeat timeout."""
    if not s.leader_address or s.leader_address == candidate:
        return False
    if s.role is Role.LEADER:
        return True
    return s.trusted_contact is not None and now - s.trusted_contact < s.config.heartbeat_timeout_s


def bound(s: State, candidate: str, now: float) -> bool:
    """Whether a leader that we accepted (perhaps before a restart) may still count on us for its read lease."""
    return now < s.bound_until and s.leader_address != candidate


def _log_is_up_to_date(s: State, term: int, index: int) -> bool:
    return (term, index) >= (s.log.last_term, s.log.last)


def pre_vote_request(s: State, token: int, request: RequestPreVoteRequest, now: float) -> None:
    """Section 16: say whether we would vote; our term, vote and timers stay."""
    candidate_id = (request.id or b"").decode("utf-8", "replace")
    known = find(s.latest, candidate_id)
    configured = bool(servers_of(s.latest))
    granted = (
        (known is not None or not configured)
        and not protected(s, (request.addr or b"").decode("utf-8", "replace"), now)
        and request.term >= s.term
        and (known is None or known.suffrage == Suffrage.VOTER)
        and _log_is_up_to_date(s, request.last_log_term, request.last_log_index)
    )
    s.reply(token, RequestPreVoteResponse(**messages.header(s), term=max(s.term, request.term), granted=granted))


def timeout_now(s: State, token: int, request: TimeoutNowRequest, now: float) -> None:
    """Stand at once, with the flag that overrides stickiness, for this one election."""
    sender = (request.addr or b"").decode("utf-8", "replace")
    # A delayed one of an earlier leader must not depose the present one (raft 1.3 does not say who sends: obey).
    outdated = bool(sender and s.leader_address and sender != s.leader_address)
    if s.role is not Role.LEADER and may_stand(s) and not outdated:
        _stand(s, now, last_leader=s.leader_address, from_transfer=True)
    # The answer may leave before our vote is durable, it tells of neither term nor vote.
    s.reply(token, TimeoutNowResponse(**messages.header(s)))


def refused(s: State, server_id: str, now: float) -> None:
    """The server's process is gone. If it led us: forget it and stand soon.

    Its lease counts from before our last contact, so nothing is forgotten until that has run out: a wrong suspicion
    then cannot make its default reads stale (promise P3).
    """
    if not s.config.evidence_elections or s.role is not Role.FOLLOWER or not s.leader_id or s.leader_id != server_id:
        return
    safe = max(now, s.bound_until)
    s.forget_at = safe
    s.quick_tries = QUICK_TRIES  # several who saw it may split the votes: do not wait a whole election timeout then
    s.timer_at = min(s.timer_at, safe + s.rng.uniform(*EVIDENCE_DELAY_S))
    if safe <= now:
        s.trusted_contact = None
        clear_leader(s)


def started(s: State, now: float) -> None:
    """The only voter has nobody to hear from: it stands once no lease can rest on what it promised before."""
    if s.config.fast_bootstrap and [server.id for server in voters(s.latest)] == [s.me.id]:
        s.timer_at = max(now, s.bound_until)


def bootstrapped(s: State, now: float) -> None:
    """A virgin cluster has no leader to wait for: the lowest ID stands at once, the others a little later."""
    s.timer_at = now + s.random_timeout(s.config.heartbeat_timeout_s)
    if not s.config.fast_bootstrap or not is_voter(s.latest, s.me.id):
        return
    s.quick_tries = QUICK_TRIES
    lowest = min(server.id for server in voters(s.latest))
    s.timer_at = now if s.me.id == lowest else now + s.random_timeout(BOOTSTRAP_DELAY_S)
