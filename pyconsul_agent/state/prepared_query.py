"""Rows of prepared queries: what may be stored. Running them is `server.endpoints.prepared_query`."""

from __future__ import annotations

from dataclasses import replace

from pyconsul_agent.errors import RPCError
from pyconsul_agent.state.kv import find_session
from pyconsul_agent.state.store import Store, Txn, is_template, row_id, uuid_key
from pyconsul_agent.state.table import fold
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.prepared_query import PreparedQuery

QUERIES = "prepared-queries"
NAME_PREFIX_MATCH = "name_prefix_match"
"""The one type of templates. What else makes a template a bad one is judged before the log."""


def get(store: Store, watch: WatchSet, query_id: str) -> tuple[int, PreparedQuery | None]:
    """A query by ID."""
    watch.row(QUERIES, row_id(query_id))
    return store.index(QUERIES), store.tables.prepared_queries.get(row_id(query_id))


def list_all(store: Store, watch: WatchSet) -> tuple[int, list[PreparedQuery]]:
    """Every query."""
    watch.table(QUERIES)
    return store.index(QUERIES), store.tables.prepared_queries.scan()


def resolve(store: Store, id_or_name: str) -> PreparedQuery | None:
    """A query by ID, else by name, else the template whose name is the longest prefix of it."""
    table = store.tables.prepared_queries
    found = table.get(row_id(id_or_name)) or table.first("name", fold(id_or_name))
    if found is not None:
        return found
    name = fold(id_or_name)
    for length in range(len(name), -1, -1):
        template = table.first("template", name[:length])
        if template is not None:
            return template
    return None


def put(txn: Txn, query: PreparedQuery) -> PreparedQuery:
    """Create or update a query; raises RPCError when ID, name or session do not allow it."""
    table = txn.tables.prepared_queries
    if not query.id:
        raise RPCError("Missing Query ID")
    try:
        key = uuid_key(query.id)
    except ValueError as error:
        raise RPCError(f"failed prepared query lookup: index error: {error}") from error
    existing = table.get(key)
    if query.name:
        if _taken(table.lookup("any_name", fold(query.name)), query):
            raise RPCError(f"name '{query.name}' aliases an existing query name")
    elif is_template(query) and _taken(table.lookup("template", b""), query):
        raise RPCError("a query template with an empty name already exists")
    if _is_uuid(query.name) and table.get(row_id(query.name)) is not None:
        raise RPCError(f"name '{query.name}' aliases an existing query ID")
    if query.session and find_session(txn.store, query.session) is None:
        raise RPCError(f'invalid session "{query.session}"')
    if is_template(query) and query.template.type != NAME_PREFIX_MATCH:
        raise RPCError(f"failed compiling template: Bad Template.Type '{query.template.type}'")
    created = existing.create_index if existing else txn.index
    row = replace(query, create_index=created, modify_index=txn.index)
    txn.put(table, key, row)
    txn.set_index(QUERIES)
    return row


def delete(txn: Txn, query_id: str) -> None:
    """Delete a query; unknown ones are fine."""
    if txn.tables.prepared_queries.get(row_id(query_id)) is not None:
        txn.delete(txn.tables.prepared_queries, row_id(query_id))
        txn.set_index(QUERIES)


def _taken(rows: list[PreparedQuery], query: PreparedQuery) -> bool:
    return any(row_id(row.id) != row_id(query.id) for row in rows)


def _is_uuid(text: str) -> bool:
    try:
        uuid_key(text)
    except ValueError:
        return False
    return True
