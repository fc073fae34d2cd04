"""What goes into the raft core and what comes out of it.

The core (`raft.core.Raft`) is a state machine without clock, disk or network:

    raft.receive(token, request, now)          a peer's request; `token` names it until its Reply comes out
    raft.received_reply(sequence, reply, now)  the answer to a Request that came out, or an error text / None (lost)
    raft.peer_reachable(id, now)               something was heard of that server: end its back-off
    raft.peer_refused(id, now)                 evidence that its process is gone
    raft.tick(now)                             time has passed; call at `ready.deadline`
    raft.bootstrap(configuration, now)         first configuration of a virgin server
    raft.propose(kind, data, now, extensions, appended_at) -> ticket
    raft.change(change, now) -> ticket         membership
    raft.transfer(now, target) -> ticket       leadership transfer
    raft.verify(now) -> ticket                 a round of heartbeats that proves leadership
    raft.snapshot_taken(meta, now)             the driver stored a snapshot; the log may be cut
    raft.begin_restore(now) / restored(meta, now)   a user's snapshot replaces the state machine
                                                    (raft.snapshotting tells how that survives crashes)
    ready = raft.ready(now)                    what to do now (None: nothing)
    raft.advance(done, now)                    what has been done

The driver performs a Ready in this order: `before_sync` leaves at once; `hard_state`, `truncate_from`, `entries`,
`install`, `compact_to` become durable in one transaction; then `after_sync` leaves and `advance` is called.
That split is the promise that nothing is acknowledged before it is durable, in one data type.

`advance` answers exactly those Readies whose `must_sync` is true; there is at most one of them at a time. Inputs and
`ready` may be called while the disk works: such a Ready has only `before_sync`, `answers`, `events`, `deadline`, so
that a heartbeat never waits for a disk. What comes in meanwhile becomes one transaction afterwards (group commit).
A ticket is answered in the Ready that hands out its entry (or a later one): apply `committed`, then do `answers`.
A Ready with `install` or `revert` stores nothing else but perhaps `hard_state`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from pyconsul_agent.structs.raft import Configuration, LogEntry, RaftRequest, RaftResponse, Server, SnapshotMeta


class Role(enum.Enum):
    """What a server is in its term."""

    FOLLOWER = "Follower"
    CANDIDATE = "Candidate"
    LEADER = "Leader"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A vote that was asked for in `asked_in_term` and not granted by one who is in `term`."""

    asked_in_term: int
    term: int


@dataclass(frozen=True, slots=True)
class HardState:
    """Durable before any vote or answer of that term leaves. `voted_for` is the candidate's address bytes."""

    term: int = 0
    vote_term: int = 0
    voted_for: bytes = b""


@dataclass(frozen=True, slots=True)
class Request:
    """Send `message` to `to`; hand its answer back under `sequence`.

    `heartbeat` requests go over a connection of their own, not behind entries. For an InstallSnapshotRequest the
    driver attaches the stream of its snapshot `snapshot_id`.
    """

    sequence: int
    to: Server
    message: RaftRequest
    heartbeat: bool = False
    snapshot_id: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer the incoming request `token`: an error text (empty: none) and the object (None with some errors)."""

    token: int
    message: RaftResponse | None
    error: str = ""


Outgoing = Request | Reply


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of a ticket: `error` is None when it succeeded (for a proposal: committed at `index`)."""

    ticket: int
    index: int = 0
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class InstallSnapshot:
    """Replace the log and the state machine by the received snapshot that the driver holds under `token`.

    Afterwards the stored log is empty and the next entry is `meta.index` + 1. `meta.id` is empty: the driver's store
    names it. If it cannot be restored nothing may change; say so with `Done.installed` False and the reason.
    """

    token: int
    meta: SnapshotMeta
    unproven: bool = False
    """Keep what is replaced (the snapshot before it, entries before its index) until `settle` or `revert`."""


@dataclass(frozen=True, slots=True)
class Ready:
    """One round of effects, in the order told in the module's head."""

    before_sync: tuple[Outgoing, ...] = ()
    hard_state: HardState | None = None
    truncate_from: int | None = None
    """Delete stored entries with index >= this, before appending."""
    entries: tuple[LogEntry, ...] = ()
    install: InstallSnapshot | None = None
    compact_to: int | None = None
    """Delete stored entries with index <= this."""
    settle: bool = False
    """The newest snapshot is committed: what was kept from before it may go."""
    revert: bool = False
    """Throw the newest snapshot and the entries after it away, and go on from what was kept from before it."""
    after_sync: tuple[Outgoing, ...] = ()
    committed: tuple[LogEntry, ...] = ()
    """Newly committed entries in order, to be applied; each is given exactly once per process."""
    answers: tuple[Answer, ...] = ()
    events: tuple[Event, ...] = ()
    deadline: float | None = None
    """Call `tick` no later than this (monotonic seconds)."""

    @property
    def must_sync(self) -> bool:
        """Whether storage has work before `after_sync` may leave."""
        return bool(
            self.hard_state is not None
            or self.entries
            or self.truncate_from is not None
            or self.install is not None
            or self.compact_to is not None
            or self.settle
            or self.revert
        )


@dataclass(frozen=True, slots=True)
class Done:
    """What the driver has finished: the highest index that is durable, and whether an install succeeded."""

    stable_index: int = 0
    installed: bool | None = None
    install_error: str = ""
    """The error text for the sender, `failed to restore snapshot <id>: <cause>`."""
    snapshot_id: str = ""
    """Under which name the installed snapshot is kept."""
    reverted: InitialState | None = None
    """What is there after a `revert`."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something an operator should see; `name` is a log event name, `fields` its values in order."""

    name: str
    fields: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """A membership change. `kind`: add_voter, add_nonvoter, demote_voter, remove_server.

    `previous_index`, if not 0, must be the latest configuration's index.
    """

    kind: str
    server: Server
    previous_index: int = 0


@dataclass(frozen=True, slots=True)
class InitialState:
    """What storage held at start."""

    hard_state: HardState = HardState()
    snapshot: SnapshotMeta | None = None
    first_index: int = 0
    """Index of the first stored entry, 0 if the log is empty."""
    last_index: int = 0
    last_term: int = 0
    configurations: tuple[tuple[int, Configuration], ...] = ()
    """(index, configuration) of every configuration entry still in the log, in order."""
    unproven: bool = False
    """Nobody knows that the snapshot is committed (a user's restore); what it replaced is kept beside it."""


class LogReader(Protocol):
    """Durable entries that the core no longer holds in memory. Reads are short and synchronous."""

    def term(self, index: int) -> int | None:
        """The term of the stored entry, None if it is not there."""

    def entries(self, low: int, high: int, bytes_max: int) -> list[LogEntry]:
        """Stored entries low..high inclusive, at least one, cut after `bytes_max` bytes of data."""
