"""Cutting the log after a snapshot, and a user's restore (docs/protocol/raft.md sections 7 and 15).

Receiving a leader's snapshot is in `follower`, sending ours in `replication`.
"""

from __future__ import annotations

from pyconsul_agent.errors import NotLeader, RestoredWhileCommitting
from pyconsul_agent.raft import lease, membership
from pyconsul_agent.raft.state import State
from pyconsul_agent.raft.types import Role
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
    first = s.log.first
    s.log.reset(meta.index, meta.term)
    s.log.truncate_from = first  # not compact_to: deletion must come before the entries that follow the hole
    s.snapshot = meta
    s.commit_index = s.handed = s.unproven = meta.index
    return True
