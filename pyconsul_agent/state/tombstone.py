"""Reaping of tombstones: they only keep list indexes from going backwards, and not for ever."""

from __future__ import annotations

from pyconsul_agent.state.store import Txn


def reap(txn: Txn, index: int) -> int:
    """Delete tombstones with an index up to `index`; returns how many. Moves no index."""
    table = txn.tables.tombstones
    old = [stone.key for stone in table.rows.values() if stone.index <= index]
    for key in sorted(old):
        txn.delete(table, key)
    return len(old)
