"""Transactions over keys and catalog: all operations or none.

Operations are tried in order on the growing transaction; errors are collected with the place of their operation. The
caller commits only when there are none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pyconsul_agent.errors import RPCError
from pyconsul_agent.state import intention, kv, registration
from pyconsul_agent.state import session as sessions
from pyconsul_agent.state.store import Txn, check_key, row_id, service_key
from pyconsul_agent.state.table import fold
from pyconsul_agent.structs.catalog import Node
from pyconsul_agent.structs.kv import DirEntry
from pyconsul_agent.structs.txn import (
    TxnCheckOp,
    TxnError,
    TxnIntentionOp,
    TxnKVOp,
    TxnNodeOp,
    TxnOp,
    TxnResult,
    TxnServiceOp,
    TxnSessionOp,
)

READ_VERBS = frozenset({"get", "get-tree", "check-index", "check-session", "check-not-exists"})


def is_read_only(ops: Sequence[TxnOp]) -> bool:
    """Whether no operation writes."""
    return all(op.kv is not None and op.kv.verb in READ_VERBS for op in ops)


def run(txn: Txn, ops: Sequence[TxnOp]) -> tuple[tuple[TxnResult, ...], tuple[TxnError, ...]]:
    """Results and errors of the operations; with any error the results are worthless."""
    results: list[TxnResult] = []
    errors: list[TxnError] = []
    for place, op in enumerate(ops):
        try:
            results += _run_one(txn, op)
        except RPCError as error:
            errors.append(TxnError(op_index=place, what=str(error)))
    return tuple(results), tuple(errors)


def _run_one(txn: Txn, op: TxnOp) -> list[TxnResult]:
    if op.kv is not None:
        return _kv(txn, op.kv)
    if op.node is not None:
        return [TxnResult(node=row) for row in _node(txn, op.node)]
    if op.service is not None:
        return _service(txn, op.service)
    if op.check is not None:
        return _check(txn, op.check)
    if op.session is not None:
        return _session(txn, op.session)
    if op.intention is not None:
        _intention(txn, op.intention)
        return []
    raise RPCError("no operation specified")


# --- keys -----------------------------------------------------------------------------------------------------


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")


def _kv(txn: Txn, op: TxnKVOp) -> list[TxnResult]:
    if op.verb == "get-tree":
        return [TxnResult(kv=row) for row in txn.tables.kvs.scan(op.dir_ent.key)]
    verb = _KV_VERBS.get(op.verb)
    if verb is None:
        raise RPCError(f'unknown KV verb "{op.verb}"')
    row = verb(txn, op.dir_ent)
    if row is None:
        return []
    return [TxnResult(kv=row if op.verb == "get" else replace(row, value=None))]


def _kv_delete(txn: Txn, entry: DirEntry) -> None:
    kv.delete(txn, entry.key)


def _kv_delete_tree(txn: Txn, entry: DirEntry) -> None:
    kv.delete_tree(txn, entry.key)


def _kv_delete_cas(txn: Txn, entry: DirEntry) -> None:
    if not kv.compare_and_delete(txn, entry.key, entry.modify_index):
        raise RPCError(f'failed to delete key "{_text(entry.key)}", index is stale')


def _kv_cas(txn: Txn, entry: DirEntry) -> DirEntry:
    row = kv.compare_and_set(txn, entry)
    if row is None:
        raise RPCError(f'failed to set key "{_text(entry.key)}", index is stale')
    return row


def _kv_lock(txn: Txn, entry: DirEntry) -> DirEntry:
    row = kv.lock(txn, entry)
    if row is None:
        raise RPCError(f'failed to lock key "{_text(entry.key)}", lock is already held')
    return row


def _kv_unlock(txn: Txn, entry: DirEntry) -> DirEntry:
    row = kv.unlock(txn, entry)
    if row is None:
        raise RPCError(f'failed to unlock key "{_text(entry.key)}", lock isn\'t held, or is held by another session')
    return row


def _kv_get(txn: Txn, entry: DirEntry) -> DirEntry:
    row = txn.tables.kvs.get(entry.key)
    if row is None:
        raise RPCError(f'key "{_text(entry.key)}" doesn\'t exist')
    return row


def _kv_check_session(txn: Txn, entry: DirEntry) -> DirEntry:
    row = txn.tables.kvs.get(entry.key)
    if row is None:
        raise RPCError(f'failed to check session, key "{_text(entry.key)}" doesn\'t exist')
    if row.session != entry.session:
        raise RPCError(
            f'failed session check for key "{_text(entry.key)}", current session "{row.session}" != "{entry.session}"'
        )
    return row


def _kv_check_index(txn: Txn, entry: DirEntry) -> DirEntry:
    row = txn.tables.kvs.get(entry.key)
    if row is None:
        raise RPCError(f'failed to check index, key "{_text(entry.key)}" doesn\'t exist')
    if row.modify_index != entry.modify_index:
        raise RPCError(
            f'failed index check for key "{_text(entry.key)}", '
            f"current modify index {row.modify_index} != {entry.modify_index}"
        )
    return row


def _kv_check_not_exists(txn: Txn, entry: DirEntry) -> None:
    if txn.tables.kvs.get(entry.key) is not None:
        raise RPCError(f'key "{_text(entry.key)}" exists')


_KV_VERBS: dict[str, Callable[[Txn, DirEntry], DirEntry | None]] = {
    "set": kv.put,
    "delete": _kv_delete,
    "delete-cas": _kv_delete_cas,
    "delete-tree": _kv_delete_tree,
    "cas": _kv_cas,
    "lock": _kv_lock,
    "unlock": _kv_unlock,
    "get": _kv_get,
    "check-session": _kv_check_session,
    "check-index": _kv_check_index,
    "check-not-exists": _kv_check_not_exists,
}


# --- catalog --------------------------------------------------------------------------------------------------


def _stale(stored: int | None, wanted: int) -> bool:
    """Whether compare-and-set must fail: `stored` is the row's ModifyIndex, None if absent; 0 wants it absent."""
    return stored is not None if wanted == 0 else stored != wanted


def _node(txn: Txn, op: TxnNodeOp) -> list[Node]:
    name, wanted = op.node.node, op.node.modify_index
    existing = txn.tables.nodes.get(fold(name))
    stored = existing.modify_index if existing else None
    if op.verb == "get":
        found = registration.find_node(txn, op.node)
        if found is None:
            raise RPCError(f'node "{name}" doesn\'t exist')
        return [found]
    if op.verb in ("set", "cas"):
        if op.verb == "cas" and _stale(stored, wanted):
            raise RPCError(f'failed to set node "{name}", index is stale')
        registration.put_node(txn, op.node)
        found = registration.find_node(txn, op.node)
        return [found] if found else []
    if op.verb in ("delete", "delete-cas"):
        if op.verb == "delete-cas" and stored != wanted:
            raise RPCError(f'failed to delete node "{name}", index is stale')
        registration.delete_node(txn, name)
        return []
    raise RPCError(f'unknown Node verb "{op.verb}"')


def _service(txn: Txn, op: TxnServiceOp) -> list[TxnResult]:
    key, wanted = service_key(op.node, op.service.id), op.service.modify_index
    words = f'service "{op.service.id}" on node "{op.node}"'
    existing = txn.tables.services.get(key)
    stored = existing.service.modify_index if existing else None
    if op.verb == "get":
        if existing is None:
            raise RPCError(f"{words} doesn't exist")
        return [TxnResult(service=existing.service)]
    if op.verb in ("set", "cas"):
        if op.verb == "cas" and _stale(stored, wanted):
            raise RPCError(f"failed to set {words}, index is stale")
        registration.put_service(txn, op.node, op.service)
        return [TxnResult(service=txn.tables.services.rows[key].service)]
    if op.verb in ("delete", "delete-cas"):
        if op.verb == "delete-cas" and stored != wanted:
            raise RPCError(f"failed to delete {words}, index is stale")
        registration.delete_service(txn, op.node, op.service.id)
        return []
    raise RPCError(f'unknown Service verb "{op.verb}"')


def _check(txn: Txn, op: TxnCheckOp) -> list[TxnResult]:
    key, wanted = check_key(op.check.node, op.check.check_id), op.check.modify_index
    words = f'check "{op.check.check_id}" on node "{op.check.node}"'
    existing = txn.tables.checks.get(key)
    stored = existing.modify_index if existing else None
    if op.verb == "get":
        if existing is None:
            raise RPCError(f"{words} doesn't exist")
        return [TxnResult(check=existing)]
    if op.verb in ("set", "cas"):
        if op.verb == "cas" and _stale(stored, wanted):
            raise RPCError(f"failed to set {words}, index is stale")
        registration.put_check(txn, op.check)
        return [TxnResult(check=txn.tables.checks.rows[key])]
    if op.verb in ("delete", "delete-cas"):
        if op.verb == "delete-cas" and stored != wanted:
            raise RPCError(f"failed to delete {words}, index is stale")
        registration.delete_check(txn, op.check.node, op.check.check_id)
        return []
    raise RPCError(f'unknown Check verb "{op.verb}"')


def _session(txn: Txn, op: TxnSessionOp) -> list[TxnResult]:
    if op.verb != "delete":
        raise RPCError(f'unknown Session verb "{op.verb}"')
    row = txn.tables.sessions.get(row_id(op.session.id))
    if row is None:
        raise RPCError("failed to delete session: not found")
    sessions.remove_row(txn, row)
    return []


def _intention(txn: Txn, op: TxnIntentionOp) -> None:
    """A row of the old table. Servers of 1.9 and later do not write such operations."""
    if op.op in ("create", "update") and op.intention is not None:
        intention.put_row(txn, op.intention)
    elif op.op == "delete" and op.intention is not None:
        intention.delete_row(txn, op.intention.id)
    else:
        raise RPCError(f'unknown Intention op "{op.op}"')
