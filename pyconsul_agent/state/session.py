"""Sessions: locks live as long as they do, and they live as long as their node and checks are well."""

from __future__ import annotations

from dataclasses import replace

from pyconsul_agent.errors import RPCError
from pyconsul_agent.state import kv
from pyconsul_agent.state.store import Store, Txn, check_key, row_id, session_checks, uuid_key
from pyconsul_agent.state.table import fold
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.session import Session

SESSIONS = "sessions"
RELEASE = "release"
DELETE = "delete"


def get(store: Store, watch: WatchSet, session_id: str) -> tuple[int, Session | None]:
    """A session by ID; raises RPCError when that is not a UUID."""
    row = kv.find_session(store, session_id)
    watch.row(SESSIONS, row_id(session_id))
    return store.index(SESSIONS), row


def list_all(store: Store, watch: WatchSet) -> tuple[int, list[Session]]:
    """Every session."""
    watch.table(SESSIONS)
    return store.index(SESSIONS), store.tables.sessions.scan()


def of_node(store: Store, watch: WatchSet, node: str) -> tuple[int, list[Session]]:
    """Sessions of a node."""
    watch.table(SESSIONS)
    return store.index(SESSIONS), store.tables.sessions.lookup("node", fold(node))


def create(txn: Txn, session: Session) -> Session:
    """Store a session whose ID the endpoint made; raises RPCError when node or checks do not allow it."""
    if not session.id:
        raise RPCError("Missing session ID")
    if session.behavior not in ("", RELEASE, DELETE):
        raise RPCError(f"Invalid session behavior: {session.behavior}")
    if txn.tables.nodes.get(fold(session.node)) is None:
        raise RPCError("Missing node registration")
    for check_id in session_checks(session):
        check = txn.tables.checks.get(check_key(session.node, check_id))
        if check is None:
            raise RPCError(f"Missing check '{check_id}' registration")
        if check.status == "critical":
            raise RPCError(f"Check '{check_id}' is in critical state")
    try:
        key = uuid_key(session.id)
    except ValueError as error:
        raise RPCError(f"failed inserting session: {error}") from error
    behavior = session.behavior or RELEASE
    row = replace(session, behavior=behavior, create_index=txn.index, modify_index=txn.index)
    txn.put(txn.tables.sessions, key, row)
    txn.set_index(SESSIONS)
    return row


def destroy(txn: Txn, session_id: str) -> None:
    """End a session by ID; unknown ones are fine. Raises RPCError when the ID is not a UUID."""
    session = kv.find_session(txn.store, session_id)
    if session is not None:
        invalidate(txn, session)


def invalidate(txn: Txn, session: Session) -> None:
    """End a session: release or delete what it holds, delay new locks, drop its prepared queries."""
    key = row_id(session.id)
    remove_row(txn, session)
    for held in txn.tables.kvs.lookup("session", key):
        if session.behavior == DELETE:
            kv.delete(txn, held.key)
        else:
            kv.put(txn, replace(held, session=""), keep_session=False)
        txn.delay_lock(held.key, session.lock_delay)
    queries = txn.tables.prepared_queries.lookup("session", key)
    for query in queries:
        txn.delete(txn.tables.prepared_queries, row_id(query.id))
    if queries:
        txn.set_index("prepared-queries")


def remove_row(txn: Txn, session: Session) -> None:
    """Delete only the row (what a transaction's session op does)."""
    txn.delete(txn.tables.sessions, row_id(session.id))
    txn.set_index(SESSIONS)
