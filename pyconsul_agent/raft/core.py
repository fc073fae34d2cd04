"""The raft core: inputs to the rule that handles them, effects out. It holds no rule itself.

It must not know clock, disk, network or state machine; see `raft.types` for the contract with its driver.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

from pyconsul_agent.errors import EnqueueTimeout, LeadershipTransferInProgress, NotLeader, RestoredWhileCommitting
from pyconsul_agent.raft import election, follower, lease, membership, replication, snapshotting, transfer
from pyconsul_agent.raft.config import RaftConfig
from pyconsul_agent.raft.log import Log
from pyconsul_agent.raft.roles import become_follower
from pyconsul_agent.raft.state import VERIFIES_MAX, State, Ticket
from pyconsul_agent.raft.types import Change, Done, HardState, InitialState, LogReader, Ready, Refusal, Role
from pyconsul_agent.structs.base import GoTime
from pyconsul_agent.structs.raft import (
    AppendEntriesRequest,
    Configuration,
    InstallSnapshotRequest,
    LogEntry,
    RaftRequest,
    RaftResponse,
    RequestPreVoteRequest,
    RequestVoteRequest,
    RequestVoteResponse,
    Server,
    SnapshotMeta,
    TimeoutNowRequest,
)

PROTOCOL_VERSION_MAX = 3


class Raft:
    """One server's part in the consensus protocol.

    Every input takes `now` (monotonic seconds, never smaller than before). After any input call `ready` until it
    gives None, and arm one timer for the latest `ready.deadline` (or the property `deadline`).
    """

    def __init__(
        self, config: RaftConfig, me: Server, initial: InitialState, reader: LogReader, rng: random.Random, now: float
    ) -> None:
        """`me` is this server's ID and advertised "ip:port" (its suffrage is not looked at)."""
        hard = initial.hard_state
        s = State(config=config, me=me, rng=rng, log=Log(config, initial, reader))
        # A received snapshot gets its name before the term that came with it is on disk: after a crash in between our
        # term would be older than our own last entry's.
        s.term = max(hard.term, s.log.last_term)
        s.vote_term, s.voted_for = hard.vote_term, hard.voted_for
        snapshotting.load(s, initial)
        s.timer_at = now + s.random_timeout(config.heartbeat_timeout_s)
        if s.term:
            s.bound_until = now + config.read_lease_s  # whom we followed before the restart is forgotten
        election.started(s, now)
        s.event("raft_follower", address=me.address, leader="")
        self._s = s

    # -- inputs of peers and time -------------------------------------------------------------------------------
    def receive(self, token: int, request: RaftRequest, now: float) -> None:
        """Take a peer's request; exactly one Reply with `token` comes out of a later Ready.

        For an InstallSnapshotRequest the driver has received all `size` bytes before it calls this.
        """
        s = self._s
        if s.stopped:
            s.reply(token, None, "raft is already shutdown")
            return
        if not s.config.protocol_version - 1 <= request.protocol_version <= PROTOCOL_VERSION_MAX:
            s.reply(token, None, "operation not supported with current protocol version")
            return
        if s.role is Role.LEADER:
            replication.heard_from(s, request, now)
        match request:
            case AppendEntriesRequest():
                follower.append_entries(s, token, request, now)
            case RequestVoteRequest():
                election.vote_request(s, token, request, now)
            case RequestPreVoteRequest():
                election.pre_vote_request(s, token, request, now)
            case InstallSnapshotRequest():
                follower.install_snapshot(s, token, request, now)
            case TimeoutNowRequest():
                election.timeout_now(s, token, request, now)

    def received_reply(self, sequence: int, reply: RaftResponse | str | None, now: float) -> None:
        """Take the answer to the Request `sequence`: the object, the peer's error text, or None when it got lost.

        Must be called once for every Request. Unknown sequences (of an earlier role) are ignored.
        """
        s = self._s
        if isinstance(reply, RequestVoteResponse):
            election.vote_reply(s, sequence, reply, now)
        elif s.role is Role.LEADER:
            if not transfer.replied(s, sequence, reply if isinstance(reply, str) else None):
                replication.replied(s, sequence, reply, now)
        elif not isinstance(reply, str | None):
            return
        else:
            s.vote_requests.pop(sequence, None)

    def peer_reachable(self, server_id: str, now: float) -> None:
        """Something was heard of this server (it dialed us, gossip says alive): its back-off ends."""
        peer = self._s.peers.get(server_id)
        if peer is not None:
            replication.reachable(peer, now)

    def peer_refused(self, server_id: str, now: float) -> None:
        """Evidence of death: all connections with this server ended and a new dial was refused (not timed out)."""
        election.refused(self._s, server_id, now)

    def tick(self, now: float) -> None:
        """Time has passed; call at `deadline` (earlier does no harm)."""
        s = self._s
        if s.stopped:
            return
        election.tick(s, now)
        if s.role is Role.LEADER:
            transfer.tick(s, now)
            replication.check_quorum(s, now)

    def expire(self, due: float) -> None:
        """Treat the leader as long silent; the election timer fires at the `tick` at `due` (scenario files)."""
        election.expire(self._s, due)

    # -- inputs of our own server -------------------------------------------------------------------------------
    def keep_trailing(self, entries: int) -> None:
        """Leave so many entries behind the next snapshots, for slow followers."""
        self._s.config = replace(self._s.config, trailing_logs=entries)

    def bootstrap(self, configuration: Configuration, now: float) -> None:
        """Give a virgin server its first configuration (entry 1, term 1). ValueError when there is any state."""
        membership.bootstrap(self._s, configuration, now)
        election.bootstrapped(self._s, now)

    def propose(
        self,
        kind: int,
        data: bytes | None,
        now: float,
        extensions: bytes | None = None,
        appended_at: GoTime = GoTime(),  # noqa: B008 -- frozen
    ) -> int:
        """Propose an entry (EntryType COMMAND, BARRIER); its ticket is answered when committed and given out."""
        s = self._s
        ticket = s.new_ticket()
        size = len(data or b"") + len(extensions or b"")
        error = self._refusal(size)
        if error is not None:
            s.answer(ticket, 0, error)
            return ticket
        entry = replication.append(s, kind, data, extensions, appended_at)
        s.tickets.append(Ticket(entry.index, ticket, size))
        s.tickets_bytes += size
        return ticket

    def change(self, change: Change, now: float) -> int:
        """Change the membership; answered when the configuration entry is committed. ValueError-texts as RaftError."""
        return membership.change(self._s, change)

    def transfer(self, now: float, target: str = "") -> int:
        """Hand leadership to the server with ID `target`, or the voter that is furthest; answered when handed over."""
        return transfer.start(self._s, target, now)

    def verify(self, now: float) -> int:
        """Prove leadership by a round of heartbeats sent after this call; `Answer.index` is the commit index then."""
        s = self._s
        ticket = s.new_ticket()
        if s.role is not Role.LEADER:
            s.answer(ticket, 0, NotLeader())
        elif len(s.verifies) >= VERIFIES_MAX:
            s.answer(ticket, 0, EnqueueTimeout())
        else:
            s.verifies.append((ticket, s.sequence))
        return ticket

    def snapshot_taken(self, meta: SnapshotMeta, now: float) -> None:
        """The driver stored a snapshot of the state machine at `meta.index`; the log may be cut."""
        snapshotting.taken(self._s, meta)

    def begin_restore(self, now: float) -> SnapshotMeta:
        """Start a user restore on the leader: no proposals until `restored`. Gives the index, term and configuration
        the restored snapshot must be stored under. NotLeader otherwise.
        """
        return snapshotting.begin_restore(self._s)

    def restored(self, meta: SnapshotMeta | None, now: float) -> bool:
        """The restored snapshot is stored as `meta` (None: it failed). True: swap the state machine in this very turn.

        False: leadership was lost meanwhile (or `meta` is None), so throw the stored snapshot away.
        """
        return snapshotting.restored(self._s, meta)

    def stop(self, now: float) -> None:
        """End all tickets with LeadershipLost and stay silent from now on."""
        s = self._s
        become_follower(s, now)
        s.stopped = True
        s.timer_at = float("inf")

    # -- effects ------------------------------------------------------------------------------------------------
    def ready(self, now: float, *, room: bool = True) -> Ready | None:
        """The next round of effects, None if there is nothing to do before `deadline`.

        Without `room` nothing committed is given: the state machine is behind. All else goes on; ask again once it
        has caught up.

        While a Ready with `must_sync` has not been answered by `advance`, the Readies given have nothing to store,
        no `after_sync` and no `committed`: the driver may go on answering heartbeats while the disk works.
        """
        s = self._s
        if s.role is Role.LEADER and not s.stopped:
            self._lead(now)
        if s.storing:
            return self._emit(Ready(before_sync=tuple(s.before)))
        log = s.log
        entries, install, revert = log.unstable(), None, False
        if not (entries or log.truncate_from or log.compact_to or s.settle):
            if s.installing:
                s.installing.given = True
                install = s.installing.effect
            elif s.reverting:
                revert = s.revert_given = True
        hard = HardState(s.term, s.vote_term, s.voted_for) if s.hard_dirty else None
        trims = log.truncate_from is not None or log.compact_to is not None or s.settle
        stores = bool(entries) or hard is not None or install is not None or revert or trims
        committed = () if install or revert or not room else self._committed()
        if not stores:
            return self._emit(Ready(before_sync=(*s.before, *s.after), committed=committed), flushed=True)
        made = Ready(
            before_sync=tuple(s.before),
            hard_state=hard,
            truncate_from=log.truncate_from,
            entries=entries,
            install=install,
            compact_to=log.compact_to,
            settle=s.settle,
            revert=revert,
            after_sync=tuple(s.after),
            committed=committed,
        )
        log.storing()
        log.truncate_from = log.compact_to = None
        s.settle = False
        s.storing, s.hard_storing, s.hard_dirty = True, s.hard_dirty, False
        return self._emit(made, flushed=True)

    def advance(self, done: Done, now: float) -> None:
        """The Ready with `must_sync` has been stored. Call it once for each of those and never for others."""
        s = self._s
        assert s.storing, "advance without a Ready that stores something"
        s.storing = s.hard_storing = False
        s.log.stored(done.stable_index)
        if s.installing is not None and s.installing.given:
            follower.installed(s, done, now)
        elif s.revert_given:
            assert done.reverted is not None
            snapshotting.reverted(s, done.reverted)
        election.count_own_vote(s, now)

    def _lead(self, now: float) -> None:
        """What a leader does once per Ready, however many inputs there were (batching)."""
        s = self._s
        if replication.advance_commit(s):
            membership.committed(s)
            membership.leave_if_removed(s, now)
            if s.role is not Role.LEADER:
                return
        membership.step(s, now)
        transfer.step(s, now)
        replication.flush(s, now)
        lease.step(s)

    def _committed(self) -> tuple[LogEntry, ...]:
        """The next committed entries to hand out; only durable ones, so that no restart finds them missing."""
        s = self._s
        low, high = s.handed + 1, min(s.commit_index, s.log.stable)
        if low > high:
            return ()
        high = min(high, s.handed + s.config.ready_committed_max)
        entries = tuple(s.log.entries(low, high, s.config.ready_committed_bytes_max))
        s.handed = entries[-1].index
        while s.tickets and s.tickets[0].index <= s.handed:
            waiting = s.tickets.popleft()
            s.tickets_bytes -= waiting.size
            s.answer(waiting.ticket, waiting.index)
        s.log.trim(s.handed)
        return entries

    def _emit(self, made: Ready, *, flushed: bool = False) -> Ready | None:
        s = self._s
        if not (made.before_sync or made.must_sync or made.committed or s.answers or s.events):
            return None
        result = replace(made, answers=tuple(s.answers), events=tuple(s.events), deadline=self.deadline)
        s.before.clear()
        if flushed:
            s.after.clear()
        s.answers.clear()
        s.events.clear()
        return result

    def _refusal(self, size: int) -> Exception | None:
        """Why a proposal of `size` bytes cannot be taken now, None if it can."""
        s = self._s
        if s.role is not Role.LEADER:
            return NotLeader()
        if s.transfer is not None:
            return LeadershipTransferInProgress()
        if s.restoring:
            return RestoredWhileCommitting()
        full = len(s.tickets) >= s.config.proposals_max or s.tickets_bytes + size > s.config.proposals_bytes_max
        return EnqueueTimeout() if full and s.tickets else None

    # -- what others may see ------------------------------------------------------------------------------------
    @property
    def deadline(self) -> float | None:
        """When `tick` must be called at the latest."""
        s = self._s
        if s.stopped:
            return None
        if s.role is not Role.LEADER:
            return s.timer_at if s.forget_at is None else min(s.timer_at, s.forget_at)
        due = replication.quorum_contact(s, float("inf")) + s.config.leader_lease_timeout_s
        if s.transfer is not None:
            due = min(due, s.transfer.until)
        due = min(due, replication.deadline(s))
        return None if due == float("inf") else due

    @property
    def role(self) -> Role:
        """Follower, candidate or leader."""
        return self._s.role

    @property
    def term(self) -> int:
        """Current term (perhaps not durable yet)."""
        return self._s.term

    @property
    def leader_address(self) -> str:
        """The known leader's address, "" if none."""
        return self._s.leader_address

    @property
    def leader_id(self) -> str:
        """The known leader's ID, "" if unknown."""
        return self._s.leader_id

    @property
    def refusals(self) -> Mapping[str, Refusal]:
        """Who refused us a vote since a leader was last known, by ID."""
        return self._s.refusals

    @property
    def commit_index(self) -> int:
        """Highest index known to be committed."""
        return self._s.commit_index

    @property
    def last_index(self) -> int:
        """Highest index of log or snapshot, durable or not."""
        return self._s.log.last

    @property
    def last_term(self) -> int:
        """Term of `last_index`."""
        return self._s.log.last_term

    @property
    def configuration(self) -> Configuration:
        """The latest configuration, committed or not; without servers before bootstrap or first contact."""
        return self._s.latest

    @property
    def configuration_index(self) -> int:
        """Index of the latest configuration, 0 if there is none."""
        return self._s.latest_index

    @property
    def committed_configuration(self) -> tuple[int, Configuration]:
        """(index, configuration) that a snapshot must carry."""
        return membership.committed_configuration(self._s)

    @property
    def uncommitted_configurations(self) -> int:
        """How many configurations are in effect or replaced without being committed (at most 1 on a leader)."""
        return sum(index > self._s.commit_index for index, _ in self._s.configurations)

    def term_at(self, index: int) -> int | None:
        """The term of the entry at `index` (a snapshot needs it); None where the log has none."""
        return self._s.log.term(index)

    @property
    def snapshot(self) -> SnapshotMeta | None:
        """The newest snapshot known."""
        return self._s.snapshot

    @property
    def unproven(self) -> int:
        """Index of a user's restored snapshot that may yet be taken back, 0 if there is none."""
        return self._s.unproven

    def last_contact(self, now: float) -> float | None:
        """Seconds since the leader was heard (0 for the leader itself), None: never."""
        if self._s.role is Role.LEADER:
            return 0.0
        return None if self._s.last_contact is None else now - self._s.last_contact

    def follower_contact(self, now: float) -> float | None:
        """Of a leader: seconds since it heard that voter least recently, of those within its lease. None without any.

        For metrics only.
        """
        s = self._s
        if s.role is not Role.LEADER:
            return None
        heard = [now - s.peers[server.id].contact for server in s.voting() if server.id in s.peers]
        return max((gap for gap in heard if gap <= s.config.leader_lease_timeout_s), default=None)

    def lease_valid(self, now: float) -> bool:
        """Whether this leader may answer a default read without a round (promise P3).

        Ask again just before the answer is written: it must still be so then.
        """
        return lease.valid(self._s, now)
