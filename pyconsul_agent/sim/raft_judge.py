"""One simulated raft server (disk, state machine) and the judge that knows what must never happen.

Used by the random harness and by the scenario scripts; it must not know how messages travel.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, field, replace

from pyconsul_agent.raft import messages
from pyconsul_agent.raft.config import RaftConfig
from pyconsul_agent.raft.core import Raft
from pyconsul_agent.raft.types import (
    HardState,
    InitialState,
    Outgoing,
    Ready,
    Request,
    Role,
)
from pyconsul_agent.structs.raft import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    LogEntry,
    RaftRequest,
    RequestVoteRequest,
    RequestVoteResponse,
    Server,
    SnapshotMeta,
)


class InvariantBroken(AssertionError):
    """A promise of the consensus protocol does not hold."""


def require(holds: bool, invariant: str, *details: object) -> None:
    """Raise InvariantBroken unless it holds."""
    if not holds:
        raise InvariantBroken(f"{invariant}: {details!r}")


@dataclass(slots=True)
class Machine:
    """A state machine that is only a rolling hash."""

    index: int = 0
    digest: int = 0

    def apply(self, entry: LogEntry) -> None:
        """Fold one entry in."""
        self.digest = zlib.crc32(
            b"%d %d %d " % (entry.index, entry.term, entry.type) + (entry.data or b""), self.digest
        )
        self.index = entry.index

    def copy(self) -> Machine:
        """A snapshot of it."""
        return Machine(self.index, self.digest)


@dataclass(slots=True)
class Disk:
    """What survives a crash. A Ready is one transaction: all of it or nothing."""

    hard: HardState = HardState()
    log: dict[int, LogEntry] = field(default_factory=dict)
    first: int = 0
    last: int = 0
    snapshot: SnapshotMeta | None = None
    state: Machine = field(default_factory=Machine)
    votes: dict[int, bytes] = field(default_factory=dict)
    kept: Disk | None = None
    """What a restored snapshot replaced, until that is committed."""

    def restored(self, meta: SnapshotMeta, state: Machine) -> None:
        """Publish a snapshot that may yet be taken back; what it replaces is kept."""
        log = {index: entry for index, entry in self.log.items() if index < meta.index}
        self.kept = Disk(
            log=log, first=min(log, default=0), last=max(log, default=0), snapshot=self.snapshot, state=self.state
        )
        self.log, self.first, self.last = {}, 0, 0
        self.snapshot, self.state = meta, state

    def _revert(self) -> None:
        kept = self.kept
        assert kept is not None
        self.log, self.first, self.last = kept.log, kept.first, kept.last
        self.snapshot, self.state, self.kept = kept.snapshot, kept.state, None

    def term(self, index: int) -> int | None:
        """LogReader."""
        entry = self.log.get(index)
        return entry.term if entry else None

    def entries(self, low: int, high: int, bytes_max: int) -> list[LogEntry]:
        """LogReader."""
        return [self.log[index] for index in range(low, high + 1)]

    def holds(self, index: int, term: int) -> bool:
        """Whether the entry, or a snapshot that covers it, is durable."""
        return self.term(index) == term or (self.snapshot is not None and index <= self.snapshot.index)

    def store(self, ready: Ready, received: Machine | None) -> None:
        """Perform the storage part of a Ready."""
        if ready.hard_state is not None:
            hard = ready.hard_state
            require(hard.term >= self.hard.term, "I6 term goes back on disk", self.hard, hard)
            earlier = self.votes.setdefault(hard.vote_term, hard.voted_for)
            require(earlier == hard.voted_for, "I6 two votes in a term", hard, earlier)
            self.hard = hard
        if ready.truncate_from is not None:
            for index in range(ready.truncate_from, self.last + 1):
                del self.log[index]
            self.last = ready.truncate_from - 1
        for entry in ready.entries:
            require(not self.log or entry.index == self.last + 1, "log gap on disk", entry.index, self.last)
            if not self.log:
                self.first = entry.index
            self.log[entry.index] = entry
            self.last = entry.index
        if ready.compact_to is not None:
            for index in range(self.first, min(ready.compact_to, self.last) + 1):
                del self.log[index]
            self.first = ready.compact_to + 1
        if ready.settle:
            self.kept = None
        if ready.revert:
            self._revert()
        if ready.install is not None:
            assert received is not None
            meta = replace(ready.install.meta, id=f"s{received.index}")
            if ready.install.unproven:
                self.restored(meta, received.copy())
            else:
                self.log, self.kept = {}, None
                self.snapshot, self.state = meta, received.copy()
        if not self.log:
            self.first = self.last = 0

    def initial(self) -> InitialState:
        """What a starting server reads."""
        found = []
        for index in sorted(self.log):
            configuration = messages.configuration_in(self.log[index])
            if configuration is not None:
                found.append((index, configuration))
        last_term = self.log[self.last].term if self.log else 0
        unproven = self.kept is not None
        return InitialState(self.hard, self.snapshot, self.first, self.last, last_term, tuple(found), unproven)


@dataclass(slots=True)
class Node:
    """One server: its disk, and while it runs its core and state machine."""

    server: Server
    disk: Disk = field(default_factory=Disk)
    raft: Raft | None = None
    machine: Machine = field(default_factory=Machine)
    storing: Ready | None = None
    life: int = 0
    """Counts restarts: what was for an earlier life is lost."""
    tokens: dict[int, tuple[Node, int, int, RaftRequest]] = field(default_factory=dict)
    """token -> (asker, its life, its sequence, what it asked)."""
    streams: dict[int, Machine] = field(default_factory=dict)
    seen: tuple[int, int] = (0, 0)
    armed: float = float("inf")
    asked: dict[int, tuple[str, int]] = field(default_factory=dict)
    """ticket -> (what, highest acknowledged index when it was asked)."""

    @property
    def id(self) -> str:
        """Its server ID."""
        return self.server.id

    def start(self, config: RaftConfig, rng: random.Random, now: float) -> None:
        """Boot from the disk."""
        self.life += 1
        self.tokens.clear()
        self.streams.clear()
        self.asked.clear()
        self.storing = None
        self.machine = self.disk.state.copy()
        self.seen = (0, 0)
        self.armed = float("inf")
        self.raft = Raft(config, self.server, self.disk.initial(), self.disk, rng, now)


class Judge:
    """Knows everything that happened anywhere and objects to what must not."""

    def __init__(self) -> None:
        self.leaders: dict[int, str] = {}
        self.entries: dict[tuple[int, int], tuple[int, bytes | None]] = {}
        self.digests: dict[int, int] = {}
        self.terms: dict[int, int] = {}
        self.committed = 0
        self.acknowledged = 0

    def stored(self, entries: tuple[LogEntry, ...]) -> None:
        """I2: same index and term, same entry."""
        for entry in entries:
            content = (entry.type, entry.data)
            known = self.entries.setdefault((entry.index, entry.term), content)
            require(known == content, "I2 log matching", entry.index, entry.term)

    def applied(self, node: Node, entry: LogEntry) -> None:
        """I4: equal state at equal index."""
        digest = self.digests.setdefault(node.machine.index, node.machine.digest)
        require(digest == node.machine.digest, "I4 state machines differ", node.id, node.machine.index)
        require(self.terms.setdefault(entry.index, entry.term) == entry.term, "I4 term differs", node.id, entry.index)
        self.committed = max(self.committed, entry.index)

    def settled(self, node: Node, meta: SnapshotMeta, state: Machine) -> None:
        """I3 and I4 for a restored snapshot that is committed."""
        require(self.digests.setdefault(meta.index, state.digest) == state.digest, "I4 restored states differ", node.id)
        require(self.terms.setdefault(meta.index, meta.term) == meta.term, "I4 restored over a commit", node.id, meta)
        self.committed = max(self.committed, meta.index)

    def looked(self, node: Node, now: float) -> None:
        """I1, I3, I5, I8 and the lease, for one server as it is now."""
        raft = node.raft
        if raft is None:
            return
        commit, applied = raft.commit_index, node.machine.index
        require(applied <= commit <= raft.last_index, "I5 order", node.id, applied, commit, raft.last_index)
        require(commit >= node.seen[0] and applied >= node.seen[1], "I5 goes back", node.id, node.seen)
        node.seen = (commit, applied)
        if raft.role is not Role.LEADER:
            return
        first = self.leaders.get(raft.term)
        if first is None:
            self.leaders[raft.term] = node.id
            self._complete(node, raft)
        require(self.leaders[raft.term] == node.id, "I1 two leaders", raft.term, first, node.id)
        settled = raft.term_at(commit) == raft.term  # before that its commit index may just be behind
        require(raft.uncommitted_configurations <= 1 or not settled, "I8 two changes at a time", node.id)
        self.leased(node, now)

    def leased(self, node: Node, now: float) -> None:
        """P3: who may answer a default read knows every acknowledged write."""
        if node.raft is not None and node.raft.lease_valid(now):
            commit = node.raft.commit_index
            require(commit >= self.acknowledged, "P3 stale default read", node.id, commit, self.acknowledged)

    def _complete(self, node: Node, raft: Raft) -> None:
        for index in range(max(1, self.committed - 16), self.committed + 1):
            term = raft.term_at(index)
            compacted = raft.snapshot is not None and index <= raft.snapshot.index
            require(term == self.terms.get(index, term) or compacted, "I3 completeness", node.id, index, term)
            require(term is not None or compacted, "I3 entry missing", node.id, index)

    def left(self, node: Node, effect: Outgoing) -> None:
        """I7: what a message promises is on the sender's disk."""
        message, hard = effect.message, node.disk.hard
        term = getattr(message, "term", 0)
        if isinstance(effect, Request):
            require(term <= hard.term, "I7 term not durable", node.id, term, hard)
            return
        request = node.tokens[effect.token][3]
        if isinstance(message, RequestVoteResponse | AppendEntriesResponse):
            require(term <= hard.term, "I7 term not durable", node.id, term, hard)
        if isinstance(message, RequestVoteResponse) and message.granted:
            assert isinstance(request, RequestVoteRequest)
            given = (hard.vote_term, hard.voted_for) == (request.term, request.candidate)
            require(given, "I7 vote not durable", node.id, request.term, hard)
        if isinstance(message, AppendEntriesResponse) and message.success:
            assert isinstance(request, AppendEntriesRequest)
            for entry in request.entries or ():
                if hard.term == request.term:  # else a later leader may have replaced them in the same write
                    require(node.disk.holds(entry.index, entry.term), "I7 entry not durable", node.id, entry.index)
        if isinstance(message, InstallSnapshotResponse) and message.success:
            assert isinstance(request, InstallSnapshotRequest)
            held = node.disk.holds(request.last_log_index, request.last_log_term)
            require(held, "I7 snapshot not durable", node.id, request.last_log_index)
