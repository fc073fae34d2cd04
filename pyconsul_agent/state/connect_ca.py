"""What the cluster keeps for Connect's certificate authority: roots, configuration, the built-in provider's state.

Rows only. No certificate is made or signed by this version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pyconsul_agent.errors import RPCError
from pyconsul_agent.state.store import SINGLETON, Store, Txn, raw
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.connect_ca import CAConfiguration, CAConsulProviderState, CARoot

ROOTS = "connect-ca-roots"
CONFIG = "connect-ca-config"
BUILTIN = "connect-ca-builtin"
SERIAL = "connect-ca-builtin-serial"
LEAF_CERTS = "connect-ca-leaf-certs"


def roots(store: Store, watch: WatchSet) -> tuple[int, list[CARoot]]:
    """The roots by ID."""
    watch.table(ROOTS)
    return store.index(ROOTS), store.tables.ca_roots.scan()


def config(store: Store, watch: WatchSet) -> tuple[int, CAConfiguration | None]:
    """The configuration; its index is the row's own."""
    watch.row(CONFIG, SINGLETON)
    row = store.tables.ca_config.get(SINGLETON)
    return (row.modify_index if row is not None else 0), row


def set_config(txn: Txn, wanted: CAConfiguration, *, compare: bool = False) -> bool:
    """Store the configuration; with `compare` only over its own ModifyIndex. Raises RPCError when that differs."""
    existing = txn.tables.ca_config.get(SINGLETON)
    if compare and (existing.modify_index if existing is not None else 0) != wanted.modify_index:
        raise RPCError("ModifyIndex did not match existing")
    cluster = wanted.cluster_id or (existing.cluster_id if existing is not None else "")
    created = existing.create_index if existing is not None else txn.index
    row = replace(wanted, cluster_id=cluster, create_index=created, modify_index=txn.index)
    txn.put(txn.tables.ca_config, SINGLETON, row)
    return True


def set_roots(txn: Txn, index: int, wanted: Sequence[CARoot]) -> bool:
    """Replace all roots if nobody has since `index`. Raises RPCError."""
    if sum(root.active for root in wanted) != 1:
        raise RPCError("there must be exactly one active CA")
    if txn.store.index(ROOTS) != index:
        return False
    if not all(root.id for root in wanted):
        raise RPCError("Missing CA Root ID")
    known = dict(txn.tables.ca_roots.rows)
    for row_key in known:
        txn.delete(txn.tables.ca_roots, row_key)
    for root in wanted:
        existing = known.get(raw(root.id))
        created = existing.create_index if existing is not None else txn.index
        txn.put(txn.tables.ca_roots, raw(root.id), replace(root, create_index=created, modify_index=txn.index))
    txn.set_index(ROOTS)
    return True


def set_provider_state(txn: Txn, state: CAConsulProviderState) -> bool:
    """Store the state of a built-in provider."""
    existing = txn.tables.ca_provider.get(raw(state.id))
    created = existing.create_index if existing is not None else txn.index
    txn.put(txn.tables.ca_provider, raw(state.id), replace(state, create_index=created, modify_index=txn.index))
    txn.set_index(BUILTIN)
    return True


def delete_provider_state(txn: Txn, provider_id: str) -> bool:
    """Delete the state of a built-in provider; unknown ones are fine."""
    if txn.tables.ca_provider.get(raw(provider_id)) is not None:
        txn.delete(txn.tables.ca_provider, raw(provider_id))
        txn.set_index(BUILTIN)
    return True


def next_serial(txn: Txn) -> int:
    """Count on. Serial numbers used to be raft indexes, so the first one follows those."""
    known = txn.tables.index.get(raw(SERIAL))
    value = (txn.store.index(BUILTIN) if known is None else known) + 1
    txn.set_index(SERIAL, value)
    return value
