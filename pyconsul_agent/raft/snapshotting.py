"""Cutting the log after a snapshot, and a user's restore (docs/protocol/raft.md sections 7 and 15).

Receiving a leader's snapshot is in `follower`, sending ours in `replication`.

A restored snapshot stands at an index R beyond our log, in our term. To the rules it is an entry there that only a
snapshot can carry: who has it counts as having (R, term) as the end of its log in elections, and it is committed when a
quorum has it (`State.unproven` is R until then). As any entry it can lose: if its leader dies before, one may be
elected that never saw it. So whoever takes an unproven snapshot (its leader, and followers of ours whom the leader
tells that it is) keeps the log and the snapshot that it replaces, durably beside a mark. The mark goes when a leader's
commit index passes R (`settle`). When a leader of a later term shows that its log does not have (R, term), the snapshot
goes instead and the server is what it was before (`revert`). So a crash at any point leaves the old state or the new
one.
"""

from __future__ import annotations

from pyconsul_agent.errors import LeadershipLost, NotLeader, RestoredWhileCommitting
from pyconsul_agent.raft import lease, membership
from pyconsul_agent.raft.log import Log
from pyconsul_agent.raft.state import State
from pyconsul_agent.raft.types import InitialState, Role
from pyconsul_agent.structs.raft import SnapshotMeta


def taken(s: State, meta: SnapshotMeta) -> None:
    """A snapshot at `meta.index` is durable: keep `trailing_logs` entries for slow followers, drop the rest."""
    if meta.index <= s.log.snapshot_index:
        return  # a newer one was installed meanwhile
    assert meta.index <= s.handed, (meta.index, s.handed)
    assert s.log.term(meta.index) == meta.term, (meta.index, meta.term)
    s.snapshot = meta
    s.log.snapshot_index, s.log.snapshot_term = meta.index, meta.term
    s.log.compact(min(meta.index, s.log.last - s.config.trailing_logs, s.log.stable))


def begin_restore(s: State) -> SnapshotMeta:
    """Where the restored snapshot goes: one index after everything (or higher), in our term, with our configuration."""
    if s.role is not Role.LEADER or s.transfer is not None or not lease.own_entry_committed(s):
        raise NotLeader()
    if s.restoring:
        raise RestoredWhileCommitting()
    membership.restart_allowed(s)
    s.restoring = True
    return SnapshotMeta(
        index=s.log.last + 1,
        term=s.term,
        configuration=s.latest,
        configuration_index=s.latest_index,
    )


def restored(s: State, meta: SnapshotMeta | None) -> bool:
    """The log becomes empty after the restored snapshot; followers will need that snapshot."""
    if not s.restoring or s.role is not Role.LEADER:
        return False
    s.restoring = False
    if meta is None:
        return False
    assert meta.index > s.log.last and meta.term == s.term, (meta.index, s.log.last)
    for waiting in s.tickets:
        s.answer(waiting.ticket, waiting.index, RestoredWhileCommitting())
    s.tickets.clear()
    s.tickets_bytes = 0
    s.log.reset(meta.index, meta.term)
    s.snapshot = meta
    s.commit_index = s.handed = s.unproven = meta.index
    return True


def load(s: State, initial: InitialState) -> None:
    """Start from what storage has."""
    snapshot = initial.snapshot
    s.snapshot = snapshot
    s.configurations = []
    s.commit_index = s.handed = s.unproven = 0
    if snapshot is not None:
        s.configurations.append((snapshot.configuration_index, snapshot.configuration))
        s.commit_index = s.handed = snapshot.index
        s.unproven = snapshot.index if initial.unproven else 0
    for index, configuration in initial.configurations:
        if index > s.latest_index and index <= s.log.last:
            s.configurations.append((index, configuration))
    membership.committed(s)


def reverted(s: State, initial: InitialState) -> None:
    """Storage has thrown the restored snapshot away; `initial` is what was before it."""
    s.reverting = s.revert_given = s.settle = False
    lost = s.unproven
    s.log = Log(s.config, initial, s.log.reader)
    load(s, initial)
    for waiting in s.tickets:
        s.answer(waiting.ticket, waiting.index, LeadershipLost())
    s.tickets.clear()
    s.tickets_bytes = 0
    s.event("raft_restore_undone", index=lost, last_index=s.log.last)
