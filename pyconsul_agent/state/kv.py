"""Keys and values, their locks, and the tombstones that keep list indexes from going backwards."""

from __future__ import annotations

from dataclasses import replace

from pyconsul_agent.errors import RPCError
from pyconsul_agent.state.store import Store, Tombstone, Txn, uuid_key
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.kv import DirEntry
from pyconsul_agent.structs.session import Session

KVS = "kvs"
TOMBSTONES = "tombstones"


# --- reads ----------------------------------------------------------------------------------------------------


def get(store: Store, watch: WatchSet, key: bytes) -> tuple[int, DirEntry | None]:
    """The row and its ModifyIndex, or (highest index of the table, None)."""
    watch.row(KVS, key)
    row = store.tables.kvs.get(key)
    return (store.index(KVS, TOMBSTONES), None) if row is None else (row.modify_index, row)


def list_prefix(store: Store, watch: WatchSet, prefix: bytes) -> tuple[int, list[DirEntry]]:
    """Rows with `prefix` in key order, and the index of that subtree (deletions count)."""
    watch.prefix(KVS, prefix)
    rows = store.tables.kvs.scan(prefix)
    whole = store.index(KVS, TOMBSTONES)
    if not prefix:
        return whole, rows
    index = max((row.modify_index for row in rows), default=0)
    index = max(index, max((stone.index for stone in store.tables.tombstones.scan(prefix)), default=0))
    return index or whole, rows


def list_keys(store: Store, watch: WatchSet, prefix: bytes, separator: bytes) -> tuple[int, list[bytes]]:
    """Keys with `prefix`; with a separator cut after its first occurrence past the prefix, each once."""
    index, rows = list_prefix(store, watch, prefix)
    if not separator:
        return index, [row.key for row in rows]
    names: dict[bytes, None] = {}
    for row in rows:
        at = row.key.find(separator, len(prefix))
        names[row.key if at < 0 else row.key[: at + len(separator)]] = None
    return index, list(names)


# --- writes ---------------------------------------------------------------------------------------------------


def put(txn: Txn, entry: DirEntry, *, keep_session: bool = True) -> DirEntry:
    """Store `entry` and return the row as it is then; an unchanged one is not written and moves no index."""
    existing = txn.tables.kvs.get(entry.key)
    session = entry.session
    if keep_session:
        session = existing.session if existing else ""
    row = DirEntry(  # not `replace`: this is the most frequent write
        lock_index=entry.lock_index,
        key=entry.key,
        flags=entry.flags,
        value=entry.value,
        session=session,
        create_index=existing.create_index if existing else txn.index,
        modify_index=txn.index,
    )
    if existing is not None and _same(existing, row):
        return replace(row, modify_index=existing.modify_index)
    txn.put(txn.tables.kvs, row.key, row)
    txn.set_index(KVS)
    return row


def _same(one: DirEntry, other: DirEntry) -> bool:
    return (
        one.lock_index == other.lock_index
        and one.flags == other.flags
        and (one.value or b"") == (other.value or b"")
        and one.session == other.session
    )


def _index_matches(existing: DirEntry | None, index: int) -> bool:
    if index == 0:
        return existing is None
    return existing is not None and existing.modify_index == index


def compare_and_set(txn: Txn, entry: DirEntry) -> DirEntry | None:
    """Store if the row's ModifyIndex is the entry's (0: if absent); None when it is not."""
    if not _index_matches(txn.tables.kvs.get(entry.key), entry.modify_index):
        return None
    return put(txn, entry)


def delete(txn: Txn, key: bytes) -> None:
    """Delete a key, leaving a tombstone."""
    if txn.tables.kvs.get(key) is None:
        return
    _bury(txn, key)
    txn.delete(txn.tables.kvs, key)
    txn.set_index(KVS)


def compare_and_delete(txn: Txn, key: bytes, index: int) -> bool:
    """Delete if the row's ModifyIndex is `index`. An absent key counts as done."""
    existing = txn.tables.kvs.get(key)
    if existing is None:
        return True
    if existing.modify_index != index:
        return False
    delete(txn, key)
    return True


def delete_tree(txn: Txn, prefix: bytes) -> None:
    """Delete all keys with `prefix`, leaving one tombstone under the prefix (none for the empty one)."""
    keys = txn.tables.kvs.keys(prefix)
    if not keys:
        return
    for key in keys:
        txn.delete(txn.tables.kvs, key)
    if prefix:
        _bury(txn, prefix)
    txn.set_index(KVS)


def find_session(store: Store, session_id: str) -> Session | None:
    """The session; raises RPCError when the ID is not a UUID."""
    try:
        key = uuid_key(session_id)
    except ValueError as error:
        raise RPCError(f"failed session lookup: index error: {error}") from error
    return store.tables.sessions.get(key)


def lock(txn: Txn, entry: DirEntry) -> DirEntry | None:
    """Take the lock for the entry's session; None when another holds it."""
    if not entry.session:
        raise RPCError("missing session")
    if find_session(txn.store, entry.session) is None:
        raise RPCError(f'invalid session "{entry.session}"')
    existing = txn.tables.kvs.get(entry.key)
    if existing is None:
        count = 1
    elif not existing.session:
        count = existing.lock_index + 1
    elif existing.session == entry.session:
        count = existing.lock_index
    else:
        return None
    return put(txn, replace(entry, lock_index=count), keep_session=False)


def unlock(txn: Txn, entry: DirEntry) -> DirEntry | None:
    """Give the lock back, updating value and flags; None when this session does not hold it."""
    if not entry.session:
        raise RPCError("missing session")
    existing = txn.tables.kvs.get(entry.key)
    if existing is None or existing.session != entry.session:
        return None
    return put(txn, replace(entry, session="", lock_index=existing.lock_index), keep_session=False)


def _bury(txn: Txn, key: bytes) -> None:
    txn.put(txn.tables.tombstones, key, Tombstone(key, txn.index))
    txn.set_index(TOMBSTONES)
