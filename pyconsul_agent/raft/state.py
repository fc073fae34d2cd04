"""Everything one raft server knows, and the few primitives that every rule uses to say what is to be done.

No rules here. The rooms election, replication, lease, transfer, membership and snapshotting work on it.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

from pyconsul_agent.errors import RaftError
from pyconsul_agent.raft.config import RaftConfig
from pyconsul_agent.raft.log import Log
from pyconsul_agent.raft.quorum import voters
from pyconsul_agent.raft.types import Answer, Change, Event, InstallSnapshot, Outgoing, Refusal, Reply, Request, Role
from pyconsul_agent.structs.raft import (
    Configuration,
    InstallSnapshotRequest,
    RaftRequest,
    RaftResponse,
    Server,
    SnapshotMeta,
)

CHANGES_QUEUED_MAX = 64
VERIFIES_MAX = 65536
HEARTBEATS_IN_FLIGHT_MAX = 8


@dataclass(slots=True)
class Sent:
    """An AppendEntries or InstallSnapshot request in flight."""

    previous: int
    last: int
    commit: int
    at: float
    size: int = 0


@dataclass(slots=True)
class Peer:
    """What a leader knows of another server."""

    server: Server
    next: int
    contact: float
    """When it answered anything (step-down)."""
    heartbeat_at: float
    match: int = 0
    pipelining: bool = False
    appends: dict[int, Sent] = field(default_factory=dict)
    appends_bytes: int = 0
    snapshot_sequence: int = 0
    """The InstallSnapshot under way, 0 if none."""
    heartbeats: dict[int, float] = field(default_factory=dict)
    """Sequence -> send time."""
    failures: int = 0
    retry_at: float = 0.0
    heartbeat_failures: int = 0
    commit_known: int = 0
    """Commit index that this server certainly has."""
    commit_sent: int = 0
    """Commit index that is on its way."""
    commit_at: float | None = None
    """When to tell the commit index without entries."""
    leased_at: float = float("-inf")
    """Send time of the newest request it accepted as our follower."""
    acknowledged: int = 0
    """Sequence of that request."""
    leaving_index: int = 0
    """Index of its removal: replicate up to there, once, then forget it. 0: a member."""
    leaving_until: float = 0.0


@dataclass(slots=True)
class Ticket:
    """A caller that waits for the entry `index`."""

    index: int
    ticket: int
    size: int


@dataclass(slots=True)
class Transfer:
    """A leadership transfer under way. `sequence` is that of the TimeoutNow, 0 before it is sent."""

    ticket: int
    target: str
    until: float
    sequence: int = 0


@dataclass(slots=True)
class Installing:
    """A received snapshot on its way into the state machine."""

    effect: InstallSnapshot
    request: InstallSnapshotRequest
    given: bool = False


@dataclass(slots=True)
class State:
    """One server's state; `now` arguments are monotonic seconds."""

    config: RaftConfig
    me: Server
    rng: random.Random
    log: Log
    # durable
    term: int = 0
    vote_term: int = 0
    voted_for: bytes = b""
    hard_dirty: bool = False
    hard_storing: bool = False
    storing: bool = False
    """A Ready with must_sync is under way."""
    snapshot: SnapshotMeta | None = None
    configurations: list[tuple[int, Configuration]] = field(default_factory=list)
    """The newest committed one, then the uncommitted ones, in order."""
    # everybody
    role: Role = Role.FOLLOWER
    stopped: bool = False
    leader_address: str = ""
    leader_id: str = ""
    last_contact: float | None = None
    """When the leader was heard last, for those who ask."""
    trusted_contact: float | None = None
    """The same for the rules: None again after evidence of the leader's death."""
    bound_until: float = float("-inf")
    """Until then a leader's read lease may rest on our promise: no vote for others, no evidence against it."""
    commit_index: int = 0
    handed: int = 0
    """Highest index that went out in `committed`."""
    timer_at: float = 0.0
    forget_at: float | None = None
    no_peers_told: bool = False
    quick_tries: int = 0
    installing: Installing | None = None
    # candidate
    votes: set[str] = field(default_factory=set)
    vote_requests: dict[int, str] = field(default_factory=dict)
    """Sequence -> voter's ID, of this election only."""
    refusals: dict[str, Refusal] = field(default_factory=dict)
    """Voter's ID -> its last refusal since a leader was known; to explain, no rule looks at it."""
    from_transfer: bool = False
    # leader
    term_start: int = 0
    peers: dict[str, Peer] = field(default_factory=dict)
    tickets: deque[Ticket] = field(default_factory=deque)
    tickets_bytes: int = 0
    changes: deque[tuple[int, Change]] = field(default_factory=deque)
    verifies: deque[tuple[int, int]] = field(default_factory=deque)
    """(ticket, highest sequence before it was asked)."""
    transfer: Transfer | None = None
    lease_void: bool = False
    """A TimeoutNow of ours is about, so stickiness protects no lease for the rest of this term."""
    restoring: bool = False
    unproven: int = 0
    """Index of a user's restored snapshot that no quorum is known to have: nothing up to there may be taken for
    committed."""
    settle: bool = False
    """The restored snapshot is committed now; storage is to be told."""
    reverting: bool = False
    """A leader without the restored snapshot was elected: we go back to what was before it."""
    revert_given: bool = False
    # out
    sequence: int = 0
    ticket: int = 0
    before: list[Outgoing] = field(default_factory=list)
    after: list[Outgoing] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    _voting: tuple[Configuration, list[Server]] | None = None

    # -- views --------------------------------------------------------------------------------------------------
    @property
    def latest(self) -> Configuration:
        """The configuration in effect (uncommitted ones are in effect too)."""
        return self.configurations[-1][1] if self.configurations else Configuration()

    @property
    def latest_index(self) -> int:
        """Its index, 0 without one."""
        return self.configurations[-1][0] if self.configurations else 0

    @property
    def address_bytes(self) -> bytes:
        """Our address as it stands in messages."""
        return self.me.address.encode()

    @property
    def committed(self) -> int:
        """What others may be told to be committed."""
        return min(self.commit_index, self.unproven - 1) if self.unproven else self.commit_index

    def voting(self) -> list[Server]:
        """The voters of the latest configuration, worked out once for each; not to be changed."""
        latest = self.latest
        if self._voting is None or self._voting[0] is not latest:
            self._voting = (latest, voters(latest))
        return self._voting[1]

    def random_timeout(self, base: float) -> float:
        """Uniform in [base, 2 base)."""
        return base * (1.0 + self.rng.random())

    # -- effects ------------------------------------------------------------------------------------------------
    def request(self, to: Server, message: RaftRequest, *, heartbeat: bool = False, snapshot_id: str = "") -> int:
        """Send a request once our term and vote are durable; gives its sequence."""
        self.sequence += 1
        self._emit(Request(self.sequence, to, message, heartbeat, snapshot_id), False)
        return self.sequence

    def reply(self, token: int, message: RaftResponse | None, error: str = "", *, wait: bool = False) -> None:
        """Answer a request; with `wait` not before everything in memory now is durable."""
        self._emit(Reply(token, message, error), wait)

    def _emit(self, effect: Outgoing, wait: bool) -> None:
        # Whatever tells a term or vote that is not on disk yet must wait for the disk.
        (self.after if wait or self.hard_dirty or self.hard_storing else self.before).append(effect)

    def event(self, name: str, **fields: object) -> None:
        """Tell the operator."""
        self.events.append(Event(name, tuple(fields.items())))

    def new_ticket(self) -> int:
        """A number for a caller who waits."""
        self.ticket += 1
        return self.ticket

    def answer(self, ticket: int, index: int = 0, error: RaftError | Exception | None = None) -> None:
        """End a ticket."""
        self.answers.append(Answer(ticket, index, error))
