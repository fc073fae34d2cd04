"""Intentions: one by one as the API wants them, kept as config entries of their destination.

Before 1.9 they had a table of their own; a leader of 1.9 or later moves them and says so in the system metadata. Both
are here, since either may be in a snapshot or log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pyconsul_agent.errors import RPCError
from pyconsul_agent.state import config_entry, system
from pyconsul_agent.state.intention_rules import (
    NAMESPACE,
    by_precedence,
    intention_of,
    normalized_intentions,
    validate_intentions,
)
from pyconsul_agent.state.store import Store, Tables, Txn, intention_names, row_id, uuid_key
from pyconsul_agent.state.table import fold
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.config_kinds import SERVICE_INTENTIONS, WILDCARD
from pyconsul_agent.structs.intention import (
    Intention,
    IntentionMutation,
    ServiceIntentionsConfigEntry,
    SourceIntention,
)
from pyconsul_agent.structs.system import SystemMetadataEntry
from pyconsul_agent.wire.gotypes import quote

INTENTIONS = "connect-intentions"
FORMAT = "intention-format"
CONFIG_FORMAT = "config-entry"
SYSTEM_METADATA = "system-metadata"
DISABLED = "Legacy intention modifications are disabled after the config entry migration."


def in_config_entries(tables: Tables) -> bool:
    """Whether intentions have been moved to config entries."""
    row = tables.system_metadata.get(fold(FORMAT))
    return row is not None and row.value == CONFIG_FORMAT


def entries(tables: Tables) -> list[ServiceIntentionsConfigEntry]:
    """All service-intentions entries by name."""
    rows = tables.config_entries.scan(config_entry.entry_key(SERVICE_INTENTIONS, ""))
    return [row for row in rows if isinstance(row, ServiceIntentionsConfigEntry)]


# --- reads ------------------------------------------------------------------------------------------------------


def _all(store: Store, watch: WatchSet) -> tuple[int, list[Intention]]:
    watch.row(SYSTEM_METADATA, fold(FORMAT))
    if not in_config_entries(store.tables):
        watch.table(INTENTIONS)
        return max(1, store.index(INTENTIONS)), store.tables.intentions.scan()
    watch.prefix(config_entry.CONFIG_ENTRIES, config_entry.entry_key(SERVICE_INTENTIONS, ""))
    rows = [intention_of(entry, source) for entry in entries(store.tables) for source in entry.sources or ()]
    return store.index(config_entry.CONFIG_ENTRIES), rows


def list_all(store: Store, watch: WatchSet) -> tuple[int, list[Intention]]:
    """Every intention, those of higher precedence first."""
    index, rows = _all(store, watch)
    return index, sorted(rows, key=by_precedence)


def get(store: Store, watch: WatchSet, intention_id: str) -> tuple[int, Intention | None]:
    """The intention with an ID of the old API. Raises RPCError for what cannot be an ID."""
    moved = in_config_entries(store.tables)
    try:
        uuid_key(intention_id)
    except ValueError as error:
        words = "failed config entry lookup: index error" if moved else "failed intention lookup: index error"
        raise RPCError(f"{words}: {error}") from None
    index, rows = _all(store, watch)
    wanted = row_id(intention_id)
    return index, next((row for row in rows if row.id and row_id(row.id) == wanted), None)


def get_exact(store: Store, watch: WatchSet, source: str, destination: str) -> tuple[int, Intention | None]:
    """The intention between two names, wildcards being names like others."""
    index, rows = _all(store, watch)
    for row in rows:
        if row.source_name.lower() == source.lower() and row.destination_name.lower() == destination.lower():
            return index, row
    return index, None


def match(store: Store, watch: WatchSet, name: str, *, by_source: bool) -> tuple[int, list[Intention]]:
    """Intentions that apply to a source or destination, those of higher precedence first."""
    index, rows = _all(store, watch)

    def side(row: Intention) -> str:
        return row.source_name if by_source else row.destination_name

    found = [row for row in rows if side(row) == WILDCARD or side(row).lower() == name.lower()]
    return index, sorted(found, key=by_precedence)


# --- writes -----------------------------------------------------------------------------------------------------


def mutate(txn: Txn, op: str, mutation: IntentionMutation) -> None:
    """Change one intention inside the config entry of its destination. Raises RPCError."""
    if not in_config_entries(txn.tables):
        raise RPCError("state: IntentionMutation() is not allowed when intentions are not stored in config entries")
    if op == "create":
        _create(txn, mutation)
    elif op == "update":
        _update(txn, mutation)
    elif op == "delete" and mutation.id:
        _delete_by_id(txn, mutation.id)
    elif op == "delete":
        _delete_by_name(txn, mutation)
    elif op == "upsert":
        _upsert(txn, mutation)
    else:
        raise RPCError(f"Invalid Intention mutation operation '{op}'")


def _entry(txn: Txn, name: str) -> ServiceIntentionsConfigEntry | None:
    row = txn.tables.config_entries.get(config_entry.entry_key(SERVICE_INTENTIONS, name))
    return row if isinstance(row, ServiceIntentionsConfigEntry) else None


def _store(txn: Txn, entry: ServiceIntentionsConfigEntry, *, legacy: bool) -> None:
    if not entry.sources:
        config_entry.delete(txn, SERVICE_INTENTIONS, entry.name)
        return
    entry = normalized_intentions(entry, legacy=legacy)
    validate_intentions(entry, legacy=legacy)
    if not legacy:
        entry = replace(entry, sources=tuple(replace(source, legacy_meta=None) for source in entry.sources or ()))
    config_entry.put(txn, entry)


def _value(mutation: IntentionMutation) -> SourceIntention:
    return mutation.value or SourceIntention()


def _refuse_if_edited(entry: ServiceIntentionsConfigEntry) -> None:
    """The old API knows sources by ID; it may not touch an entry that has sources without."""
    if not all(source.legacy_id for source in entry.sources or ()):
        raise RPCError(
            f"cannot use legacy intention API to edit intentions with a destination of {quote(entry.name)} "
            "after editing them via a service-intentions config entry"
        )


def _create(txn: Txn, mutation: IntentionMutation) -> None:
    entry = _entry(txn, mutation.destination.name)
    if entry is None:
        entry = ServiceIntentionsConfigEntry(kind=SERVICE_INTENTIONS, name=mutation.destination.name)
    else:
        _refuse_if_edited(entry)
    _store(txn, replace(entry, sources=(*(entry.sources or ()), _value(mutation))), legacy=True)


def _with_id(txn: Txn, intention_id: str, verb: str) -> ServiceIntentionsConfigEntry:
    try:
        found = txn.tables.config_entries.lookup("intention", uuid_key(intention_id))
    except ValueError as error:
        raise RPCError(f"Intention lookup failed: failed config entry lookup: index error: {error}") from None
    for row in found:
        if isinstance(row, ServiceIntentionsConfigEntry):
            _refuse_if_edited(row)
            return row
    raise RPCError(f"Cannot {verb} non-existent intention: '{intention_id}'")


def _update(txn: Txn, mutation: IntentionMutation) -> None:
    entry = _with_id(txn, mutation.id, "modify")
    sources = _replaced(entry, lambda source: row_id(source.legacy_id) == row_id(mutation.id), _value(mutation))
    _store(txn, replace(entry, sources=sources), legacy=True)


def _replaced(
    entry: ServiceIntentionsConfigEntry, wanted: Callable[[SourceIntention], bool], value: SourceIntention
) -> tuple[SourceIntention, ...]:
    return tuple(value if wanted(source) else source for source in entry.sources or ())


def _delete_by_id(txn: Txn, intention_id: str) -> None:
    entry = _with_id(txn, intention_id, "delete")
    kept = tuple(source for source in entry.sources or () if row_id(source.legacy_id) != row_id(intention_id))
    _store(txn, replace(entry, sources=kept), legacy=True)


def _delete_by_name(txn: Txn, mutation: IntentionMutation) -> None:
    entry = _entry(txn, mutation.destination.name)
    if entry is None:
        return
    kept = tuple(source for source in entry.sources or () if source.name != mutation.source.name)
    if len(kept) != len(entry.sources or ()):
        _store(txn, replace(entry, sources=kept), legacy=False)


def _upsert(txn: Txn, mutation: IntentionMutation) -> None:
    entry = _entry(txn, mutation.destination.name)
    if entry is None:
        entry = ServiceIntentionsConfigEntry(kind=SERVICE_INTENTIONS, name=mutation.destination.name)
    value = _value(mutation)
    if any(source.name == mutation.source.name for source in entry.sources or ()):
        sources = _replaced(entry, lambda source: source.name == mutation.source.name, value)
    else:
        sources = (*(entry.sources or ()), value)
    _store(txn, replace(entry, sources=sources), legacy=False)


# --- the old table ----------------------------------------------------------------------------------------------


def refuse_if_moved(txn: Txn) -> None:
    """Raises RPCError once the old table is not used any more."""
    if in_config_entries(txn.tables):
        raise RPCError(DISABLED)


def put_row(txn: Txn, row: Intention) -> None:
    """Store an intention in the old table. Raises RPCError."""
    if not row.id:
        raise RPCError("Missing Intention ID")
    existing = txn.tables.intentions.get(row_id(row.id))
    same_names = txn.tables.intentions.first("names", intention_names(row))
    if same_names is not None and same_names.id != row.id:
        raise RPCError(f"duplicate intention found: {_words(same_names)}")
    row = replace(
        row,
        precedence=_row_precedence(row),
        create_index=existing.create_index if existing is not None else txn.index,
        created_at=existing.created_at if existing is not None else row.created_at,
        modify_index=txn.index,
        meta={} if row.meta is None else row.meta,
    )
    txn.put(txn.tables.intentions, row_id(row.id), row)
    txn.set_index(INTENTIONS)


def _row_precedence(row: Intention) -> int:
    def exact(namespace: str, name: str) -> int:
        return 0 if namespace == WILDCARD else 1 if name == WILDCARD else 2

    highest = {2: 9, 1: 6, 0: 3}[exact(row.destination_ns, row.destination_name)]
    return highest - (2 - exact(row.source_ns, row.source_name))


def _words(row: Intention) -> str:
    namespaces = {row.source_ns or NAMESPACE, row.destination_ns or NAMESPACE}
    source, destination = row.source_name, row.destination_name
    if namespaces != {NAMESPACE}:
        source, destination = f"{row.source_ns}/{source}", f"{row.destination_ns}/{destination}"
    return f"{source} => {destination} (ID: {row.id}, Precedence: {row.precedence})"


def delete_row(txn: Txn, intention_id: str) -> None:
    """Delete from the old table; what is not there is fine. Raises RPCError."""
    try:
        row_key = uuid_key(intention_id)
    except ValueError as error:
        raise RPCError(f"failed intention delete: failed intention lookup: index error: {error}") from None
    if txn.tables.intentions.get(row_key) is not None:
        txn.delete(txn.tables.intentions, row_key)
        txn.set_index(INTENTIONS)


def delete_all_rows(txn: Txn) -> None:
    """The last step of moving intentions to config entries; every leader writes it once."""
    for row_key in txn.tables.intentions.keys():  # noqa: SIM118  (a table is not a dict)
        txn.delete(txn.tables.intentions, row_key)
    txn.set_index(INTENTIONS)
    txn.set_index(config_entry.CONFIG_ENTRIES)
    system.set_metadata(txn, SystemMetadataEntry(key=FORMAT, value=CONFIG_FORMAT))
